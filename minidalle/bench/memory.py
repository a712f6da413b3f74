"""Memory, measured.

Peak memory is what this process held in RAM at the most while something ran, above what it held
before: Python, torch and the imports do not count. Measure in a fresh process, as `minidalle bench`
does, since memory that was freed before may be used again unseen.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from minidalle.checkpoints import find_barts, load_bart, load_vqgan, to_dtype
from minidalle.checkpoints.convert import convert

STATUS, RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")


@dataclass(frozen=True)
class Measured:
    """What something took."""

    seconds: float
    peak_bytes: int  # above what the process held before


def measure(work: Callable[[], Any]) -> Measured:
    """Run something once; OSError where the system does not tell a process's peak memory."""
    if not STATUS.exists():
        raise OSError(f"peak memory is read from {STATUS}, which {sys.platform} does not have")
    RESET.write_text("5")  # the high-water mark starts again from here
    before, start = status("VmRSS"), time.perf_counter()
    kept = work()  # held until the mark is read
    seconds, peak = time.perf_counter() - start, status("VmHWM") - before
    del kept
    return Measured(seconds, peak)


def status(field: str) -> int:
    """A number of bytes that Linux keeps for this process."""
    [line] = [line for line in STATUS.read_text().splitlines() if line.startswith(field)]
    return int(line.split()[1]) * 1024


def bench_load(path: Path, dtype: str) -> dict[str, Any]:
    """Load the Bart, or else the VQGAN, of a checkpoint."""
    load = load_bart if find_barts(path) else load_vqgan
    return {"load": str(path), "dtype": dtype, **asdict(measure(lambda: load(path, dtype=dtype)))}


def bench_convert(path: Path, folder: Path, dtype: str) -> dict[str, Any]:
    """Convert a checkpoint to a folder of ours."""
    done = measure(lambda: convert(path, folder, dtype=to_dtype(dtype)))
    return {"convert": str(path), "dtype": dtype, **asdict(done)}
