"""The package's docstrings, which are plain text, as the reStructuredText that autodoc expects.

What is understood: `names in backticks`; lines `argument: what it is` with indented lines after
them, or a paragraph of such sentences; "Args:", "Raises:" above indented lines; columns and
indented lines as code; examples with >>>. Everything else is text, where no sign means anything.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Collection, Iterator
from itertools import groupby
from textwrap import dedent, indent

from sphinx.application import Sphinx

CODE = re.compile(r"(`[^`]+`)")
SIGNS = re.compile(r"([*\\|]|(?<=\w)_(?!\w))")  # that reStructuredText would read as marks
ARGUMENT = re.compile(r"(\w+(?:, \w+)*): (?=\S)")
STARTS = re.compile(r"(Raises|Returns) (?=\S)")
COLUMNS = re.compile(r"\S {3,}\S")
NO_VALUE = re.compile(r"<[^<>]*(?:<\w+>[^<>]*)*>")  # a function or its like, as Python prints it


def to_rst(text: str, arguments: Collection[str] = ()) -> str:
    """A docstring as reStructuredText.

    arguments: the names that may stand before a colon.

    >>> print(to_rst("Cut, `a` first.\\n\\ntop_k: so many\\n    of them.", ["top_k"]))
    Cut, ``a`` first.
    <BLANKLINE>
    ``top_k``
        so many of them.
    """
    blocks = [block for part in paragraphs(text) for block in rst_of(part, arguments)]
    return "\n\n".join(blocks)


def paragraphs(text: str) -> Iterator[list[str]]:
    """The lines between empty lines; "Args:" and its like go, and what they head is dedented."""
    for empty, group in groupby(text.expandtabs().splitlines(), lambda line: not line.strip()):
        lines = list(group)
        if empty:
            continue
        if lines[0] in ("Args:", "Returns:"):
            lines = dedent("\n".join(lines[1:])).splitlines()
        elif lines[0] == "Raises:":
            lines = ["Raises " + " ".join(line.strip() for line in lines[1:])]
        yield lines


def rst_of(lines: list[str], arguments: Collection[str]) -> Iterator[str]:
    """One paragraph as blocks."""
    if lines[0].startswith(">>>"):
        yield "\n".join(lines)
    elif all(line.startswith("    ") for line in lines) or (
        len(lines) > 1 and all(COLUMNS.search(line) for line in lines)
    ):
        yield "::\n\n" + indent(dedent("\n".join(lines)), "    ")
    else:
        for name, words in entries(lines, arguments):
            yield f"``{name}``\n    {inline(words)}" if name else inline(words)


def entries(lines: list[str], arguments: Collection[str]) -> Iterator[tuple[str, str]]:
    """(argument, what it is) in order; text that is about none has an empty name."""
    found: list[tuple[str, list[str]]] = [("", [])]
    for line in lines:
        rest = line.strip()
        if STARTS.match(rest):
            found.append(("", []))
        for name, words in split_arguments(rest, arguments):
            if name is not None:
                found.append((name, []))
            found[-1][1].append(words)
    for name, words in found:
        if text := " ".join(word for word in words if word):
            yield name, text


def split_arguments(line: str, arguments: Collection[str]) -> Iterator[tuple[str | None, str]]:
    """A line cut where an argument's name and a colon begin it, or begin a sentence in it."""
    cuts = [
        match
        for match in ARGUMENT.finditer(line)
        if (match.start() == 0 or line[: match.start()].endswith((". ", "; ")))
        and all(name in arguments for name in match[1].split(", "))
    ]
    ends = [match.start() for match in cuts[1:]] + [len(line)]
    if not cuts or cuts[0].start() > 0:
        yield None, line[: cuts[0].start() if cuts else len(line)].strip()
    for match, end in zip(cuts, ends, strict=True) if cuts else ():
        yield match[1], line[match.end() : end].strip()


def inline(text: str) -> str:
    """Text in which only backticks mean something.

    >>> inline("`a_b`: 2*3 of |x| in train_")
    '``a_b``: 2\\\\*3 of \\\\|x\\\\| in train\\\\_'
    """
    parts = CODE.split(text)
    return "".join(
        f"``{part[1:-1]}``" if i % 2 else SIGNS.sub(r"\\\1", part) for i, part in enumerate(parts)
    )


def arguments_of(thing: object) -> list[str]:
    """The names of a function's parameters, or of a class's fields and parameters."""
    try:
        return [*inspect.signature(thing).parameters, *getattr(thing, "__annotations__", {})]
    except (TypeError, ValueError):
        return []


def readable(signature: str) -> str:
    """A signature in which defaults that cannot be written are an ellipsis, as in stub files.

    >>> readable("(say: Callable[[str], None] = <function f.<locals>.<lambda>>, n: int = 3)")
    '(say: Callable[[str], None] = ..., n: int = 3)'
    """
    return NO_VALUE.sub("...", signature)


def process_signature(
    app: Sphinx, kind: str, name: str, thing: object, options: object, signature: str | None,
    returned: str | None,
) -> tuple[str | None, str | None]:  # fmt: skip
    return signature and readable(signature), returned


def process(app: Sphinx, kind: str, name: str, thing: object, options: object, lines: list[str]):
    lines[:] = to_rst("\n".join(lines), arguments_of(thing)).splitlines()


def setup(app: Sphinx) -> dict[str, bool]:
    app.connect("autodoc-process-docstring", process)
    app.connect("autodoc-process-signature", process_signature)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
