"""Shards: captioned pictures, or image tokens, that are streamed from tar files.

For data that outgrow a folder, on disk or on a web server. One sample is

    17.jpg (.jpeg, .png, .webp) + 17.txt     a picture and its captions, one a line, or
    17.tokens.npy + 17.txt                   its image tokens, (N,) uint16 or int32

The epochs' random orders of shards are laid end to end; a place in that endless row is a shard's
*position*. Of C readers (processes × workers), reader c takes the positions p with p mod C = c. So
together they see each sample of an epoch exactly once, and none ever runs dry, however unequal the
shards, and even with fewer shards than readers: with unequal ones some readers only come earlier
into the next epoch. The order inside a shard depends on the seed and its position alone, so reading
can begin at any position as if all before it had been read.
"""

from __future__ import annotations

import io
import itertools
import logging
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import IterableDataset, get_worker_info

from minidalle.data.folder import caption_lines, to_square
from minidalle.data.tar import RawSample, find_shards, read_shard
from minidalle.pictures import identify, to_rgb

log = logging.getLogger(__name__)

PICTURES, TOKENS, TEXT = ("jpg", "jpeg", "png", "webp"), "tokens.npy", "txt"
MAX_FRUITLESS = 100  # shards in a row that give nothing: then it is looked whether any does
# How an .npy file begins that holds a row of integers, as NumPy writes it; no other is read.
NPY = re.compile(
    rb"\x93NUMPY\x01\x00..\{'descr': '(<u2|<i4)', 'fortran_order': False, "
    rb"'shape': \((\d{1,8}),\), \} *\n",
    re.DOTALL,
)


class Sample(NamedTuple):
    """What a reader gives."""

    content: Tensor  # picture (3, S, S) in [0, 1], or image tokens (N,)
    caption: str  # one of its captions, each as likely
    position: int  # of its shard
    name: str  # of its shard, and of it in there, as in "shards/003.tar: 17"


class ShardReader(IterableDataset):
    """Captioned pictures, or image tokens, from shards; a DataLoader may share it among workers.

    It divides the shards by itself: a loader of it is not to be prepared by accelerate, too.
    """

    def __init__(
        self,
        urls: str | Path | Sequence[str | Path],
        side: int | None = None,
        *,
        seed: int = 0,
        epochs: int | None = None,
        skip_shards: int = 0,
        rank: int = 0,
        world_size: int = 1,
        buffer: int = 1000,
        image_length: int | None = None,
        codebook_size: int | None = None,
    ):
        """Find the shards; none is opened yet.

        urls: paths, http(s) addresses, patterns (`*`, `{000..099}`, `{a,b}`) or folders.
        side: S, for shards of pictures; None for shards of image tokens.
        seed: of every random order.
        epochs: the stream's end, counted from position 0; None = never, as training needs it, since
            processes come to an end after different numbers of samples.
        skip_shards: the position to begin at; epoch e begins at e · len(self.urls). To go on with a
            run, the smallest position among the last batches of all processes and workers.
        rank, world_size: which process this is, and of how many.
        buffer: undecoded samples held for shuffling; with a whole shard in it, any order can come.
        image_length, codebook_size: N and K, which tokens are checked against; None takes any.
        Raises ValueError for other addresses, and for a pattern or folder that finds nothing.
        """
        super().__init__()
        if not 0 <= rank < world_size or skip_shards < 0 or buffer < 1:
            raise ValueError(
                f"{rank=}, {world_size=}, {skip_shards=}, {buffer=}: expected 0 <= rank < "
                "world_size, skip_shards of at least 0 and buffer of at least 1"
            )
        self.urls, self.side, self.seed, self.epochs = find_shards(urls), side, seed, epochs
        self.skip_shards, self.rank, self.world_size = skip_shards, rank, world_size
        self.buffer, self.image_length, self.codebook_size = buffer, image_length, codebook_size
        self.counts = torch.zeros(256, 2, dtype=torch.int64).share_memory_()  # a row per worker
        self.logged: set[str] = set()

    @property
    def skipped(self) -> dict[str, int]:
        """How often a shard was given up, or a sample left out; workers included. The log names it.

        Of a shard that breaks in the middle the samples before are given.
        """
        return dict(zip(("shards", "samples"), self.counts.sum(0).tolist(), strict=True))

    def __iter__(self) -> Iterator[Sample]:
        """This process's, or worker's, samples; ValueError where no shard has any."""
        worker = get_worker_info()
        number, workers = (worker.id, worker.num_workers) if worker else (0, 1)
        reader, readers = self.rank + self.world_size * number, self.world_size * workers
        first = self.skip_shards + (reader - self.skip_shards) % readers
        positions = itertools.count(first, readers)
        if self.epochs is not None:
            positions = range(first, self.epochs * len(self.urls), readers)
        fruitless = 0
        for position in positions:
            fruitless += 1
            for sample in self.read(position):
                fruitless = 0
                yield sample
            if fruitless == min(len(self.urls), MAX_FRUITLESS):
                self.check_readable()
                fruitless = 0
        if fruitless:
            self.check_readable()

    def read(self, position: int) -> Iterator[Sample]:
        """The samples of the shard at a position; what cannot be read is counted."""
        epoch, place = divmod(position, len(self.urls))
        order = torch.randperm(len(self.urls), generator=chance(self.seed, 2 * epoch))
        url, generator = self.urls[order[place]], chance(self.seed, 2 * position + 1)
        for raw in shuffled(self.readable(url), self.buffer, generator):
            try:
                yield Sample(*self.decode(raw, generator), position, f"{url}: {raw.key}")
            except ValueError as error:
                self.skip("samples", f"{url}: sample {raw.key!a}: {error}")

    def readable(self, url: str) -> Iterator[RawSample]:
        """A shard's samples up to its end, or to where it cannot be read on."""
        try:
            yield from read_shard(url)
        except ValueError as error:
            self.skip("shards", str(error))

    def skip(self, kind: str, reason: str) -> None:
        """Count a shard or a sample that is left out, and log it the first time."""
        worker = get_worker_info()
        self.counts[worker.id % 256 if worker else 0, int(kind == "samples")] += 1
        if reason not in self.logged:
            self.logged.add(reason)
            log.warning("skipped %s", reason)

    def check_readable(self) -> None:
        """Raise ValueError unless one of the first MAX_FRUITLESS shards has a good sample."""
        reason = "they are empty"
        for url in self.urls[:MAX_FRUITLESS]:
            try:
                for raw in read_shard(url):
                    try:
                        self.decode(raw, chance(0, 0))
                        return
                    except ValueError as error:
                        reason = f"{url}: sample {raw.key!a}: {error}"
            except ValueError as error:
                reason = str(error)
        raise ValueError(f"no sample of {len(self.urls)} shards can be read; the last: {reason}")

    def decode(self, raw: RawSample, generator: torch.Generator) -> tuple[Tensor, str]:
        """Content and one caption of a sample; ValueError says what is wrong with it."""
        captions = captions_of(raw)
        caption = captions[int(torch.randint(len(captions), (), generator=generator))]
        if self.side is not None:
            return picture_of(raw, self.side), caption
        tokens = tokens_of(raw)
        if self.image_length not in (None, len(tokens)):
            raise ValueError(f"{len(tokens)} image tokens; expected {self.image_length}")
        if tokens.min() < 0 or tokens.max() >= (self.codebook_size or 2**31):
            raise ValueError(f"an image token is not from 0 to below {self.codebook_size}")
        return tokens, caption


def shuffled(
    samples: Iterable[RawSample], size: int, generator: torch.Generator
) -> Iterator[RawSample]:
    """The samples in random order, of which at most `size` are held at a time."""
    buffer: list[RawSample] = []
    for sample in samples:
        if len(buffer) < size:
            buffer.append(sample)
            continue
        chosen = int(torch.randint(size, (), generator=generator))
        yield buffer[chosen]
        buffer[chosen] = sample
    for chosen in torch.randperm(len(buffer), generator=generator).tolist():
        yield buffer[chosen]


def chance(seed: int, number: int) -> torch.Generator:
    """The source of all that is random under this number."""
    return torch.Generator().manual_seed((seed * 1_000_003 + number) % 2**63)


def captions_of(raw: RawSample) -> list[str]:
    """A sample's captions; ValueError where it has none, or was found damaged."""
    if raw.damage or TEXT not in raw.files:
        raise ValueError(raw.damage or f"no caption (.{TEXT})")
    return caption_lines(raw.files[TEXT])


def picture_of(raw: RawSample, side: int) -> Tensor:
    """The middle square of a sample's picture, (3, S, S) in [0, 1]; ValueError for none."""
    for suffix in PICTURES:
        if suffix in raw.files:
            name = f".{suffix}"
            picture = identify(io.BytesIO(raw.files[suffix]), name)
            return to_square(to_rgb(picture, name), side)
    raise ValueError(f"no picture (.{', .'.join(PICTURES)}); it has {sorted(raw.files)}")


def tokens_of(raw: RawSample) -> Tensor:
    """A sample's image tokens (N,) as int64; ValueError where they are not as we write them."""
    if TOKENS not in raw.files:
        raise ValueError(f"no image tokens (.{TOKENS}); it has {sorted(raw.files)}")
    data = raw.files[TOKENS]
    if not (header := NPY.match(data)):
        raise ValueError(f".{TOKENS} is no row of uint16 or int32 as NumPy writes it")
    kind, length = np.dtype(header[1].decode()), int(header[2])
    if length < 1 or len(data) != header.end() + length * kind.itemsize:
        raise ValueError(f".{TOKENS} has {len(data)} bytes, which are not {length} tokens")
    return torch.from_numpy(np.frombuffer(data, kind, offset=header.end()).astype(np.int64))
