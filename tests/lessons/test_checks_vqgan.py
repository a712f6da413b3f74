"""The checkers of lesson 03: nothing, right, and the mistakes that are likely."""

import math

import pytest
import torch
from verdicts import assert_nothing_and_right, assert_told_wrong

from minidalle.lessons.checks import vqgan as checks


def move_codes(codes, latents, ids):
    moved = codes.clone()
    for k in ids.unique():
        moved[k] = latents[ids == k].mean(0)
    return moved


def sums(codes, latents, ids):
    moved = codes.clone()
    for k in ids.unique():
        moved[k] = latents[ids == k].sum(0)
    return moved


def unused_to_zero(codes, latents, ids):
    counts = torch.bincount(ids, minlength=len(codes)).clamp(min=1)
    return torch.zeros_like(codes).index_add_(0, ids, latents) / counts[:, None]


def unused_to_nan(codes, latents, ids):
    counts = torch.bincount(ids, minlength=len(codes))
    return torch.zeros_like(codes).index_add_(0, ids, latents) / counts[:, None]


def shares(ids, k):
    return torch.bincount(ids, minlength=k) / len(ids)


def perplexity(ids, k):
    return torch.special.entr(shares(ids, k)).sum().exp()


def zero_times_log_zero(ids, k):
    share = shares(ids, k)
    return torch.exp(-(share * share.log()).sum())


ANSWERS = {
    "compression": 438.86,
    "move_codes": move_codes,
    "perplexity": perplexity,
    "best_grey": {"l1": 0, "l2": 1 / 3},
}
WRONG = [
    ("compression", 196608 / 256, "a byte for each token"),
    ("compression", 196608 / 3584, "the same unit"),
    ("compression", 65536 / 448, "three colours"),
    ("compression", 448, "size of the tokens"),
    ("compression", 448 / 196608, "upside down"),
    ("compression", 196608 / (256 * 2048), "not K"),
    ("compression", 12, "log2 16,384"),
    ("move_codes", sums, "divide by how many"),
    ("move_codes", unused_to_zero, "went to 0"),
    ("move_codes", unused_to_nan, "0 / 0"),
    ("move_codes", lambda codes, latents, ids: codes, "no code has moved"),
    ("move_codes", lambda codes, latents, ids: latents[ids], "expected the codes again"),
    ("move_codes", lambda codes, latents, ids: codes.lerp(latents[:3], 0.5) + 1, "expected (1, 2)"),
    ("perplexity", lambda ids, k: torch.special.entr(shares(ids, k)).sum(), "its exponential"),
    ("perplexity", zero_times_log_zero, "not a number"),
    ("perplexity", lambda ids, k: len(ids.unique()), "counts codes that occur"),
    ("perplexity", lambda ids, k: k, "that is K"),
    ("perplexity", lambda ids, k: len(ids.unique()) / k, "the share"),
    ("perplexity", lambda ids, k: 1 / perplexity(ids, k), "the sign"),
    ("perplexity", lambda ids, k: math.log2(perplexity(ids, k)), "in bits"),
    ("perplexity", lambda ids, k: 1 / shares(ids, k).square().sum(), "not 1.06"),
    ("best_grey", {"l1": 1 / 3, "l2": 0}, "the other way round"),
    ("best_grey", {"l1": 0, "l2": 0}, "a little more than 0"),
    ("best_grey", {"l1": 0.5, "l2": 0.5}, "half-way"),
    ("best_grey", {"l1": 1 / 3, "l2": 1 / 3}, "two of three"),
    ("best_grey", {"l1": 1, "l2": 1 / 3}, "it can be 0.333"),
    ("best_grey", {"l1": 0, "l2": 1}, "it can be 0.222"),
    ("best_grey", 0.5, "expected {"),
]


@pytest.mark.parametrize("name", ANSWERS)
def test_nothing_and_right(name):
    assert_nothing_and_right(getattr(checks, name), ANSWERS[name])


@pytest.mark.parametrize("name", ["move_codes", "perplexity"])
def test_a_stub_is_not_answered(name):
    assert getattr(checks, name).verdict(lambda *arguments: ...).startswith("○")


def test_a_grey_left_out_is_not_answered():
    assert checks.best_grey.verdict({"l1": ..., "l2": ...}).startswith("○")
    assert checks.best_grey.verdict({"l1": 0, "l2": ...}).startswith("○")


@pytest.mark.parametrize(("name", "answer", "hint"), WRONG)
def test_wrong(name, answer, hint):
    assert_told_wrong(getattr(checks, name), answer, hint)
