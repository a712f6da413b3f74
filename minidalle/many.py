"""Many prompts: a folder of pictures, drawn in batches, by one process or by many.

What is there already is not drawn again (`picture_folder.py`), so that a call which was killed is
simply made again, and a file of prompts may grow.

Several processes, on one machine or on many, share the pictures without a word to each other: which
ones are whose follows from the list of all that are wanted, and not from what is there when a
process looks. So none waits for another, one that dies stops nobody, and machines need not have a
disk in common.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

from minidalle.picture_folder import is_whole, prepare_folder, settings_of
from minidalle.pictures import write_picture
from minidalle.pipeline import MiniDalle
from minidalle.prompts import Request, Wanted, plan_pictures
from minidalle.result import Result
from minidalle.sampling import SamplingConfig

BATCH = 16  # pictures drawn together
HAND = 8  # pictures dealt out at a time, so that those of one prompt mostly stay together
# What torchrun and `accelerate launch` tell a process about itself, and MPI's names for it.
RANKS = ("RANK", "PMI_RANK", "OMPI_COMM_WORLD_RANK", "MV2_COMM_WORLD_RANK")
SIZES = ("WORLD_SIZE", "PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE")
LOCALS = (
    "LOCAL_RANK", "MPI_LOCALRANKID", "OMPI_COMM_WORLD_LOCAL_RANK", "MV2_COMM_WORLD_LOCAL_RANK",
)  # fmt: skip


class Share(NamedTuple):
    """Which of several processes this one is."""

    index: int = 0  # from 0 to count-1
    count: int = 1  # processes on all machines
    local_index: int = 0  # on this machine, which is also the number of its GPU


ALONE = Share()


class Drawn(NamedTuple):
    """What a process did for its share."""

    drawn: int  # pictures that it made
    existing: int  # pictures that were there


def draw_folder(
    model: MiniDalle,
    requests: Iterable[Request],
    folder: str | Path,
    *,
    sampling: SamplingConfig | None = None,
    batch_size: int = BATCH,
    share: Share = ALONE,
    progress: Callable[[int, int], None] | None = None,
) -> Drawn:
    """Draw the pictures that are wanted and not there yet, this process's share of them.

    folder: is made where it is missing. Other files in it are left alone.
    sampling: None for the model's own defaults.
    batch_size: pictures drawn together, of whatever prompts, or fewer where the free memory is not
        enough; it changes no token in float32.
    progress: called with the pictures drawn so far, by their image tokens, and those to draw; first
        with none drawn.
    Raises ValueError where the folder's pictures were drawn in another way, OSError by the file's
    name where one cannot be written.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size is {batch_size}; it must be at least 1")
    folder, sampling = Path(folder), sampling or model.sampling
    wanted = plan_pictures(requests)
    mine = deal(wanted, share)
    prepare_folder(folder, settings_of(model, sampling), wanted, mine, share.index)
    missing = [picture for picture in mine if not is_whole(folder / picture.file)]
    progress, length = progress or (lambda done, total: None), model.bart.config.image_length
    progress(0, len(missing))
    with ThreadPoolExecutor(1) as writer:  # files are written while the next batch is drawn
        writing: list[Future[None]] = []
        done = 0
        while done < len(missing):
            batch = missing[done : done + model.most_at_once(batch_size)]
            pairs = [(picture.prompt, picture.seed) for picture in batch]
            for tokens in model.stream_pairs(pairs, sampling):
                progress(done + len(batch) * tokens.shape[1] // length, len(missing))
            results = model.results_of([(text, [each]) for text, each in pairs], tokens, sampling)
            finish(writing)
            paths = [folder / picture.file for picture in batch]
            writing = [writer.submit(write, *pair) for pair in zip(results, paths, strict=True)]
            done += len(batch)
        finish(writing)
    return Drawn(len(missing), len(mine) - len(missing))


def write(result: Result, path: Path) -> None:
    """Write the one picture of a result, with what it was made with."""
    write_picture(result.images[0], path, result.metadata())


def finish(writing: Sequence[Future[None]]) -> None:
    """Wait until the files are written; raise what was raised."""
    for future in writing:
        future.result()


def deal(wanted: Sequence[Wanted], share: Share) -> list[Wanted]:
    """One process's pictures, dealt out in hands, or in smaller ones where there are few.

    Every picture is some process's, and only one's.
    """
    hand = max(1, min(HAND, len(wanted) // share.count))
    return [p for i, p in enumerate(wanted) if i // hand % share.count == share.index]


def share_of_process() -> Share:
    """This process among those that torchrun, `accelerate launch` or MPI started with it.

    Raises ValueError where what they say makes no sense.
    """
    index, count, local = (number_of(*which) for which in ((RANKS, 0), (SIZES, 1), (LOCALS, 0)))
    if not 0 <= index < count or local < 0:
        raise ValueError(
            f"the environment has RANK {index}, WORLD_SIZE {count} and LOCAL_RANK {local}; "
            f"expected a rank below the size, as torchrun and accelerate launch set them"
        )
    return Share(index, count, local)


def number_of(names: Sequence[str], default: int) -> int:
    """The number in the first of these environment variables that is set."""
    name = next((name for name in names if name in os.environ), None)
    try:
        return default if name is None else int(os.environ[name])
    except ValueError:
        raise ValueError(f"{name}={os.environ[name]!r}; expected a whole number") from None
