"""The checkers of lesson 00: nothing, right, and the mistakes that are likely."""

import pytest
import torch
from verdicts import assert_nothing_and_right, assert_told_wrong

from minidalle.lessons.checks import tour as checks


def join_halves(left, right):
    side = int(len(left) ** 0.5)
    rows, others = left.view(side, side), right.view(side, side)
    return torch.cat([rows[:, : side // 2], others[:, side // 2 :]], dim=1).flatten()


ANSWERS = {"middle_seed": 11, "bits_per_picture": 640, "join_halves": join_halves}


@pytest.mark.parametrize("name", ANSWERS)
def test_nothing_and_right(name):
    assert_nothing_and_right(getattr(checks, name), ANSWERS[name])


@pytest.mark.parametrize(
    ("name", "answer", "hint"),
    [
        ("middle_seed", 12, "one too many"),
        ("middle_seed", 4, "its place, counted from 0"),
        ("middle_seed", 99, "row by row"),
        ("bits_per_picture", 80, "that is bytes"),
        ("bits_per_picture", 64 * 1024, "is no number of bits"),
        ("bits_per_picture", 3, "2 to the 10th"),
    ],
)
def test_wrong_numbers(name, answer, hint):
    assert_told_wrong(getattr(checks, name), answer, hint)


@pytest.mark.parametrize(
    ("wrong", "hint"),
    [
        (lambda a, b: torch.cat([a[: len(a) // 2], b[len(b) // 2 :]]), "row by row"),
        (lambda a, b: join_halves(b, a), "wrong order"),
        (lambda a, b: a, "of 16 tokens are wrong"),
        (lambda a, b: join_halves(a, b).view(4, -1), "expected that shape"),
        (lambda a, b: a.no_such_method(), "AttributeError"),
    ],
)
def test_wrong_halves(wrong, hint):
    assert_told_wrong(checks.join_halves, wrong, hint)


def test_an_unfinished_function_is_not_answered():
    assert checks.join_halves.verdict(lambda a, b: ...).startswith("○")
