"""The commands about checkpoints: `info`, `convert` and `bench`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from minidalle.cli import options

INFO_EXAMPLES = options.examples(
    "info apples.png", "info runs/emoji", "info pretrained --variant mega --json"
)
CONVERT_EXAMPLES = options.examples(
    "convert dalle-mini/dalle-mini mini --dtype bfloat16",
    "convert pretrained mega --variant mega --dtype float16",
    "convert last.ckpt vqgan --drop-classes",
)

bench_app = typer.Typer(
    help="Measure speed and peak memory, in this process.", rich_markup_mode=None
)
Checkpoint = Annotated[
    str, typer.Argument(metavar="CHECKPOINT", help="A folder or file, or an id on the hub.")
]

NewFolder = Annotated[Path, typer.Argument(metavar="FOLDER", help="New folder to write.")]


def info(
    path: Annotated[
        str, typer.Argument(metavar="PATH", help="A picture that minidalle wrote, or a checkpoint.")
    ],
    revision: options.Revision = None,
    variant: options.Variant = None,
    as_json: options.Json = False,
) -> None:
    """Say what a picture was made with, or what a checkpoint holds, without loading it."""
    from minidalle.pictures import FORMATS, printable, read_metadata

    if Path(path).suffix.lower() in FORMATS and not Path(path).is_dir():
        facts = read_metadata(Path(path))
        lines = [
            f"{name}: {value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)}"
            for name, value in facts.items()
        ]
    else:
        from minidalle.checkpoints import locate
        from minidalle.checkpoints.convert import describe

        source = locate(path, revision=revision, variant=variant)
        facts = describe(source, variant=variant)
        lines = lines_about(facts)
    if as_json:
        options.say(json.dumps(facts, indent=2))
    else:
        options.say(*map(printable, lines))


def lines_about(facts: dict[str, Any]) -> list[str]:
    """A checkpoint's description, as a person reads it."""
    lines = [facts["path"]]
    for name, part in facts["parts"].items():
        variant = f", {part['variant']}" if part["variant"] else ""
        lines.append(f"{name}: {part['parameters']:,} parameters, layout {part['layout']}{variant}")
        lines += [f"  {file}  {size / 1e6:,.1f} MB" for file, size in part["files"].items()]
        lines.append("  " + ", ".join(f"{field} {v}" for field, v in part["config"].items()))
    if facts["text_tokens"]:
        lines.append(f"tokenizer: {facts['text_tokens']:,} text tokens")
    lines.append("memory to draw n pictures, in MB, Python and torch not counted:")
    lines.append(f"  {'dtype':10}" + "".join(f"{f'n = {n}':>10}" for n in (1, 4, 9, 16)))
    for dtype in ("float32", "bfloat16"):
        peaks = [row["peak"] / 1e6 for row in facts["memory"] if row["dtype"] == dtype]
        lines.append(f"  {dtype:10}" + "".join(f"{peak:10,.1f}" for peak in peaks))
    return lines


def convert(
    source: Checkpoint,
    folder: NewFolder,
    vqgan: options.Vqgan = None,
    revision: options.Revision = None,
    variant: options.Variant = None,
    dtype: Annotated[
        str, typer.Option(help="Precision to store: float32, float16, bfloat16.")
    ] = "float32",
    drop_classes: Annotated[
        bool, typer.Option("--drop-classes", help="Pass over pickled classes in a .ckpt.")
    ] = False,
) -> None:
    """Write a checkpoint of any layout as a folder of minidalle's own, which loads in a moment."""
    from minidalle.checkpoints import locate, to_dtype
    from minidalle.checkpoints.convert import convert

    convert(
        locate(source, revision=revision, variant=variant),
        folder,
        vqgan=None if vqgan is None else locate(vqgan),
        variant=variant,
        dtype=to_dtype(dtype),
        drop_classes=drop_classes,
    )
    options.say(folder)


@bench_app.command(name="load", epilog=options.examples("bench load mini --dtype bfloat16"))
def bench_load(
    path: Checkpoint, dtype: options.Dtype = "float32", as_json: options.Json = False
) -> None:
    """Load a Bart, or a checkpoint that is only a VQGAN."""
    from minidalle.bench import bench_load
    from minidalle.checkpoints import locate

    report(bench_load(locate(path), dtype), as_json)


@bench_app.command(name="convert", epilog=options.examples("bench convert dalle-mini mini"))
def bench_convert(
    path: Checkpoint,
    folder: NewFolder,
    dtype: options.Dtype = "float32",
    as_json: options.Json = False,
) -> None:
    """Convert a checkpoint."""
    from minidalle.bench import bench_convert
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
    from minidalle.bench import bench_train

    figures = bench_train(
        size, batch_size=batch_size, steps=steps, precision=precision, device=device
    )
    options.say(json.dumps(figures, indent=2) if as_json else "\n".join(lines_of_training(figures)))


def lines_of_training(told: dict[str, Any]) -> list[str]:
    """What `bench_train` measured, as a person reads it."""
    on, head = told["machine"], f"{'parameters':>16}{'F':>7}{'first loss':>12}"
    rows = [
        f"{name:<14}{m['parameters']:>16,}{m['ffn_dim']:>7}{m['first_loss']:>12.3f}"
        f"{with_quartiles(m['step']):>25}{m['pictures_per_second']:>14.1f}"
        for name, m in told["models"].items()
    ]
    growth = [
        f"{row['smaller']:<14}{row['parameters']:>16,}{row['flops_ratio']:>10.2f}"
        f"{with_quartiles(row['time_ratio']):>25}{row['step']['median']:>12.3f}"
        for row in told["growth"]
    ]
    return [
        f"{on['gpu'] or on['processor']}, threads {on['threads']}, Python {on['python']}, "
        f"torch {on['torch']}, transformers {on['transformers']}, minidalle {on['minidalle']}",
        f"one training step of size {told['size']}: batch {told['batch_size']}, "
        f"T {told['text_length']}, N {told['image_length']}, {told['precision']}, AdamW; "
        f"medians (quartiles) of {told['steps']}",
        "",
        f"{'':14}{head}{'seconds':>25}{'pictures/s':>14}",
        *rows,
        f"throughput, minidalle / transformers: {with_quartiles(told['ratio'])}; "
        f"a first loss of ln K′ = {told['ln_k']:.3f} is a uniform guess",
        "",
        "how much more the whole takes than a smaller Bart",
        f"{'':14}{'parameters':>16}{'FLOPs ×':>10}{'time ×':>25}{'seconds':>12}",
        *growth,
    ]


def with_quartiles(spread: dict[str, float]) -> str:
    """A median, and the quartiles in parentheses."""
    return f"{spread['median']:.3f} ({spread['low']:.3f} – {spread['high']:.3f})"


def report(figures: dict[str, Any], as_json: bool) -> None:
    """Print what was measured."""
    if as_json:
        options.say(json.dumps(figures))
    else:
        options.say(f"{figures['seconds']:.1f} s, {figures['peak_bytes'] / 2**30:.2f} GiB")
