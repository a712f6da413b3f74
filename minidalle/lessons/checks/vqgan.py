"""Checkers of lesson 03, the VQGAN: compression, moving codes, perplexity, the best grey."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from minidalle.lessons.exercise import NotAnsweredError, exercise

S, N, BITS = 256, 256, 14  # of the published VQGAN, with 16,384 = 2**14 codes
PIXEL_BYTES, TOKEN_BYTES = S * S * 3, N * BITS // 8
SAMPLES = (0.0, 0.0, 1.0)  # what a pixel is in three pictures that the same tokens stand for


@exercise
def compression(answer: Any) -> str | None:
    """How many times smaller the published VQGAN's tokens are than the pixels: about 439."""
    ratio = PIXEL_BYTES / TOKEN_BYTES
    hints = {
        PIXEL_BYTES / N: "that takes a byte for each token, and a byte tells only 256 codes apart",
        PIXEL_BYTES * 8 / N: "that is the pixels' bits for each token; how many bits has a token?",
        PIXEL_BYTES / (N * BITS): "pixels in bytes, tokens in bits: use the same unit for both",
        S * S / TOKEN_BYTES: "a pixel has three colours, a byte each",
        TOKEN_BYTES: "that is the size of the tokens in bytes; the question is how many times less",
        PIXEL_BYTES / (N * 16384 / 8): "a token needs log2 K bits, not K",
    }
    for wrong, hint in hints.items():
        if math.isclose(answer, wrong, rel_tol=0.005):
            return hint
    if math.isclose(answer, 1 / ratio, rel_tol=0.01):
        return "upside down: pixels divided by tokens"
    if math.isclose(answer, ratio, rel_tol=0.01):
        return None
    return "pixels: 256 · 256 · 3 bytes; tokens: 256, each of log2 16,384 = 14 bits"


@exercise
def move_codes(answer: Any) -> str | None:
    """Each code at the mean of the latents that chose it: (K, d), (M, d), (M,) -> (K, d)."""
    codes = torch.tensor([[0.0, 0.0], [5.0, 5.0], [9.0, 0.0]])
    latents = torch.tensor([[1.0, 0.0], [0.0, 3.0], [2.0, 3.0], [6.0, 4.0]])
    ids = torch.tensor([0, 0, 0, 1])
    right = torch.tensor([[1.0, 2.0], [6.0, 4.0], [9.0, 0.0]])
    given = codes.clone()
    found = answer(given, latents.clone(), ids.clone())
    if hint := wrong_shape(found, codes):
        return hint
    if not found[2].isfinite().all():
        return "a code that no latent chose is no longer a number: that is 0 / 0"
    if torch.equal(found[2], torch.zeros(2)):
        return "a code that no latent chose went to 0; it should stay where it was"
    if torch.allclose(found, right):
        return None
    if torch.allclose(found[:2], torch.tensor([[3.0, 6.0], [6.0, 4.0]])):
        return "that is the sum of the latents that chose a code; divide by how many they are"
    if torch.allclose(found, codes):
        return "no code has moved"
    return f"code 0 was chosen by (1, 0), (0, 3) and (2, 3); expected (1, 2), found {row(found[0])}"


@exercise
def perplexity(answer: Any) -> str | None:
    """exp(entropy) of the ids' shares: (M,), K -> a number from 1 to K."""
    even, uneven = torch.arange(8), torch.tensor([3] * 97 + [0, 1, 2])
    found = float(answer(even, 16))
    if math.isnan(found):
        return "not a number: a code that never occurs makes 0 · log 0; its part is 0"
    hints = {
        math.log(8): "that is the entropy; perplexity is its exponential",
        3.0: "that is the entropy in bits; perplexity is 2 to that, or e to the entropy in nats",
        0.5: "that is the share of the codes that occur",
        1 / 8: "the sign: the entropy is −Σ p log p",
        math.e**3: "base 2 in the logarithm, base e in the power: take the same for both",
        16.0: "that is K: 8 of the 16 codes occur, equally often, so it should be 8",
    }
    for wrong, hint in hints.items():
        if math.isclose(found, wrong, rel_tol=1e-3):
            return hint
    if not math.isclose(found, 8, rel_tol=1e-3):
        return f"8 codes equally often have perplexity 8; found {found:.3g}"
    share = torch.tensor([97, 1, 1, 1]) / 100
    expected = float(torch.special.entr(share).sum().exp())  # 1.18
    found = float(answer(uneven, 16))
    if math.isclose(found, 4, rel_tol=1e-3):
        return "that counts codes that occur; one that takes 97 of 100 places should count for more"
    if not math.isclose(found, expected, rel_tol=1e-3):
        return f"ids of which 97 % are one code, 3 others 1 % each: {expected:.3g}, not {found:.3g}"
    return None


@exercise
def best_grey(answer: Any) -> str | None:
    """The value with the least mean error to 0, 0 and 1: {"l1": the median, "l2": the mean}."""
    if not isinstance(answer, dict) or set(answer) != {"l1", "l2"}:
        return 'expected {"l1": a number, "l2": a number}'
    if any(value is ... for value in answer.values()):
        raise NotAnsweredError
    l1, l2 = float(answer["l1"]), float(answer["l2"])
    mean = sum(SAMPLES) / 3
    if math.isclose(l1, mean, abs_tol=0.01) and abs(l2) < 0.01:
        return "the other way round: squares punish one large error most, and pull to the mean"
    if math.isclose(l2, 0.5, abs_tol=0.01):
        return "l2: that is half-way between the two values; 0 occurs twice as often as 1"
    if abs(l2) < 0.01:
        return "l2: at 0 the mean square is 1/3; a little more than 0 is better: try 0.1"
    if not math.isclose(l2, mean, abs_tol=0.01):
        return f"l2: the mean square at {l2:.3g} is {mean_error(l2, 2):.3g}; it can be 0.222"
    if math.isclose(l1, mean, abs_tol=0.01):
        return "l1: at 1/3 the mean distance is 0.444; two of three values pull downwards, further"
    if abs(l1) > 0.01:
        return f"l1: the mean distance at {l1:.3g} is {mean_error(l1, 1):.3g}; it can be 0.333"
    return None


def mean_error(value: float, power: int) -> float:
    return sum(abs(value - sample) ** power for sample in SAMPLES) / 3


def wrong_shape(found: Any, codes: Tensor) -> str | None:
    if isinstance(found, Tensor) and found.shape == codes.shape:
        return None
    what = f"shape {tuple(found.shape)}" if isinstance(found, Tensor) else type(found).__name__
    return f"expected the codes again, {tuple(codes.shape)}; it returned {what}"


def row(values: Tensor) -> str:
    return f"({', '.join(f'{value:.3g}' for value in values.tolist())})"
