"""What the commands that load a model share: loading as the options say, and timing stages."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from minidalle.pipeline import MiniDalle

Item = TypeVar("Item")
LARGE = 200e6  # bytes of Bart's files


def load_model(
    model: str | None,
    vqgan: str | None,
    revision: str | None,
    variant: str | None,
    device: str,
    dtype: str,
    cuda_graphs: bool = False,
) -> MiniDalle:
    """The model that the options name."""
    from minidalle.pipeline import EMBEDDED, MiniDalle

    def weights() -> int:
        """Bytes of the files of the smallest Bart, where there are several."""
        from minidalle.checkpoints import find_barts, locate

        parts = find_barts(locate(model or EMBEDDED, revision=revision, variant=variant))
        return min((sum(file.stat().st_size for file in p.weights) for p in parts), default=0)

    return MiniDalle.from_pretrained(
        model,
        device=device,
        dtype=choose_dtype(dtype, device, weights),
        **given(vqgan=vqgan, revision=revision, variant=variant, cuda_graphs=cuda_graphs or None),
    )


def given(**values: Any) -> dict[str, Any]:
    """Those of the options that were given."""
    return {name: value for name, value in values.items() if value is not None}


def choose_dtype(dtype: str, device: str, weights: Callable[[], int] = lambda: 0) -> str:
    """The precision; "auto" is the best half one of a CUDA GPU.

    On a CPU it is float32, or bfloat16 where the processor multiplies it and the model has LARGE
    weights (in bytes): those of small ones are in its caches anyway.
    """
    if dtype != "auto":
        return dtype

    import torch

    from minidalle.processor import multiplies_bfloat16

    fast = multiplies_bfloat16(device)
    if device.startswith("cuda") and torch.cuda.is_available():
        return "bfloat16" if fast else "float16"
    return "bfloat16" if fast and weights() >= LARGE else "float32"


@contextmanager
def timed(name: str, stages: dict[str, float]) -> Iterator[None]:
    """Add the seconds that the block took."""
    start = time.perf_counter()
    yield
    stages[name] = stages.get(name, 0.0) + time.perf_counter() - start


def timed_each(name: str, stages: dict[str, float], items: Iterator[Item]) -> Iterator[Item]:
    """The items, adding the seconds that each took to come."""
    while True:
        with timed(name, stages):
            item = next(items, None)
        if item is None:
            return
        yield item
