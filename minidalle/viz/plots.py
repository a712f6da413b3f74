"""Plots of what goes on inside: small functions, tensors in, a matplotlib Figure out.

A figure is its own picture: it shows once where it is a cell's last expression, never enters
pyplot's list of open figures, and changes no setting of matplotlib. The ground is opaque and nearly
white, so that a dark theme does not swallow the text; colours are those of Okabe and Ito ("Color
Universal Design", 2008). Texts are shown as they are: no `$math$`, so that a prompt may say "$5".
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, NullFormatter, StrMethodFormatter
from PIL import Image
from torch import Tensor

from minidalle.viz.canvas import (
    BLUE,
    DPI,
    FAINT,
    GAP,
    HEAT,
    INK,
    PALETTE,
    VERMILION,
    WIDTH,
    Numbers,
    arrays_of,
    chart,
    finished,
    in_our_style,
    inch_canvas,
    numbers,
    png_bytes,
    shown,
    snapped,
    square_grid,
    title_height,
    token_colour,
    upright,
    wrapped,
    write_title,
)

__all__ = [
    "PALETTE",
    "attention_map",
    "attention_over_picture",
    "bars",
    "codebook_atlas",
    "curves",
    "logit_histogram",
    "png_bytes",
    "show_images",
    "token_grid",
]


@in_our_style
def show_images(
    images: Tensor | Sequence[Image.Image],
    *,
    titles: Sequence[object] | None = None,
    columns: int | None = None,
    title: str | None = None,
    size: float = 1.2,
) -> Figure:
    """Pictures in rows.

    images: (B, 3, S, S) in [0, 1], or uint8; or PIL pictures. titles: one above each.
    columns: pictures in a row; None for as many as fit. size: side of a picture in inches.
    """
    arrays = arrays_of(images)
    fit = max(1, int(WIDTH / snapped(size, arrays[0].shape[1])))
    columns = columns or math.ceil(len(arrays) / math.ceil(len(arrays) / fit))
    size = snapped(min(size, WIDTH / columns), arrays[0].shape[1], most=WIDTH / columns)
    texts = ["\n".join(wrapped(t, size, 8, most=4)) for t in titles] if titles is not None else []
    if texts and len(texts) != len(arrays):
        raise ValueError(f"{len(texts)} titles for {len(arrays)} pictures; each needs one")
    heads = [room_for(texts[i : i + columns]) for i in range(0, len(arrays), columns)]  # by row
    width = max(columns * size, 2.0)
    top = title_height(title, width)
    height = len(heads) * size + sum(heads) + top
    figure, axes = inch_canvas(width, height)
    write_title(axes, title, width, height)
    for i, array in enumerate(arrays):
        row, column = divmod(i, columns)
        x, y = column * size, height - top - (row + 1) * size - sum(heads[: row + 1])
        frame = (x + GAP, x + size - GAP, y + GAP, y + size - GAP)
        upscaled = array.shape[1] <= (size - 2 * GAP) * DPI
        axes.imshow(array, extent=frame, interpolation="nearest" if upscaled else "hanning")
        if texts:
            axes.text(x + size / 2, y + size, texts[i], ha="center", va="bottom", size=8)
    axes.set(xlim=(0, width), ylim=(0, height))
    return figure


def room_for(texts: Sequence[str]) -> float:
    """Inches that the titles above a row of pictures take."""
    lines = max((text.count("\n") + 1 for text in texts if text), default=0)
    return round(0.14 * lines, 2) + 0.02 * (lines > 0)


@in_our_style
def token_grid(
    tokens: Tensor,
    *,
    picture: Tensor | Image.Image | None = None,
    title: str | None = None,
    numbers: bool = True,
) -> Figure:
    """Image tokens as a grid of coloured cells; equal ids have equal colours.

    tokens: (N,) with N a square number, or (h, w). picture: shown to the left with the same grid.
    """
    grid = square_grid(tokens)
    h, w = grid.shape
    side = min(max(3.0, 0.5 * w), 6.4 if picture is None else WIDTH / 2 - 0.05)  # inches
    cell, left = side / w, 0.0 if picture is None else side + 0.1
    top = title_height(title, left + side)
    height = h * cell + top
    figure, axes = inch_canvas(left + side, height)
    write_title(axes, title, left + side, height)
    if picture is not None:
        axes.imshow(arrays_of(picture)[0], extent=(0, side, 0, h * cell))
        for i in range(1, max(h, w)):
            axes.vlines(i * cell, 0, h * cell, color="#888888", lw=0.5, alpha=0.6)
            axes.hlines(i * cell, 0, side, color="#888888", lw=0.5, alpha=0.6)
    colours = np.array([[token_colour(int(id)) for id in row] for row in grid])
    axes.imshow(colours, extent=(left, left + side, 0, h * cell), interpolation="nearest")
    size = min(11.0, 72 * cell / (0.68 * max(len(str(int(grid.max()))), 2)))
    for (y, x), id in np.ndenumerate(grid) if numbers else ():
        place = left + (x + 0.5) * cell, (h - y - 0.5) * cell
        axes.text(*place, str(id), ha="center", va="center_baseline", size=size)
    axes.set(xlim=(0, left + side), ylim=(0, height))
    return figure


@in_our_style
def codebook_atlas(
    tiles: Tensor,
    *,
    counts: Tensor | None = None,
    columns: int = 32,
    title: str | None = None,
) -> Figure:
    """Every code's tile, row by row, in the order given.

    tiles: (K, 3, s, s) in [0, 1]. counts: (K,) how often each occurs; codes that never do are
    crossed out, and the counts are drawn below, most frequent first.
    """
    arrays = np.stack(arrays_of(tiles))  #                     (K, s, s, 3)
    arrays = (arrays * 32).round() / 32  # no eye sees it, and the PNG is half the size
    k, s = arrays.shape[:2]
    rows, gap = math.ceil(k / columns), max(1, s // 8)
    sheet = np.full((rows * (s + gap) - gap, columns * (s + gap) - gap, 3), 0.9)
    for i, array in enumerate(arrays):
        y, x = i // columns * (s + gap), i % columns * (s + gap)
        sheet[y : y + s, x : x + s] = array
    width = min(WIDTH, max(3.0, columns * 0.5))
    high, top = width * sheet.shape[0] / sheet.shape[1], title_height(title, width)
    below = 0.0 if counts is None else 1.9
    figure, axes = inch_canvas(width, high + top + below)
    write_title(axes, title, width, high + top + below)
    frame = (0, width, below, below + high)
    axes.imshow(sheet, extent=frame, interpolation="nearest")
    axes.set(xlim=(0, width), ylim=(0, high + top + below))
    if counts is not None:
        unused = np.flatnonzero(np.asarray(counts) == 0)
        pixel = width / sheet.shape[1]
        x = unused % columns * (s + gap) * pixel
        y = below + high - unused // columns * (s + gap) * pixel
        crosses = [((a, b), (a + s * pixel, b - s * pixel)) for a, b in zip(x, y, strict=True)]
        axes.add_collection(LineCollection(crosses, colors=VERMILION, linewidths=1.2))
        usage_panel(figure, numbers(counts), (0.75 / width, 0.5, 0.98, below - 0.2))
    return figure


def usage_panel(
    figure: Figure, counts: np.ndarray, frame: tuple[float, float, float, float]
) -> None:
    """Counts (K,), greatest first, in a frame of the figure: left and right shares, inches up."""
    left, bottom, right, top = frame
    high = figure.get_size_inches()[1]
    axes = figure.add_axes((left, bottom / high, right - left, (top - bottom) / high))
    axes.fill_between(
        np.arange(len(counts) + 1), [*np.sort(counts)[::-1], 0], step="post", color=BLUE
    )
    axes.set(yscale="symlog", xlim=(0, len(counts)), ylim=(0, None), ylabel="occurrences")
    axes.yaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
    unused = int((counts == 0).sum())
    note = f"; {unused:,} of {len(counts):,} never occur (crossed out)" if unused else ""
    axes.set_xlabel(f"codes, most frequent first{note}")


@in_our_style
def attention_map(
    weights: Tensor,
    *,
    rows: Sequence[object] | None = None,
    columns: Sequence[object] | None = None,
    title: str | None = None,
    xlabel: str = "position that is looked at",
    ylabel: str = "position that looks",
    label: str = "attention weight",
) -> Figure:
    """Attention weights (n, m): row i says how much position i takes from each of m positions.

    Or any table of numbers from 0 on. rows, columns: names of its n and m places. label: what the
    numbers are.
    """
    array = np.asarray(weights.detach().float().cpu())
    n, m = array.shape
    cell = min(0.42, (WIDTH - 2.0) / m)
    size = max(min(10.0, 60 * cell), 5.0)
    figure, axes = chart(max(m * cell + 2.0, 4.0), max(n * cell + 1.6, 2.6))
    image = axes.imshow(array, cmap=HEAT, vmin=0, interpolation="nearest")
    if columns is not None:
        names = [shown(c) for c in columns]
        axes.set_xticks(range(m), names, rotation=upright(names, cell), size=size)
    if rows is not None:
        axes.set_yticks(range(n), [shown(r) for r in rows], size=size)
    axes.set(xlabel=xlabel, ylabel=ylabel)
    figure.colorbar(image, ax=axes, label=label, shrink=0.9)
    return finished(figure, axes, title, room=max(m * cell + 1.0, 3.4))


@in_our_style
def attention_over_picture(
    weights: Tensor,
    picture: Tensor | Image.Image,
    titles: Sequence[object] | None = None,
) -> Figure:
    """Attention maps (count, h, w) over a picture: the stronger the orange, the greater the weight.

    Each map is scaled by its own maximum; the picture is turned grey.
    """
    maps = np.asarray(weights.detach().float().cpu())
    array = arrays_of(picture)[0]
    grey = 0.35 + 0.6 * array.mean(-1, keepdims=True).repeat(3, -1)
    side = array.shape[0]
    ink = np.array([0.835, 0.369, 0.0])  # vermilion
    panels = [array]
    for one in maps:
        share = Image.fromarray(one / max(one.max(), 1e-12)).resize((side, side), Image.NEAREST)
        alpha = 0.85 * np.asarray(share)[..., None]
        panels.append((1 - alpha) * grey + alpha * ink)
    images = torch.from_numpy(np.stack(panels)).permute(0, 3, 1, 2)
    names = ["picture", *(titles if titles is not None else [""] * len(maps))]
    return show_images(images, titles=names, size=1.3)


@in_our_style
def curves(
    series: Mapping[str, Numbers | tuple[Numbers, Numbers]],
    *,
    xlabel: str,
    ylabel: str,
    title: str | None = None,
    log_x: bool = False,
    log_y: bool = False,
    lines: Mapping[str, float] | None = None,
) -> Figure:
    """Lines: {label: ys} against 0, 1, …, or {label: (xs, ys)}; `lines` {label: y} to compare."""
    figure, axes = chart(WIDTH * 0.9, 3.6)
    whole = not log_x  # are all xs whole numbers?
    for i, (label, values) in enumerate(series.items()):
        pair = isinstance(values, tuple) and len(values) == 2 and np.ndim(values[0]) == 1
        xs, ys = (numbers(v) for v in values) if pair else (None, numbers(values))
        xs = np.arange(len(ys)) if xs is None else xs
        whole = whole and bool((xs == xs.round()).all())
        dots = "o" if len(ys) <= 15 else None
        dash = ("-", "--", ":")[i // len(PALETTE) % 3]
        colour = PALETTE[i % len(PALETTE)]
        axes.plot(xs, ys, dash, label=shown(label), color=colour, marker=dots, ms=4, lw=1.8)
    for label, y in (lines or {}).items():
        axes.axhline(y, color="#666666", lw=1, ls="--", zorder=0)
        axes.annotate(
            shown(label), (1, y), (-2, 2), xycoords=("axes fraction", "data"),
            textcoords="offset points", ha="right", va="bottom", size=9, color="#555555",
        )  # fmt: skip
    axes.set(xlabel=xlabel, ylabel=ylabel)
    axes.set_xscale("log" if log_x else "linear")
    axes.set_yscale("log" if log_y else "linear")
    if whole:
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    for axis, (low, high) in ((axes.xaxis, axes.get_xlim()), (axes.yaxis, axes.get_ylim())):
        if axis.get_scale() == "log":  # within a decade 0.6 instead of 6×10⁻¹, else decades alone
            axis.set_minor_formatter("{x:g}" if high < 10 * low else NullFormatter())
    axes.grid(color="#E4E4E0", lw=0.7)
    axes.set_axisbelow(True)
    return finished(figure, axes, title, legend=len(series) > 1)


@in_our_style
def logit_histogram(
    logits: Tensor,
    *,
    kept: Tensor | None = None,
    top: int = 40,
    labels: Sequence[object] | None = None,
    title: str | None = None,
) -> Figure:
    """Probabilities of the likeliest tokens, sorted: the model's in grey, after filtering in blue.

    logits: (K,). kept: (K,) booleans, or the filtered logits with −inf on what is not drawn (of
    these, temperature shows, too); None for no filter, and one colour. labels: a name for each of
    the K tokens.
    """
    logits = logits.detach().float().cpu()
    before = logits.softmax(-1)
    top = min(top, len(logits))
    ids = before.argsort(descending=True, stable=True)[:top]
    figure, axes = chart(WIDTH, 3.4)
    colour = BLUE if kept is None else FAINT
    axes.bar(range(top), before[ids].numpy(), width=0.9, color=colour, label="the model's")
    if kept is not None:
        kept = kept.detach().cpu()
        after = logits.masked_fill(~kept, -math.inf) if kept.dtype == torch.bool else kept.float()
        after = after.softmax(-1)
        words = f"drawn from: {int((after > 0).sum()):,} of {len(logits):,} tokens"
        axes.bar(range(top), after[ids].numpy(), width=0.5, color=BLUE, label=words)
        axes.legend(loc="upper right")
    names = [shown(labels[i] if labels is not None else int(i)) for i in ids.tolist()]
    turned = upright(names, WIDTH * 0.9 / top)
    axes.set_xticks(range(top), names, rotation=turned, size=8 if top <= 50 else 5)
    axes.set(ylabel="probability", xlim=(-0.7, top - 0.3))
    axes.set_xlabel(
        f"the {top} likeliest of {len(logits):,} tokens" if top < len(logits) else "token"
    )
    return finished(figure, axes, title)


@in_our_style
def bars(
    series: Mapping[str, float | Numbers],
    *,
    ylabel: str,
    title: str | None = None,
    groups: Sequence[str] | None = None,
) -> Figure:
    """Bars with their values: {label: value}; of {label: [values]} the mean, each value as a dot.

    groups: names of the places in the lists, which then are bars side by side.
    """
    names = list(series)
    values = [np.atleast_1d(numbers(series[name])) for name in names]
    tallest = max(abs(ys).max() for ys in values)
    places = 2 - math.floor(math.log10(tallest)) if tallest else 0  # all equally fine: no overlaps
    wide = max(4.0, 1.1 * len(names) * (len(groups) / 2 if groups else 1))
    figure, axes = chart(min(WIDTH, wide), 3.4)
    for i, ys in enumerate(values):
        heights = ys if groups else [ys.mean()]
        width = 0.8 / len(heights)
        for j, y in enumerate(heights):
            x = i + (j - (len(heights) - 1) / 2) * width
            key = shown(groups[j]) if groups and i == 0 else None
            axes.bar(x, y, width * 0.95, color=PALETTE[j % len(PALETTE)], label=key)
            place = max(y, 0) if groups else max(y, *ys, 0)  # above the dots
            text = "≈0" if 0 < abs(y) < 0.005 * tallest else f"{round(float(y), places):.3g}"
            axes.annotate(text, (x, place), (0, 4), textcoords="offset points", ha="center", size=9)
        if not groups and len(ys) > 1:
            axes.plot(np.full(len(ys), i), ys, "o", color=INK, ms=3, alpha=0.7)
    slot = figure.get_size_inches()[0] * 0.85 / len(names)
    axes.set_xticks(range(len(names)), ["\n".join(wrapped(n, slot, 10)) for n in names])
    axes.set(ylabel=ylabel)
    axes.margins(y=0.12)
    axes.tick_params(axis="x", length=0)
    return finished(figure, axes, title, legend=bool(groups))
