"""Processes that train together: each has a part of every batch, and all must learn the same.

A batch of B samples is dealt out like cards: of P processes, number p has the rows p, p + P, …
In one process all of this does nothing, so that a loss is written once for any number of them.
"""

from __future__ import annotations

import gc
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


def are_together() -> bool:
    """Whether this process is one of several that were started to train together."""
    return dist.is_available() and dist.is_initialized()


def in_batch_order(tensor: Tensor) -> Tensor:
    """All processes' rows of a batch, (B/processes, …) each, as one process would have them."""
    if not are_together():
        return tensor
    parts = [torch.empty_like(tensor) for _ in range(dist.get_world_size())]
    dist.all_gather(parts, tensor.contiguous())
    return torch.stack(parts, dim=1).flatten(0, 1)


class GatherRows(torch.autograd.Function):
    """All processes' rows; a row's gradient is the sum of what all processes found for it."""

    @staticmethod
    def forward(context: Any, rows: Tensor) -> Tensor:
        return in_batch_order(rows)

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> Tensor:
        # A copy, since all_reduce writes into it, and the gradient may not be ours alone.
        gradient = gradient.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(gradient)
        return gradient[dist.get_rank() :: dist.get_world_size()]


def gather_rows(rows: Tensor) -> Tensor:
    """The rows of all processes, (B/processes, …) -> (B, …), through which gradients flow.

    They are in the order in which one process would have them. Every process computes the same loss
    from them, so the gradient that comes to a row is as many times too large as there are
    processes; the mean over the processes, which DistributedDataParallel takes, sets that right.
    """
    return GatherRows.apply(rows) if are_together() else rows


@torch.no_grad()
def mean_over_processes(tensor: Tensor) -> Tensor:
    """A tensor's mean over the processes; the tensor itself where there is one."""
    if not are_together():
        return tensor
    total = tensor.clone()
    dist.all_reduce(total)
    return total / dist.get_world_size()


def part_company() -> None:
    """End the process group, once every process has come here, before the interpreter ends.

    The group's threads may still be letting go of the last tensors that were sent, and a thread
    that asks for Python after the interpreter has gone aborts the process, after all its work was
    done. Whoever still holds the group, as a wrapped model in a reference cycle does, keeps the
    threads alive: so those are collected first.
    """
    if are_together():
        dist.barrier()
        gc.collect()
        dist.destroy_process_group()
