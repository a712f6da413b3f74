"""What the tests of all lessons' checkers ask."""

from collections.abc import Callable
from typing import Any


def assert_nothing_and_right(checker: Callable, answer: Any) -> None:
    """A place left empty counts as not answered, and this answer as right."""
    assert checker.verdict(...).startswith("○")
    if callable(answer):
        assert checker.verdict(lambda *arguments: ...).startswith("○")
    assert checker.verdict(answer) == "✓ right"


def assert_told_wrong(checker: Callable, answer: Any, hint: str) -> None:
    """This answer is wrong, and the hint says why."""
    verdict = checker.verdict(answer)
    assert verdict.startswith("✗") and hint in verdict, verdict
