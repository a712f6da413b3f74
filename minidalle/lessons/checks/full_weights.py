"""Checkers of lesson 10: memory of the published sizes, Flax's axes, pictures of eight bits."""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from torch import Tensor

from minidalle.bart import BartConfig
from minidalle.lessons.exercise import exercise
from minidalle.memory import MemoryNeeded, memory_needed, parameter_count
from minidalle.vqgan import VQGANConfig

GB = 10**9


@cache
def mega_needs(n: int, dtype: torch.dtype = torch.bfloat16) -> MemoryNeeded:
    """What n pictures of DALL·E mega take."""
    bart, vqgan = BartConfig.mega(), VQGANConfig.f16_16384()
    parameters = published_parameters()
    return memory_needed(bart, vqgan, parameters=parameters, n=n, dtype=dtype)


@cache
def published_parameters() -> int:
    return parameter_count(BartConfig.mega()) + parameter_count(VQGANConfig.f16_16384())


def summed(needed: MemoryNeeded) -> int:
    """All that is ever taken, though it is never held at one time."""
    return needed.weights + needed.cache + needed.logits + needed.pictures


def most(free: int, needed: Any) -> int:
    """The most pictures n for which needed(n) bytes are free."""
    n = 0
    while needed(n + 1) <= free:
        n += 1
    return n


@exercise
def pictures_that_fit(answer: Any) -> str | None:
    """The most pictures that DALL·E mega draws at once in `free` bytes, in bfloat16."""
    for free in (4 * GB, 8 * GB, 16 * GB):
        expected, found = most(free, lambda n: mega_needs(n).peak), answer(free)
        if found == expected:
            continue
        told = f"of {free // GB} GB yours makes {found} pictures"
        if expected == 0:
            return f"{told}, but the weights alone take {mega_needs(1).weights / GB:.1f} GB: 0"
        if found == expected + 1:
            return f"{told}, but {found} need {mega_needs(found).peak / GB:.2f} GB: one too many"
        if found == most(free, lambda n: summed(mega_needs(n))):
            return f"{told}: the cache is freed before the pictures are decoded; look at `peak`"
        if found == most(free, lambda n: mega_needs(n, torch.float32).peak):
            return f"{told}, as in float32: a number in bfloat16 has two bytes"
        return f"{told}; {expected} fit"
    return None


@exercise
def from_flax(answer: Any) -> str | None:
    """Layer `layer` of a stacked kernel (layers, in, out) as torch's Linear wants it: (out, in)."""
    kernel = torch.arange(2 * 3 * 4.0).reshape(2, 3, 4)
    expected, found = kernel[1].T, answer(kernel, 1)
    if not isinstance(found, Tensor):
        return f"expected a tensor, got {type(found).__name__}"
    if torch.equal(found, expected):
        return None
    if torch.equal(found, kernel[1]):
        return "it is (in, out): torch's Linear keeps (out, in), the other way round"
    if torch.equal(found, kernel[0].T):
        return "it is another layer: layer 1 is kernel[1], the second"
    if found.shape == expected.shape:
        return "the shape is right, the numbers lie elsewhere: transpose, do not reshape"
    return f"its shape is {tuple(found.shape)}; from (2, 3, 4) expected (4, 3)"


@exercise
def to_bytes(answer: Any) -> str | None:
    """Pictures (B, 3, S, S) as the VQGAN decodes them to (B, S, S, 3) of bytes."""
    levels = torch.tensor([-0.2, 0.0, 0.25, 0.5, 1.0, 1.3])
    images = levels[torch.arange(2 * 3 * 4 * 4) * 5 % 6].reshape(2, 3, 4, 4)
    found = answer(images.clone())
    if not isinstance(found, Tensor):
        return f"expected a tensor, got {type(found).__name__}"
    if found.shape != (2, 4, 4, 3):
        return f"its shape is {tuple(found.shape)}; from (2, 3, 4, 4) expected (2, 4, 4, 3)"
    if found.dtype != torch.uint8:
        return f"its dtype is {str(found.dtype).removeprefix('torch.')}; a byte is torch.uint8"
    expected = (images.clamp(0, 1) * 255).permute(0, 2, 3, 1)
    distance = (found.float() - expected).abs()
    if distance.max() <= 1:
        return None
    inside = ((images >= 0) & (images <= 1)).permute(0, 2, 3, 1)
    if distance[inside].max() <= 1:
        return "what is below 0 or above 1 wraps around, as 1.3 becomes 75: clip it first"
    if torch.equal(found.float().sort().values, found.float()) or found.max() <= 1:
        return "it is nearly black: a byte goes to 255, not to 1"
    if (found.flatten().sort().values - expected.flatten().sort().values).abs().max() <= 1:
        return "the colours are right, but in wrong places: permute the axes, do not reshape"
    return f"0.25 becomes {int(found[images.permute(0, 2, 3, 1) == 0.25][0])}; expected 63 or 64"
