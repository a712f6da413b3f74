"""The command line's `train` commands."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Annotated

import typer

from minidalle.cli import options

train_app = typer.Typer(
    help="Train a part of the model. The same command goes on after a crash.", rich_markup_mode=None
)

SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="NAME=VALUE", help="Set any field of the preset; repeatable."),
]
RunOption = Annotated[
    Path, typer.Option("--run", help="Run folder: logs, samples, checkpoints, the trained part.")
]
PresetOption = Annotated[
    str, typer.Option(help="Settings to start from: emoji; for vqgan also emoji-finish.")
]


@train_app.command(
    name="vqgan",
    epilog=options.examples(
        "train vqgan --run runs/vqgan",
        "train vqgan --run runs/quick --set steps=500 --set lr=1e-3",
    ),
)
def train_vqgan(run: RunOption, preset: PresetOption = "emoji", settings: SetOption = None) -> None:
    """Stage one: learn the mapping between pictures and image tokens."""
    from minidalle.training.loop import train
    from minidalle.training.settings import with_settings
    from minidalle.training.vqgan import VQGANTask, VQGANTrainConfig

    logging.basicConfig(level=logging.INFO, format="%(message)s")
    task, loop = with_settings(preset_of(VQGANTrainConfig, preset), settings or [])
    report(train(VQGANTask(task, loop), loop, run), run)


@train_app.command(
    name="bart", epilog=options.examples("train bart --vqgan runs/vqgan --run runs/emoji")
)
def train_bart(
    run: RunOption,
    vqgan: Annotated[Path, typer.Option(help="Folder of the trained VQGAN.")],
    preset: PresetOption = "emoji",
    settings: SetOption = None,
) -> None:
    """Stage two: learn which image tokens belong to which captions. Writes the whole model."""
    from minidalle.training.bart import BartTask, BartTrainConfig
    from minidalle.training.loop import train
    from minidalle.training.settings import with_settings

    logging.basicConfig(level=logging.INFO, format="%(message)s")
    task, loop = with_settings(
        preset_of(BartTrainConfig, preset), [f"vqgan={vqgan}", *(settings or [])]
    )
    report(train(BartTask(task, loop), loop, run), run)


def preset_of(kind: type, name: str) -> tuple:
    """A training preset by its name."""
    presets = kind.presets()
    if name not in presets:
        raise ValueError(f"there is no preset {name!r}; there are: {', '.join(presets)}")
    return presets[name]


def report(figures: dict[str, float], run: Path) -> None:
    """Say what came of a training run."""
    print(", ".join(f"{name} {value:.3f}" for name, value in figures.items()))
    print(run)
