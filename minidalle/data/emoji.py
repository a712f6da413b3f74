"""The emoji dataset: 7,601 drawings of 1,648 concepts in five styles, 64×64, with labels.

The pictures come from `data/emoji/emoji64.parquet` (a copy of it lies inside an installed package);
the data card beside it says how it was made and under which licences. The split is a rule, not a
list: some concepts have one style held out, so that a model can be asked for a picture it has never
seen of a thing it knows. `more64.parquet` has 1,900 drawings in two more styles, to train on only.
Where a concept has no drawing in a style, one of another style can stand in for it (`stand_ins`).

    EmojiDataset("train")[i]  ->  picture (3, 64, 64) in [0, 1], and its EmojiRecord
"""

from __future__ import annotations

import hashlib
import io
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow.parquet
import torch
from PIL import Image
from torch import Tensor

SPLITS = ("train", "validation", "test")
MORE = "more"  # drawings in other styles, to train on only: they belong to no split
STYLE_NAMES = {
    "noto": "noto style",
    "noto_v1": "classic noto style",
    "twemoji": "twemoji style",
    "fluent_3d": "3d fluent style",
    "fluent_flat": "flat fluent style",
    "emojione": "emojione style",
    "fxemoji": "firefox style",
}
NEAR_STYLES = {  # whose drawings are the likeliest to be taken for a style's own, those first
    "noto": ("twemoji", "noto_v1", "emojione", "fxemoji", "fluent_flat", "fluent_3d"),
    "noto_v1": ("noto", "twemoji", "fluent_flat", "emojione", "fluent_3d", "fxemoji"),
    "twemoji": ("emojione", "fxemoji", "noto_v1", "noto", "fluent_flat", "fluent_3d"),
    "fluent_3d": ("fluent_flat", "twemoji", "noto", "emojione", "fxemoji", "noto_v1"),
    "fluent_flat": ("fluent_3d", "twemoji", "emojione", "noto", "noto_v1", "fxemoji"),
}
TAGS_IN_CAPTION = 3
COLOURS = {
    *("red", "orange", "yellow", "green", "blue", "purple", "violet", "pink"),
    *("brown", "black", "white", "grey", "gray"),
}
SHADES = {"light", "dark"}  # of a colour, where one follows: not those of "light bulb"


def find_parquet(name: str = "emoji64.parquet") -> Path:
    """A file of the dataset: inside an installed package, else in the checkout around this file."""
    here = Path(__file__).resolve()
    candidates = [here.with_name(name), here.parents[2] / "data" / "emoji" / name]
    for path in candidates:
        if path.is_file():
            return path
    raise FileNotFoundError(
        f"the emoji dataset is at none of {[str(path) for path in candidates]}; reinstall minidalle"
    )


@dataclass(frozen=True)
class EmojiRecord:
    """What is known of one drawing, without its pixels."""

    hexcode: str  # the Unicode code points, "1F34E"
    style: str  # a key of STYLE_NAMES
    label: str  # the Unicode short name, "red apple"
    concept: str  # what drawings of one thing have in common, over styles
    group: str
    subgroup: str
    tags: tuple[str, ...]

    @property
    def caption(self) -> str:
        """The plain caption, used for evaluation: "red apple, twemoji style"."""
        return f"{self.label}, {STYLE_NAMES[self.style]}"

    def draw_caption(self, generator: torch.Generator) -> str:
        """A true caption at random: mostly the plain one, or other words, tags, or no style."""
        style = STYLE_NAMES[self.style]
        kind = float(torch.rand((), generator=generator))
        if kind < 0.5:
            return self.caption
        if kind < 0.65:
            return f"{style} emoji of {self.label}"
        if kind < 0.75 or not self.tags:
            return self.label
        order = torch.randperm(len(self.tags), generator=generator)[:TAGS_IN_CAPTION]
        tags = ", ".join(self.tags[i] for i in order)
        return f"{self.label} ({tags}), {style}" if kind < 0.9 else f"{tags}, {style}"

    def in_colour(self, colour: str) -> EmojiRecord | None:
        """This drawing with its main colour turned into another: "purple apple" for "red apple".

        None for people and flags, whose colours say something else.
        """
        if self.group in ("people-body", "flags"):
            return None
        words = self.label.split()
        shown = [
            word
            for word, following in zip(words, [*words[1:], ""], strict=True)
            if word not in COLOURS and not (word in SHADES and following in COLOURS)
        ]
        tags = tuple(tag for tag in self.tags if not (COLOURS | SHADES) & set(tag.split()))
        return replace(self, label=" ".join([colour, *shown]), tags=tags)

    def all_captions(self) -> list[str]:
        """The words of every caption that `draw_caption` can give: what a tokenizer learns from."""
        style = STYLE_NAMES[self.style]
        return [
            self.caption,
            f"{style} emoji of {self.label}",
            f"{self.label} ({', '.join(self.tags)}), {style}",
        ]


def share_of(text: str) -> float:
    """A number in [0, 1) that depends on nothing but the text: the split's source of chance."""
    return int(hashlib.sha256(text.encode()).hexdigest()[:8], 16) / 2**32


def split_of(records: list[EmojiRecord]) -> list[str]:
    """The split of every record, by the rule of the data card."""
    styles: dict[str, set[str]] = defaultdict(set)
    for record in records:
        styles[record.concept].add(record.style)
    return [split_of_drawing(r.concept, r.style, sorted(styles[r.concept])) for r in records]


def split_of_drawing(concept: str, style: str, drawn_in: list[str]) -> str:
    """The split of one concept's drawing in one style; `drawn_in` is all its styles, sorted.

    A concept drawn in four styles or more has, with a chance of 20 %, one style held out. The two
    fluent styles share outlines, so they are held out together. A quarter of the held-out concepts
    are for validation, the rest for test.
    """
    chance = share_of(f"concept|{concept}")
    if len(drawn_in) < 4 or chance >= 0.20:
        return "train"
    chosen = drawn_in[int(share_of(f"style|{concept}") * len(drawn_in))]
    held_out = {"fluent_3d", "fluent_flat"} if chosen.startswith("fluent") else {chosen}
    if style not in held_out:
        return "train"
    return "validation" if chance < 0.05 else "test"


def stand_ins(records: Sequence[EmojiRecord]) -> dict[int, list[str]]:
    """Which drawings stand in for those that are not there, of concepts in the five styles.

    By the index of a record: the styles that have no drawing of its concept, and to which, of all
    styles that have one, its own is the nearest.
    """
    drawn: dict[str, dict[str, int]] = defaultdict(dict)
    for i, record in enumerate(records):
        drawn[record.concept][record.style] = i
    found: dict[int, list[str]] = defaultdict(list)
    for in_styles in drawn.values():
        for missing, near in NEAR_STYLES.items():
            if missing not in in_styles:
                nearest = next(style for style in near if style in in_styles)
                found[in_styles[nearest]].append(missing)
    return dict(found)


class EmojiDataset:
    """One split of the emoji dataset, or "more" of them, decoded into memory (12 kB a picture).

    `images` is (count, 3, 64, 64) uint8; `records` says what each of them is.
    """

    def __init__(self, split: str = "train", path: str | Path | None = None):
        if split not in (*SPLITS, MORE):
            raise ValueError(f"there is no split {split!r}; the splits are {', '.join(SPLITS)}")
        if path is None:
            path = find_parquet("more64.parquet" if split == MORE else "emoji64.parquet")
        rows = pyarrow.parquet.read_table(path).to_pylist()
        fields = ("hexcode", "style", "label", "concept", "group", "subgroup")
        records = [
            EmojiRecord(**{f: row[f] for f in fields}, tags=tuple(row["tags"])) for row in rows
        ]
        splits = split_of(records) if split != MORE else [MORE] * len(records)
        chosen = [i for i, name in enumerate(splits) if name == split]
        self.split = split
        self.records = [records[i] for i in chosen]
        self.images = torch.stack([decode_picture(rows[i]["image"]) for i in chosen])

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, index: int) -> tuple[Tensor, EmojiRecord]:
        """Picture (3, 64, 64) as floats in [0, 1], and its record."""
        return self.images[index] / 255, self.records[index]


def decode_picture(data: bytes) -> Tensor:
    """A picture file's bytes as a (3, height, width) uint8 tensor."""
    return torch.from_numpy(np.asarray(Image.open(io.BytesIO(data)).convert("RGB")).copy()).permute(
        2, 0, 1
    )
