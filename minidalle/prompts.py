"""Files of prompts: which pictures are wanted, and what their files are called.

Text has one prompt a line. JSON lines and CSV can say for each how many pictures, and from which
seed on; what they do not say is as it is for all:

    {"prompt": "red apple, twemoji style", "n": 4, "seed": 7}      prompt,n,seed
    {"prompt": "rocket, noto style"}                               "red apple, twemoji style",4,7

A picture is named by its prompt and its seed alone, so that its name stays when lines come or go.
"""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from hashlib import sha256
from typing import Any, NamedTuple

from unidecode import unidecode

from minidalle.pipeline import seeds_of

FIELDS = ("prompt", "n", "seed")  # of JSON lines and CSV
MAX_PROMPT = 2**16  # characters: a longer line is not a prompt but some other file
MAX_SLUG = 40  # characters of a prompt that its pictures' names begin with
DIGEST = 12  # hexadecimal digits of the prompt's sha256 in its pictures' names


@dataclass(frozen=True)
class Request:
    """A prompt, of which n pictures are wanted with the seeds seed, seed+1, …"""

    prompt: str
    n: int = 1
    seed: int = 0

    def __post_init__(self) -> None:
        if len(self.prompt) > MAX_PROMPT:
            raise ValueError(
                f"the prompt has {len(self.prompt):,} characters; there may be {MAX_PROMPT:,}"
            )
        seeds_of(self.seed, self.n)


class Wanted(NamedTuple):
    """A picture that is to be drawn."""

    prompt: str
    seed: int
    file: str  # its name in the folder


def parse_prompts(data: bytes, name: str, n: int = 1, seed: int = 0) -> list[Request]:
    """The requests in a file of prompts; blank lines are passed over.

    data: UTF-8. name: ends in .jsonl or .csv for these formats; any other is text, a prompt a line.
    n, seed: for the prompts that do not have their own.
    Raises ValueError, by file and line, for a prompt, n or seed that cannot be used, an unknown
    field, and a file without prompts.
    """
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{name} is not UTF-8 text: {error.reason} at {error.start}") from None
    kind = name.rpartition(".")[2].lower()
    rows = {"jsonl": json_rows, "csv": csv_rows}.get(kind, text_rows)
    requests = []
    for line, row in rows(text):
        try:
            requests.append(Request(**{"n": n, "seed": seed} | checked(row)))
            check_characters(requests[-1].prompt)
        except ValueError as error:
            raise ValueError(f"{name}, line {line}: {error}") from None
    if not requests:
        raise ValueError(f"{name} holds no prompt")
    return requests


Rows = Iterator[tuple[int, Any]]  # the line's number, and what it says or, as a ValueError, cannot


def text_rows(text: str) -> Rows:
    """A prompt a line, as it stands."""
    for number, line in enumerate(io.StringIO(text, newline=None), start=1):
        if line.strip():
            yield number, {"prompt": line.rstrip("\n")}


def json_rows(text: str) -> Rows:
    """An object a line."""
    for number, line in enumerate(io.StringIO(text, newline=None), start=1):
        if line.strip():
            try:
                yield number, json.loads(line)
            except (ValueError, RecursionError) as error:
                yield number, ValueError(f"not valid JSON: {error}")


def csv_rows(text: str) -> Rows:
    """A table whose first line has the titles; n and seed may be left empty."""
    reader = csv.DictReader(io.StringIO(text, newline=""), restkey="more than the titles say")
    try:
        for row in reader:
            if any(row.values()):
                optional = {name: row.pop(name, None) for name in ("n", "seed")}
                yield reader.line_num, row | {k: number_in(v) for k, v in optional.items() if v}
    except csv.Error as error:
        yield reader.line_num, ValueError(f"not valid CSV: {error}")


def number_in(cell: str) -> int | str:
    """The whole number in a cell, or what else is in it."""
    return int(cell) if re.fullmatch(r"\s*-?[0-9]{1,30}\s*", cell) else cell


def checked(row: Any) -> dict[str, Any]:
    """A line's fields; ValueError for one that is missing, unknown or of another type."""
    if isinstance(row, ValueError):
        raise row
    if not isinstance(row, dict):
        raise ValueError(f"found {type(row).__name__}; expected an object with a prompt")
    if unknown := [repr(name) for name in row if name not in FIELDS]:
        raise ValueError(f"there is no field {unknown[0]}; there are {', '.join(FIELDS)}")
    for name in FIELDS:
        kind = str if name == "prompt" else int
        if (name in row or name == "prompt") and type(row.get(name)) is not kind:
            what = "text" if kind is str else "a whole number"
            found = repr(row[name]) if name in row else "missing"
            raise ValueError(f"{name} is {found}; expected {what}")
    return row


def plan_pictures(requests: Iterable[Request]) -> list[Wanted]:
    """Every picture that the requests want, once, in their order.

    Raises ValueError for two prompts whose files would have one name, and for half a character.
    """
    pairs = dict.fromkeys((r.prompt, seed) for r in requests for seed in seeds_of(r.seed, r.n))
    stems, owners = {}, {}
    for prompt, _ in pairs:
        if prompt not in stems:
            check_characters(prompt)
            stems[prompt] = stem_of(prompt)
            other = owners.setdefault(stems[prompt], prompt)
            if other != prompt:
                raise ValueError(
                    f"the pictures of {prompt!r} and of {other!r} would have one name, "
                    f"{stems[prompt]}; draw them into two folders"
                )
    return [Wanted(prompt, seed, f"{stems[prompt]}-{seed}.png") for prompt, seed in pairs]


def check_characters(prompt: str) -> None:
    """Raise ValueError for half a character, which UTF-8 files cannot hold."""
    try:
        prompt.encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"the prompt has half a character at {error.start}") from None


def stem_of(prompt: str) -> str:
    """What a prompt's files are called, without the seed: "red-apple-twemoji-style-6c4416d9ed39".

    Lower-case ASCII letters, digits and hyphens, at most 53, which every file system takes.
    """
    slug = re.sub("[^a-z0-9]+", "-", unidecode(prompt[:MAX_SLUG]).lower())[:MAX_SLUG].strip("-")
    digest = sha256(prompt.encode()).hexdigest()[:DIGEST]
    return f"{slug}-{digest}" if slug else digest
