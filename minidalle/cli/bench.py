"""`minidalle bench`: speed and peak memory of generation, training, loading and converting."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from minidalle.cli import checkpoints, options

EXAMPLES = options.examples(
    "bench",
    "bench --pictures 1 --tokens 32 --json bench.json",
    "bench --part limits --part step --only ours-bfloat16",
    "bench --size mega --device cuda --rounds 5",
)
bench_app = typer.Typer(rich_markup_mode=None, epilog=EXAMPLES)

Only = Annotated[
    list[str] | None,
    typer.Option(
        help="Contestant: ours, min-dalle or transformers with -float32 or -bfloat16; again for "
        "more [default: all; in bfloat16 where this machine has it]."
    ),
]
Stored = Annotated[
    str | None,
    typer.Option(
        help="Round everybody's random weights to float16 or bfloat16, as a checkpoint stored so "
        "has them: some processors gain by it [default: they are not rounded]."
    ),
]


@bench_app.callback(invoke_without_command=True)
def bench_generation(
    context: typer.Context,
    size: Annotated[str, typer.Option(help="Preset: tiny, emoji, mini, mega.")] = "mini",
    pictures: Annotated[
        list[int] | None,
        typer.Option(help="Pictures at once, a square number; again for more [default: 1 and 9]."),
    ] = None,
    tokens: Annotated[
        int | None, typer.Option(help="Cut everybody to so many image tokens [default: all].")
    ] = None,
    rounds: Annotated[int, typer.Option(help="How often each is timed.")] = 3,
    part: Annotated[
        list[str] | None,
        typer.Option(
            help="limits, road, step, decode, transformers, growth; again for more [default: all]."
        ),
    ] = None,
    only: Only = None,
    device: options.Device = "cpu",
    threads: Annotated[
        int | None, typer.Option(help="Of each contestant [default: as many as torch takes].")
    ] = None,
    stored: Stored = None,
    json_file: Annotated[
        Path | None, typer.Option("--json", metavar="FILE", help="Write every figure there.")
    ] = None,
) -> None:
    """Time generation beside min-dalle and transformers, and the limits of this machine.

    They take turns, each in a process of its own, with random weights: nothing is downloaded. At
    size mini, min-dalle takes minutes a round on a CPU. min-dalle is measured where it is
    installed: pip install 'minidalle[bench]'. The commands below measure other things.
    """
    if context.invoked_subcommand is not None:
        return
    from minidalle.bench.generation import PARTS, bench_generation
    from minidalle.bench.table import lines_of_generation

    def keep(told: dict[str, Any]) -> None:
        if json_file is not None:
            write_json(json_file, told)

    told = bench_generation(
        size,
        pictures=pictures or (1, 9),
        tokens=tokens,
        rounds=rounds,
        parts=part or PARTS,
        only=only or None,
        device=device,
        threads=threads,
        stored=stored,
        say=lambda line: typer.echo(line, err=True),
        keep=keep,
    )
    options.say(*lines_of_generation(told))


def write_json(path: Path, told: dict[str, Any]) -> None:
    """Whole or not at all."""
    unfinished = path.with_name(f".{path.name}.tmp")
    unfinished.write_text(json.dumps(told, indent=2) + "\n")
    unfinished.replace(path)


@bench_app.command(name="load", epilog=options.examples("bench load mini --dtype bfloat16"))
def bench_load(
    path: checkpoints.Checkpoint, dtype: options.Dtype = "float32", as_json: options.Json = False
) -> None:
    """Load a Bart, or a checkpoint that is only a VQGAN."""
    from minidalle.bench.memory import bench_load
    from minidalle.checkpoints import locate

    report(bench_load(locate(path), dtype), as_json)


@bench_app.command(name="convert", epilog=options.examples("bench convert dalle-mini mini"))
def bench_convert(
    path: checkpoints.Checkpoint,
    folder: checkpoints.NewFolder,
    dtype: options.Dtype = "float32",
    as_json: options.Json = False,
) -> None:
    """Convert a checkpoint."""
    from minidalle.bench.memory import bench_convert
    from minidalle.checkpoints import locate

    report(bench_convert(locate(path), folder, dtype), as_json)


@bench_app.command(
    name="train",
    epilog=options.examples(
        "bench train", "bench train --size mini --device cuda --precision bfloat16 --batch-size 8"
    ),
)
def bench_train(
    size: Annotated[str, typer.Option(help="Preset of Bart: tiny, emoji, mini, mega.")] = "emoji",
    batch_size: Annotated[int, typer.Option(help="Pictures per training step.")] = 16,
    steps: Annotated[int, typer.Option(help="How often each step is timed.")] = 10,
    precision: Annotated[str, typer.Option(help="float32, or bfloat16 for autocast.")] = "float32",
    device: options.Device = "cpu",
    as_json: options.Json = False,
) -> None:
    """Train Bart for a few steps beside transformers' BART of as many parameters.

    The two take turns, on the same random batch, with the same optimizer. Then the same is done
    with Bart and smaller ones: what a step costs as width, layers and image tokens grow.
    """
    from minidalle.bench.table import lines_of_training
    from minidalle.bench.training import bench_train

    figures = bench_train(
        size, batch_size=batch_size, steps=steps, precision=precision, device=device
    )
    options.say(json.dumps(figures, indent=2) if as_json else "\n".join(lines_of_training(figures)))


def report(figures: dict[str, Any], as_json: bool) -> None:
    """Print what was measured."""
    if as_json:
        options.say(json.dumps(figures))
    else:
        options.say(f"{figures['seconds']:.1f} s, {figures['peak_bytes'] / 2**30:.2f} GiB")
