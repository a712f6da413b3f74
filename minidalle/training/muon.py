"""Muon: an optimizer for matrices (Jordan et al., "Muon: An optimizer for hidden layers", 2024).

A matrix moves by its momentum *orthogonalized*: with all singular values brought near 1, so that
every direction is learned at the same speed, also those in which the gradient is small. How far it
moves follows Liu et al., "Muon is Scalable for LLM Training" (2025): as much, on average, as with
AdamW, so that the same learning rate and weight decay fit both.

This is what `torch.optim.Muon` computes with adjust_lr_fn="match_rms_adamw", but torch's is always
in bfloat16, which a processor without instructions for it takes 20 seconds a step for, at the size
of the embedded Bart. Here the precision is an argument.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

# Of the polynomial a·s + b·s³ + c·s⁵, which in ROUNDS rounds takes singular values s from (0, 1] to
# somewhere around 1: nearer is slower and gains nothing.
A, B, C = 3.4445, -4.7750, 2.0315
ROUNDS = 5


class Muon(torch.optim.Optimizer):
    """For parameters that are matrices; whatever else a model has takes another optimizer.

    lr: how far entries move in a step, as with AdamW. weight_decay: times lr, of every weight.
    momentum: decay of the gradients' moving average. dtype: what orthogonalizing computes in.
    Raises ValueError for a parameter that is no matrix.
    """

    def __init__(
        self,
        params: Iterable[Tensor],
        lr: float,
        weight_decay: float = 0.0,
        momentum: float = 0.95,
        dtype: torch.dtype = torch.float32,
    ):
        super().__init__(params, {"lr": lr, "weight_decay": weight_decay, "momentum": momentum})
        self.dtype = dtype
        for weight in (w for group in self.param_groups for w in group["params"]):
            if weight.ndim != 2:
                raise ValueError(f"Muon is for matrices; found a parameter {tuple(weight.shape)}")

    @torch.no_grad()
    def step(self, closure: None = None) -> None:
        """Move every matrix that has a gradient."""
        for group in self.param_groups:
            lr, momentum = group["lr"], group["momentum"]
            for weight in (w for w in group["params"] if w.grad is not None):
                state = self.state[weight]
                if not state:
                    state["momentum_buffer"] = torch.zeros_like(weight)
                average = state["momentum_buffer"].lerp_(weight.grad, 1 - momentum)
                ahead = weight.grad.lerp(average, momentum)  # Nesterov's: where it will be next
                direction = orthogonalized(ahead.to(self.dtype)).to(weight.dtype)
                weight.mul_(1 - lr * group["weight_decay"])
                weight.add_(direction, alpha=-lr * 0.2 * max(weight.shape) ** 0.5)


def orthogonalized(matrix: Tensor) -> Tensor:
    """The matrix (m, n) with all its singular values near 1, by Newton-Schulz iteration."""
    x = matrix.T if matrix.shape[0] > matrix.shape[1] else matrix  # (s, l), s the shorter side
    x = x / x.norm().clamp(min=1e-7)  # no singular value is above 1
    for _ in range(ROUNDS):
        gram = x @ x.T  #                                            (s, s)
        step = torch.addmm(gram, gram, gram, beta=B, alpha=C)  #     (s, s) B·gram + C·gram²
        x = torch.addmm(x, step, x, beta=A)  #                       (s, l) A·x + step·x
    return x.T if matrix.shape[0] > matrix.shape[1] else x
