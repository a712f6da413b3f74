"""A checker says how an answer stands, whatever the answer is, and raises nothing."""

import pytest

from minidalle.lessons import shipped
from minidalle.lessons.exercise import NOT_ANSWERED, RIGHT, WRONG, exercise


@exercise
def double_of_21(answer):
    """Twenty-one, doubled."""
    return None if answer == 42 else f"{answer} is not twice 21"


@exercise
def doubles(function):
    return None if function(21) == 42 else f"21 becomes {function(21)}"


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (..., NOT_ANSWERED),
        (42, RIGHT),
        (21, f"{WRONG} 21 is not twice 21"),
        (None, f"{WRONG} None is not twice 21"),
    ],
)
def test_values(answer, said, capsys):
    assert double_of_21.verdict(answer) == said
    assert double_of_21(answer) is None
    assert capsys.readouterr().out == said + "\n"


def stub(x):
    """The exercise as a learner finds it."""
    ...


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (..., NOT_ANSWERED),
        (stub, NOT_ANSWERED),
        (lambda x: ..., NOT_ANSWERED),
        (lambda x: 2 * x, RIGHT),
        (lambda x: x, f"{WRONG} 21 becomes 21"),
        (lambda: 42, f"{WRONG} it raised TypeError"),
        (lambda x: x / 0, f"{WRONG} it raised ZeroDivisionError: division by zero"),
        (7, f"{WRONG} it raised TypeError"),
    ],
)
def test_functions(answer, said):
    assert doubles.verdict(answer).startswith(said)


def test_a_checker_keeps_its_name_and_text():
    assert double_of_21.__name__ == "double_of_21"
    assert double_of_21.__doc__ == "Twenty-one, doubled."


def test_an_answer_that_stops_the_program_does_not():
    def leaves(x):
        raise SystemExit

    assert doubles.verdict(leaves).startswith(WRONG)


def test_shipped():
    assert (shipped("emoji") / "config.json").is_file()
    with pytest.raises(FileNotFoundError, match=r"no checkpoint 'emojis'.*'emoji'"):
        shipped("emojis")
