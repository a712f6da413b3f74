"""The command `encode`: pictures become shards of image tokens, once."""

from __future__ import annotations

import json
import logging
import sys
from pathlib import Path
from typing import Annotated

import typer

from minidalle.cli import options

ENCODE_EXAMPLES = options.examples(
    "encode pictures --vqgan runs/vqgan --out tokens",
    "encode 'shards/{000..099}.tar' --vqgan runs/vqgan --out tokens --device cuda",
    "train bart --vqgan runs/vqgan --data tokens --run runs/whole",
)


def encode(
    source: Annotated[
        str,
        typer.Argument(
            metavar="SOURCE",
            help="emoji, emoji-more, emoji-filled, shapes (what is trained on of them), a folder "
            "of captioned pictures, or shards of pictures: *.tar, braces, addresses.",
        ),
    ],
    vqgan: Annotated[str, typer.Option(help="Checkpoint of the VQGAN.")],
    out: Annotated[Path, typer.Option("--out", help="Folder of the shards of image tokens.")],
    batch_size: Annotated[int, typer.Option(help="Pictures encoded at once.")] = 32,
    per_shard: Annotated[
        int, typer.Option(help="Pictures in each shard; Bart holds out the last of them.")
    ] = 1000,
    device: options.Device = "cpu",
    as_json: options.Json = False,
) -> None:
    """Turn captioned pictures into shards of image tokens, once. Goes on after a crash."""
    from tqdm import tqdm

    from minidalle.checkpoints import load_vqgan, locate
    from minidalle.data.encode import encode_to_shards
    from minidalle.data.sources import open_pictures
    from minidalle.data.stream import is_shards
    from minidalle.pictures import printable

    notes = Notes()
    model = load_vqgan(locate(vqgan), device=device)
    side = model.config.resolution
    pictures = source if is_shards(source) else open_pictures(source, side)
    total = None if isinstance(pictures, str) else len(pictures)
    log = logging.getLogger("minidalle.data.encode")
    log.addHandler(notes)
    try:
        with tqdm(total=total, unit="picture", disable=not sys.stderr.isatty()) as bar:
            index = encode_to_shards(
                pictures, model, out,
                batch_size=batch_size, per_shard=per_shard, progress=bar.update,
            )  # fmt: skip
    finally:
        log.removeHandler(notes)
    skipped = [f"{path}: {reason}" for path, reason in getattr(pictures, "skipped", [])]
    skipped += notes.lines
    for line in skipped:
        print(printable(f"skipped {line}"), file=sys.stderr)
    count, shards = index["count"], len(index["shards"])
    if as_json:
        facts = {"count": count, "shards": shards, "folder": str(out), "skipped": skipped}
        options.say(json.dumps(facts, indent=2))
    else:
        options.say(f"{count} pictures in {shards} shards, {len(skipped)} files skipped", out)


class Notes(logging.Handler):
    """The files that encoding left out, as its log names them."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage().removeprefix("skipped "))
