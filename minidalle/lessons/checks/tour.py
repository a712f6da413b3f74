"""Checkers of lesson 00, the tour: seeds, bits, and the order of image tokens."""

from __future__ import annotations

from typing import Any

import torch

from minidalle.lessons.exercise import exercise

FIRST_SEED, MIDDLE = 7, 4  # of nine pictures from seed 7, the one in the middle of the grid
N, K, S = 64, 1024, 64  # of the embedded model


@exercise
def middle_seed(answer: Any) -> str | None:
    """The seed that draws the middle one of nine pictures, the first of which has seed 7."""
    hints = {
        FIRST_SEED: "that is the seed of the first picture, top left",
        MIDDLE: "that is its place, counted from 0; its seed counts on from the first one's",
        MIDDLE + 1: "that is its place, counted from 1; its seed counts on from the first one's",
        FIRST_SEED + MIDDLE + 1: "one too many: the first picture has seed 7 itself, not 8",
    }
    if answer == FIRST_SEED + MIDDLE:
        return None
    return hints.get(answer, "the pictures lie row by row, and their seeds are 7, 8, 9, …")


@exercise
def bits_per_picture(answer: Any) -> str | None:
    """How many bits write down the image tokens of one picture: N · log2 K."""
    hints = {
        80: "that is bytes: the question is for bits",
        10: "those are the bits of one token; a picture has 64",
        N * K: "64 · 1,024 is no number of bits: how many bits tell 1,024 codes apart?",
        S * S * 3: "that is how many numbers the pixels are; the question is for the tokens",
        S * S * 3 * 8: "those are the bits of the pixels; the question is for the tokens",
        K: "that is how many codes there are: how many bits tell them apart?",
    }
    if answer == 640:
        return None
    return hints.get(answer, "each of 64 tokens is one of 1,024 codes, and 1,024 is 2 to the 10th")


@exercise
def join_halves(answer: Any) -> str | None:
    """Tokens of a picture whose left half is one picture's and whose right half is another's."""
    for side in (4, 8):
        a, b = torch.arange(side**2), torch.arange(side**2) + 100
        found = answer(a.clone(), b.clone())
        if not isinstance(found, torch.Tensor) or found.shape != a.shape:
            what = tuple(found.shape) if isinstance(found, torch.Tensor) else type(found).__name__
            return f"for two tensors of shape ({side**2},) it returned {what}; expected that shape"
        left = torch.arange(side) < side // 2  # (w,)
        right_one = torch.where(left, a.view(side, side), b.view(side, side)).flatten()
        other_way = torch.where(left, b.view(side, side), a.view(side, side)).flatten()
        half = side**2 // 2
        if torch.equal(found, torch.cat([a[:half], b[half:]])):
            return "that joins the upper half to the lower half: tokens run row by row"
        if torch.equal(found, other_way):
            return "the halves are in the wrong order: the first picture's belongs on the left"
        if not torch.equal(found, right_one):
            places = int((found != right_one).sum())
            return f"{places} of {side**2} tokens are wrong; reshape to rows, then take columns"
    return None
