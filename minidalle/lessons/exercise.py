"""Exercises: a checker looks at an answer and says in one line how it stands.

A lesson leaves a place for the answer, and the next cell checks it:

    my_answer = ...                        def my_function(logits, k):
                                               ...
    checks.name_of_exercise(my_answer)     checks.name_of_exercise(my_function)

A checker is a function of one answer that returns a hint, or None where the answer is right. Made
by `exercise`, it prints what it found and raises nothing, whatever the answer is: a lesson never
stops at an exercise.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

NOT_ANSWERED = "○ not answered yet"
RIGHT = "✓ right"
WRONG = "✗ not yet:"


class NotAnsweredError(Exception):
    """An answer, or what it returned, is still `...`."""


def exercise(check: Callable[[Any], str | None]) -> Callable[[Any], None]:
    """Make a checker of a function that returns a hint for a wrong answer and None for a right one.

    An answer that is a function is called by `check` as often as it likes; the first time that it
    returns `...` or None it counts as not answered.
    """

    @functools.wraps(check)
    def checker(answer: Any) -> None:
        print(verdict(check, answer))

    checker.verdict = functools.partial(verdict, check)  # the same in words, for tests
    return checker


def verdict(check: Callable[[Any], str | None], answer: Any) -> str:
    """What a checker prints of an answer."""
    try:
        if answer is ...:
            raise NotAnsweredError
        hint = check(asked(answer) if callable(answer) else answer)
    except NotAnsweredError:
        return NOT_ANSWERED
    except (Exception, SystemExit) as error:  # whatever an answer does, the lesson goes on
        return f"{WRONG} it raised {type(error).__name__}: {error}"
    return RIGHT if hint is None else f"{WRONG} {hint}"


def asked(answer: Callable[..., Any]) -> Callable[..., Any]:
    """An answer that raises NotAnsweredError where it returns nothing yet."""

    @functools.wraps(answer)
    def call(*args: Any, **kwargs: Any) -> Any:
        result = answer(*args, **kwargs)
        if result is ... or result is None:
            raise NotAnsweredError
        return result

    return call
