"""What all plots share: colours, a style that is nobody else's, figures that show themselves.

A `Picture` is a matplotlib Figure that never enters pyplot's list of open figures, so that a
notebook shows it once, where it is a cell's last expression. `in_our_style` sets matplotlib's
settings for one call and puts the user's back.
"""

from __future__ import annotations

import colorsys
import io
import math
import textwrap
from collections.abc import Callable, Sequence

import numpy as np
import torch
from matplotlib import font_manager, style
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor

# Blue, orange, green, vermilion, sky blue, purple, yellow, black.
PALETTE = ("#0072B2", "#E69F00", "#009E73", "#D55E00", "#56B4E9", "#CC79A7", "#F0E442", "#000000")
BLUE, ORANGE, GREEN, VERMILION = PALETTE[:4]
GROUND, INK, FAINT = "#FDFDFB", "#222222", "#BBBBB5"
WIDTH = 8.0  # inches: a notebook's column
DPI = 100
GAP = 0.02  # inches around a picture
STYLE = {
    "font.size": 10,
    "axes.titlesize": 11,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": INK,
    "axes.facecolor": GROUND,
    "axes.labelcolor": INK,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "legend.frameon": False,
    "figure.constrained_layout.h_pad": 0.08,
    "figure.constrained_layout.w_pad": 0.08,
}
HEAT = LinearSegmentedColormap.from_list("heat", ["#FFFFFF", "#56B4E9", "#0072B2", "#00233A"])
Numbers = Sequence[float] | Tensor | np.ndarray
in_our_style: Callable = style.context(["default", STYLE])  # a decorator; the user's comes back


class Picture(Figure):
    """A Figure that a notebook can show without pyplot."""

    def _repr_png_(self) -> bytes:
        return png_bytes(self)


def png_bytes(figure: Figure) -> bytes:
    """A figure as a PNG file."""
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=figure.dpi, facecolor=figure.get_facecolor())
    return file.getvalue()


def arrays_of(images: Tensor | Image.Image | Sequence[Image.Image]) -> list[np.ndarray]:
    """Pictures as arrays (S, S, 3) in [0, 1], of tensors (B, 3, S, S) or (3, S, S) or PIL."""
    if isinstance(images, Image.Image):
        images = [images]
    if not isinstance(images, Tensor) and len(images) and isinstance(images[0], Tensor):
        images = torch.stack(list(images))
    if isinstance(images, Tensor):
        images = images.detach().cpu()
        images = images / 255 if images.dtype == torch.uint8 else images.float()
        images = images[None] if images.ndim == 3 else images
        if images.ndim != 4 or images.shape[1] not in (1, 3):
            raise ValueError(f"images have shape {tuple(images.shape)}; expected (B, 3, S, S)")
        images = images.expand(-1, 3, -1, -1).clamp(0, 1)
        arrays = list(images.permute(0, 2, 3, 1).numpy())
    else:
        arrays = [np.asarray(image.convert("RGB")) / 255 for image in images]
    if not arrays:
        raise ValueError("there is no picture to show")
    return arrays


def snapped(size: float, side: int, most: float = WIDTH) -> float:
    """`size` inches, or near it, where a picture's pixels become whole pixels of the screen."""
    factor = round(size * DPI / side)
    while factor > 1 and factor * side / DPI + 2 * GAP > most:
        factor -= 1
    snap = factor * side / DPI + 2 * GAP
    return snap if factor and snap <= most else size


def square_grid(tokens: Tensor) -> np.ndarray:
    """Tokens as (h, w): of (N,) the square."""
    array = np.asarray(tokens.cpu() if isinstance(tokens, Tensor) else tokens)
    if array.ndim == 1 and math.isqrt(len(array)) ** 2 == len(array):
        array = array.reshape(math.isqrt(len(array)), -1)
    if array.ndim != 2 or not array.size:
        raise ValueError(f"tokens have shape {array.shape}; expected (N,), N square, or (h, w)")
    return array


def token_colour(id: int) -> tuple[float, float, float]:
    """A light colour for a token, on which black numbers can be read: neighbours differ."""
    return colorsys.hls_to_rgb(id * 0.618034 % 1, 0.72 + 0.14 * (id * 0.7548777 % 1), 0.65)


def numbers(values: Numbers | float) -> np.ndarray:
    """Numbers of any kind as an array."""
    return np.asarray(values.detach().cpu() if isinstance(values, Tensor) else values, float)


def shown(text: object) -> str:
    """A text in signs that the font has; others, such as emoji, become ▯ instead of a warning."""
    font = font_manager.get_font(font_manager.findfont("DejaVu Sans"))
    signs = (c if c == "\n" or font.get_char_index(ord(c)) else "▯" for c in str(text))
    return "".join(signs).replace("$", r"\$")  # which matplotlib shows as a dollar sign


def wrapped(text: object, width: float, size: float, most: int | None = None) -> list[str]:
    """The lines of a text in a column of `width` inches, in letters of `size` points."""
    letters = max(4, int(width * 72 / (0.58 * size)))
    return textwrap.wrap(shown(text), letters, max_lines=most, placeholder=" …") or [""]


def upright(names: Sequence[str], width: float) -> int:
    """By how many degrees names are turned, so that each has room in `width` inches."""
    return 0 if max(map(len, names), default=0) * 0.09 < width else 90


def chart(width: float, height: float) -> tuple[Figure, Axes]:
    """A figure of that many inches with one pair of axes, which `finished` completes."""
    figure = Picture((width, height), dpi=DPI, facecolor=GROUND, layout="constrained")
    return figure, figure.subplots()


def finished(
    figure: Figure,
    axes: Axes,
    title: str | None,
    *,
    legend: bool = False,
    room: float | None = None,
) -> Figure:
    """The figure with a legend below, where asked for, and its title; room: inches for that."""
    if legend:
        figure.legend(loc="outside lower center", ncols=4, fontsize=9)
    if title:
        room = figure.get_size_inches()[0] if room is None else room
        axes.set_title("\n".join(wrapped(title, room, 11)), loc="left")
    return figure


def inch_canvas(width: float, height: float) -> tuple[Figure, Axes]:
    """A figure whose one pair of axes fills it and counts in inches."""
    figure = Picture((width, height), dpi=DPI, facecolor=GROUND)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.axis("off")
    return figure, axes


def title_height(title: str | None, width: float) -> float:
    return 0.2 * len(wrapped(title, max(width, 2), 11)) + 0.06 if title else 0.0


def write_title(axes: Axes, title: str | None, width: float, height: float) -> None:
    if title:
        text = "\n".join(wrapped(title, max(width, 2), 11))
        axes.text(0.04, height - 0.04, text, va="top", size=11)
