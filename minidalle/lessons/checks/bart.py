"""Checkers of lesson 05: shifting right, masks after a past, heads, the size of a block."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from minidalle.bart import EncoderBlock
from minidalle.lessons.exercise import exercise


@exercise
def shift_right(answer: Any) -> str | None:
    """Image tokens (B, N) moved one place to the right, behind the start token."""
    ids = torch.tensor([[3, 1, 4, 1], [5, 9, 2, 6]])  # (B, N)
    expected = torch.tensor([[11, 3, 1, 4], [11, 5, 9, 2]])
    found = answer(ids.clone(), 11)
    told = f"[3, 1, 4, 1] with start token 11 becomes {expected[0].tolist()}"
    if not isinstance(found, Tensor) or found.ndim != 2 or len(found) != len(ids):
        return f"expected a tensor of shape {tuple(ids.shape)}"
    if found.shape[1] == ids.shape[1] + 1:
        return f"{told}: nothing comes after the last token, so nothing needs to see it"
    if found.shape != ids.shape:
        return f"expected shape {tuple(ids.shape)}, found {tuple(found.shape)}"
    if torch.equal(found, expected):
        return None
    if torch.equal(found, ids.roll(1, dims=1)):
        return f"{told}: yours puts the last token in front, which is still to be predicted"
    if torch.equal(found[:, :-1], ids[:, 1:]):
        return f"{told}: yours shifts left, so position t sees the token that it is to predict"
    if torch.equal(found[:, 1:], ids[:, 1:]):
        return f"{told}: yours only overwrites the first token; the others must move"
    return f"{told}; yours is {found[0].tolist()}"


@exercise
def mask_after(answer: Any) -> str | None:
    """(n, past + n), True where n new tokens may look when `past` are known."""
    for past, n in ((0, 3), (2, 3), (4, 1)):
        expected = torch.ones(n, past + n, dtype=torch.bool).tril(past)
        found = answer(past, n)
        told = f"with past {past} and n {n}"
        if not isinstance(found, Tensor) or found.shape != expected.shape:
            shape = tuple(found.shape) if isinstance(found, Tensor) else type(found).__name__
            return f"{told} expected a tensor of shape {tuple(expected.shape)}, found {shape}"
        if found.dtype != torch.bool:
            return f"expected booleans, found {found.dtype}: compare, or add .bool()"
        if torch.equal(found, expected):
            continue
        if torch.equal(found, ~expected):
            return "yours is True where looking is forbidden; it must be True where it is allowed"
        if torch.equal(found, expected.tril(past - 1)):
            return "a token may see itself, too"
        if torch.equal(found, expected.tril(0)):
            return f"{told} the first new token sees all {past} that were before it, and itself"
        if found[:, past:].tril(-1).sum() == 0 and n > 1:
            return f"{told} new tokens see the new ones before them: rows ask, columns are asked"
        return f"{told} the first row must be {expected[0].tolist()}; yours is {found[0].tolist()}"
    return None


@exercise
def multi_head(answer: Any) -> str | None:
    """Attention in `heads` slices of the width: (B, n, D), (B, L, D), (B, L, D) -> (B, n, D)."""
    generator = torch.Generator().manual_seed(0)
    queries = torch.randn(2, 3, 8, generator=generator)  #           (B, n, D)
    keys, values = torch.randn(2, 2, 5, 8, generator=generator)  #   (B, L, D) each

    def cut(x: Tensor) -> Tensor:
        return x.unflatten(-1, (2, -1)).transpose(1, 2)  # (B, H, L, D/H)

    def joined(x: Tensor) -> Tensor:
        return x.transpose(1, 2).flatten(2)  # (B, n, D)

    q, k, v = cut(queries), cut(keys), cut(values)
    expected = joined(F.scaled_dot_product_attention(q, k, v))
    found = answer(queries.clone(), keys.clone(), values.clone(), 2)
    if not isinstance(found, Tensor) or found.shape != expected.shape:
        shape = tuple(found.shape) if isinstance(found, Tensor) else type(found).__name__
        return f"expected a tensor of shape {tuple(expected.shape)}, (B, n, D); found {shape}"
    if same(found, expected):
        return None
    interleaved = [x.unflatten(-1, (-1, 2)).movedim(-1, 1) for x in (queries, keys, values)]
    mistakes = {
        "there is one head over the whole width: cut D into slices first":
            F.scaled_dot_product_attention(queries, keys, values),
        "the scores are not divided: divide by √(D/H)": joined((q @ k.mT).softmax(-1) @ v),
        "the scores are divided by √D; a head's queries have D/H numbers":
            joined((q @ k.mT / 8**0.5).softmax(-1) @ v),
        "softmax runs along the queries; the weights of one query must sum to 1":
            joined((q @ k.mT / 2).softmax(-2) @ v),
        "heads and positions are mixed up at the end: transpose back before you join the heads":
            F.scaled_dot_product_attention(q, k, v).reshape(expected.shape),
        "a head is a slice of neighbouring numbers, not every second one":
            F.scaled_dot_product_attention(*interleaved).movedim(1, -1).flatten(2),
    }  # fmt: skip
    for hint, mistake in mistakes.items():
        if same(found, mistake):
            return hint
    return f"the largest difference is {float((found - expected).abs().max()):.2g}"


@exercise
def encoder_block_parameters(answer: Any) -> str | None:
    """Parameters of `EncoderBlock` of width D and feed-forward width F."""
    for d, f in ((32, 42), (16, 64), (1024, 2730)):
        with torch.device("meta"):
            block = EncoderBlock(d, heads=4, inner=f, dropout=0.0)
        expected = sum(parameter.numel() for parameter in block.parameters())
        if (found := answer(d, f)) == expected:
            continue
        told = f"for D = {d} and F = {f} it is {expected:,}, yours is {found:,}"
        if found == 4 * d * d + 3 * d * f:
            return f"{told}: the matrices are right; norms have parameters, too"
        if found == 4 * d * d + 2 * d * f + 4 * d + f:
            return f"{told}: the gated layer has three matrices"
        if found == 4 * d * d + 3 * d * f + 6 * d + 2 * f:
            return f"{told}: three of the four norms have a bias but no scale"
        if found == 3 * d * d + 3 * d * f + 4 * d + f:
            return f"{told}: attention has four matrices, one of them for what comes out"
        return told
    return None


def same(found: Tensor, expected: Tensor) -> bool:
    return torch.allclose(found.float(), expected, atol=1e-5)
