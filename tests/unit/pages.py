"""Reading the README and the documentation's pages: their blocks, their commands, their links.

A page's examples are checked as far as they can be. Python blocks run, in the order of the page and
with one set of names; a `text` block right after one is what it prints. Shell blocks are parsed:
each `minidalle` command must be one that the command line understands, settings included, and each
`make` a target. A comment on the line above a block says where it is otherwise:

    <!-- run -->                 a shell block that the tests run, and compare with its `text` block
    <!-- not run: REASON -->     a Python block that is compiled only
"""

import ast
import doctest
import os
import re
import shlex
import subprocess
import sys
from contextlib import redirect_stdout
from importlib import import_module
from io import StringIO
from pathlib import Path
from typing import NamedTuple

import typer

from minidalle import cli
from minidalle.cli import train
from minidalle.training.settings import with_settings

ROOT = Path(__file__).parents[2]
BLOCK = re.compile(
    r"(?:^<!-- (?P<mark>[^\n]*?) -->\n\n?)?^```(?P<kind>\w+)\n(?P<text>.*?)^```\n"
    r"(?:\n```text\n(?P<output>.*?)^```\n)?",
    flags=re.MULTILINE | re.DOTALL,
)
LINK = re.compile(r"\]\(([^)\s]+)\)")
CONFIGS = {  # what each `minidalle train` command reads its presets from
    "tokenizer": ("tokenizer", "TokenizerTrainConfig"),
    "vqgan": ("vqgan", "VQGANTrainConfig"),
    "bart": ("bart", "BartTrainConfig"),
    "clip": ("clip", "CLIPTrainConfig"),
}
ENDS_A_COMMAND = {"|", "||", "&&", ";", "&", ">", ">>", "<", ")"}


class Block(NamedTuple):
    kind: str  # python, bash, …
    text: str
    mark: str  # of the comment above it, or empty
    output: str | None  # the `text` block right after it


def blocks_of(page: str) -> list[Block]:
    """The fenced blocks of a page, in order."""
    return [
        Block(found["kind"], found["text"], found["mark"] or "", found["output"])
        for found in BLOCK.finditer(page)
    ]


def commands_of(page: str) -> list[list[str]]:
    """Every `minidalle` command of the shell blocks, as its arguments, `minidalle` left out."""
    found = []
    for block in blocks_of(page):
        for words in shell_lines(block.text) if block.kind in ("bash", "console") else []:
            for i, word in enumerate(words):
                before = words[i - 1] if i else "--"
                called = before in ("-m", "--") or "=" in before  # python -m …, NAME=value …
                if word.split("/")[-1] == "minidalle" and called:
                    found.append(words[i + 1 :])
    return found


def shell_lines(text: str) -> list[list[str]]:
    """The words of each command: continued lines joined, comments left out."""
    found = []
    for line in text.replace("\\\n", " ").splitlines():
        line = re.sub(r"\$\{?\w+\}?", "1", line)  # a variable could be anything
        lexer = shlex.shlex(line, posix=True, punctuation_chars=True)
        lexer.whitespace_split = True
        words: list[str] = []
        for word in [*lexer, ";"]:
            if word in ENDS_A_COMMAND:
                found += [words] if words else []
                words = []
            else:
                words.append(word)
    return found


def understand(arguments: list[str]) -> None:
    """Parse a command as the command line does, settings of a training run included; run nothing.

    Raises what the command line would say: an unknown command, option, value, preset or setting.
    """
    command, path, rest = typer.main.get_command(cli.app), [], list(arguments)
    while hasattr(command, "commands") and rest and not rest[0].startswith("-"):
        path.append(rest.pop(0))
        if path[-1] not in command.commands:
            raise ValueError(f"there is no command {' '.join(path)}")
        command = command.commands[path[-1]]
    if rest in (["--help"], ["--version"]):
        return
    options = command.make_context(" ".join(path), rest).params
    if path[:1] == ["train"]:
        module, name = CONFIGS[path[1]]
        kind = getattr(import_module(f"minidalle.training.{module}"), name)
        with_settings(train.preset_of(kind, options["preset"]), options["settings"] or [])


def run_examples(page: str) -> None:
    """Run a page's examples in the current folder, one after the other; see above for which."""
    names: dict = {"__name__": "__main__"}
    for block in blocks_of(page):
        if block.kind == "python":
            code = compile(block.text, "a Python block", "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
            if block.mark.startswith("not run: "):
                continue
            printed = StringIO()
            with redirect_stdout(printed):
                exec(code, names)
            compare(block, printed.getvalue())
        elif block.mark == "run":
            compare(block, run_shell(block.text))


def run_shell(text: str) -> str:
    """What commands print; AssertionError where one fails."""
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", text], capture_output=True, text=True, env=environment()
    )
    assert done.returncode == 0, f"{text}\n{done.stderr}"
    return done.stdout


def environment() -> dict[str, str]:
    """This process's environment, with the programs beside this Python first, and no network."""
    programs = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return {**os.environ, "PATH": programs, "HF_HUB_OFFLINE": "1"}


def compare(block: Block, printed: str) -> None:
    """A block that is followed by what it prints prints that; … stands for anything."""
    if block.output is not None:
        wanted = block.output.replace("…", "...")
        same = doctest.OutputChecker().check_output(wanted, printed, doctest.ELLIPSIS)
        assert same, f"{block.text}\nprinted:\n{printed}\nthe page says:\n{block.output}"


def dead_links(path: Path) -> list[str]:
    """The page's links and pictures that lead to no file."""
    targets = [target.split("#")[0] for target in LINK.findall(path.read_text(encoding="utf-8"))]
    local = [target for target in targets if target and "://" not in target]
    return [target for target in local if not (path.parent / target).exists()]
