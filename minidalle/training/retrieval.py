"""Retrieval: look for the thing that was drawn among the real pictures of its style.

A picture drawn for "red apple, twemoji style" is compared with twemoji's real picture of every
concept. It is right where the red apple is the nearest, or among the five nearest. The comparison
is the cosine of EfficientNet-Lite0's features, which tell what a picture shows more than where.

    pictures (B, 3, S, S) in [0, 1], with their records  ->  places (B,): 0 for the nearest
    places (Q, n) of n pictures of Q captions            ->  shares, over all and by group
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from minidalle.data.emoji import SPLITS, EmojiDataset, EmojiRecord, share_of
from minidalle.training.metrics import PerceptualDistance, find_lite0_weights

SIDE = 128  # pixels at which Lite0 sees the pictures: it knows twice as many as at 64
BATCH = 64  # pictures described at once
NEAREST = (1, 5)  # among how many of the nearest the right one is looked for

Progress = Callable[[str, int, int], None]  # what is being done, how many of it, out of how many
Describe = Callable[[Tensor], Tensor]  # pictures (B, 3, S, S) in [0, 1] -> (B, d) of length one


class Gallery(NamedTuple):
    """The real pictures of one style."""

    concepts: list[str]  # M, each once
    features: Tensor  # (M, d), of length one


class Search(NamedTuple):
    """What is looked for, and where."""

    records: list[EmojiRecord]  # Q, whose captions are drawn
    images: Tensor  # (Q, 3, S, S) uint8: their real pictures
    galleries: dict[str, Gallery]  # by style
    describe: Describe


def can_retrieve() -> bool:
    """Whether the extra `perceptual`, which has the features' weights, is installed."""
    try:
        return find_lite0_weights().is_file()
    except ValueError:
        return False


def lite0_features(device: torch.device | str = "cpu") -> Describe:
    """What Lite0 sees in pictures, computed on a device; ValueError without the extra."""
    distance = PerceptualDistance(side=SIDE).to(device)
    return lambda images: distance.features(images.to(device)).cpu()


def prepare_search(
    split: str, limit: int | None, describe: Describe, progress: Progress | None = None
) -> Search:
    """The captions to draw, and the galleries of their styles: all real pictures, of all splits."""
    data = {name: EmojiDataset(name) for name in SPLITS}
    chosen = choose(data[split].records, limit)
    records = [data[split].records[i] for i in chosen]
    galleries = build_galleries(
        [record for part in data.values() for record in part.records],
        torch.cat([part.images for part in data.values()]),
        {record.style for record in records},
        describe,
        progress,
    )
    return Search(records, data[split].images[chosen], galleries, describe)


def choose(records: Sequence[EmojiRecord], limit: int | None) -> list[int]:
    """The indices of `limit` records, in order; the same ones always, and 40 of the first 60."""
    chances = [share_of(f"retrieval|{record.concept}|{record.style}") for record in records]
    return sorted(sorted(range(len(records)), key=chances.__getitem__)[:limit])


@torch.no_grad()
def build_galleries(
    records: Sequence[EmojiRecord],
    images: Tensor,
    styles: set[str],
    describe: Describe,
    progress: Progress | None = None,
) -> dict[str, Gallery]:
    """The galleries of some styles, from all records and their pictures (count, 3, S, S) uint8."""
    features: dict[str, list[Tensor]] = defaultdict(list)
    kept = [i for i, record in enumerate(records) if record.style in styles]
    for part in torch.tensor(kept).split(BATCH):
        found = describe(images[part] / 255)
        for i, feature in zip(part.tolist(), found, strict=True):
            features[records[i].style].append(feature)
        if progress:
            progress("looking at real pictures", sum(map(len, features.values())), len(kept))
    return {
        style: Gallery([r.concept for r in records if r.style == style], torch.stack(rows))
        for style, rows in features.items()
    }


@torch.no_grad()
def places_of(images: Tensor, search: Search, queries: Sequence[int]) -> Tensor:
    """How many real pictures are nearer than the right one: (B, 3, S, S) in [0, 1] -> (B,).

    queries: for each picture, which of the search's records it was drawn for.
    """
    places = []
    for feature, query in zip(search.describe(images), queries, strict=True):
        record = search.records[query]
        gallery = search.galleries[record.style]
        likeness = gallery.features @ feature  #  (M,)
        right = likeness[gallery.concepts.index(record.concept)]
        places.append(int((~(likeness <= right)).sum()))  # so that no number counts as far away
    return torch.tensor(places)


def retrieval(images: Tensor, search: Search) -> dict[str, Any]:
    """How many pictures are right, one for each of the search's records: (Q, 3, S, S) in [0, 1]."""
    queries = torch.arange(len(search.records))
    places = [places_of(images[part], search, part.tolist()) for part in queries.split(BATCH)]
    return shares_with_groups({"": torch.cat(places)[:, None]}, search.records)


def shares(places: dict[str, Tensor]) -> dict[str, float]:
    """The share of places (Q, n) among the nearest 1 and 5, by their names: "ceiling_top5"."""
    return {
        f"{name}top{k}": float((of_pictures < k).double().mean())
        for name, of_pictures in places.items()
        for k in NEAREST
    }


def shares_with_groups(places: dict[str, Tensor], records: Sequence[EmojiRecord]) -> dict[str, Any]:
    """The shares over all places (Q, n), then by group of emoji and by style."""
    figures: dict[str, Any] = {"captions": len(records), **shares(places)}
    for title, names in (
        ("groups", [record.group for record in records]),
        ("styles", [record.style for record in records]),
    ):
        members = {
            name: [i for i, n in enumerate(names) if n == name] for name in sorted(set(names))
        }
        figures[title] = {
            name: {
                "captions": len(rows),
                **shares({kind: of_pictures[rows] for kind, of_pictures in places.items()}),
            }
            for name, rows in members.items()
        }
    return figures
