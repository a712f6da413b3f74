"""What the benchmarks share: medians and quartiles, ratios by round, and the machine's name."""

from __future__ import annotations

import platform
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import nn

import minidalle

TELLING_FLAGS = {
    *("avx2", "avx512f", "avx_vnni", "avx512_vnni", "avx512_bf16", "avx512_fp16"),
    *("amx_tile", "amx_bf16", "amx_fp16", "amx_int8", "asimd", "sve", "bf16", "i8mm"),
}


def per_round(a: list[float], b: list[float]) -> list[float]:
    """a over b, round by round."""
    return [x / y for x, y in zip(a, b, strict=True)]


def spread(values: list[float]) -> dict[str, float]:
    """The median and the quartiles."""
    shares = torch.tensor([0.25, 0.5, 0.75], dtype=torch.float64)
    low, median, high = torch.tensor(values, dtype=torch.float64).quantile(shares).tolist()
    return {"median": median, "low": low, "high": high}


def parameter_count(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def synchronize(device: torch.device) -> None:
    """Wait until the device has done what it was asked; a CPU always has."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def machine(device: torch.device) -> dict[str, Any]:
    """What the figures were measured on."""
    return {
        "processor": processor(),
        "gpu": torch.cuda.get_device_name(device) if device.type == "cuda" else None,
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "minidalle": minidalle.__version__,
    }


def processor() -> str:
    """The processor's name, as well as the system tells it."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def cpu_flags() -> list[str]:
    """Those of the processor's abilities that bear on matrix products, as Linux names them."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    flags = next((line for line in lines if line.lower().startswith(("flags", "features"))), "")
    return [flag for flag in flags.partition(":")[2].split() if flag in TELLING_FLAGS]
