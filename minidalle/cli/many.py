"""`generate --folder`: many prompts into a folder, by one process or several."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from minidalle.cli.loading import timed

if TYPE_CHECKING:
    from minidalle.many import Share
    from minidalle.pipeline import MiniDalle
    from minidalle.prompts import Request


def check_modes(folder: Path | None, batch_size: int | None, others: dict[str, bool]) -> Share:
    """This process among those started with it; ValueError for options that do not go together.

    others: whether each option was given that --folder does not know.
    """
    from minidalle.many import share_of_process

    share = share_of_process()
    if folder is None and batch_size is not None:
        raise ValueError("--batch-size is about --folder, which is missing")
    if folder is None and share.count > 1:
        raise ValueError(f"{share.count} processes would draw the same; they share with --folder")
    if folder is not None and any(others.values()):
        name = next(name for name, given in others.items() if given)
        raise ValueError(f"--{name} does not go with --folder: there a picture is one file")
    return share


def own_device(device: str, share: Share) -> str:
    """Of several processes on a machine each has a GPU of its own."""
    import torch

    if device != "cuda" or share.count == 1:
        return device
    if share.local_index >= (gpus := torch.cuda.device_count()):
        raise ValueError(
            f"process {share.local_index + 1} of this machine finds no GPU of its own, there are "
            f"{gpus}; start as many processes as GPUs"
        )
    return f"cuda:{share.local_index}"


def draw_folder(
    load: Callable[[], MiniDalle],
    requests: Sequence[Request],
    folder: Path,
    batch_size: int | None,
    knobs: dict[str, Any],
    share: Share,
    stages: dict[str, float],
    say: Callable[..., None],
) -> dict[str, Any]:
    """Draw into a folder, a file per picture, what is not there; say what this process did."""
    from tqdm import tqdm

    from minidalle import many
    from minidalle.picture_folder import check_folder
    from minidalle.prompts import plan_pictures
    from minidalle.sampling import SamplingConfig

    SamplingConfig(**knobs)
    plan_pictures(requests)
    check_folder(folder)
    model = load()
    hidden = not sys.stderr.isatty() or share.index > 0
    what = "drawing" if share.count == 1 else f"drawing, process 1 of {share.count}"
    with timed("draw", stages), tqdm(desc=what, unit="picture", disable=hidden) as bar:

        def show(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        found = many.draw_folder(
            model, requests, folder,
            sampling=model.sampling_with(**knobs), batch_size=batch_size or many.BATCH,
            share=share, progress=show,
        )  # fmt: skip
    who = f"process {share.index + 1} of {share.count}: " if share.count > 1 else ""
    say(f"{who}{found.drawn} pictures drawn, {found.existing} were there already", folder)
    where = {"folder": str(folder), "process": share.index, "processes": share.count}
    return {**where, **found._asdict()}
