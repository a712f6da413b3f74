"""Shards to train on: what comes next, dealt out to the processes, and taken up after a crash.

Samples of shards have no numbers. So a run that goes on does so at the beginning of a shard: the
first that any process was in when the checkpoint was written. The last shard is not trained on.
"""

from __future__ import annotations

import itertools
import logging
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from accelerate import Accelerator
from torch import Tensor

from minidalle.data.encode import INDEX, PLAN, fingerprint, read_index
from minidalle.data.shards import ShardReader, captions_of
from minidalle.data.tar import find_shards, is_remote
from minidalle.vqgan import VQGAN

log = logging.getLogger(__name__)

SAMPLES_KEPT = 512  # of the held-out shard, and of the others, to evaluate on
CAPTIONS_READ = 100_000  # for a tokenizer to learn from


class Samples(NamedTuple):
    """Samples in memory."""

    contents: Tensor  # (count, 3, S, S) in [0, 1], or image tokens (count, N)
    texts: list[str]  # a caption of each

    def __len__(self) -> int:
        return len(self.texts)

    def pictures(self, indices: Iterable[int]) -> Tensor:
        return self.contents[torch.as_tensor(indices)]

    def caption(self, index: int, generator: torch.Generator | None = None) -> str:
        return self.texts[index]


class ShardStream:
    """The samples of shards, one after the other, without end."""

    def __init__(self, urls: list[str], side: int | None, seed: int, **checks: int | None):
        """urls, side, seed, checks: what ShardReader takes; side is None for image tokens."""
        self.urls, self.options = urls, {"side": side, "seed": seed, **checks}
        self.position = 0  # where reading begins; later, the shard of the samples drawn last
        self.reader: ShardReader | None = None
        self.drawn_last: list[str] = []  # the names of the samples drawn last

    def __len__(self) -> int:
        return 1  # samples have no numbers: those that the loop draws do not matter

    def draw(self, count: int) -> Samples:
        """This process's next samples."""
        if self.reader is None:  # not earlier: only now is it known which process this is
            together = dist.is_available() and dist.is_initialized()
            rank, world_size = (dist.get_rank(), dist.get_world_size()) if together else (0, 1)
            place = {"skip_shards": self.position, "rank": rank, "world_size": world_size}
            self.reader = ShardReader(self.urls, **place, **self.options)
            self.samples = iter(self.reader)
        drawn = list(itertools.islice(self.samples, count))
        self.position, self.drawn_last = drawn[-1].position, [s.name for s in drawn]
        return Samples(torch.stack([s.content for s in drawn]), [s.caption for s in drawn])

    def pictures(self, indices: Iterable[int]) -> Tensor:
        return self.draw(len(list(indices))).contents

    def first(self) -> Samples:
        """A few samples to evaluate on, always the same."""
        reader = ShardReader(self.urls, epochs=1, **self.options)
        samples = list(itertools.islice(reader, SAMPLES_KEPT))
        return Samples(torch.stack([s.content for s in samples]), [s.caption for s in samples])

    @property
    def captions(self) -> Iterator[list[str]]:
        """All captions of the first samples, whose contents are not looked at."""
        reader = ShardReader(self.urls, **self.options)
        samples = (sample for url in self.urls for sample in reader.readable(url))
        for sample in itertools.islice(samples, CAPTIONS_READ):
            try:
                yield captions_of(sample)
            except ValueError:
                continue  # training will count it

    def names(self, indices: Iterable[int]) -> list[str]:
        """The shards and keys of the samples drawn last, whose numbers do not matter."""
        return self.drawn_last

    def figures(self) -> dict[str, Tensor]:
        """What is worth logging: where the stream stands, and what could not be read."""
        left_out = self.reader.skipped if self.reader else {}
        numbers = {"shard": self.position} | {f"unreadable_{k}": n for k, n in left_out.items()}
        return {name: torch.tensor(float(number)) for name, number in numbers.items()}

    def after_step(self, accelerator: Accelerator) -> None:
        """Let all processes know the first shard that any of them is in."""
        here = torch.tensor([self.position], device=accelerator.device)
        self.position = int(accelerator.gather(here).min())

    def state_dict(self) -> dict[str, Any]:
        return {"position": self.position}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.position, self.reader = state["position"], None
        epoch, place = divmod(self.position, len(self.urls))
        log.info("going on at shard %d of %d in epoch %d", place, len(self.urls), epoch)


def is_shards(data: str) -> bool:
    """Whether `data` names shards: a path, pattern or address of .tar files, or their folder."""
    if Path(data).is_dir():
        return any(Path(data).glob("*.tar"))
    return is_remote(data) or data.endswith(".tar") or any(sign in data for sign in "*{")


def open_shards(
    data: str, side: int | None, seed: int = 0, **checks: int | None
) -> tuple[ShardStream, Samples]:
    """All shards but the last, and samples of the last. Arguments as for ShardStream."""
    urls = find_shards(data)
    if len(urls) < 2:
        raise ValueError(
            f"{data}: found 1 shard, expected 2 or more, since the last is held out for "
            "validation; `minidalle encode --per-shard` says how many samples go into each"
        )
    held_out = ShardStream(urls[-1:], side, seed, **checks).first()
    return ShardStream(urls[:-1], side, seed, **checks), held_out


def open_tokens(data: str, vqgan: VQGAN, name: str, seed: int = 0) -> tuple[ShardStream, Samples]:
    """Shards of image tokens, as `open_shards`, if this VQGAN made them; `name` is its name.

    Raises ValueError where another did. Shards without an index beside them, and those on a web
    server, are only checked for N and K, sample by sample.
    """
    folder = Path(find_shards(data)[0]).parent
    n, k = vqgan.config.image_length, vqgan.config.n_embed
    if not is_remote(data) and any((folder / file).is_file() for file in (INDEX, PLAN)):
        index = read_index(folder)
        if (index["image_length"], index["codebook_size"]) != (n, k):
            raise ValueError(
                f"{folder / INDEX}: {index['image_length']} image tokens below "
                f"{index['codebook_size']}; VQGAN {name} has {n} below {k}: encode with it"
            )
        if index["vqgan"] != (ours := fingerprint(vqgan)):
            raise ValueError(
                f"{folder / INDEX}: encoded with VQGAN {index['vqgan'][:12]}; {name} is VQGAN "
                f"{ours[:12]}: name the one it was encoded with, or encode with this one"
            )
    else:
        log.warning("%s: no %s to say which VQGAN made these shards", data, INDEX)
    try:
        return open_shards(data, None, seed, image_length=n, codebook_size=k)
    except ValueError as error:
        if "no image tokens" not in str(error):
            raise
        raise ValueError(f"{error}; `minidalle encode` turns pictures into them") from error
