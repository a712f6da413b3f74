"""What the lessons in `notebooks/` need beside the package itself: checkpoints and exercises."""

from __future__ import annotations

from pathlib import Path

SHIPPED = Path(__file__).parents[1] / "pretrained"


def shipped(name: str) -> Path:
    """The folder of a checkpoint that comes with the package: "emoji", "shapes", …

    Raises FileNotFoundError, with the names there are, where there is none of this name.
    """
    folder = SHIPPED / name
    if not (folder / "config.json").is_file():
        names = sorted(path.parent.name for path in SHIPPED.glob("*/config.json"))
        raise FileNotFoundError(f"no checkpoint {name!r} in {SHIPPED}; there are: {names}")
    return folder
