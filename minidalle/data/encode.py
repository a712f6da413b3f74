"""Writing shards: pictures become image tokens, once, so that Bart's training needs no VQGAN.

DALL·E mini was trained in this way, too. Shards are written one after the other, each aside and
then renamed, and beside them, when all are there, `shards.json`:

    {"format": "minidalle-tokens", "version": 1, "count": pictures, "shards": [file names],
     "vqgan": sha256, "image_length": N, "codebook_size": K, "origin": {what was encoded}}

A call that was killed is made again as it was: it keeps what is whole, and the bytes are the same.
"""

from __future__ import annotations

import io
import itertools
import json
import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from minidalle.checkpoints.native import read_json, write_atomically
from minidalle.data.shards import TEXT, TOKENS, captions_of, chance, picture_of
from minidalle.data.tar import RawSample, count_samples, find_shards, read_shard, write_tar
from minidalle.vqgan import VQGAN

log = logging.getLogger(__name__)

INDEX, PLAN = "shards.json", ".plan.json"  # what the shards are: when all are there, and before
FORMAT, VERSION = "minidalle-tokens", 1


def write_shards(
    parts: Sequence[Callable[[], Iterable[RawSample]]],
    folder: str | Path,
    about: dict[str, Any],
    progress: Callable[[int], None] | None = None,
) -> dict[str, Any]:
    """Write one shard for each part, and then the index, which is returned.

    parts: functions that give a shard's samples, the same ones at each call. After a crash the same
        call goes on: shards that are whole are kept, and their parts are not called.
    about: what the index says beside "count" and "shards": format, version, and what made them.
    progress: called with the number of samples in each shard, when it is there.
    Raises ValueError for a folder that holds shards about something else, OSError by the file's
    name where one cannot be written.
    """
    folder, names = Path(folder), [f"{i:06d}.tar" for i in range(len(parts))]
    about = json.loads(json.dumps(about | {"shards": names}))
    folder.mkdir(parents=True, exist_ok=True)
    for path in (folder / INDEX, folder / PLAN):
        before = read_json(path) if path.is_file() else about
        if changed := [name for name in about if before.get(name) != about[name]]:
            raise ValueError(
                f"{path}: these shards have another {', '.join(changed)}; use another folder"
            )
    write_json(folder / PLAN, about)
    count = 0
    for name, part in zip(names, parts, strict=True):
        written = count_samples(folder / name)
        if written is None:
            written = write_tar(folder / name, part())
        count += written
        if progress is not None:
            progress(written)
    write_json(folder / INDEX, about | {"count": count})
    (folder / PLAN).unlink(missing_ok=True)
    return about | {"count": count}


def write_json(path: Path, value: dict[str, Any]) -> None:
    write_atomically(path, (json.dumps(value, indent=2) + "\n").encode())


def read_index(folder: str | Path) -> dict[str, Any]:
    """What a folder of token shards says about itself: count, shards, vqgan, N and K.

    Raises ValueError or OSError where it is not one, or `minidalle encode` has not finished it.
    """
    path = Path(folder) / INDEX
    if path.with_name(PLAN).is_file() and not path.is_file():
        raise ValueError(f"{folder}: encoding has not finished; start it again, with this folder")
    index = read_json(path)
    if (index.get("format"), index.get("version")) != (FORMAT, VERSION):
        raise ValueError(
            f"{path}: format and version are {index.get('format')!r}, {index.get('version')!r}; "
            f"expected {FORMAT!r}, {VERSION}"
        )
    return index


class Pictures(Protocol):
    """A dataset whose items begin with a picture (3, S, S) in [0, 1]."""

    def __len__(self) -> int: ...
    def __getitem__(self, index: int) -> tuple[Tensor, Any]: ...


def encode_to_shards(
    source: Pictures | str | Path | list[str],
    vqgan: VQGAN,
    folder: str | Path,
    *,
    captions: Sequence[Sequence[str]] | None = None,
    batch_size: int = 32,
    per_shard: int = 10_000,
    seed: int = 0,
    progress: Callable[[int], None] | None = None,
) -> dict[str, Any]:
    """Turn captioned pictures into token shards; go on where an earlier call was killed.

    source: a dataset, which is written in random order so that each shard is a fair sample; or
        shards of pictures, as ShardReader takes them: each becomes one shard of tokens.
    vqgan: on the device, and in the dtype, in which to encode batches of `batch_size`.
    captions: of each picture of a dataset, all that it can have; None takes `source.captions`.
    progress: called with the number of pictures in each shard, when it is there.
    Returns the index. Damaged pictures are logged and left out, a damaged shard raises. Raises
    ValueError for no pictures, and for a folder that holds other shards.
    """
    if batch_size < 1 or per_shard < 1:
        raise ValueError(f"{batch_size=} and {per_shard=} must be at least 1")
    if isinstance(source, str | Path | list):
        urls, side = find_shards(source), vqgan.config.resolution
        origin: dict[str, Any] = {"shards": urls}
        parts = [partial(pictures_of_shard, url, side) for url in urls]
    else:
        captions = source.captions if captions is None else captions
        if not len(source) or len(captions) != len(source):
            raise ValueError(f"{len(source)} pictures and captions of {len(captions)}")
        words = sha256(json.dumps([list(texts) for texts in captions]).encode()).hexdigest()
        origin = {"captions": words, "per_shard": per_shard, "seed": seed}
        order = torch.randperm(len(source), generator=chance(seed, 0)).split(per_shard)
        parts = [partial(pictures_of_dataset, source, captions, part.tolist()) for part in order]
    about = {
        "format": FORMAT,
        "version": VERSION,
        "vqgan": fingerprint(vqgan),
        "image_length": vqgan.config.image_length,
        "codebook_size": vqgan.config.n_embed,
        "origin": origin,
    }
    encoded = [partial(encode_pictures, part, vqgan, batch_size) for part in parts]
    return write_shards(encoded, folder, about, progress)


def pictures_of_dataset(
    dataset: Pictures, captions: Sequence[Sequence[str]], numbers: list[int]
) -> Iterator[tuple[str, Tensor, Sequence[str]]]:
    """Number, picture (3, S, S) and captions of a dataset's pictures that can be read."""
    for number in numbers:
        try:
            image = dataset[number][0]
        except (OSError, ValueError) as error:
            log.warning("skipped %s", error)
        else:
            yield f"{number:09d}", image, captions[number]


def pictures_of_shard(url: str, side: int) -> Iterator[tuple[str, Tensor, Sequence[str]]]:
    """Number, picture (3, S, S) and captions of a shard's samples that can be read."""
    for number, raw in enumerate(read_shard(url)):
        try:
            content = picture_of(raw, side), captions_of(raw)
        except ValueError as error:
            log.warning("skipped %s: sample %a: %s", url, raw.key, error)
        else:
            yield f"{number:09d}", *content


def encode_pictures(
    pictures: Callable[[], Iterable[tuple[str, Tensor, Sequence[str]]]],
    vqgan: VQGAN,
    batch_size: int,
) -> Iterator[RawSample]:
    """Pictures with captions to image tokens with captions."""
    kind = "<u2" if vqgan.config.n_embed <= 2**16 else "<i4"
    like = next(vqgan.parameters())
    remaining = iter(pictures())
    while batch := list(itertools.islice(remaining, batch_size)):
        images = torch.stack([image for _, image, _ in batch]).to(like)  # (B, 3, S, S)
        for (key, _, texts), ids in zip(batch, vqgan.encode(images).cpu(), strict=True):
            data = io.BytesIO()
            np.lib.format.write_array(data, ids.numpy().astype(kind), version=(1, 0))
            text = "\n".join(" ".join(text.split()) for text in texts)
            yield RawSample(key, {TOKENS: data.getvalue(), TEXT: text.encode()})


def fingerprint(module: nn.Module) -> str:
    """sha256 of a module's parameters, in half precision: equal for copies stored as halves."""
    digest = sha256()
    for name, value in sorted(module.state_dict().items()):
        digest.update(f"{name} {tuple(value.shape)} ".encode())
        digest.update(value.detach().cpu().half().numpy().tobytes())
    return digest.hexdigest()
