"""Lesson 02: exercises unanswered, answered, and answered wrong in ways that come to mind."""

import math

import pytest
import torch

from minidalle.lessons.checks import why_not_pixels as checks
from minidalle.lessons.exercise import NOT_ANSWERED, RIGHT

POSITIONS = 512 * 512 * 3


def picture_bits(side, patch, codes):
    return (side // patch) ** 2 * math.log2(codes)


def farthest(points, count, reduce=lambda distances: distances.amin(1)):
    chosen = [0]
    while len(chosen) < count:
        chosen.append(int(reduce(torch.cdist(points, points[chosen])).argmax()))
    return chosen


@pytest.mark.parametrize("name", ["score_gigabytes", "bits", "farthest_first"])
def test_not_answered(name: str) -> None:
    assert getattr(checks, name).verdict(...) == NOT_ANSWERED
    if name != "score_gigabytes":
        assert getattr(checks, name).verdict(lambda *_: ...) == NOT_ANSWERED


@pytest.mark.parametrize("answer", [POSITIONS**2 * 2 / 1e9, POSITIONS**2 * 2 / 2**30, 1237])
def test_score_gigabytes(answer: float) -> None:
    assert checks.score_gigabytes.verdict(answer) == RIGHT


@pytest.mark.parametrize(
    ("answer", "hint"),
    [
        (POSITIONS * 2 / 1e9, "one per pair"),
        (POSITIONS**2 * 4 / 1e9, "2 bytes, not 4"),
        (POSITIONS**2 / 1e9, "counts the scores"),
        ((512 * 512) ** 2 * 2 / 1e9, "three positions"),
        (POSITIONS**2 * 2, "10⁹ of them"),
        (3.0, "square the number"),
        ("much", "raised ValueError"),
    ],
)
def test_wrong_gigabytes(answer, hint: str) -> None:
    assert hint in checks.score_gigabytes.verdict(answer)


def test_bits() -> None:
    assert checks.bits.verdict(picture_bits) == RIGHT
    assert picture_bits(256, 16, 16384) == 3584  # as the lesson says


@pytest.mark.parametrize(
    ("answer", "hint"),
    [
        (lambda s, p, k: s // p * math.log2(k), "rows times columns"),
        (lambda s, p, k: (s // p) ** 2 * math.log(k), "base 2"),
        (lambda s, p, k: (s // p) ** 2 * k, "not K"),
        (lambda s, p, k: (s // p) ** 2, "number of tokens"),
        (lambda s, p, k: 3 * picture_bits(s, p, k), "three colours"),
        (lambda s, p, k: s * s * 24, "tokens per picture times"),
    ],
)
def test_wrong_bits(answer, hint: str) -> None:
    assert hint in checks.bits.verdict(answer)


def test_farthest_first() -> None:
    assert checks.farthest_first.verdict(farthest) == RIGHT
    assert checks.farthest_first.verdict(lambda *args: torch.tensor(farthest(*args))) == RIGHT


@pytest.mark.parametrize(
    ("answer", "hint"),
    [
        (lambda points, count: farthest(points, count, lambda d: d[:, -1]), "twice"),
        (lambda points, count: farthest(points, count, lambda d: d.amax(1)), "twice"),
        (lambda points, count: farthest(points, count, lambda d: d.mean(1)), "it chose"),
        (lambda points, count: farthest(points, count, lambda d: d[:, 0]), "it chose"),
        (lambda points, count: list(range(count)), "nearest of ALL"),
        (lambda points, count: farthest(points, count)[::-1], "number 0"),
        (lambda points, count: farthest(points, count - 1 or 1), "returned 1"),
    ],
)
def test_wrong_farthest_first(answer, hint: str) -> None:
    assert hint in checks.farthest_first.verdict(answer)
