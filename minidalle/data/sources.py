"""What can be trained on, chosen by one word: the config field `data`.

    emoji                      the emoji dataset; held out is what its data card says
    emoji-more                 the same, and drawings in two more styles to train on
    emoji-filled               the same, and where a style lacks a thing, its nearest drawing
    shapes                     scenes drawn in code; held out are pairs of a colour and a shape
    pictures/                  your own captioned pictures; a share of them is held out
    shards/{000..099}.tar      shards, by path, address or folder; the last is held out

The first three are *sources*: sample i can be asked for at any time, and what is random about it
comes from the generator given. Shards are a *stream* (`stream.py`).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from minidalle.data.emoji import MORE, EmojiDataset, EmojiRecord, share_of, stand_ins
from minidalle.data.folder import FolderDataset, split
from minidalle.data.shapes import ShapesDataset
from minidalle.data.stream import Samples, ShardStream, is_shards, open_shards

EMOJI = ("emoji", "emoji-more", "emoji-filled")
GIVEN = "sources given in Python"  # `data` in the settings of a run that nothing named has to open
SHAPES = 8000  # scenes in an epoch
SHAPES_HELD_OUT = 500
VALIDATION_SHARE = 0.05  # of a folder's pictures
STAND_IN_WEIGHT = 0.7  # how often a drawing is called one that it stands in for, to once its own


class Source(Protocol):
    """Captioned pictures, each of which can be asked for at any time.

    `captions` are all that a tokenizer should know, of each picture. `caption` draws a true one;
    without a generator it is always the same. Who writes a source of their own gives the four that
    have no body here.
    """

    @property
    def captions(self) -> Sequence[Sequence[str]]: ...
    def __len__(self) -> int: ...
    def pictures(self, indices: Iterable[int]) -> Tensor: ...  # (B, 3, S, S) in [0, 1]
    def caption(self, index: int, generator: torch.Generator | None = None) -> str: ...

    def __getitem__(self, index: int) -> tuple[Tensor, str]:
        return self.pictures([index])[0], self.caption(index)

    def caption_in_colour(
        self, index: int, colour: str, generator: torch.Generator | None = None
    ) -> str:
        """A caption of the picture once its main colour is another; empty where there is none."""
        return ""

    def names(self, indices: Iterable[int]) -> list[str]:
        """What to call pictures where something is wrong with them."""
        return [str(int(index)) for index in indices]

    def figures(self) -> dict[str, Tensor]:
        """What is worth logging while training."""
        return {}


class EmojiSource(Source):
    """Splits of the emoji, in memory.

    filled: whether a drawing also has the captions of the missing ones that it stands in for, so
    that every concept is known in all of the five styles.
    """

    def __init__(self, side: int, *datasets: EmojiDataset, filled: bool = False):
        self.side = side
        self.records = [record for dataset in datasets for record in dataset.records]
        self.images = torch.cat([dataset.images for dataset in datasets])  # (count, 3, 64, 64)
        self.stand_ins = stand_ins(self.records) if filled else {}

    @property
    def captions(self) -> list[list[str]]:
        return [
            [text for record in self.known_as(i) for text in record.all_captions()]
            for i in range(len(self))
        ]

    def __len__(self) -> int:
        return len(self.records)

    def known_as(self, index: int) -> list[EmojiRecord]:
        """What a drawing is: itself first, then the missing ones that it stands in for."""
        record = self.records[index]
        return [record, *(replace(record, style=style) for style in self.stand_ins.get(index, ()))]

    def pictures(self, indices: Iterable[int]) -> Tensor:
        return at_side(self.images[torch.as_tensor(indices)] / 255, self.side)

    def caption(self, index: int, generator: torch.Generator | None = None) -> str:
        """A caption of the drawing, or at times, where one is drawn, of what it stands in for."""
        record, *others = self.known_as(index)
        if generator is None:
            return record.caption
        if others:
            weight = STAND_IN_WEIGHT * len(others)
            if float(torch.rand((), generator=generator)) < weight / (1 + weight):
                record = others[int(torch.randint(len(others), (), generator=generator))]
        return record.draw_caption(generator)

    def caption_in_colour(
        self, index: int, colour: str, generator: torch.Generator | None = None
    ) -> str:
        record = self.records[index].in_colour(colour)
        if record is None:
            return ""
        return record.caption if generator is None else record.draw_caption(generator)


class ShapesSource(Source):
    """Scenes of shapes, each drawn when it is asked for."""

    def __init__(self, dataset: ShapesDataset, side: int):
        self.dataset, self.side = dataset, side

    @property
    def captions(self) -> list[list[str]]:
        return [[self.caption(i)] for i in range(len(self))]

    def __len__(self) -> int:
        return len(self.dataset)

    def pictures(self, indices: Iterable[int]) -> Tensor:
        return at_side(torch.stack([self.dataset[int(i)][0] for i in indices]), self.side)

    def caption(self, index: int, generator: torch.Generator | None = None) -> str:
        return self.dataset.scene(index).caption


class FolderSource(Source):
    """Pictures of a folder; in the place of one that cannot be read stands the next that can."""

    def __init__(self, dataset: FolderDataset):
        self.dataset = dataset
        self.instead: dict[int, int] = {}  # by the number of a picture that cannot be read

    @property
    def captions(self) -> list[list[str]]:
        return self.dataset.captions

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> tuple[Tensor, str]:
        return self.dataset[index]  # raises for a picture that cannot be read

    def pictures(self, indices: Iterable[int]) -> Tensor:
        indices = [int(index) for index in indices]
        images, shown = self.dataset.read_batch(indices)
        self.instead |= {i: j for i, j in zip(indices, shown, strict=True) if i != j}
        return images

    def caption(self, index: int, generator: torch.Generator | None = None) -> str:
        index = self.instead.get(index, index)  # the caption must be true of what is shown
        plain = self.captions[index][0]
        return plain if generator is None else self.dataset.draw_caption(index, generator)

    def names(self, indices: Iterable[int]) -> list[str]:
        return [self.dataset.paths[self.instead.get(int(i), int(i))] for i in indices]

    def figures(self) -> dict[str, Tensor]:
        return {"unreadable": torch.tensor(float(len(self.dataset.damaged)))}


def open_source(
    data: str, side: int, seed: int = 0
) -> tuple[Source | ShardStream, Source | Samples]:
    """What `data` names, to train on and held out, as pictures of S = `side` pixels.

    seed: of the order of shards.
    Raises ValueError or OSError, by the name, where it is nothing that can be learned from.
    """
    if data in EMOJI:
        known = ["train"] if data == "emoji" else ["train", MORE]
        datasets = [EmojiDataset(split) for split in known]
        train = EmojiSource(side, *datasets, filled=data == "emoji-filled")
        return train, EmojiSource(side, EmojiDataset("validation"))
    if data == "shapes":
        known, held_out = ShapesDataset(SHAPES, 0), ShapesDataset(SHAPES_HELD_OUT, 1, "held_out")
        return ShapesSource(known, side), ShapesSource(held_out, side)
    if is_shards(data):
        return open_shards(data, side, seed)
    whole = open_pictures(data, side)
    if len(whole) < 2:
        raise ValueError(
            f"data {data}: found 1 picture, expected 2 or more, since one is held out for "
            f"validation; add pictures ({len(whole.skipped)} files were skipped)"
        )
    # Of few pictures the share may be none: then the one with the smallest number is held out.
    smallest = math.nextafter(min(share_of(f"picture|{path}") for path in whole.paths), 1)
    train, held_out = split(whole, max(VALIDATION_SHARE, smallest))
    return FolderSource(train), FolderSource(held_out)


def open_pictures(data: str, side: int) -> Source | FolderDataset:
    """All that `data` has to train on, a folder with nothing held out: what can be encoded."""
    if data in (*EMOJI, "shapes"):
        return open_source(data, side)[0]
    if not Path(data).is_dir():
        raise NotADirectoryError(
            f"data {data!r}: no such folder; expected {', '.join(EMOJI)}, shapes, a folder of "
            "captioned pictures, or shards (*.tar)"
        )
    return FolderDataset(data, side)


def some_pictures(source: Source | Samples, count: int = 512) -> Tensor:
    """The first pictures of a source, to evaluate on: (up to count, 3, S, S) uint8."""
    parts = torch.arange(min(len(source), count)).split(64)
    return torch.cat([(255 * source.pictures(part.tolist())).round().byte() for part in parts])


def at_side(images: Tensor, side: int) -> Tensor:
    """Pictures (B, 3, S, S) resized, where their side is another."""
    if images.shape[-1] == side:
        return images
    return F.interpolate(images, (side, side), mode="bilinear", antialias=True).clamp(0, 1)
