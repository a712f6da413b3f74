"""How long and how fast to learn, and from which samples: all known from the step's number alone.

So a run that is resumed needs nothing but that number to go on exactly as if it had never stopped,
and all processes agree without a word.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import torch
from accelerate import PartialState
from accelerate.utils import parse_flag_from_env
from torch import Tensor

from minidalle.processor import multiplies_bfloat16
from minidalle.training.settings import refuse


@dataclass(frozen=True)
class LoopConfig:
    """How long and how fast to learn.

    One batch is `batch_size` samples over all processes together.
    """

    steps: int = 1000  # optimizer steps in the whole run
    batch_size: int = 64  # samples per step, over all processes
    accumulate: int = 1  # parts that a process works its share of a batch through in: saves memory
    warmup_steps: int = 100  # of rising learning rate, linearly; then it falls along a cosine
    grad_clip: float = 1.0  # the gradient's norm is cut to this
    weights_ema: float = 0.0  # decay per step of the averaged weights, from 0 (none) to below 1
    precision: str = "auto"  # "no" (float32), "bf16" (autocast); "auto": bf16 where it is fast
    seed: int = 0  # of everything random in the run
    log_every: int = 20  # steps between lines in metrics.jsonl
    evaluate_every: int = 500  # steps between evaluations on the validation split, with samples
    save_every: int = 100  # steps between checkpoints
    trackers: str = ""  # accelerate's trackers that get the logs, too: "tensorboard", "wandb,aim"…

    def __post_init__(self) -> None:
        counts = ("steps", "batch_size", "accumulate", "log_every", "evaluate_every", "save_every")
        wrong = [
            f"{name} is {getattr(self, name)}; it must be at least 1"
            for name in counts
            if getattr(self, name) < 1
        ]
        if self.warmup_steps < 0:
            wrong.append(f"warmup_steps is {self.warmup_steps}; it must be at least 0")
        if not self.grad_clip > 0:
            wrong.append(f"grad_clip is {self.grad_clip}; it must be above 0")
        if not 0 <= self.weights_ema < 1:
            wrong.append(
                f"weights_ema is {self.weights_ema}; it must be from 0 (no average) to below 1"
            )
        if self.precision not in ("auto", "no", "bf16"):
            wrong.append(f"precision is {self.precision!r}; it must be 'auto', 'no' or 'bf16'")
        refuse(wrong)


def precision_of(config: LoopConfig) -> str:
    """What this process computes in, on its device: "no" (float32) or "bf16" (autocast)."""
    if config.precision != "auto":
        return config.precision
    device = PartialState(cpu=parse_flag_from_env("ACCELERATE_USE_CPU")).device
    return "bf16" if multiplies_bfloat16(device) else "no"


def learning_rate_factor(step: int, config: LoopConfig) -> float:
    """Linear warm-up, then a cosine from 1 to 0."""
    if step < config.warmup_steps:
        return (step + 1) / config.warmup_steps
    progress = (step - config.warmup_steps) / max(1, config.steps - config.warmup_steps)
    return 0.5 * (1 + math.cos(math.pi * progress))


def seed_of(seed: int, step: int) -> int:
    """One seed per run and step; the multiplier only keeps them apart."""
    return (seed * 1_000_003 + step) % 2**63


def samples_of_step(step: int, size: int, config: LoopConfig) -> Tensor:
    """The numbers of the samples of this step, over all processes: (batch_size,).

    The epochs' random orders are laid end to end and cut into batches.
    """
    first = step * config.batch_size
    end = first + config.batch_size
    pieces = [
        order_of_epoch(config.seed, epoch, size)[max(0, first - epoch * size) : end - epoch * size]
        for epoch in range(first // size, (end - 1) // size + 1)
    ]
    return torch.cat(pieces)


@lru_cache(maxsize=1)  # steps ask for one epoch after the other, and an order may be large
def order_of_epoch(seed: int, epoch: int, size: int) -> Tensor:
    """All samples' numbers in the random order of an epoch: (size,). Not to be written to."""
    generator = torch.Generator().manual_seed(seed_of(seed + 997, epoch))
    return torch.randperm(size, generator=generator)
