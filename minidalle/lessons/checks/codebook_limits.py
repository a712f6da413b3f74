"""Checkers of lesson 04, what the codebook cannot say: errors, decibels, unused codes, bits."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from minidalle.lessons.exercise import exercise

FACE, FACTOR, CODES = 48, 16, 16384  # a face's side in pixels, in a picture of the published VQGAN


@exercise
def decibels_of_twice(answer: Any) -> str | None:
    """By how many dB the PSNR falls where the mean squared error doubles."""
    right = 10 * math.log10(2)
    value = float(answer)
    if abs(abs(value) - right) < 0.02:
        return None
    if abs(value - 20 * math.log10(2)) < 0.03:
        return "that is for twice the difference itself, which makes four times the squared error"
    if abs(value - math.log10(2)) < 0.01:
        return "that is log10 2: the PSNR is ten times a logarithm"
    if abs(value - 10 * math.log(2)) < 0.02:
        return "that takes the natural logarithm; decibels take the logarithm to base 10"
    return "subtract −10·log10(2e) from −10·log10(e): the e cancels"


@exercise
def mean_gap(answer: Any) -> str | None:
    """The mean of faces' gaps less the mean of the others' gaps, in dB."""
    worse = torch.tensor([18.0, 17.0, 20.0, 21.0, 25.0])  # PSNR of the model that saw no face
    better = torch.tensor([19.5, 18.5, 20.0, 21.6, 25.0])  # of the one that saw everything
    faces = torch.tensor([True, True, False, False, False])
    found = answer(worse.clone(), better.clone(), faces.clone())
    if not isinstance(found, float | Tensor) or torch.as_tensor(found).numel() != 1:
        return "return one number, in dB"
    gap = better - worse
    right = float(gap[faces].mean() - gap[~faces].mean())
    mistakes = {
        -right: "the sign: count how much worse the model is that saw no face, as a gain of seeing",
        float(gap[faces].mean()): "that is the faces' gap; what the other pictures lose counts off",
        float(gap[~faces].mean()): "that is the gap of the other pictures alone",
        float(gap.mean()): "that is the mean over all pictures; the faces come in the mask",
        float(gap[faces].sum() - gap[~faces].sum()): "means, not sums: there are fewer faces",
    }
    return hint_for(float(found), right, mistakes, "take better − worse for each picture first")


@exercise
def unused_codes(answer: Any) -> str | None:
    """How many of K codes never occur in ids of any shape."""
    k = 10
    ids = torch.tensor([[1, 1, 4], [4, 7, 1]])  # three of ten codes: seven never occur
    found = answer(ids.clone(), k)
    if isinstance(found, Tensor) and found.numel() > 1:
        return "return how many there are, not which"
    mistakes = {
        3: "that is how many codes occur",
        4: "that is how many of K less all six tokens: a code that occurs twice is one code",
        1: "count codes, not rows or columns: `ids` holds tokens in any shape",
        2: "codes above the highest id may exist, too: count to K",
        5: "codes run from 0 to K − 1, and those above the highest id never occur either",
    }
    missed = hint_for(float(found), 7.0, mistakes, f"of {k} codes, ids {ids.tolist()} use three")
    if missed is None and float(answer(torch.arange(k), k)) != 0:
        return "where every code occurs once, none is unused"
    return missed


@exercise
def bits_of_a_face(answer: Any) -> str | None:
    """How many bits the published VQGAN spends on a face of 48×48 pixels."""
    tokens = (FACE // FACTOR) ** 2
    mistakes = {
        tokens: "those are the tokens: how many bits is each, of 16,384 codes?",
        math.log2(CODES): "those are the bits of one token; how many tokens lie on the face?",
        FACE // FACTOR * math.log2(CODES): "that is one row of tokens: the face has an area",
        FACE**2 * 24: "those are the bits of its pixels; the VQGAN's are asked for",
        tokens * CODES: "16,384 codes are told apart by 14 bits",
        tokens * 10: "10 bits are a token of 1,024 codes; the published VQGAN has 16,384",
        256 * 14: "those are the bits of the whole picture",
    }
    right = tokens * math.log2(CODES)
    return hint_for(
        float(answer), right, mistakes, "a token covers 16×16 pixels; 16,384 is 2 ** 14"
    )


def hint_for(found: float, right: float, mistakes: dict[float, str], otherwise: str) -> str | None:
    """None where the number is right, else the hint of the mistake that leads to it."""
    if abs(found - right) < 1e-4:
        return None
    near = [hint for number, hint in mistakes.items() if abs(found - number) < 1e-4]
    return near[0] if near else f"{found:.4g} is not it: {otherwise}"
