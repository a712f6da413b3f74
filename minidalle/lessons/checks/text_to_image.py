"""Checkers for lesson 06: teacher forcing, the worth of a caption, unseen pairs."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from minidalle.data.shapes import HELD_OUT, ShapesDataset, parse_caption
from minidalle.lessons.exercise import exercise


@exercise
def decoder_inputs(answer: Callable[[Tensor, int], Tensor]) -> str | None:
    """What the decoder reads in training, from image tokens (B, N) and the start token."""
    tokens = torch.tensor([[5, 6, 7, 8], [1, 2, 3, 4]])
    before = tokens.clone()
    start = 9
    found = answer(tokens, start)
    if not torch.equal(tokens, before):
        return "it changed the tokens that it was given: the targets would be wrong, too"
    if not isinstance(found, Tensor):
        return f"it returned {type(found).__name__}; a tensor (B, N) is asked for"
    right = torch.tensor([[9, 5, 6, 7], [9, 1, 2, 3]])
    if tuple(found.shape) == (2, 5):
        return "(B, N+1): nothing comes after the last token, so the decoder need not read it"
    if found.shape != right.shape:
        return f"for tokens (2, 4) it returned {tuple(found.shape)}; (2, 4) is asked for"
    if torch.equal(found, right):
        return None
    if torch.equal(found, tokens):
        return "each place sees the very token that it should predict: move them to the right"
    if torch.equal(found, tokens.roll(-1, dims=1)) or torch.equal(found[:, :-1], tokens[:, 1:]):
        return "moved to the left: place t sees the token after t, which is not drawn yet"
    if torch.equal(found, tokens.roll(1, dims=1)):
        return "the first place sees the last token; it should see the start token"
    if torch.equal(found[:, 1:], right[:, 1:]):
        return f"the first place sees {found[0, 0].item()}; it should see the start token, {start}"
    return f"tokens {tokens[0].tolist()} with start {start} became {found[0].tolist()}"


@exercise
def worth_in_bits(answer: Callable[[float, float, int], float]) -> str | None:
    """What a caption is worth for a whole picture, from two losses in nats per token."""
    empty, right, n = 0.9, 0.5, 64
    found, nats = float(answer(empty, right, n)), 0.4 * 64
    bits = nats / math.log(2)

    def is_(value: float) -> bool:
        return math.isclose(found, value, rel_tol=1e-3)

    if is_(-bits):
        return "the sign: the loss is higher *without* the caption, and its worth is positive"
    if is_(nats):
        return "these are nats; one bit is ln 2 nats"
    if is_(nats * math.log(2)):
        return "a bit is ln 2 = 0.69 nats, so there are more bits than nats: divide"
    if is_(bits / n) or is_(nats / n):
        return "this is for one token; a picture has n of them"
    if is_(nats / math.log(10)):
        return "log10 gives decimal digits; bits need the logarithm to base 2"
    if not is_(bits):
        return f"for 0.9 and 0.5 nats and 64 tokens it gave {found:.3g}"
    other = float(answer(2.0, 1.0, 16))
    if not math.isclose(other, 16 / math.log(2), rel_tol=1e-3):
        return f"right for 64 tokens, but for 2 and 1 nats and 16 tokens it gave {other:.3g}"
    return None


@exercise
def has_unseen_pair(answer: Callable[[str], bool]) -> str | None:
    """Whether some object of a caption has a colour and a shape that are held out together."""
    for caption, hint in (
        (
            "a small red square",
            "red squares were seen: both words must be of one held-out pair",
        ),
        ("a large red triangle", "a red triangle is held out"),
        (
            "a small red circle left of a large blue triangle",
            "there is red, and there is a triangle, but they are not of the same object",
        ),
        (
            "a small black circle above a large green diamond",
            "the second object is a green diamond: look at both",
        ),
    ):
        if bool(answer(caption)) != right_of(caption):
            return f"{caption!r}: {hint}"
    for split in ("train", "held_out"):
        dataset = ShapesDataset(50, 3, split)
        for i in range(len(dataset)):
            caption = dataset[i][1]
            if bool(answer(caption)) != right_of(caption):
                return f"{caption!r}: it should be {right_of(caption)}"
    return None


def right_of(caption: str) -> bool:
    """The right answer of the third exercise."""
    return any((thing.colour, thing.shape) in HELD_OUT for thing in parse_caption(caption).objects)
