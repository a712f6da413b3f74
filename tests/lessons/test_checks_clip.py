"""The checkers of lesson 08: nothing, right, and the mistakes that are likely."""

import math

import pytest
import torch
import torch.nn.functional as F
from verdicts import assert_nothing_and_right, assert_told_wrong

from minidalle.lessons.checks import clip as checks


def half(images, texts, scale):
    return F.cross_entropy(scale * texts @ images.T, torch.arange(len(images)))


def other_half(images, texts, scale):
    return half(texts, images, scale)


def top1(scores):
    return (scores.argmax(0) == torch.arange(len(scores))).float().mean()


def best_first(tokens, scores):
    return tokens[scores.argsort(descending=True)]


ANSWERS = {
    "loss_without_idea": math.log(64),
    "text_to_image_loss": half,
    "top1": top1,
    "best_first": best_first,
}


@pytest.mark.parametrize("name", ANSWERS)
def test_nothing_and_right(name):
    assert_nothing_and_right(getattr(checks, name), ANSWERS[name])


@pytest.mark.parametrize(
    ("name", "answer", "hint"),
    [
        ("loss_without_idea", 64, "minus the logarithm"),
        ("loss_without_idea", 0.0156, "chance of a right guess"),
        ("loss_without_idea", 6, "in bits"),
        ("loss_without_idea", 8.32, "not added"),
        ("text_to_image_loss", other_half, "softmax runs over pictures"),
        ("text_to_image_loss", lambda i, t, s: (half(i, t, s) + half(t, i, s)) / 2, "whole loss"),
        ("text_to_image_loss", lambda i, t, s: half(i, t, 1), "with `scale`"),
        ("text_to_image_loss", lambda i, t, s: s * i @ t.T, "one number"),
        ("text_to_image_loss", lambda i, t, s: len(i) * half(i, t, s), "return the mean"),
        ("top1", lambda s: (s.argmax(1) == torch.arange(4)).float().mean(), "look down a column"),
        ("top1", lambda s: 4 * float(top1(s)), "return the share"),
        ("top1", lambda s: s.argmax(0), "one number"),
        ("best_first", lambda t, s: t[s.argsort()], "worst first"),
        ("best_first", lambda t, s: s.argsort(descending=True), "expected all tokens"),
        ("best_first", lambda t, s: t, "order of the pictures"),
    ],
)
def test_wrong(name, answer, hint):
    assert_told_wrong(getattr(checks, name), answer, hint)


def test_a_stub_is_not_answered():
    for name in ("text_to_image_loss", "top1", "best_first"):
        assert getattr(checks, name).verdict(lambda *args: ...).startswith("○")
