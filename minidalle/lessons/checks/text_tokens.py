"""Checks of lesson 01, text tokens."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from minidalle.lessons.exercise import exercise
from minidalle.tokenizer import SYMBOLS, ByteLevelBPE

RIGHT_MERGES = [("c", "a"), ("Ġ", "ca"), ("m", "a")]
COUNTED_ONCE = ("a", "p")  # what comes first where a word counts once, however often it occurs
TIE_LOST = ("Ġ", "c")  # as frequent as the right one, but its left half has the larger id

SPELLED_TEXTS = (" red apple", " café", "🍎🍏", "  two spaces", "")


@exercise
def three_merges(answer: Any) -> str | None:
    """The first three merges on " cap" ×4, " cat" ×5, " map" ×3, " mat" ×2."""
    if not isinstance(answer, Sequence) or len(answer) != 3:
        return "expected a list of three merges, such as [('a', 'b'), ('ab', 'c'), ('d', 'e')]"
    if any(isinstance(pair, str) or len(pair) != 2 for pair in answer):
        return "a merge is a pair of two tokens, such as ('a', 'b'), not the token that they make"
    merges = [tuple(str(part).replace(" ", "Ġ") for part in pair) for pair in answer]
    if merges[0] == COUNTED_ONCE:
        return "count each word as often as it occurs: ' cat' gives every pair in it 5, not 1"
    if merges[0] == TIE_LOST:
        return (
            "('Ġ', 'c') and ('c', 'a') both stand there 9 times; of equals the smaller left id "
            "goes first, and Ġ comes after the letters"
        )
    for number, (found, right) in enumerate(zip(merges, RIGHT_MERGES, strict=True), start=1):
        if found != right:
            return (
                f"merge {number} is not {found}; count the pairs again after merge {number - 1} "
                "is made, joined tokens as one, and of equals take the smaller left id"
            )
    return None


@exercise
def decode(answer: Callable[[list[str]], str]) -> str | None:
    """A function from tokens as strings to text."""
    for text in SPELLED_TEXTS:
        # Each byte a token of its own: a character may well be spread over several tokens.
        tokens = [SYMBOLS[byte] for byte in text.encode()]
        if len(tokens) > 4 and text.isascii():
            tokens = ["".join(tokens[:4]), *tokens[4:]]
        found = answer(tokens)
        if not isinstance(found, str):
            return f"it returned {type(found).__name__}, expected a str"
        if found == text:
            continue
        if "Ġ" in found:
            return "a space is still written Ġ: look every symbol's byte up, that of Ġ is 32"
        if "\ufffd" in found:
            return (
                f"{text!r} became {found!r}: one character can lie in several tokens, so join all "
                "the bytes first, and decode them once"
            )
        if not text.isascii():
            return f"{text!r} became {found!r}: a symbol stands for a byte, not for a character"
        return f"{text!r} became {found!r}"
    return None


@exercise
def fit(answer: Callable[[list[int], int], tuple[list[int], list[int]]]) -> str | None:
    """A function (ids, length) -> (ids, mask), both `length` long."""
    pad, eos = ByteLevelBPE.PAD, ByteLevelBPE.EOS
    cases = [([0, 300, 301, 2], 6), ([0, 300, 301, 302, 303, 2], 4), ([0, 300, 2], 3), ([0, 2], 2)]
    for ids, length in cases:
        result = answer(list(ids), length)
        if not isinstance(result, tuple | list) or len(result) != 2:
            return "expected two lists, (ids, mask)"
        found, mask = ([int(number) for number in part] for part in result)
        asked = f"ids {ids} at length {length}"
        if len(found) != length or len(mask) != length:
            return f"{asked}: found {len(found)} ids and {len(mask)} of mask, expected {length}"
        if len(ids) > length and found[-1] != eos:
            return f"{asked}: </s> was cut off; cut what stands before it"
        if len(ids) < length and found[len(ids) :] != [pad] * (length - len(ids)):
            return f"{asked}: found {found}; what is missing is filled with <pad>, id {pad}"
        kept = min(len(ids), length)
        if found[:kept] != [*ids[: kept - 1], eos]:
            return f"{asked}: found {found}, expected the first ids, then </s>"
        if mask == [0] * kept + [1] * (length - kept) and kept < length:
            return "the mask is the wrong way round: 1 on tokens, 0 on padding"
        if mask != [1] * kept + [0] * (length - kept):
            return f"{asked}: found mask {mask}, expected 1 on each token (</s> too), 0 on padding"
    return None
