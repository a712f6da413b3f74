"""Logs for those who watch many runs: accelerate's trackers, chosen by name.

Everything that is measured lies in the run folder, whether trackers get it, too, or not. A tracker
is imported where a run names it, and not before. None of them logs in anywhere, or sends what it
gets, unless its own environment variables ask for it.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from accelerate.tracking import LOGGER_TYPE_TO_CLASS, get_available_trackers

from minidalle.training.run_folder import flat

PROJECT = "minidalle"  # TensorBoard's files come to lie in a folder of this name


def tracker_names(trackers: str) -> list[str]:
    """The names in "tensorboard, wandb"; ValueError for one that is unknown or not installed."""
    names = [name.strip() for name in trackers.split(",") if name.strip()]
    known = sorted(map(str, LOGGER_TYPE_TO_CLASS))
    installed = [str(name) for name in get_available_trackers()]
    for name in names:
        if name not in known:
            raise ValueError(f"there is no tracker {name!r}; there are: {', '.join(known)}")
        if name not in installed:
            raise ValueError(f"tracker {name!r} is not installed: pip install {name}")
    return names


@contextmanager
def tracking(accelerator: Accelerator, run: Path, configs: dict[str, Any]) -> Iterator[None]:
    """A context in which the accelerator's trackers run, and get what is given to its `log`.

    configs: dataclasses by name, which the trackers show as the run's settings.
    """
    if accelerator.log_with:
        settings = flat({name: asdict(config) for name, config in configs.items()})
        kinds = (int, float, str)  # TensorBoard takes no others
        settings = {n: v if isinstance(v, kinds) else str(v) for n, v in settings.items()}
        accelerator.init_trackers(PROJECT, settings, options_of_trackers(run))
    try:
        yield
    finally:
        # Not by end_training(), which ends the process group, too: that is not ours to end.
        for tracker in accelerator.trackers:
            tracker.finish()


def options_of_trackers(run: Path) -> dict[str, dict[str, Any]]:
    """How those trackers are started that would send the logs away unless told not to."""
    asked, run = os.environ, run.resolve()
    return {
        "wandb": {"mode": asked.get("WANDB_MODE", "offline"), "dir": str(run), "name": run.name},
        "swanlab": {"mode": asked.get("SWANLAB_MODE", "offline"), "logdir": str(run / "swanlab")},
        "comet_ml": {} if "COMET_API_KEY" in asked else {"online": False},
    }
