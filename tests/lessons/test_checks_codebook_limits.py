"""The checkers of lesson 04: nothing, right, and the mistakes that are likely."""

import pytest
from verdicts import assert_nothing_and_right, assert_told_wrong

from minidalle.lessons.checks import codebook_limits as checks


def gain(worse, better, faces):
    gap = better - worse
    return gap[faces].mean() - gap[~faces].mean()


def unused(ids, k):
    return k - len(ids.unique())


ANSWERS = {
    "decibels_of_twice": 3.01,
    "mean_gap": gain,
    "unused_codes": unused,
    "bits_of_a_face": 126,
}


@pytest.mark.parametrize("name", ANSWERS)
def test_nothing_and_right(name):
    assert_nothing_and_right(getattr(checks, name), ANSWERS[name])


@pytest.mark.parametrize(
    ("name", "answer", "hint"),
    [
        ("decibels_of_twice", 6.02, "four times the squared error"),
        ("decibels_of_twice", 0.301, "ten times a logarithm"),
        ("decibels_of_twice", 6.93, "natural logarithm"),
        ("decibels_of_twice", 2, "the e cancels"),
        ("mean_gap", lambda w, b, f: (b - w)[f].mean(), "counts off"),
        ("mean_gap", lambda w, b, f: -gain(w, b, f), "the sign"),
        ("mean_gap", lambda w, b, f: (b - w).mean(), "all pictures"),
        ("mean_gap", lambda w, b, f: (b - w)[f].sum() - (b - w)[~f].sum(), "not sums"),
        ("mean_gap", lambda w, b, f: b - w, "one number"),
        ("unused_codes", lambda ids, k: len(ids.unique()), "how many codes occur"),
        ("unused_codes", lambda ids, k: k - ids.numel(), "occurs twice is one code"),
        ("unused_codes", lambda ids, k: int(ids.max()) + 1 - len(ids.unique()), "highest id"),
        ("unused_codes", lambda ids, k: ids.flatten(), "not which"),
        ("unused_codes", lambda ids, k: 7, "none is unused"),
        ("bits_of_a_face", 9, "those are the tokens"),
        ("bits_of_a_face", 14, "one token"),
        ("bits_of_a_face", 42, "has an area"),
        ("bits_of_a_face", 90, "1,024 codes"),
        ("bits_of_a_face", 55296, "of its pixels"),
    ],
)
def test_wrong(name, answer, hint):
    assert_told_wrong(getattr(checks, name), answer, hint)
