"""Checkers of lesson 09: bytes of a cache, days of training, places of a reader."""

from __future__ import annotations

import math
from typing import Any

from minidalle.lessons.exercise import exercise


@exercise
def cache_of_one(answer: Any) -> str | None:
    """Bytes of one picture's keys and values, without super-conditioning."""
    for layers, d, n, t, each in ((12, 1024, 256, 64, 2), (5, 256, 64, 32, 4)):
        expected = 2 * layers * (n + t) * d * each
        found = answer(layers, d, n, t, each)
        if found == expected:
            continue
        told = f"{layers} layers of D = {d}, N = {n}, T = {t}, {each} bytes: {expected:,}"
        if 2 * found == expected:
            return f"{told}; yours is half of that: there are keys and values"
        if found == 2 * expected:
            return f"{told}; yours is twice that: only super-conditioning needs a second row"
        if found == 2 * layers * n * d * each:
            return f"{told}; yours leaves out the keys and values of the text"
        if found == 2 * (n + t) * d * each:
            return f"{told}; every layer of the decoder has keys and values of its own"
        if found * each == expected:
            return f"{told}; yours counts numbers, not bytes"
        return f"{told}; yours is {found:,}"
    return None


@exercise
def training_days(answer: Any) -> str | None:
    """Days that a training run takes on some GPUs."""
    for case in ((125e9, 15e6, 5, 1, 300e12, 0.4), (800e9, 2e6, 3, 8, 100e12, 0.5)):
        flops, pictures, epochs, gpus, peak, used = case
        expected = 3 * flops * pictures * epochs / (gpus * peak * used) / 86_400
        found = answer(*case)
        if math.isclose(found, expected, rel_tol=1e-6):
            continue
        told = f"for {case} it is {expected:.4g} days; yours is {found:.4g}"
        hints = {
            1 / 3: "a training step takes three forward passes",
            24: "those are hours",
            86_400: "those are seconds",
            used: "the GPU does not reach its peak: divide by the share that is used",
            used * used: "divide by the share that is used, do not multiply",
            gpus: "the GPUs share the work",
            1 / epochs: "every picture is seen once in each epoch",
        }
        for factor, hint in hints.items():
            if factor != 1 and math.isclose(found, expected * factor, rel_tol=1e-6):
                return f"{told}: {hint}"
        return told
    return None


@exercise
def places(answer: Any) -> str | None:
    """Places that reader c takes in the endless row of shards."""
    for c, readers, shards, epochs in ((0, 2, 6, 1), (1, 2, 5, 2), (2, 3, 4, 2), (3, 4, 2, 3)):
        expected = list(range(c, epochs * shards, readers))
        found = list(answer(c, readers, shards, epochs))
        if found == expected:
            continue
        told = (
            f"reader {c} of {readers} takes {expected} of {epochs} epochs of {shards} shards; "
            f"yours takes {found}"
        )
        in_each = [e * shards + p for e in range(epochs) for p in range(c, shards, readers)]
        if sorted(found) == sorted(p % shards for p in expected):
            return f"{told}: places go on counting in the next epoch"
        if found == in_each:
            return f"{told}: epochs are laid end to end; do not begin anew at each"
        if found == list(range(c, shards, readers)):
            return f"{told}: yours stops after the first epoch"
        if len(found) > 1 and set(found) == set(range(found[0], found[-1] + 1)):
            return f"{told}: yours takes neighbouring places; take every one in {readers}"
        return told
    return None
