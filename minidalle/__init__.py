"""minidalle: DALL·E mini to read, to train and to run.

    from minidalle import MiniDalle

    model = MiniDalle.from_pretrained()
    model.generate("red apple, twemoji style", n=9, seed=7).grid().save("apples.png")

Everything else is in the modules, and in the documentation that `make docs` builds.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from minidalle.pipeline import MiniDalle
    from minidalle.result import Result

__version__ = "0.1.0"
__all__ = ["MiniDalle", "Result", "__version__"]


def __getattr__(name: str) -> Any:
    """Import the pipeline, and torch, only when asked for: `minidalle --help` needs neither."""
    if name in ("MiniDalle", "Result"):
        from minidalle import pipeline

        return getattr(pipeline, name)
    raise AttributeError(f"module 'minidalle' has no attribute {name!r}")
