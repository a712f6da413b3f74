"""Does the whole model draw what a caption says? Counted for emoji, and for shapes.

An emoji is right where its concept's real picture is among the nearest (`retrieval.py`), shapes
where the oracle says that the caption holds (`data/shapes.py`). The VQGAN cannot draw every
picture, which bounds both figures: the *ceiling* is what reconstructions of true pictures reach.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import Any

import torch
from torch import Tensor

from minidalle.data.emoji import SPLITS
from minidalle.data.shapes import PICTURE_SIDE, Scene, ShapesDataset, draw, held_out, holds
from minidalle.pipeline import MiniDalle
from minidalle.result import Result
from minidalle.scoring import to_tensor
from minidalle.training.evaluate import BATCH, at_side, evaluate_parts, reconstructions
from minidalle.training.retrieval import (
    Describe,
    Progress,
    Search,
    lite0_features,
    places_of,
    prepare_search,
    shares,
    shares_with_groups,
)

SEEDS = 4  # pictures judged per caption


def evaluate_retrieval(
    model: MiniDalle,
    split: str = "test",
    *,
    seeds: int | None = None,
    rerank: int = 0,
    limit: int | None = None,
    condition_scale: float | None = None,
    scales: Sequence[float] = (),
    describe: Describe | None = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Draw the captions of a split of the emoji, and look whether the pictures are right.

    seeds: pictures judged per caption; None for 4, or with `rerank` for 1.
    rerank: of so many pictures the one that the model's CLIP likes best is judged; 0 = off.
    limit: take so many captions only, always the same ones.
    condition_scale: how strongly to follow the caption; None for the checkpoint's default.
    scales: values of `condition_scale` to measure as well, under "scales".
    describe: the features; None for Lite0's, which need minidalle[perceptual].
    Returns `captions`, `seeds` and the shares, from 0 to 1: `top1` and `top5` over all pictures
    drawn, `ceiling_…` of reconstructions, `reranked_…` of the best by CLIP; the same under "groups"
    and "styles".
    Raises ValueError for values out of range, a model without a CLIP, or a missing extra.
    """
    check_plan(split, seeds, rerank, limit)
    for scale in (condition_scale, *scales):
        model.sampling_with(condition_scale=scale)  # what is no number is said now, not in the end
    if rerank and getattr(model, "clip", None) is None:
        raise ValueError(f"the model {model.name} has no CLIP, which rerank needs; leave it at 0")
    if describe is None:
        describe = lite0_features(model.device)
    search = prepare_search(split, limit, describe, progress)
    return evaluate_search(
        model,
        search,
        seeds=seeds,
        rerank=rerank,
        condition_scale=condition_scale,
        scales=scales,
        progress=progress,
    )


def check_plan(split: str, seeds: int | None, rerank: int, limit: int | None) -> None:
    """Raise ValueError where these arguments of `evaluate_retrieval` make no sense."""
    if split not in SPLITS:
        raise ValueError(f"there is no split {split!r}; the splits are {', '.join(SPLITS)}")
    for name, value in (("seeds", seeds), ("limit", limit)):
        if value is not None and value < 1:
            raise ValueError(f"{name} is {value}; it must be at least 1")
    if rerank < 0 or rerank == 1:
        raise ValueError(f"rerank is {rerank}; it must be at least 2, or 0 for off")


def evaluate_search(
    model: MiniDalle,
    search: Search,
    *,
    seeds: int | None = None,
    rerank: int = 0,
    condition_scale: float | None = None,
    scales: Sequence[float] = (),
    progress: Progress | None = None,
) -> dict[str, Any]:
    """As `evaluate_retrieval`, in a search that is prepared; several models can share it."""
    if condition_scale is None:
        condition_scale = model.sampling.condition_scale
    seeds = seeds or (1 if rerank else SEEDS)
    drawn = {
        scale: draw_places(model, search, seeds, rerank, scale, progress)
        for scale in dict.fromkeys([condition_scale, *scales])  # each once, the default's first
    }
    again = torch.cat(
        [
            places_of(reconstructions(model, search.images[part]), search, part.tolist())
            for part in torch.arange(len(search.records)).split(BATCH)
        ]
    )
    places = drawn[condition_scale] | {"ceiling_": again[:, None]}
    facts = {"condition_scale": condition_scale, "seeds": seeds, "rerank": rerank}
    figures = facts | shares_with_groups(places, search.records)
    if scales:
        figures["scales"] = {f"{scale:g}": shares(drawn[scale]) for scale in scales}
    return figures


def draw_places(
    model: MiniDalle,
    search: Search,
    seeds: int,
    rerank: int,
    condition_scale: float,
    progress: Progress | None,
) -> dict[str, Tensor]:
    """Draw every caption: "" gives the places of all pictures (Q, n), "reranked_" (Q, seeds)."""
    n = seeds * max(1, rerank)
    places, best = [], []
    queries = torch.arange(len(search.records))
    for part in queries.split(max(1, BATCH // n)):
        captions = [search.records[i].caption for i in part.tolist()]
        results = model.generate(captions, n=n, seed=0, condition_scale=condition_scale)
        images = torch.stack([to_tensor(image) for r in results for image in r.images])
        found = places_of(images, search, part.repeat_interleave(n).tolist()).view(-1, n)
        places.append(found)
        if rerank:
            best += [
                row[best_of_each(model, r, rerank)] for r, row in zip(results, found, strict=True)
            ]
        if progress:
            what = f"drawing at condition scale {condition_scale:g}"
            progress(what, n * (int(part[-1]) + 1), n * len(queries))
    drawn = {"": torch.cat(places)}
    return drawn | {"reranked_": torch.stack(best)} if rerank else drawn


def best_of_each(model: MiniDalle, result: Result, rerank: int) -> Tensor:
    """Which one of every `rerank` pictures in a row the model's CLIP likes best: indices."""
    best = []
    for start in range(0, len(result.images), rerank):
        part = slice(start, start + rerank)
        images, tokens, seeds = (getattr(result, f)[part] for f in ("images", "tokens", "seeds"))
        few = replace(result, images=images, tokens=tokens, seeds=seeds)
        best.append(model.rerank(few).seeds[0] - result.seeds[0])  # seeds count on
    return torch.tensor(best)


def evaluate_shapes(
    model: MiniDalle, count: int = 100, progress: Progress | None = None
) -> dict[str, Any]:
    """The figures of both parts on shapes, and under "oracle" how many captions are drawn right.

    `count` scenes are taken from the whole grammar; of the caption of scene i one picture is drawn,
    with seed i (there are few captions of one object, so one seed for all would draw the same few
    pictures again and again), and by `model.sampling`, which is stated. `right` is the share in
    which the caption holds, `ceiling_right` that share of the true pictures' reconstructions. Both
    also by the number of objects, and by whether the scene has a (colour, shape) pair that
    `ShapesDataset` holds out.
    """
    if count < 1:
        raise ValueError(f"{count} captions; at least 1 is needed")
    dataset = ShapesDataset(count, seed=0, exclude=())
    scenes = [dataset.scene(i) for i in range(count)]
    captions = [scene.caption for scene in scenes]
    images = torch.stack([(255 * draw(scene)).round().byte() for scene in scenes])
    figures: dict[str, Any] = evaluate_parts(model, images, captions)
    drawn, again = [], []
    for part in torch.arange(count).split(BATCH):
        pairs = [(captions[i], i) for i in part.tolist()]
        tokens = model.draw_tokens(pairs, model.sampling)
        wanted = [(caption, [seed]) for caption, seed in pairs]
        results = model.results_of(wanted, tokens, model.sampling)
        drawn += [to_tensor(result.images[0]) for result in results]
        again.append(reconstructions(model, images[part]))
        if progress:
            progress("drawing", len(drawn), count)
    right = {
        "": oracle_verdicts(captions, torch.stack(drawn)),
        "ceiling_": oracle_verdicts(captions, torch.cat(again)),
    }
    groups = [kind_of(scene) for scene in scenes]
    figures["oracle"] = (
        asdict(model.sampling)
        | oracle_shares(right, torch.ones(count, dtype=torch.bool))
        | {
            "groups": {
                group: oracle_shares(right, torch.tensor([g == group for g in groups]))
                for group in sorted(set(groups))
            }
        }
    )
    return figures


def kind_of(scene: Scene) -> str:
    """The group in which a scene is counted: "one object", "two objects, held-out pair" and so on.

    A pair is a colour and a shape of one object.
    """
    number = "one object" if len(scene.objects) == 1 else "two objects"
    return f"{number}, held-out pair" if held_out(scene) else number


def oracle_verdicts(captions: Sequence[str], images: Tensor) -> Tensor:
    """Whether each caption holds in its picture: (count, 3, S, S) in [0, 1] -> (count,) bool."""
    images = at_side(images, PICTURE_SIDE)
    return torch.tensor([holds(text, image) for text, image in zip(captions, images, strict=True)])


def oracle_shares(right: dict[str, Tensor], chosen: Tensor) -> dict[str, float]:
    """The share of verdicts (count,) that are true among the chosen (count,), by their names."""
    shares = {f"{name}right": float(v[chosen].double().mean()) for name, v in right.items()}
    return {"captions": int(chosen.sum()), **shares}
