"""The page's pictures as HTML: the grid, the chosen picture, tokens as a mosaic.

Pictures are inside the HTML as data URLs, so that nothing is written to the disk; what a person
typed is escaped. Buttons carry what they stand for in `data-` attributes, which `page.js` reads.
"""

from __future__ import annotations

import base64
import io
import math
import re
from collections.abc import Sequence
from html import escape
from typing import Any

import numpy as np
from PIL import Image

from minidalle.app.editor import Edit
from minidalle.app.studio import Drawn, Tiles
from minidalle.pictures import text_chunks

PALETTE_SIZE = 12  # codes in each row of the palette
SMALL = 128  # pixels: a picture up to this side is enlarged, and keeps its pixels


def data_url(picture: Image.Image, metadata: dict[str, Any] | None = None) -> str:
    """A picture as a PNG inside a URL; with metadata the very bytes that `write_picture` writes."""
    return url_of(picture, "png", pnginfo=text_chunks(metadata) if metadata else None)


def frame_url(picture: Image.Image) -> str:
    """A picture that is only looked at for a moment, in few bytes."""
    return url_of(picture, "webp", quality=80, method=0)


def url_of(picture: Image.Image, kind: str, **how: Any) -> str:
    """A picture as a file of a kind that Pillow writes, inside a URL."""
    file = io.BytesIO()
    picture.save(file, kind, **how)
    return f"data:image/{kind};base64,{base64.b64encode(file.getvalue()).decode()}"


def grid(drawn: Drawn, selected: int | None = None) -> str:
    """All pictures; once they are finished each is a button."""
    result, count = drawn.result, len(drawn.result.images)
    cells = []
    for i, (picture, seed) in enumerate(zip(result.images, result.seeds, strict=True)):
        caption = f"seed {seed}" + (f" · {result.scores[i]:.2f}" if result.scores else "")
        alt = f"{result.prompt or 'no prompt'}, seed {seed}"
        if not drawn.finished:
            alt = f"{alt}, {result.step} of {result.length} image tokens drawn"
            cells.append(f'<li><img src="{frame_url(picture)}" alt="{escape(alt)}"></li>')
            continue
        pressed = "true" if i == selected else "false"
        label = f"Picture {i + 1} of {count}, seed {seed}: show it large"
        image = f'<img src="{data_url(picture, drawn.metadata(i))}" alt="{escape(alt)}">'
        cells.append(
            f'<li><button type="button" data-picture="{i}" aria-pressed="{pressed}" '
            f'aria-label="{label}">{image}<small>{caption}</small></button></li>'
        )
    return grid_of(cells, crisp(result.images[0]))


def blank_grid(n: int = 9) -> str:
    """Places for n pictures, with nothing in them."""
    return grid_of(['<li class="blank"></li>'] * n, more=' aria-hidden="true"')


def grid_of(cells: Sequence[str], look: str = "", more: str = "") -> str:
    """Cells in rows, about as many rows as columns. look: another class; more: attributes."""
    columns = math.ceil(math.sqrt(len(cells)))
    return f'<ul class="grid{look}" style="--columns:{columns}"{more}>{"".join(cells)}</ul>'


def status(drawn: Drawn) -> str:
    """One line: how far the drawing is, or what was drawn."""
    result = drawn.result
    if not drawn.finished:
        return f"Drawing: {result.step} of {result.length} image tokens."
    first, last = min(result.seeds), max(result.seeds)
    seeds = f"seed {first}" if first == last else f"seeds {first} to {last}"
    kept = ", each with the first half of the chosen one" if "keep" in drawn.how else ""
    order = ", best first" if result.scores else ""
    text = f"{len(result.images)} pictures, {seeds}{kept}{order}; {drawn.seconds:.1f} s."
    whole = data_url(result.grid(), drawn.metadata())
    return f"{text} {link(whole, file_name(drawn), 'Download all')}"


def detail(drawn: Drawn, picture: int) -> str:
    """One picture large, how it was drawn, and its file."""
    result = drawn.result
    seed = result.seeds[picture]
    url = data_url(result.images[picture], drawn.metadata(picture))
    alt = escape(f"{result.prompt or 'no prompt'}, seed {seed}, large")
    knobs = result.sampling
    facts = [
        f"temperature {knobs.temperature:g}",
        f"top-k {knobs.top_k or 'off'}",
        f"top-p {'off' if knobs.top_p == 1 else format(knobs.top_p, 'g')}",
        f"condition scale {knobs.condition_scale:g}",
    ]
    if result.scores:
        facts.insert(0, f"score {result.scores[picture]:.3f}")
    prompt = escape(result.prompt) or "<i>no prompt</i>"
    return (
        f'<div class="detail{crisp(result.images[picture])}"><img src="{url}" alt="{alt}">'
        f"<h2>Seed {seed}</h2><p>{prompt}<br><small>{escape(' · '.join(facts))}</small></p>"
        f"{link(url, file_name(drawn, picture), 'Download')}</div>"
    )


def tokens_of(drawn: Drawn, picture: int, tiles: Tiles) -> str:
    """One picture's tokens as a mosaic, and what that is."""
    tokens = drawn.result.tokens[picture].tolist()
    url, alt = data_url(mosaic_picture(tokens, tiles)), f"mosaic of its {len(tokens)} codes"
    return (
        f'<div class="tokens"><img src="{url}" alt="{alt}"><p>'
        f"<b>Its {len(tokens)} image tokens.</b> "
        "Each square is what one code draws among its like. The decoder blends them into the "
        f"picture.</p><details><summary>As numbers</summary><code>{tokens}</code></details></div>"
    )


def editor(edit: Edit, tiles: Tiles) -> str:
    """The tokens of the picture that is edited: a mosaic of buttons, one of them pressed."""
    tokens = edit.tokens.tolist()
    side, urls = math.isqrt(len(tokens)), {c: data_url(tile) for c, tile in tiles(tokens).items()}
    cells = "".join(
        f'<button type="button" data-place="{place}" aria-pressed="{yes(place == edit.selected)}" '
        f'tabindex="{0 if place == edit.selected else -1}" title="code {code}" '
        f'aria-label="row {place // side + 1}, column {place % side + 1}: code {code}">'
        f'<img src="{urls[code]}" alt=""></button>'
        for place, code in enumerate(tokens)
    )
    return (
        f'<div class="mosaic" role="group" aria-label="image tokens" data-side="{side}" '
        f'style="--columns:{side}">{cells}</div>'
    )


def mosaic_picture(tokens: Sequence[int], tiles: Tiles) -> Image.Image:
    """The tiles of a picture's tokens, row by row, as one picture."""
    looks, side = tiles(tokens), math.isqrt(len(tokens))
    rows = [np.hstack([looks[c] for c in tokens[i : i + side]]) for i in range(0, side**2, side)]
    return Image.fromarray(np.vstack(rows))


def figures(edit: Edit) -> str:
    """The picture as it came, encoded, and edited; the selected place is outlined in each."""
    side = math.isqrt(len(edit.tokens))
    row, column = divmod(edit.selected, side)
    spot = f"--x:{column / side:%};--y:{row / side:%};--side:{1 / side:%}"
    shown = "".join(
        f'<figure><div class="spot" style="{spot}"><img src="{url}" alt="{alt}"></div>'
        f"<figcaption>{caption}</figcaption></figure>"
        for url, alt, caption in (
            (data_url(edit.source), "the picture as it came", "the picture"),
            (data_url(edit.before), "the picture encoded and decoded", "encoded, decoded"),
            (data_url(edit.after, edit.metadata()), "the picture with your changes", "edited"),
        )
    )
    return f'<div class="after{crisp(edit.after)}">{shown}</div>'


def editor_status(edit: Edit) -> str:
    """One line: where you are, and how much is changed."""
    row, column = divmod(edit.selected, math.isqrt(len(edit.tokens)))
    now, was = int(edit.tokens[edit.selected]), int(edit.original[edit.selected])
    code = f"code {now}" + (f" (was {was})" if now != was else "")
    saved = link(data_url(edit.after, edit.metadata()), "minidalle-edited.png", "Download")
    return (
        f"Row {row + 1}, column {column + 1}: {code}. "
        f"{edit.changed} of {len(edit.tokens)} tokens changed. {saved}"
    )


def palette(edit: Edit, tiles: Tiles, like: Sequence[int]) -> str:
    """Codes to put in the selected place: those most like its own, and the picture's own."""
    now = int(edit.tokens[edit.selected])
    own, counts = np.unique(edit.tokens.numpy(), return_counts=True)
    often = own[np.argsort(-counts, kind="stable")][:PALETTE_SIZE].tolist()
    looks = tiles([*like, *often])
    rows = []
    for title, codes in (("Most like it", like), ("In this picture", often)):
        buttons = "".join(
            f'<button type="button" data-code="{code}" aria-pressed="{yes(code == now)}" '
            f'aria-label="put code {code} here"><img src="{data_url(looks[code])}" alt="">'
            f"<small>{code}</small></button>"
            for code in codes
        )
        rows.append(f'<h3>{title}</h3><div class="palette">{buttons}</div>')
    return "".join(rows)


def link(url: str, name: str, text: str) -> str:
    """A link that saves a file."""
    return f'<a class="save" href="{url}" download="{escape(name)}">{text}</a>'


def file_name(drawn: Drawn, picture: int | None = None) -> str:
    """A name for the file: what was asked for, and the seed."""
    result = drawn.result
    seed = min(result.seeds) if picture is None else result.seeds[picture]
    words = "-".join(re.findall(r"\w+", result.prompt.lower()))[:40].strip("-") or "minidalle"
    return f"{words}-{seed}.png" if picture is not None else f"{words}-{seed}-grid.png"


def crisp(picture: Image.Image) -> str:
    """The class, if any, of pictures that are enlarged."""
    return " crisp" if picture.width <= SMALL else ""


def yes(value: bool) -> str:
    """True or false as ARIA writes it."""
    return "true" if value else "false"
