"""The machine's limits, measured: how fast it reads memory, and how fast it multiplies matrices.

Each is tried in several ways, each way several times, and the best counts: a limit is what the
machine can do, not what one kernel does. What is read is too large for the caches.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from minidalle.bench.common import synchronize

READ_BYTES = 2**28  # of the array that is read: 256 MiB, eight times a large cache
SIDE = 2048  # of the large square matrices
PICTURE_SIDE = 256  # of the feature maps, 128 channels, that are convolved
TIMES = 5


def measure_limits(
    width: int,
    inner: int,
    dtypes: tuple[str, ...] = ("float32", "bfloat16"),
    device: str = "cpu",
    *,
    read_bytes: int = READ_BYTES,
    side: int = SIDE,
    picture_side: int = PICTURE_SIDE,
    times: int = TIMES,
) -> dict[str, Any]:
    """Bytes a second and operations a second, all ways tried by name.

    width, inner: D and F of the network whose matrix shapes are tried, beside large square ones.
    Returns {"read": {way: bytes/s}, "matrix": {dtype: {way: FLOP/s}}}.
    """
    place = torch.device(device)
    with torch.no_grad():
        return {
            "read": reading(width, dtypes, place, read_bytes, times),
            "matrix": {
                dtype: multiplying(width, inner, side, picture_side, dtype, place, times)
                for dtype in dtypes
            },
        }


def reading(
    width: int, dtypes: tuple[str, ...], device: torch.device, size: int, times: int
) -> dict[str, float]:
    """Bytes read a second: by a sum, and by one and two rows times a tall matrix of weights."""
    speeds = {}
    for name in dtypes:
        dtype = getattr(torch, name)
        weights = torch.randn(size // dtype.itemsize // width, width, device=device).to(dtype)
        read = weights.numel() * dtype.itemsize
        ways: dict[str, Callable[[], Tensor]] = {f"sum, {name}": lambda w=weights: w.sum()}
        for rows in (1, 2):
            x = torch.randn(rows, width, device=device).to(dtype)
            ways[f"{rows} rows × weights, {name}"] = lambda x=x, w=weights: F.linear(x, w)
        for way, work in ways.items():
            speeds[way] = read / best_seconds(work, device, times)
    return speeds


def multiplying(
    width: int,
    inner: int,
    side: int,
    picture_side: int,
    dtype: str,
    device: torch.device,
    times: int,
) -> dict[str, float]:
    """Operations a second of matrix products, and of a 3×3 convolution with channels last."""
    speeds, kind = {}, getattr(torch, dtype)
    for m, k, n in ((18, width, inner), (128, width, inner), (side, side, side)):
        x, w = (torch.randn(shape, device=device).to(kind) for shape in ((m, k), (n, k)))
        seconds = best_seconds(lambda x=x, w=w: F.linear(x, w), device, times)
        speeds[f"{m}×{k} times {k}×{n}"] = 2 * m * k * n / seconds
    c = 128
    x = torch.randn(1, c, picture_side, picture_side, device=device).to(kind)
    w = torch.randn(c, c, 3, 3, device=device).to(kind)
    x, w = (each.to(memory_format=torch.channels_last) for each in (x, w))
    seconds = best_seconds(lambda: F.conv2d(x, w, padding=1), device, times)
    way = f"3×3 convolution, {c} channels, {picture_side}×{picture_side}"
    speeds[way] = 2 * 9 * c * c * picture_side**2 / seconds
    return speeds


def best_seconds(work: Callable[[], Any], device: torch.device, times: int) -> float:
    """The least time of several, after one that does not count."""
    seconds = []
    for _ in range(1 + times):
        synchronize(device)
        start = time.perf_counter()
        work()
        synchronize(device)
        seconds.append(time.perf_counter() - start)
    return min(seconds[1:])
