"""The checkers of lesson 06: not answered, right, and what is plausible but wrong."""

from __future__ import annotations

import math

import pytest
import torch

from minidalle.data.shapes import HELD_OUT, parse_caption
from minidalle.lessons.checks import text_to_image as checks
from minidalle.lessons.exercise import NOT_ANSWERED, RIGHT, WRONG


def shifted(tokens, start):
    return torch.cat([torch.full_like(tokens[:, :1], start), tokens[:, :-1]], dim=1)


def in_place(tokens, start):
    tokens[:, 1:] = tokens[:, :-1].clone()
    tokens[:, 0] = start
    return tokens


def with_everything(tokens, start):
    return torch.cat([torch.full_like(tokens[:, :1], start), tokens], dim=1)


def bits(empty, right, n):
    return (empty - right) * n / math.log(2)


def unseen(caption):
    return any((kind.colour, kind.shape) in HELD_OUT for kind in parse_caption(caption).objects)


def words_anywhere(caption):
    return any(colour in caption and shape in caption for colour, shape in HELD_OUT)


def first_only(caption):
    kind = parse_caption(caption).objects[0]
    return (kind.colour, kind.shape) in HELD_OUT


ANSWERS = {"decoder_inputs": shifted, "worth_in_bits": bits, "has_unseen_pair": unseen}


@pytest.mark.parametrize("name", ANSWERS)
def test_not_answered(name):
    checker = getattr(checks, name)
    assert checker.verdict(...) == NOT_ANSWERED
    assert checker.verdict(lambda *_: ...) == NOT_ANSWERED
    assert checker.verdict(lambda *_: None) == NOT_ANSWERED


@pytest.mark.parametrize("name", ANSWERS)
def test_right(name):
    assert getattr(checks, name).verdict(ANSWERS[name]) == RIGHT


@pytest.mark.parametrize(
    "name, answer, hint",
    [
        ("decoder_inputs", lambda tokens, start: tokens, "the very token"),
        ("decoder_inputs", lambda tokens, start: shifted(tokens, 0), "first place sees 0"),
        ("decoder_inputs", lambda tokens, start: tokens.roll(1, 1), "the last token"),
        ("decoder_inputs", lambda tokens, start: tokens.roll(-1, 1), "to the left"),
        ("decoder_inputs", with_everything, "N+1"),
        ("decoder_inputs", in_place, "changed the tokens"),
        ("decoder_inputs", lambda tokens, start: tokens[:, :-1], "(2, 3)"),
        ("decoder_inputs", lambda tokens, start: tokens.tolist(), "list"),
        ("decoder_inputs", lambda tokens, start: torch.zeros_like(tokens), "became"),
        ("worth_in_bits", lambda empty, right, n: (right - empty) * n / math.log(2), "sign"),
        ("worth_in_bits", lambda empty, right, n: (empty - right) * n, "nats"),
        ("worth_in_bits", lambda empty, right, n: (empty - right) * n * math.log(2), "divide"),
        ("worth_in_bits", lambda empty, right, n: (empty - right) / math.log(2), "one token"),
        ("worth_in_bits", lambda empty, right, n: (empty - right) * n / math.log(10), "base 2"),
        ("worth_in_bits", lambda empty, right, n: (empty - right) * 64 / math.log(2), "16 tokens"),
        ("worth_in_bits", lambda empty, right, n: 1.0, "it gave 1"),
        ("has_unseen_pair", words_anywhere, "not of the same object"),
        ("has_unseen_pair", first_only, "look at both"),
        ("has_unseen_pair", lambda caption: True, "were seen"),
        ("has_unseen_pair", lambda caption: False, "held out"),
        ("has_unseen_pair", lambda caption: unseen(caption) and "yellow" not in caption, "should"),
        ("has_unseen_pair", lambda caption: 1 / 0, "ZeroDivisionError"),
    ],
)
def test_wrong(name, answer, hint):
    verdict = getattr(checks, name).verdict(answer)
    assert verdict.startswith(WRONG) and hint in verdict
