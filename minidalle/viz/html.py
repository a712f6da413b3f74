"""Pages to point at: strings of HTML that need nothing else, no script and no network.

They are fragments: a notebook shows them by `IPython.display.HTML`, the documentation includes
them, and a browser opens them as a file. What comes from a user is escaped. Text takes the page's
own colours, in light and dark themes; equal inputs give equal bytes.
"""

from __future__ import annotations

import base64
import hashlib
import io
import math
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import BinaryIO

import torch
from PIL import Image
from torch import Tensor

from minidalle.viz.codebook import Examples, order_by_likeness

TINTS = ("#CDE3F2", "#FBE3B4", "#C6E9DC", "#F6D3BF", "#EBD3E1")  # light ones of Okabe and Ito's
GRID = 576  # pixels: side of all the tiles on the page, which fits into a notebook with the panel
PANEL = 144  # pixels: side of the one that is pointed at, and of its example
EXAMPLES_IN_A_ROW = 8
# Outlines the place in an example: white in black is seen on any ground.
MARK = (
    "data:image/svg+xml,%3Csvg xmlns='http://www.w3.org/2000/svg'%3E"
    "%3Crect width='100%25' height='100%25' fill='none' stroke='%23000' stroke-width='6'/%3E"
    "%3Crect width='100%25' height='100%25' fill='none' stroke='%23fff' stroke-width='3'/%3E"
    "%3C/svg%3E"
)


def coloured_tokens(pieces: Sequence[str], ids: Sequence[int]) -> str:
    """A text in pieces, each in a colour with its id below; spaces and empty pieces can be seen."""
    pieces, ids = list(pieces), [int(id) for id in ids]
    if len(pieces) != len(ids):
        raise ValueError(f"{len(pieces)} pieces for {len(ids)} ids; each piece needs one")
    box = "display:inline-block;margin:2px 1px;padding:2px 4px;border-radius:4px;color:#222"
    spans = [
        f'<span style="{box};text-align:center;background:{TINTS[i % len(TINTS)]}">'
        f'<span style="white-space:pre">{escape(visible(piece))}</span><br>'
        f'<small style="color:#555">{id}</small></span>'
        for i, (piece, id) in enumerate(zip(pieces, ids, strict=True))
    ]
    return f'<div style="line-height:1.3;font-family:monospace">{"".join(spans)}</div>'


def visible(piece: str) -> str:
    """A piece of text with its spaces and line ends as signs; the empty one as ∅.

    >>> visible(" a cat\\n")
    '␣a␣cat⏎'
    """
    return piece.replace(" ", "␣").replace("\n", "⏎").replace("\t", "⇥") or "∅"


def atlas_page(
    tiles: Tensor,
    counts: Tensor,
    examples: Examples | None = None,
    *,
    order: Tensor | None = None,
    title: str = "Codebook atlas",
) -> str:
    """All codes as tiles; the one pointed at is shown with its number, count and an example.

    tiles: (K, 3, s, s) in [0, 1] by `codebook.code_tiles`. counts: (K,) by `codebook.code_counts`.
    examples: by `codebook.choose_examples`; None for none. order: (K,) the codes from first to
    last, by default by likeness; the page can also sort by use and by number.
    """
    k = len(tiles)
    order = order_by_likeness(tiles) if order is None else order
    if len(counts) != k or sorted(order.tolist()) != list(range(k)):
        raise ValueError(f"{k} tiles need {k} counts and an order of the codes 0 to {k - 1}")
    columns = 32 if k > 256 else 16
    by_use = inverse(counts.sort(descending=True, stable=True).indices)
    cells = "".join(
        code_cell(id, int(counts[id]), by_use[id], columns, examples) for id in order.tolist()
    )
    # A 32nd of a level is too little to see, and halves the file.
    sprites = [data_url((tiles * 32).round() / 32, columns, lossless=True)]
    if examples is not None:
        sprites.append(data_url(examples.pictures, EXAMPLES_IN_A_ROW, lossless=False))
    name = "atlas-" + hashlib.sha256("".join([cells, *sprites]).encode()).hexdigest()[:10]
    unused = int((counts == 0).sum())
    note = f"{k:,} codes; {unused:,} never occur (×)" if unused else f"{k:,} codes, all in use"
    return (
        f'<div class="{name}">\n<style>\n{style_sheet(name, sprites, k, columns, examples)}\n'
        f"</style>\n<strong>{escape(title)}</strong>: {note}. Point at one. Sorted\n"
        f"{sort_buttons(name)}\n<div>{cells}</div>\n</div>\n"
    )


def sort_buttons(name: str) -> str:
    """Three buttons, of which one is always down."""
    return "".join(
        f'<input type="radio" name="{name}" id="{name}-{i}"{" checked" if i == 0 else ""}>'
        f'<label for="{name}-{i}">{text}</label>'
        for i, text in enumerate(("by likeness", "by use", "by number"))
    )


def code_cell(id: int, count: int, by_use: int, columns: int, examples: Examples | None) -> str:
    """The element of one code; what there is to show of it stands in variables."""
    variables = f"--x:{id % columns};--y:{id // columns};--u:{by_use};--n:{id}"
    if examples is not None and id in examples.places:
        picture, place = examples.places[id]
        variables += f";--e:{picture % EXAMPLES_IN_A_ROW};--f:{picture // EXAMPLES_IN_A_ROW}"
        variables += f";--p:{place % examples.side};--q:{place // examples.side}"
    words = f"code {id}: {count:,}×" if count else f"code {id}: never"
    return f'<b style="{variables}" data-t="{words}"{"" if count else " class=never"}></b>'


def style_sheet(
    name: str, sprites: list[str], k: int, columns: int, examples: Examples | None
) -> str:
    """The rules of one page, all of them below a class of its own."""
    cell, rows = GRID // columns, math.ceil(k / columns)
    panel = f"position:absolute;left:{GRID + 16}px;width:{PANEL}px;image-rendering:pixelated"
    rules = [
        f"{{--t:url({sprites[0]});font:14px sans-serif;overflow-x:auto}}",
        f">div{{display:grid;grid-template-columns:repeat({columns},{cell}px);position:relative;"
        f"margin:8px 2px;width:{GRID + PANEL + 16}px;min-height:{2 * PANEL + 40}px;"
        "align-content:start}",
        " label{margin:0 10px 0 3px}",
        " input:nth-of-type(2):checked~div b{order:var(--u)}",
        " input:nth-of-type(3):checked~div b{order:var(--n)}",
        f" b{{height:{cell}px;box-shadow:inset 0 0 0 1px #8886;image-rendering:pixelated;"
        f"{background('--t', '--x', '--y', cell, columns, rows)}}}",
        f" b.never::before{{content:'×';display:block;text-align:center;color:#D55E00;"
        f"font:bold {cell}px/{cell}px sans-serif}}",
        " b:hover{outline:3px solid #D55E00;z-index:1}",
        # No height, so that the tile fills the padding only, and the text comes below.
        f" b:hover::after{{content:attr(data-t);{panel};top:0;height:0;padding-top:{PANEL}px;"
        f"font:14px sans-serif;{background('--t', '--x', '--y', PANEL, columns, rows)}}}",
    ]
    if examples is not None:
        lines = math.ceil(len(examples.pictures) / EXAMPLES_IN_A_ROW)
        mark = PANEL / examples.side
        picture = background("--s", "--e", "--f", PANEL, EXAMPLES_IN_A_ROW, lines)
        rules[0] = rules[0].replace("{", f"{{--s:url({sprites[1]});", 1)
        rules.append(
            f' b:hover::before{{content:"";{panel};top:{PANEL + 28}px;height:{PANEL}px;'
            f'background:url("{MARK}") calc(var(--p)*{mark:g}px) calc(var(--q)*{mark:g}px)/'
            f"{mark:g}px {mark:g}px no-repeat,{picture.removeprefix('background:')}}}"
        )
    return "\n".join(f".{name}{rule}" for rule in rules)


def background(sprite: str, x: str, y: str, side: int, columns: int, rows: int) -> str:
    """The rule that shows the picture in column x, row y of a sprite, `side` pixels wide."""
    return (
        f"background:var({sprite}) calc(var({x})*-{side}px) calc(var({y})*-{side}px)/"
        f"{columns * side}px {rows * side}px"
    )


def inverse(order: Tensor) -> list[int]:
    """Of an order the place of each: (K,) -> K places."""
    return torch.empty_like(order).scatter(0, order, torch.arange(len(order))).tolist()


def data_url(pictures: Tensor, columns: int, *, lossless: bool) -> str:
    """Small pictures (M, 3, s, s) in [0, 1] side by side, as one WebP file in an address."""
    file = io.BytesIO()
    write_sheet(file, pictures, columns, lossless=lossless)
    return "data:image/webp;base64," + base64.b64encode(file.getvalue()).decode()


def write_sheet(
    file: str | Path | BinaryIO, pictures: Tensor, columns: int, *, lossless: bool
) -> None:
    """Write small pictures (M, 3, s, s) in [0, 1] side by side, row by row, as one WebP file."""
    m, _, s, _ = pictures.shape
    rows = math.ceil(m / columns)
    sheet = torch.ones(rows * columns, 3, s, s)
    sheet[:m] = pictures
    sheet = sheet.view(rows, columns, 3, s, s).permute(0, 3, 1, 4, 2)  #  (rows, s, columns, s, 3)
    array = (sheet * 255).round().byte().reshape(rows * s, columns * s, 3).numpy()
    quality = {"lossless": True, "quality": 100} if lossless else {"quality": 80}
    Image.fromarray(array).save(file, "WEBP", method=6, **quality)
