"""What the pages take from the code: all of it, and as it is."""

from __future__ import annotations

import dataclasses
import doctest
import importlib
import inspect
import pkgutil
import re
from dataclasses import dataclass
from pathlib import Path

import docstrings
import generated
import pytest
import typer
from docstrings import inline, readable, to_rst
from mathml import mathml

import minidalle
from minidalle.training.bart import BartTrainConfig

API = Path(__file__).parents[2] / "docs" / "reference" / "api"
NOT_SHOWN = ("minidalle.app", "minidalle.cli", "minidalle.lessons.checks", "minidalle.__main__")


@dataclass(frozen=True)
class Example:
    """What an example needs.

    It has two fields.
    """

    width: int = 3  # of a | thing
    # Where it lies;
    # never negative.
    place: tuple[int, int] = (1, 2)
    depth: float = 0.5

    @classmethod
    def wide(cls) -> Example:
        return cls(width=9)


def test_a_config_has_a_line_for_every_field_with_its_comment():
    section = generated.config_section(Example)
    assert "| `width` | `3` | of a \\| thing |" in section
    assert "| `place` | `(1, 2)` | Where it lies; never negative. |" in section
    assert "| `depth` | `0.5` | – |" in section
    assert "| field | wide |" in section and "| `width` | `9` |" in section
    assert "It has two fields." in section


def test_every_config_of_the_package_is_shown():
    shown = {*generated.MODEL_CONFIGS, *generated.TRAIN_CONFIGS}
    for module in modules():
        for name, thing in vars(importlib.import_module(module)).items():
            if dataclasses.is_dataclass(thing) and name.endswith("Config"):
                assert thing in shown, f"{name} is missing in docs/_ext/generated.py"


@pytest.mark.parametrize("config", [*generated.MODEL_CONFIGS, *generated.TRAIN_CONFIGS])
def test_every_field_of_a_config_says_what_it_is(config):
    comments = generated.field_comments(config)
    assert not [field.name for field in dataclasses.fields(config) if not comments[field.name]]


def test_presets_tell_how_long_they_learn():
    section = generated.config_section(BartTrainConfig)
    assert re.search(r"\| loop \| `LoopConfig\(steps=\d+", section)
    assert "`BartConfig.mini()`" in section


def test_every_command_and_option_is_on_the_page():
    page, seen = generated.command_line(), 0
    root = typer.main.get_command(generated.command_line_app)
    for path, command in generated.commands(root, []):
        section = page.split(f"## {path}\n", 1)[1].split("\n## ", 1)[0]
        for parameter in command.params:
            for option in parameter.opts if parameter.opts[0].startswith("-") else ():
                assert option in section, f"{path} {option}"
                seen += 1
    assert seen > 50


def test_text_of_the_command_line_is_no_markup():
    assert generated.escape("OUT-<seed> *a* `b*` [c]") == "OUT-\\<seed\\> \\*a\\* `b*` \\[c\\]"
    assert generated.escape("--top-k, `a --b`; x--y ''") == "`--top-k`, `a --b`; x--y `''`"


def modules() -> list[str]:
    """The package's modules, by their names."""
    found = pkgutil.walk_packages(minidalle.__path__, "minidalle.")
    return [module.name for module in found if not module.name.startswith(NOT_SHOWN)]


def test_every_module_with_public_functions_has_a_place_in_the_reference():
    text = "".join(generated.filled(path.read_text()) for path in API.glob("*.md"))
    shown = re.findall(r"automodule:: (\S+)", text)
    assert len(shown) == len(set(shown))
    for name in modules():
        module = importlib.import_module(name)
        public = [
            thing
            for thing_name, thing in vars(module).items()
            if (inspect.isfunction(thing) or inspect.isclass(thing))
            and thing.__module__ == name
            and not thing_name.startswith("_")
        ]
        if public:
            assert name in shown, f"{name} belongs on a page in docs/reference/api"


DOCSTRING = """\
Draw *n* of a_b_.

first, second: so
    much.
third: (B,) numbers. fourth: none, see `x_`. Not fifth: this.
Raises ValueError for |x|.

    a = b      (B, T)

one       (1,)
another   (2,)
"""


def test_docstrings_are_text_with_arguments_and_code():
    blocks = to_rst(DOCSTRING, ["first", "second", "third", "fourth"]).split("\n\n")
    assert blocks == [
        "Draw \\*n\\* of a_b\\_.",
        "``first, second``\n    so much.",
        "``third``\n    (B,) numbers.",
        "``fourth``\n    none, see ``x_``. Not fifth: this.",
        "Raises ValueError for \\|x\\|.",
        "::",
        "    a = b      (B, T)",
        "::",
        "    one       (1,)\n    another   (2,)",
    ]


def test_headed_lists_of_arguments_are_read_too():
    text = to_rst(
        "Args:\n    a: one,\n        two.\n    b: three.\n\nRaises:\n    OSError: never.", "ab"
    )
    assert text == "``a``\n    one, two.\n\n``b``\n    three.\n\nRaises OSError: never."


def test_examples_stay_as_they_are():
    assert to_rst(">>> 2 * 3\n6") == ">>> 2 * 3\n6"
    assert inline("2 * 3") == "2 \\* 3"


def test_a_signature_can_be_read_by_sphinx():
    def outer(say=lambda line: None, step=len, *, progress=print):
        return None

    text = readable(str(inspect.signature(outer)))
    assert text == "(say=..., step=..., *, progress=...)"


def test_the_examples_of_how_docstrings_are_read_are_true():
    done = doctest.testmod(docstrings)
    assert done.attempted >= 3 and done.failed == 0


def test_a_formula_that_cannot_be_written_stops_the_build():
    with pytest.raises(ValueError, match="unheardof"):
        mathml(r"\unheardof x", block=False)


@pytest.mark.parametrize("block", [True, False])
def test_formulas(block):
    made = mathml(r"\lVert z - e \rVert^2", block=block)
    assert made.startswith("<math") and ('display="block"' in made) == block and "msup" in made
