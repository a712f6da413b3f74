"""The speed and memory of generation: ours beside min-dalle and transformers, and the limits.

Everybody runs in a process of its own (`worker.py`), with random weights of the same size and as
many threads, and they take turns (`race.py`); what is measured stands in `parts.py`.
"""

from __future__ import annotations

import importlib.metadata
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from minidalle.bart import BartConfig
from minidalle.bench.common import cpu_flags, machine
from minidalle.bench.contestants import CONTESTANTS, SCALE, TOP_K
from minidalle.bench.parts import MEASURED, Plan, needed
from minidalle.bench.race import Contestant, Say, Team
from minidalle.checkpoints import to_device
from minidalle.processor import multiplies_bfloat16
from minidalle.vqgan import VQGANConfig

SIZES = {
    "tiny": (BartConfig.tiny(), VQGANConfig.tiny()),
    "emoji": (BartConfig.emoji(), VQGANConfig.emoji()),
    "mini": (BartConfig.mini(), VQGANConfig.f16_16384()),
    "mega": (BartConfig.mega(), VQGANConfig.f16_16384()),
}
PARTS = tuple(MEASURED)
ON_CPU = ("ours-float32", "ours-bfloat16", "min-dalle-float32")
ON_CPU += ("transformers-float32", "transformers-bfloat16")
ON_GPU = (*ON_CPU, "min-dalle-float16")
DTYPES = ("float32", "bfloat16", "float16")
MEMORY = Path("/proc/meminfo")


def bench_generation(
    size: str = "mini",
    *,
    pictures: Sequence[int] = (1, 9),
    tokens: int | None = None,
    rounds: int = 3,
    parts: Sequence[str] = PARTS,
    only: Sequence[str] | None = None,
    device: str = "cpu",
    threads: int | None = None,
    stored: str | None = None,
    say: Say = lambda line: None,
    keep: Callable[[dict[str, Any]], None] = lambda told: None,
) -> dict[str, Any]:
    """Measure generation; returns what JSON can hold.

    size: a key of SIZES. pictures: n, each a square number, since min-dalle draws square grids.
    tokens: draw so many of a picture's N image tokens, all alike; None for all. rounds: that count.
    parts: of PARTS. only: contestants' names; None for all that suit the device.
    threads: of each contestant; None for as many as torch takes here.
    stored: round everybody's random weights to this precision, as a checkpoint in it would.
    say: is told each round's seconds as they come. keep: is given what is known after each part.
    Raises ValueError for what cannot be measured, and where the weights do not fit in memory.
    """
    place = to_device(device)
    threads = torch.get_num_threads() if threads is None else threads
    if threads < 1:
        raise ValueError(f"threads is {threads}; it must be at least 1")
    plan = make_plan(size, pictures, tokens, rounds, parts, only, place, stored)
    told: dict[str, Any] = {**about(plan, size, place, threads), "stored": stored}
    with Team(place, threads) as team:
        for part in (part for part in PARTS if part in parts):
            team.keep(needed(plan, part))
            told[part] = MEASURED[part](plan, team, told.get("limits"), say)
            keep(told)
    return told


def make_plan(
    size: str,
    pictures: Sequence[int],
    tokens: int | None,
    rounds: int,
    parts: Sequence[str],
    only: Sequence[str] | None,
    device: str,
    stored: str | None = None,
) -> Plan:
    """Check what was asked for; ValueError names what is wrong and what would be right."""
    if size not in SIZES:
        raise ValueError(f"size is {size!r}; it must be one of {', '.join(SIZES)}")
    bart, vqgan = SIZES[size]
    tokens = bart.image_length if tokens is None else tokens
    if not 1 <= tokens <= bart.image_length:
        raise ValueError(f"tokens is {tokens}; it must be from 1 to {bart.image_length}")
    if rounds < 1:
        raise ValueError(f"rounds is {rounds}; it must be at least 1")
    for n in pictures:
        if n < 1 or round(n**0.5) ** 2 != n:
            raise ValueError(f"pictures is {n}; it must be a square number, as 1, 4, 9")
    for part in parts:
        if part not in PARTS:
            raise ValueError(f"part is {part!r}; it must be one of {', '.join(PARTS)}")
    if stored is not None and stored not in DTYPES:
        raise ValueError(f"stored is {stored!r}; it must be one of {', '.join(DTYPES)}")
    names = suiting(device) if only is None else only
    contestants = tuple(replace(contestant_of(n, bart, vqgan), stored=stored) for n in names)
    plan = Plan(bart, vqgan, contestants, tuple(pictures), tokens, rounds)
    free = available_memory() if device == "cpu" else None
    for part in parts:
        if not needed(plan, part):
            raise ValueError(f"part {part} has nobody to measure among {', '.join(names)}")
        weights = sum(one.weights for one in needed(plan, part))
        if free is not None and weights > free:
            raise ValueError(
                f"part {part} holds {weights / 2**30:.1f} GiB of weights at once, "
                f"{free / 2**30:.1f} GiB of memory are free; name fewer contestants"
            )
    return plan


def suiting(device: str) -> tuple[str, ...]:
    """The contestants' names that suit a device: in bfloat16 only where that is not emulated."""
    names, fast = (ON_CPU if device == "cpu" else ON_GPU), multiplies_bfloat16(device)
    return tuple(name for name in names if fast or not name.endswith("bfloat16"))


def contestant_of(name: str, bart: BartConfig, vqgan: VQGANConfig) -> Contestant:
    """Of a name such as ours-bfloat16."""
    who, _, dtype = name.rpartition("-")
    if who not in CONTESTANTS or dtype not in DTYPES:
        raise ValueError(
            f"contestant is {name!r}; it must be one of {', '.join(CONTESTANTS)}, "
            f"then - and one of {', '.join(DTYPES)}"
        )
    return Contestant(who, dtype, bart, vqgan)


def available_memory() -> int | None:
    """Bytes that are free to use; None where the system does not tell."""
    if not MEMORY.exists():
        return None
    [line] = [line for line in MEMORY.read_text().splitlines() if line.startswith("MemAvailable")]
    return int(line.split()[1]) * 1024


def about(plan: Plan, size: str, device: str, threads: int) -> dict[str, Any]:
    """What is measured, and on what."""
    try:
        min_dalle = importlib.metadata.version("min-dalle")
    except importlib.metadata.PackageNotFoundError:
        min_dalle = None
    on = machine(torch.device(device))
    return {
        "machine": {**on, "threads": threads, "flags": cpu_flags(), "min-dalle": min_dalle},
        "size": size,
        "rounds": plan.rounds,
        "tokens": plan.tokens,
        "image_length": plan.bart.image_length,
        "text_length": plan.bart.max_text_length,
        "resolution": plan.vqgan.resolution,
        "codebook_size": plan.bart.codebook_size,
        "top_k": TOP_K,
        "condition_scale": SCALE,
    }
