"""The caption clean-up against stored results of DALL·E mini's own (its emoji package: 1.7.0)."""

import json
from pathlib import Path

import pytest

from minidalle.normalizer import TextNormalizer

FIXTURES = Path(__file__).parents[1] / "fixtures" / "text_normalizer"
EXPECTED = json.loads((FIXTURES / "examples.json").read_text(encoding="utf-8"))
NORMALIZER = TextNormalizer(FIXTURES / "enwiki-words-frequency.txt")


def cases(name: str) -> list:
    return [pytest.param(case, id=f"{case['input']!a:.40}") for case in EXPECTED[name]]


@pytest.mark.parametrize("case", cases("examples"))
def test_examples_input_gives_output(case: dict) -> None:
    assert NORMALIZER(case["input"]) == case["output"]


@pytest.mark.parametrize("case", cases("hashtag_examples"))
def test_hashtag_examples_input_gives_output(case: dict) -> None:
    assert NORMALIZER.split_hashtag(case["input"]) == case["output"]


@pytest.mark.parametrize("case", cases("examples"))
def test_the_word_list_makes_no_difference_without_hashtags(case: dict) -> None:
    if "#" not in case["input"]:
        assert TextNormalizer()(case["input"]) == case["output"]


@pytest.mark.parametrize("case", cases("hashtag_examples"))
def test_hashtags_inside_a_text(case: dict) -> None:
    assert NORMALIZER(f"at #{case['input']}!") == f" at {case['output']}"
