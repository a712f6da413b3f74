"""What the commands share: their options, help's examples, and how lines are printed."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer


def examples(*lines: str) -> str:
    """Help's last paragraph: each example on a line of its own."""
    return "Examples:\n\n\b\n" + "\n".join(f"  minidalle {line}" for line in lines)


def say(*lines: object) -> None:
    """Print lines at once, above the progress bar if there is one."""
    from tqdm import tqdm

    for line in lines:
        tqdm.write(str(line), file=sys.stdout)
    sys.stdout.flush()


Model = Annotated[
    str | None,
    typer.Option(help="Checkpoint: a folder, or an id on the hub [default: the embedded model]."),
]
Vqgan = Annotated[
    str | None, typer.Option(help="Checkpoint of the VQGAN, for a model without one.")
]
Revision = Annotated[str | None, typer.Option(help="Commit, tag or branch on the hub, for an id.")]
Variant = Annotated[
    str | None, typer.Option(help="Which one, where a folder holds two: mini, mega.")
]
Device = Annotated[str, typer.Option(help="Where to compute: cpu, cuda.")]
Dtype = Annotated[
    str,
    typer.Option(
        help="Precision: float32, bfloat16, float16. auto: on a GPU bfloat16, or float16 where it "
        "has no bfloat16; on a CPU float32, but bfloat16 for a large model where it is fast."
    ),
]
CudaGraphs = Annotated[
    bool,
    typer.Option("--cuda-graphs", help="On a GPU: record decoder steps and play them back."),
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]

Prompt = Annotated[
    list[str] | None, typer.Argument(metavar="PROMPT", help="What to draw; '' draws anything.")
]
Prompts = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help="File of more prompts: text, one a line, - = stdin; or .jsonl or .csv with prompt "
        "and, where they differ, n and seed.",
    ),
]
Count = Annotated[int, typer.Option("-n", help="Number of pictures per prompt.")]
Seed = Annotated[int, typer.Option(help="Seed of the first picture; the others count on.")]
Out = Annotated[
    Path, typer.Option("-o", "--out", help="Picture file to write: .png, .jpg or .webp.")
]
Separate = Annotated[bool, typer.Option("--separate", help="One file per picture: OUT-<seed>.png.")]
Folder = Annotated[
    Path | None,
    typer.Option(
        metavar="FOLDER",
        help="Draw into this folder instead, a PNG per picture: in batches over all prompts, and "
        "only what is not there yet.",
    ),
]
BatchSize = Annotated[
    int | None,
    typer.Option(min=1, help="With --folder: pictures drawn together.  [default: 16]"),
]
Stream = Annotated[
    bool, typer.Option("--stream", help="Rewrite the file eight times while the pictures form.")
]
Rerank = Annotated[
    bool, typer.Option("--rerank", help="Best first: sort the pictures by the model's CLIP.")
]
Timings = Annotated[bool, typer.Option("--timings", help="Print how long each stage took.")]

Temperature = Annotated[
    float | None, typer.Option(help="Above 1 more varied, below 1 safer; 0 = greedy.")
]
TopK = Annotated[
    int | None, typer.Option(help="Draw from so many of the likeliest tokens; 0 = all.")
]
TopP = Annotated[
    float | None, typer.Option(help="Draw from the likeliest tokens up to this probability.")
]
Scale = Annotated[float | None, typer.Option(help="How strongly to follow the prompt; 1 = off.")]
ImagePrompt = Annotated[
    Path | None, typer.Option(metavar="FILE", help="Picture whose beginning is kept.")
]
Keep = Annotated[float, typer.Option(min=0, max=1, help="Share of it that is kept, from the top.")]
