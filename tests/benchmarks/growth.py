"""A picture of how a decoder step's time grows, from the figures of `minidalle bench`.

    minidalle bench --part step --part growth --only ours-bfloat16 --only ours-float32 \\
        --json growth.json
    python tests/benchmarks/growth.py growth.json growth.png
"""

from __future__ import annotations

import json
import statistics
import sys
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from minidalle.viz.plots import PALETTE

COLOURS = {"bfloat16": PALETTE[0], "float32": PALETTE[1]}
SMOOTH = 9  # positions whose median is one point


def draw(told: dict[str, Any]) -> Figure:
    figure = Figure(figsize=(10, 3.4), dpi=110, layout="constrained", facecolor="white")
    by_pictures, by_position, by_width = figure.subplots(1, 3)
    growth = told["growth"]
    for dtype, colour in COLOURS.items():
        for axes, rows, key in (
            (by_pictures, growth["pictures"], "pictures"),
            (by_width, growth["d_model"], "d_model"),
        ):
            rows = [row for row in rows if row["dtype"] == dtype]
            axes.plot(
                [row[key] for row in rows],
                [1000 * row["seconds"]["median"] for row in rows],
                "o-", color=colour, label=dtype,
            )  # fmt: skip
        for row in told["step"]:
            if row["dtype"] == dtype:
                name = f"{dtype}, {row['pictures']} picture{'s' * (row['pictures'] > 1)}"
                style = "-" if row["pictures"] == 1 else "--"
                by_position.plot(*smoothed(row), style, color=colour, label=name)
    title(by_pictures, "by pictures, at positions 2 to 7", "pictures, n", log=True)
    title(by_position, "by position", "image tokens before")
    title(by_width, "by width, one picture", "width D", log=True)
    by_pictures.set_ylabel("one decoder step, ms")
    by_position.set_ylim(bottom=0)
    by_pictures.set_ylim(16, 512)
    by_width.set_ylim(8, 64)
    return figure


def smoothed(row: dict[str, Any]) -> tuple[list[int], list[float]]:
    """Positions, and medians in ms of the steps around them; the first step reads the text."""
    positions, seconds = row["positions"][1:], row["step_seconds"][1:]
    starts = range(0, len(seconds) - SMOOTH + 1, SMOOTH)
    return (
        [positions[start + SMOOTH // 2] for start in starts],
        [1000 * statistics.median(seconds[start : start + SMOOTH]) for start in starts],
    )


def title(axes: Axes, text: str, x: str, log: bool = False) -> None:
    axes.set_title(text, fontsize=10)
    axes.set_xlabel(x)
    if log:
        axes.set_xscale("log", base=2)
        axes.set_yscale("log", base=2)
        axes.xaxis.set_major_formatter("{x:.0f}")
        axes.yaxis.set_major_formatter("{x:.0f}")
    axes.grid(alpha=0.3)
    axes.legend(fontsize=7)


if __name__ == "__main__":
    source, target = map(Path, sys.argv[1:])
    draw(json.loads(source.read_text())).savefig(target)
