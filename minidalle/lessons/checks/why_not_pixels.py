"""Checks of lesson 02, why not pixels."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from minidalle.lessons.exercise import exercise

VALUES = 512 * 512 * 3  # numbers in a 512×512 picture
BYTES = 2  # of a float16


@exercise
def score_gigabytes(answer: Any) -> str | None:
    """Gigabytes (10⁹ bytes) of one head's scores over a 512×512×3 picture in float16."""
    found, right = float(answer), VALUES**2 * BYTES / 1e9
    mistakes = {
        VALUES * BYTES / 1e9: "that is one number per position; there is one per pair of positions",
        right * 2: "a float16 has 2 bytes, not 4",
        right / BYTES: "that counts the scores; each has 2 bytes",
        right / 9: "each pixel is three positions: red, green, blue",
        right * 1e9: "that is in bytes; a gigabyte is 10⁹ of them",
    }
    for wrong, hint in mistakes.items():
        if math.isclose(found, wrong, rel_tol=0.01):
            return hint
    if math.isclose(found, right * 1e9 / 2**30, rel_tol=0.01):
        return None  # in GiB: as good
    if not math.isclose(found, right, rel_tol=0.01):
        return "square the number of positions, 512·512·3, and multiply by the bytes of a float16"
    return None


@exercise
def bits(answer: Callable[[int, int, int], float]) -> str | None:
    """A function (side, patch, codes) -> bits of one picture's tokens."""
    for side, patch, codes in ((64, 8, 1024), (64, 4, 64), (256, 16, 16384)):
        found, count = float(answer(side, patch, codes)), (side // patch) ** 2
        asked = f"side {side}, patch {patch}, K {codes}"
        mistakes = {
            side // patch * math.log2(codes): "count rows times columns of patches",
            count * math.log(codes): "bits are logarithms to the base 2: math.log2",
            float(count * codes): "a token is one of K, so it takes log2 K bits, not K",
            float(count): "that is the number of tokens; each takes log2 K bits",
            count * math.log2(codes) * 3: "a patch has its three colours in one token",
        }
        for wrong, hint in mistakes.items():
            if math.isclose(found, wrong):
                return f"{asked}: {hint}"
        if not math.isclose(found, count * math.log2(codes)):
            return f"{asked}: found {found:g}; it is tokens per picture times bits per token"
    return None


def farthest_first_ids(points: Tensor, count: int) -> list[int]:
    """Ids of `count` points, the first of them 0, each farthest from all those before it."""
    chosen = [0]
    while len(chosen) < count:
        to_nearest = torch.cdist(points, points[chosen]).amin(1)  # (M,)
        chosen.append(int(to_nearest.argmax()))
    return chosen


@exercise
def farthest_first(answer: Callable[[Tensor, int], Any]) -> str | None:
    """A function (points (M, d), count) -> the ids of the points to start k-means from."""
    points = torch.tensor([[0.0, 0.0], [10.0, 0.0], [9.9, 1.2], [1.0, 1.0], [5.0, 2.0], [0.0, 3.0]])
    for count in (1, 2, 4):
        found = [int(index) for index in answer(points.clone(), count)]
        right = farthest_first_ids(points, count)
        if len(found) != count:
            return f"asked for {count} points, it returned {len(found)}"
        if found[:1] != [0]:
            return "the first point is number 0, so that everyone gets the same"
        if len(set(found)) < count:
            return (
                f"it chose {found}, a point twice: take the point whose distance to the NEAREST "
                "of those chosen is largest; a chosen one has distance 0"
            )
        if found != right:
            return (
                f"it chose {found}: for each point take the distance to the nearest of ALL those "
                "chosen before (a minimum), then the point where that is largest"
            )
    return None
