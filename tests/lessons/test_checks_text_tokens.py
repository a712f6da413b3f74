"""Lesson 01: exercises unanswered, answered, and answered wrong in ways that come to mind."""

import pytest

from minidalle.lessons.checks import text_tokens as checks
from minidalle.lessons.exercise import NOT_ANSWERED, RIGHT
from minidalle.tokenizer import SYMBOLS, ByteLevelBPE

MERGES = [("c", "a"), ("Ġ", "ca"), ("m", "a")]


def to_bytes(text):
    return bytes(SYMBOLS.index(symbol) for symbol in text)


def decode(tokens):
    return to_bytes("".join(tokens)).decode()


def fit(ids, length, cut=lambda ids, length: [*ids[:-1][: length - 1], ids[-1]], pad=1, real=1):
    kept = cut(ids, length)
    padding = length - len(kept)
    return kept + [pad] * padding, [real] * len(kept) + [1 - real] * padding


def test_the_merges_asked_for_are_those_of_the_package() -> None:
    caption = " cap" * 4 + " cat" * 5 + " map" * 3 + " mat" * 2
    assert ByteLevelBPE.train([caption], vocab_size=264).merges == MERGES


@pytest.mark.parametrize("name", ["three_merges", "decode", "fit"])
def test_not_answered(name: str) -> None:
    assert getattr(checks, name).verdict(...) == NOT_ANSWERED
    if name != "three_merges":
        assert getattr(checks, name).verdict(lambda *_: ...) == NOT_ANSWERED


@pytest.mark.parametrize("answer", [MERGES, [("c", "a"), (" ", "ca"), ("m", "a")]])
def test_three_merges(answer: list) -> None:
    assert checks.three_merges.verdict(answer) == RIGHT


@pytest.mark.parametrize(
    ("answer", "hint"),
    [
        ([("a", "p"), ("a", "t"), ("c", "a")], "as often as it occurs"),
        ([("Ġ", "c"), ("Ġc", "a"), ("m", "a")], "smaller left id"),
        ([("c", "a"), ("Ġ", "ca"), ("Ġca", "t")], "merge 3"),
        ([("c", "a"), ("a", "p"), ("a", "t")], "merge 2"),
        (["ca", "Ġca", "ma"], "a pair of two tokens"),
        (MERGES[:2], "three merges"),
    ],
)
def test_wrong_merges(answer: list, hint: str) -> None:
    assert hint in checks.three_merges.verdict(answer)


def test_decode() -> None:
    assert checks.decode.verdict(decode) == RIGHT


@pytest.mark.parametrize(
    ("answer", "hint"),
    [
        (lambda tokens: "".join(tokens), "still written Ġ"),
        (lambda tokens: "".join(tokens).replace("Ġ", " "), "stands for a byte"),
        (
            lambda tokens: "".join(to_bytes(token).decode(errors="replace") for token in tokens),
            "join all the bytes first",
        ),
        (lambda tokens: "".join(to_bytes(t).decode() for t in tokens), "raised UnicodeDecodeError"),
        (lambda tokens: to_bytes("".join(tokens)), "returned bytes"),
        (lambda tokens: decode(tokens).strip(), "became"),
    ],
)
def test_wrong_decode(answer, hint: str) -> None:
    assert hint in checks.decode.verdict(answer)


def test_fit() -> None:
    assert checks.fit.verdict(fit) == RIGHT


@pytest.mark.parametrize(
    ("answer", "hint"),
    [
        (lambda ids, n: fit(ids, n, cut=lambda ids, n: ids[:n]), "</s> was cut off"),
        (lambda ids, n: fit(ids, n, cut=lambda ids, n: ids), "expected 4"),
        (lambda ids, n: fit(ids, n, pad=0), "filled with <pad>"),
        (lambda ids, n: fit(ids, n, real=0), "wrong way round"),
        (lambda ids, n: (fit(ids, n)[0], [1] * n), "found mask"),
        (lambda ids, n: fit(ids, n)[0], "two lists"),
    ],
)
def test_wrong_fit(answer, hint: str) -> None:
    assert hint in checks.fit.verdict(answer)
