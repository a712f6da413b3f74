"""Your own pictures: a folder of them with captions, each decoded when it is asked for.

Captions come in two ways, which may be mixed, in the folder and in the folders inside it:

    metadata.csv or metadata.jsonl   a row per picture with `file_name`, relative to the metadata,
                                     and `text` (Hugging Face's ImageFolder convention)
    x.txt beside x.png               for pictures that no metadata lists

Each line of a text is a caption, and so is each row of a picture that is listed more than once.
Names that begin with a dot are left alone. When the dataset is made, only the first bytes of each
picture are looked at; what cannot be used is in `skipped`, with the reason.

    FolderDataset("pictures", side=64)[i]  ->  image (3, S, S) in [0, 1], its first caption
"""

from __future__ import annotations

import copy
import csv
import json
import logging
import os
import posixpath
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path, PureWindowsPath

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from minidalle.data.emoji import share_of
from minidalle.pictures import MAX_PIXELS, identify, open_bounded, open_picture, square

log = logging.getLogger(__name__)

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".tif", ".tiff")
METADATA = ("metadata.csv", "metadata.jsonl")
MAX_TEXT = 2**16  # bytes of captions that one picture can have


class FolderDataset:
    """The captioned pictures below a folder, in the order of their paths.

    `paths` are relative to the folder, with `/`; `captions[i]` are all captions of picture i.
    `skipped` lists (path, reason) of files that are not used; `damaged` maps the paths of pictures
    that turned out damaged, when they were read, to the reason.
    """

    def __init__(self, folder: str | Path, side: int):
        """Look for pictures and captions below `folder`; `side` is S, in pixels.

        Raises OSError where there is no such folder, ValueError where nothing in it can be used.
        """
        if side < 1:
            raise ValueError(f"side is {side}; it must be at least 1 pixel")
        if not Path(folder).is_dir():
            raise NotADirectoryError(f"{folder}: no such folder; expected one with pictures in it")
        self.folder, self.side = Path(folder), side
        self.skipped: list[tuple[str, str]] = []
        self.damaged: dict[str, str] = {}
        self.paths: list[str] = []
        self.captions: list[list[str]] = []
        files = self.files()
        listed: dict[str, str] = {}
        for name in files:
            if posixpath.basename(name) in METADATA:
                for path, text in self.rows(name):
                    listed[path] = f"{listed.get(path, '')}\n{text}"
        pictures = {name for name in files if name.lower().endswith(SUFFIXES)}
        for path in sorted(pictures | set(listed)):
            try:
                captions = check_picture(self.folder / path, listed.get(path))
            except (OSError, ValueError) as error:
                self.skipped.append((path, str(error)))
            else:
                self.paths.append(path)
                self.captions.append(captions)
        if not self.paths:
            raise ValueError(
                f"{folder}: no captioned picture among {len(files)} files; expected "
                f"{' or '.join(METADATA)} with file_name and text, or x.png beside x.txt. "
                f"Skipped: {'; '.join(': '.join(pair) for pair in self.skipped[:3]) or 'nothing'}"
            )
        if self.skipped:
            log.warning("%s: %d files skipped; .skipped says why", folder, len(self.skipped))

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> tuple[Tensor, str]:
        """The middle square of a picture, (3, S, S) as floats in [0, 1], and its first caption.

        Raises ValueError or OSError, by the file's name, where it is damaged or has vanished.
        """
        picture = open_picture(self.folder / self.paths[index])
        return to_square(picture, self.side), self.captions[index][0]

    def draw_caption(self, index: int, generator: torch.Generator) -> str:
        """One of the picture's captions, each as likely."""
        captions = self.captions[index]
        return captions[int(torch.randint(len(captions), (), generator=generator))]

    def read_batch(self, indices: Iterable[int]) -> tuple[Tensor, list[int]]:
        """Pictures (B, 3, S, S), and which they are.

        In the place of a damaged one, which is noted in `damaged`, is the next that can be read.
        Raises ValueError where none can.
        """
        used = [self.next_readable(int(index)) for index in indices]
        return torch.stack([image for _, image in used]), [index for index, _ in used]

    def next_readable(self, index: int) -> tuple[int, Tensor]:
        """The first picture from `index` on, around the end, that can be read, and its index."""
        for candidate in [*range(index, len(self)), *range(index)]:
            if (path := self.paths[candidate]) in self.damaged:
                continue
            try:
                return candidate, self[candidate][0]
            except (OSError, ValueError) as error:
                self.damaged[path] = str(error)
                log.warning("%s; the next picture takes its place", error)
        raise ValueError(
            f"{self.folder}: none of {len(self)} pictures can be read any more; "
            f"{self.damaged[self.paths[index]]}"
        )

    def subset(self, indices: Sequence[int]) -> FolderDataset:
        """The same dataset with only the given pictures."""
        part = copy.copy(self)
        part.paths = [self.paths[i] for i in indices]
        part.captions = [self.captions[i] for i in indices]
        return part

    def files(self) -> list[str]:
        """Paths of all files below the folder, relative to it."""
        found = []
        for parent, folders, names in os.walk(
            self.folder, onerror=lambda error: self.skipped.append((error.filename, str(error)))
        ):
            folders[:] = [name for name in folders if not name.startswith(".")]
            inside = Path(parent).relative_to(self.folder)
            found += [(inside / name).as_posix() for name in names if not name.startswith(".")]
        return found

    def rows(self, name: str) -> Iterator[tuple[str, str]]:
        """Path and text of each row of a metadata file; rows that have not both are skipped."""
        number = 0
        try:
            with open(self.folder / name, encoding="utf-8-sig", newline="") as file:
                rows = csv.DictReader(file) if name.endswith(".csv") else map(json_object, file)
                for number, row in enumerate(rows, 1):
                    path, text = row.get("file_name"), row.get("text")
                    if not isinstance(path, str) or not isinstance(text, str):
                        reason = f"expected file_name and text, found {list(row)}"
                    elif leads_outside(path):
                        reason = f"file_name {path!a} leads out of the metadata's folder"
                    else:
                        beside = posixpath.join(posixpath.dirname(name), path)
                        yield posixpath.normpath(beside), text
                        continue
                    self.skipped.append((f"{name}, row {number}", reason))
        except (OSError, ValueError, csv.Error) as error:
            self.skipped.append((name, f"not read on after row {number}: {error}"))


def split(
    dataset: FolderDataset, validation_share: float = 0.05
) -> tuple[FolderDataset, FolderDataset]:
    """Training and validation part, by a hash of each path: no picture ever changes sides.

    validation_share: at least 0, below 1. Of a few pictures the validation part may get none;
    ValueError where the training part does.
    """
    if not 0 <= validation_share < 1:
        raise ValueError(f"validation_share is {validation_share}; it must be from 0 to below 1")
    held_out = [share_of(f"picture|{path}") < validation_share for path in dataset.paths]
    if all(held_out):
        raise ValueError(
            f"{dataset.folder}: with validation_share {validation_share} no picture of "
            f"{len(dataset)} is left for training; add pictures, or lower it"
        )
    train = [i for i, out in enumerate(held_out) if not out]
    return dataset.subset(train), dataset.subset([i for i, out in enumerate(held_out) if out])


def check_picture(path: Path, text: str | None) -> list[str]:
    """The captions of a picture: those in `text`, if it is listed, else those beside it.

    Raises ValueError or OSError where picture or captions cannot be used.
    """
    str(path).encode()  # a name that is not UTF-8 could be neither logged nor hashed
    if not path.is_file():  # opening a pipe would wait for ever
        raise ValueError("there is no such file")
    if text is None:
        if not (beside := path.with_suffix(".txt")).is_file():
            raise ValueError(f"no caption: not in {' or '.join(METADATA)}, and no {beside.name}")
        with open(beside, "rb") as file:
            captions = caption_lines(file.read(MAX_TEXT + 1))
    else:
        captions = caption_lines(text.encode())
    with open_bounded(path) as file:
        width, height = identify(file, path.name).size
    if not 0 < width * height <= MAX_PIXELS:
        raise ValueError(f"{width}×{height} pixels; expected 1 to {MAX_PIXELS:,}")
    return captions


def caption_lines(data: bytes) -> list[str]:
    """The captions of a text, one a line; ValueError where it is empty, too long or not UTF-8."""
    if len(data) > MAX_TEXT:
        raise ValueError(f"the caption has {len(data):,} bytes or more; at most {MAX_TEXT:,}")
    captions = [line.strip() for line in data.decode("utf-8-sig").splitlines() if line.strip()]
    if not captions:
        raise ValueError("the caption is empty")
    return captions


def to_square(picture: Image.Image, side: int) -> Tensor:
    """The middle square of a picture as (3, S, S) in [0, 1], as `MiniDalle.to_tensor` does."""
    return torch.from_numpy(np.array(square(picture, side))).permute(2, 0, 1) / 255


def json_object(line: str) -> dict:
    """A line of metadata.jsonl; what is no JSON object comes back as one without fields."""
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        return {}
    return row if isinstance(row, dict) else {}


def leads_outside(path: str) -> bool:
    """Whether a path from a metadata file may lead out of its folder, on any system."""
    parts = PureWindowsPath(path)  # takes / and \ for separators
    return bool(parts.drive or parts.root) or ".." in parts.parts or "\0" in path
