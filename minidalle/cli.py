"""The command line: `minidalle generate`, `train`, `evaluate`.

What the user got wrong is said in one line on standard error, with exit code 2. Everything heavy is
imported by the command that needs it, so that `--help` answers at once.
"""

from __future__ import annotations

import json
import logging
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer
from typer.exceptions import TyperException

import minidalle

if TYPE_CHECKING:
    from PIL import Image

app = typer.Typer(
    help="DALL·E mini: a prompt becomes pictures.",
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
train_app = typer.Typer(
    help="Train a part of the model. The same command goes on after a crash.", rich_markup_mode=None
)
app.add_typer(train_app, name="train")


ModelOption = Annotated[
    Path | None, typer.Option(help="Folder of a checkpoint [default: the embedded model].")
]


@app.command(
    epilog='Example: minidalle generate "red apple, twemoji style" -n 9 --seed 7 -o apples.png'
)
def generate(
    prompt: Annotated[str, typer.Argument(help="What to draw. The empty prompt draws anything.")],
    n: Annotated[int, typer.Option("-n", help="Number of pictures.")] = 9,
    seed: Annotated[int, typer.Option(help="Seed of the first picture; the others count on.")] = 0,
    out: Annotated[
        Path, typer.Option("-o", "--out", help="Picture file to write: all pictures in a grid.")
    ] = Path("minidalle.png"),
    model: ModelOption = None,
    vqgan: Annotated[
        Path | None, typer.Option(help="Folder of the VQGAN, for a checkpoint without one.")
    ] = None,
    temperature: Annotated[
        float | None, typer.Option(help="Above 1 more varied, below 1 safer; 0 = greedy.")
    ] = None,
    top_k: Annotated[
        int | None, typer.Option(help="Draw from so many of the likeliest tokens; 0 = all.")
    ] = None,
    top_p: Annotated[
        float | None, typer.Option(help="Draw from the likeliest tokens up to this probability.")
    ] = None,
    condition_scale: Annotated[
        float | None, typer.Option(help="How strongly to follow the prompt; 1 = off.")
    ] = None,
    device: Annotated[str, typer.Option(help="Where to compute: cpu, cuda.")] = "cpu",
    dtype: Annotated[str, typer.Option(help="Precision: float32, bfloat16.")] = "float32",
    timings: Annotated[
        bool, typer.Option("--timings", help="Print how long each stage took.")
    ] = False,
) -> None:
    """Draw pictures of a prompt into one file."""
    check_output(out)
    stages: dict[str, float] = {}
    with timed("load", stages):
        from tqdm import tqdm

        from minidalle.pipeline import MiniDalle

        pipeline = MiniDalle.from_pretrained(model, vqgan=vqgan, device=device, dtype=dtype)
    with timed("draw tokens", stages):
        sampling = pipeline.sampling_with(
            temperature=temperature, top_k=top_k, top_p=top_p, condition_scale=condition_scale
        )
        steps = pipeline.stream_batch([prompt], n, seed, sampling, prefix=None)
        total = pipeline.bart.config.image_length + 1
        *_, tokens = tqdm(
            steps, total=total, desc="drawing", unit="token", disable=not sys.stderr.isatty()
        )
    with timed("decode pictures", stages):
        (result,) = pipeline.results([prompt], tokens, n, seed, sampling)
    with timed("write", stages):
        write_picture(result.grid(), out)
    print(out)
    if timings:
        print(", ".join(f"{name} {seconds:.1f} s" for name, seconds in stages.items()))


@app.command(epilog="Example: minidalle evaluate --model runs/emoji --split test")
def evaluate(
    model: ModelOption = None,
    split: Annotated[
        str, typer.Option(help="Emoji to measure on: train, validation, test.")
    ] = "test",
) -> None:
    """Measure a model on emoji pictures; print the figures as JSON."""
    from minidalle.data.emoji import EmojiDataset
    from minidalle.pipeline import MiniDalle
    from minidalle.training.evaluate import evaluate_model

    figures = evaluate_model(MiniDalle.from_pretrained(model), EmojiDataset(split))
    rounded = {p: {n: round(v, 4) for n, v in values.items()} for p, values in figures.items()}
    print(json.dumps(rounded, indent=2))


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
    name="vqgan", epilog="Example: minidalle train vqgan --run runs/vqgan --set steps=500"
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
    name="bart", epilog="Example: minidalle train bart --vqgan runs/vqgan --run runs/emoji"
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


@contextmanager
def timed(name: str, stages: dict[str, float]) -> Iterator[None]:
    """Note how many seconds the block took."""
    start = time.perf_counter()
    yield
    stages[name] = time.perf_counter() - start


def check_output(path: Path) -> None:
    """Raise where a picture could not be written at the end, before any work is done."""
    if path.suffix.lower() not in (".png", ".jpg", ".jpeg", ".webp"):
        raise ValueError(f"{path}: a picture's name ends in .png, .jpg or .webp")
    if path.is_dir() or not path.parent.is_dir() or not os.access(path.parent, os.W_OK):
        raise ValueError(
            f"{path}: cannot be written; is {path.parent} a folder that you may write to?"
        )


def write_picture(picture: Image.Image, path: Path) -> None:
    """Write a picture aside, then rename it into place."""
    temporary = path.with_name(f".{path.stem}.part{path.suffix}")
    try:
        picture.save(temporary)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


@app.callback(invoke_without_command=True)
def start(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
) -> None:
    if version:
        print(f"minidalle {minidalle.__version__}")
    elif context.invoked_subcommand is None:
        print(context.get_help())


def main() -> None:
    """Run the command line; the user's mistakes end in one line and exit code 2."""
    try:
        app(standalone_mode=False)
    except (KeyboardInterrupt, typer.Abort):
        print("minidalle: stopped", file=sys.stderr)
        sys.exit(130)
    except TyperException as error:
        complain(error.format_message())
    except (ValueError, OSError, FloatingPointError) as error:
        complain(str(error))


def complain(message: str) -> NoReturn:
    """Say in one line what was wrong, and end."""
    print(f"minidalle: {' '.join(message.split())}", file=sys.stderr)
    sys.exit(2)
