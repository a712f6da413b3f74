"""A folder of pictures that were all drawn in one way, each file named by its prompt and seed.

    settings.json                  how: the model and the sampling; the same for all, always
    metadata.jsonl                 a line per picture: {"file_name", "text", "seed"}
    red-apple-510e9cd005e3-7.png   a picture; it has all of that, too (`pictures.read_metadata`)
    …

Every file is written aside and renamed: it is whole or not there, and what is whole counts as
drawn. `minidalle train --data` reads such a folder as captioned pictures.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import asdict
from hashlib import sha256
from pathlib import Path
from typing import Any

import minidalle
from minidalle.checkpoints.parts import read_json, write_atomically
from minidalle.pipeline import MiniDalle
from minidalle.prompts import Wanted
from minidalle.sampling import SamplingConfig

SETTINGS, METADATA = "settings.json", "metadata.jsonl"
PNG_END = b"\0\0\0\0IEND\xaeB`\x82"  # the last chunk of every PNG (third edition, section 11.2.5)
SAMPLED = 64  # values of each parameter that go into the fingerprint


def check_folder(folder: str | Path) -> None:
    """Raise ValueError where a folder of pictures could not be made, before any work is done."""
    folder = Path(folder)
    place = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    if not place.is_dir() or not os.access(place, os.W_OK):
        raise ValueError(f"{folder} cannot be made: {place} is no folder that you may write to")


def prepare_folder(
    folder: Path,
    settings: dict[str, Any],
    wanted: Sequence[Wanted],
    mine: Sequence[Wanted],
    process: int = 0,
) -> None:
    """Make the folder, and write its two files or check the settings that are there.

    wanted: the pictures of all processes. mine: those of this one, which has this number.
    Raises ValueError where the folder's pictures were drawn in another way.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / SETTINGS
    if not path.exists():
        write_once(path, json.dumps(settings, indent=2) + "\n", process)
    check_unchanged(folder, read_json(path), settings)
    clear_leftovers(folder, {picture.file for picture in mine})
    if process == 0:
        write_metadata(folder / METADATA, wanted)


def settings_of(model: MiniDalle, sampling: SamplingConfig) -> dict[str, Any]:
    """All that a picture follows from, beside its prompt and its seed."""
    dtype = str(model.bart.lm_head.weight.dtype).removeprefix("torch.")
    made_by = {"model": model.name, "fingerprint": fingerprint(model), "dtype": dtype}
    return made_by | asdict(sampling) | {"version": minidalle.__version__}


def fingerprint(model: MiniDalle) -> str:
    """A hash of a few values of every parameter and of the tokenizer: 16 hexadecimal digits.

    It costs no time with billions of parameters, and training changes it.
    """
    digest = sha256(repr((sorted(model.tokenizer.vocab.items()), model.tokenizer.merges)).encode())
    for part in (model.bart, model.vqgan):
        for value in part.state_dict().values():
            few = value.flatten()[:SAMPLED].float().cpu()
            digest.update(str(tuple(value.shape)).encode() + few.numpy().tobytes())
    return digest.hexdigest()[:16]


def check_unchanged(folder: Path, before: dict[str, Any], now: dict[str, Any]) -> None:
    """Raise ValueError, naming what changed, where the folder's pictures were drawn otherwise.

    A model that only has another name is the same; in another dtype it has other values.
    """
    changed = [
        f"{name} was {before.get(name)!r}, is {value!r}"
        for name, value in now.items()
        if name not in ("model", "fingerprint", "version") and before.get(name) != value
    ]
    same_dtype = before.get("dtype") == now["dtype"]
    if same_dtype and before.get("fingerprint") != now["fingerprint"]:
        was, is_now = before.get("model"), now["model"]
        changed.append(f"the model was {was!r}, is {is_now!r} with other weights")
    if changed:
        raise ValueError(
            f"{folder} has pictures that were drawn in another way: {'; '.join(changed)}. "
            f"Draw as before, or into another folder"
        )


def write_once(path: Path, text: str, process: int) -> None:
    """Write a file unless it is there, even if another process writes it at this moment."""
    temporary = path.with_name(f".{path.name}.{process}.part")
    temporary.write_text(text, encoding="utf-8")
    try:
        os.link(temporary, path)  # which, unlike a rename, never replaces
    except FileExistsError:
        pass
    except OSError:  # not every file system has links
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_metadata(path: Path, wanted: Iterable[Wanted]) -> None:
    """List the pictures that are wanted, and those that are there from earlier calls."""
    lines = {p.file: {"file_name": p.file, "text": p.prompt, "seed": p.seed} for p in wanted}
    if path.exists():
        there = {entry.name for entry in os.scandir(path.parent)}
        for name, line in listed(path).items():
            if name in there:
                lines.setdefault(name, line)
    text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines.values())
    write_atomically(path, text.encode())


def listed(path: Path) -> dict[str, dict[str, Any]]:
    """The lines of metadata.jsonl by their file names; ValueError for anything else."""
    try:
        lines = [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line]
        return {line["file_name"]: line for line in lines}
    except (ValueError, RecursionError, TypeError, KeyError) as error:
        raise ValueError(
            f"{path}: expected an object with a file_name on every line, found "
            f"{type(error).__name__}: {error}. Move it away, and it is made anew"
        ) from None


def clear_leftovers(folder: Path, files: set[str]) -> None:
    """Remove what a process that was killed had begun to write of these files."""
    for entry in os.scandir(folder):
        if entry.name.endswith(".part") and entry.name.removeprefix(".").rsplit(".", 2)[0] in files:
            with suppress(OSError):
                os.unlink(entry)


def is_whole(path: Path) -> bool:
    """Whether a picture is there and ends as a PNG does, which a crash of the machine can undo."""
    try:
        with open(path, "rb") as file:
            file.seek(-len(PNG_END), os.SEEK_END)
            return file.read() == PNG_END
    except OSError:  # not there, or shorter
        return False
