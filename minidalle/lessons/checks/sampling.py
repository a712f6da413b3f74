"""Checkers of lesson 07: filters, super-conditioning in probabilities, what a cache saves."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from minidalle.lessons.exercise import exercise
from minidalle.sampling import SamplingConfig, filter_logits


@exercise
def nucleus_size(answer: Any) -> str | None:
    """How many tokens top-p keeps of probabilities (K,), in any order."""
    cases = [([0.5, 0.3, 0.15, 0.05], 0.6), ([0.05, 0.15, 0.3, 0.5], 0.6), ([0.9, 0.1], 0.5)]
    for numbers, p in cases:
        probabilities = torch.tensor(numbers)
        kept = filter_logits(probabilities.log()[None], SamplingConfig(top_p=p))
        expected, found = int(kept.isfinite().sum()), answer(probabilities, p)
        if found == expected:
            continue
        told = f"of {numbers} at p = {p} top-p keeps {expected}; yours keeps {found}"
        unsorted = probabilities.cumsum(0)
        if found == int((probabilities.sort(descending=True).values.cumsum(0) < p).sum()):
            return f"{told}: the token that crosses the limit stays, too"
        if found in (int((unsorted < p).sum()), int((unsorted - probabilities < p).sum())):
            return f"{told}: sum up from the likeliest token, not from token 0"
        return told
    return None


@exercise
def min_p(answer: Any) -> str | None:
    """Logits (B, K) with −inf on what is less likely than `share` of the row's likeliest token."""
    logits = torch.tensor([[1.0, 0.8, 0.5, 0.0, -3.0], [0.0, 4.0, 1.5, -2.0, 1.0]])  # (B, K)
    share = 0.3
    probabilities = logits.softmax(-1)  # (B, K)
    most = probabilities.amax(-1, keepdim=True)  # (B, 1)
    expected = logits.masked_fill(probabilities < share * most, -math.inf)
    found = answer(logits.clone(), share)
    if not isinstance(found, Tensor) or found.shape != logits.shape:
        return f"expected a tensor of shape {tuple(logits.shape)}, as the logits are"
    if same(found, expected):
        return None
    if not found.isneginf().any():
        return "nothing is left out: put −inf on the tokens that are not to be drawn"
    if same(found, logits.masked_fill(probabilities < share, -math.inf)):
        return "the limit is a share of the likeliest token's probability, not a probability"
    if same(found, logits.masked_fill(probabilities < share * most.max(), -math.inf)):
        return "every row has a likeliest token of its own: take the maximum along K only"
    if torch.equal(found.isneginf(), expected.isneginf()):
        return "the right tokens stay, but their logits must stay as they were"
    rows = (found.isneginf() != expected.isneginf()).sum(-1).tolist()
    return f"of {logits.shape[1]} tokens, {rows} are kept or left out wrongly in the two rows"


@exercise
def super_probabilities(answer: Any) -> str | None:
    """Super-conditioning in probabilities, (K,) and (K,): with the caption, and without."""
    cond, uncond = torch.tensor([0.6, 0.3, 0.1]), torch.tensor([0.2, 0.3, 0.5])
    for scale in (3.0, 1.0, 0.0):
        raw = uncond * (cond / uncond) ** scale  # (K,)
        found = answer(cond.clone(), uncond.clone(), scale)
        if not isinstance(found, Tensor) or found.shape != cond.shape:
            return f"expected a tensor of shape {tuple(cond.shape)}"
        if same(found, raw / raw.sum()):
            continue
        if same(found, raw):
            return f"at scale {scale:g} they sum to {float(raw.sum()):.2f}: divide by that"
        more = cond * (cond / uncond) ** scale
        if same(found, more) or same(found, more / more.sum()):
            return "start from the probabilities without the caption: scale 0 must give those"
        moved = uncond + scale * (cond - uncond)
        if same(found, moved) or same(found, moved.softmax(0)):
            return "the arithmetic is on logits: differences of logits are ratios of probabilities"
        return f"at scale {scale:g} expected {rounded(raw / raw.sum())}, found {rounded(found)}"
    return None


@exercise
def cache_saving(answer: Any) -> str | None:
    """How many times fewer decoder inputs a cache computes, for the 256 tokens of DALL·E mini."""
    n = 256
    without = n * (n + 1) // 2
    hints = {
        without: "that is how many inputs are computed without a cache: divide by those with one",
        n: "that is how many inputs are computed with a cache, or without it in the last step only",
        n * n: "without a cache step t computes t inputs, not 256",
        n / 2: "nearly: the inputs of the steps are 1 + 2 + … + 256, which is 256 · 257 / 2",
        (n - 1) / 2: "the first step computes one input, the start token: 1 + 2 + … + 256",
    }
    if isinstance(answer, int | float) and abs(answer - without / n) < 0.01:
        return None
    known = hints.get(answer) if isinstance(answer, int | float) else None
    return known or "without a cache step t computes all t inputs again; with one, only the last"


def same(found: Tensor, expected: Tensor) -> bool:
    """Equal but for rounding."""
    return torch.allclose(found.float(), expected, rtol=1e-4, atol=1e-5)


def rounded(numbers: Tensor) -> list[float]:
    """Two decimals, for a hint."""
    return [round(float(number), 2) for number in numbers]
