"""The plots of docs/performance.md, from the figures in docs/performance.json.

python docs/performance_plots.py        after: minidalle bench --json docs/performance.json
"""

import json
from pathlib import Path

import matplotlib

matplotlib.use("agg")

from minidalle.viz import plots

DOCS = Path(__file__).parent
TOLD = json.loads((DOCS / "performance.json").read_text())


def main() -> None:
    by_position = {
        f"{row['dtype']}, {row['pictures']} picture{'s' * (row['pictures'] > 1)}": (
            row["positions"],
            [1000 * seconds for seconds in row["step_seconds"]],
        )
        for row in TOLD["step"]
        if row["who"] == "ours"
    }
    save("performance-position", by_position, xlabel="position of the token")
    for field, xlabel in (("pictures", "pictures"), ("d_model", "D, one picture")):
        rows = TOLD["growth"][field]
        curves = {
            dtype: zip(
                *((r[field], 1000 * r["seconds"]["median"]) for r in rows if r["dtype"] == dtype),
                strict=True,
            )
            for dtype in dict.fromkeys(row["dtype"] for row in rows)
        }
        curves = {name: tuple(map(list, both)) for name, both in curves.items()}
        save(f"performance-{field.replace('_', '-')}", curves, xlabel=xlabel, log=True)


def save(name: str, curves: dict, *, xlabel: str, log: bool = False) -> None:
    figure = plots.curves(
        curves, xlabel=xlabel, ylabel="milliseconds", title="One decoder step", log_x=log, log_y=log
    )
    figure.savefig(DOCS / "images" / f"{name}.png", dpi=100, facecolor="white")


if __name__ == "__main__":
    main()
