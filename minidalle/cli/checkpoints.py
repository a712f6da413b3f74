"""The commands about checkpoints: `info` and `convert`."""

from __future__ import annotations

import json
import sys
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
        lines.append(
            f"{name}: {part['parameters']:,} parameters in {part['precision']}, "
            f"layout {part['layout']}{variant}"
        )
        lines += [f"  {file}  {size / 1e6:,.1f} MB" for file, size in part["files"].items()]
        lines.append("  " + ", ".join(f"{field} {v}" for field, v in part["config"].items()))
    if facts["text_tokens"]:
        lines.append(f"tokenizer: {facts['text_tokens']:,} text tokens")
    lines.append("memory to draw n pictures, in MB, Python and torch not counted:")
    lines.append(f"  {'dtype':10}" + "".join(f"{f'n = {n}':>10}" for n in (1, 4, 9, 16)))
    for dtype in ("float32", "bfloat16"):
        rows = [row for row in facts["memory"] if row["dtype"] == dtype]
        for name, peak in ((dtype, "peak"), ("  packed", "peak_packed")):
            lines.append(f"  {name:10}" + "".join(f"{row[peak] / 1e6:10,.1f}" for row in rows))
    lines.append("packed: with weights in a CPU's order as well, for speed where memory is plenty")
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
    """Write a checkpoint of any layout as a folder of minidalle's own, which loads in a moment.

    A Bart from the hub gets the published VQGAN, unless --vqgan names another.
    """
    from minidalle.checkpoints import locate, to_dtype
    from minidalle.checkpoints.convert import convert, find_parts
    from minidalle.pipeline import PUBLISHED_VQGAN

    found = locate(source, revision=revision, variant=variant)
    parts = find_parts(found, variant=variant, drop_classes=drop_classes)
    alone = vqgan is None and list(parts) == ["bart"]
    if alone and not Path(source).exists():  # from the hub, where the VQGAN is published apart
        vqgan, alone = PUBLISHED_VQGAN, False
    convert(
        found,
        folder,
        vqgan=None if vqgan is None else locate(vqgan),
        variant=variant,
        dtype=to_dtype(dtype),
        drop_classes=drop_classes,
    )
    if alone:
        print(f"{folder} has no VQGAN, as {source} has none; --vqgan adds one", file=sys.stderr)
    options.say(folder)
