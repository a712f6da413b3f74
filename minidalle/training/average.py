"""A moving average of a model's weights, which is evaluated and kept in their place."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn


class WeightsEMA:
    """A moving average of a model's weights over the steps, kept in float32.

    It is often better than the weights of any one step, which still follow the last few batches.
    Averaged are all floating-point parameters and buffers. The first steps are averaged over fewer
    steps than `decay` asks for, about a tenth of those taken, and the weights that the model was
    started with do not count: they would be in the average for long.
    """

    def __init__(self, model: nn.Module, decay: float):
        self.model, self.decay = model, decay
        self.weights = {name: value.float().clone() for name, value in self.current().items()}

    def current(self) -> dict[str, Tensor]:
        """The model's own weights, by name."""
        return {n: v for n, v in self.model.state_dict().items() if v.is_floating_point()}

    def update(self, step: int) -> None:
        """Take in the weights that the model has after this step, counted from 0."""
        decay = min(self.decay, step / (step + 9))
        for name, value in self.current().items():
            self.weights[name].lerp_(value.float(), 1 - decay)

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """A context in which the model has the averages for weights."""
        own = {name: value.clone() for name, value in self.current().items()}
        try:
            copy_values(self.weights, to=self.current())
            yield
        finally:
            copy_values(own, to=self.current())


@torch.no_grad()
def copy_values(values: dict[str, Tensor], *, to: dict[str, Tensor]) -> None:
    """Write tensors into others of the same names."""
    for name, value in to.items():
        value.copy_(values[name])
