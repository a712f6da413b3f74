"""The checkers of lesson 07: nothing, right, and the mistakes that are likely."""

import math

import pytest
from verdicts import assert_nothing_and_right, assert_told_wrong

from minidalle.lessons.checks import sampling as checks


def nucleus_size(probabilities, p):
    ordered = probabilities.sort(descending=True).values
    return int((ordered.cumsum(0) - ordered < p).sum())


def min_p(logits, share):
    probabilities = logits.softmax(-1)
    least = share * probabilities.amax(-1, keepdim=True)
    return logits.masked_fill(probabilities < least, -math.inf)


def super_probabilities(cond, uncond, scale):
    raw = uncond * (cond / uncond) ** scale
    return raw / raw.sum()


ANSWERS = {
    "nucleus_size": nucleus_size,
    "min_p": min_p,
    "super_probabilities": super_probabilities,
    "cache_saving": 128.5,
}


@pytest.mark.parametrize("name", ANSWERS)
def test_nothing_and_right(name):
    assert_nothing_and_right(getattr(checks, name), ANSWERS[name])


@pytest.mark.parametrize("name", ["nucleus_size", "min_p", "super_probabilities"])
def test_an_unfinished_function_is_not_answered(name):
    assert getattr(checks, name).verdict(lambda *_: ...).startswith("○")


def powers(cond, uncond, scale):
    return uncond * (cond / uncond) ** scale


@pytest.mark.parametrize(
    ("name", "wrong", "hint"),
    [
        ("nucleus_size", lambda q, p: int((q.sort(descending=True)[0].cumsum(0) < p).sum()),
         "the token that crosses the limit stays"),
        ("nucleus_size", lambda q, p: int((q.cumsum(0) - q < p).sum()), "from the likeliest"),
        ("nucleus_size", lambda q, p: len(q), "yours keeps 4"),
        ("min_p", lambda x, s: x, "nothing is left out"),
        ("min_p", lambda x, s: x.masked_fill(x.softmax(-1) < s, -math.inf), "not a probability"),
        ("min_p", lambda x, s: x.masked_fill(x.softmax(-1) < s * x.softmax(-1).max(), -math.inf),
         "a likeliest token of its own"),
        ("min_p", lambda x, s: min_p(x, s).softmax(-1).log(), "must stay as they were"),
        ("min_p", lambda x, s: x.masked_fill(x < s * x.amax(-1, keepdim=True), -math.inf),
         "kept or left out wrongly"),
        ("min_p", lambda x, s: x[0], "expected a tensor of shape"),
        ("super_probabilities", powers, "divide by that"),
        ("super_probabilities", lambda c, u, s: super_probabilities(c, u, s + 1),
         "scale 0 must give those"),
        ("super_probabilities", lambda c, u, s: u + s * (c - u), "the arithmetic is on logits"),
        ("super_probabilities", lambda c, u, s: (u + s * (c - u)).softmax(0), "on logits"),
        ("super_probabilities", lambda c, u, s: c, "at scale 3 expected"),
        ("super_probabilities", lambda c, u, s: 0.5, "expected a tensor"),
        ("cache_saving", 128, "nearly"),
        ("cache_saving", 256, "with a cache"),
        ("cache_saving", 32896, "divide by those with one"),
        ("cache_saving", 2, "only the last"),
        ("cache_saving", "a lot", "only the last"),
    ],
)  # fmt: skip
def test_wrong_answers(name, wrong, hint):
    assert_told_wrong(getattr(checks, name), wrong, hint)
