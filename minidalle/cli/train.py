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
# The defaults have no time or number in them: that way all processes of a run, and the command that
# goes on after a crash, mean the same folder.
RunOption = Annotated[
    Path, typer.Option("--run", help="Run folder: logs, samples, checkpoints, the trained part.")
]
PresetOption = Annotated[
    str,
    typer.Option(
        help="Settings to start from: emoji; to go on from its run, emoji-finish (vqgan, bart), "
        "then emoji-crisp (vqgan); mini (tokenizer, bart)."
    ),
]
DataOption = Annotated[
    str | None,
    typer.Option(
        help="What to learn from: emoji, emoji-more, emoji-filled, shapes, a folder of captioned "
        "pictures, or shards: *.tar, braces, addresses, the folder that `encode` wrote [default: "
        "the preset's]."
    ),
]


@train_app.command(
    name="tokenizer",
    epilog=options.examples(
        "train tokenizer --data pictures --run runs/tokenizer --set vocab_size=4096",
        "train bart --data pictures --set tokenizer=runs/tokenizer --vqgan runs/vqgan --run runs/a",
    ),
)
def train_tokenizer(
    run: Annotated[Path, typer.Option("--run", help="Folder for tokenizer.json.")],
    data: DataOption = None,
    preset: Annotated[str, typer.Option(help="Settings to start from: emoji, mini.")] = "emoji",
    settings: SetOption = None,
) -> None:
    """Learn the text tokens from captions. Without it, `train bart` learns its own."""
    from minidalle.training import tokenizer
    from minidalle.training.settings import with_settings

    presets = preset_of(tokenizer.TokenizerTrainConfig, preset)
    (config,) = with_settings(presets, [*with_data(data), *(settings or [])])
    learned = tokenizer.train_tokenizer(config, run)
    print(f"vocabulary size {learned.vocab_size}")
    print(run)


@train_app.command(
    name="vqgan",
    epilog=options.examples(
        "train vqgan",
        "train vqgan --run runs/quick --set steps=500 --set lr=1e-3",
        "train vqgan --run runs/mine --data pictures",
    ),
)
def train_vqgan(
    run: RunOption = Path("runs/vqgan"),
    data: DataOption = None,
    preset: PresetOption = "emoji",
    settings: SetOption = None,
) -> None:
    """Stage one: learn the mapping between pictures and image tokens."""
    from minidalle.training.vqgan import VQGANTask, VQGANTrainConfig

    given = [*with_data(data), *(settings or [])]
    run_training(VQGANTask, VQGANTrainConfig, preset, given, run)


@train_app.command(
    name="bart", epilog=options.examples("train bart --vqgan runs/vqgan --run runs/emoji")
)
def train_bart(
    vqgan: Annotated[
        str, typer.Option(help="The trained VQGAN: a folder or file, or a hub id (owner/name@…).")
    ],
    run: RunOption = Path("runs/bart"),
    data: DataOption = None,
    preset: PresetOption = "emoji",
    settings: SetOption = None,
) -> None:
    """Stage two: learn which image tokens belong to which captions. Writes the whole model."""
    from minidalle.training.bart import BartTask, BartTrainConfig

    given = [f"vqgan={vqgan}", *with_data(data), *(settings or [])]
    run_training(BartTask, BartTrainConfig, preset, given, run)


@train_app.command(
    name="clip", epilog=options.examples("train clip --model runs/emoji --run runs/clip")
)
def train_clip(
    run: RunOption = Path("runs/clip"),
    model: Annotated[
        str | None,
        typer.Option(help="Folder or hub id of a whole model, to be written with the CLIP in it."),
    ] = None,
    data: DataOption = None,
    preset: PresetOption = "emoji",
    settings: SetOption = None,
) -> None:
    """Learn which captions and pictures belong together, to sort pictures by (`rerank`)."""
    from minidalle.training.clip import CLIPTask, CLIPTrainConfig

    given = [*([f"model={model}"] if model else []), *with_data(data), *(settings or [])]
    run_training(CLIPTask, CLIPTrainConfig, preset, given, run)


def run_training(task: type, config: type, preset: str, given: list[str], run: Path) -> None:
    """Train one part, from its preset with the given settings, and say what came of it."""
    from minidalle.training.loop import train
    from minidalle.training.processes import part_company
    from minidalle.training.settings import with_settings

    logging.basicConfig(level=logging.INFO, format="%(message)s")
    settings, loop = with_settings(preset_of(config, preset), given)
    figures = train(task(settings, loop), loop, run)
    part_company()
    if not figures:  # in all processes but the main one
        return
    print(", ".join(f"{name} {value:.3f}" for name, value in figures.items()))
    print(run)


def with_data(data: str | None) -> list[str]:
    """What --data sets."""
    return [] if data is None else [f"data={data}"]


def preset_of(kind: type, name: str) -> tuple:
    """A training preset by its name."""
    presets = kind.presets()
    if name not in presets:
        raise ValueError(f"there is no preset {name!r}; there are: {', '.join(presets)}")
    return presets[name]
