"""The training loop, one for every part of the model.

A *task* knows what is learned: it makes a batch from the numbers of its samples, computes the loss,
and evaluates. The loop knows how: devices and precision by `accelerate`, learning-rate schedule,
gradient clipping, logs, and checkpoints from which the same command goes on after a crash.

Everything random comes from generators seeded by (seed, step), and for each sample by its place in
the batch, too: which samples, how they are augmented, dropout. So a resumed run needs nothing but
the step's number to go on exactly as if it had never stopped, and a batch dealt out to many
processes is the batch that one process would have had.

A run folder holds `run.json` (the settings it was started with), `metrics.jsonl` (one line per
log), `samples/`, `checkpoint.pt` (the whole state, for resuming), and at the end the trained parts
in minidalle's native layout: `config.json` and the weights.
"""

from __future__ import annotations

import json
import logging
import math
import os
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
import torch.distributed as dist
from accelerate import Accelerator
from torch import Tensor, nn
from tqdm import tqdm

from minidalle.checkpoints.parts import write_atomically

log = logging.getLogger(__name__)

Generators = list[torch.Generator]  # one for each sample of a batch, for what is random about it


@dataclass(frozen=True)
class LoopConfig:
    """How long and how fast to learn.

    One batch is `batch_size` samples over all processes together.
    """

    steps: int = 1000  # optimizer steps in the whole run
    batch_size: int = 64  # samples per step, over all processes
    warmup_steps: int = 100  # of rising learning rate, linearly; then it falls along a cosine
    grad_clip: float = 1.0  # the gradient's norm is cut to this
    precision: str = "bf16"  # "no" (float32) or "bf16" (autocast)
    seed: int = 0  # of everything random in the run
    log_every: int = 20  # steps between lines in metrics.jsonl
    evaluate_every: int = 500  # steps between evaluations on the validation split, with samples
    save_every: int = 100  # steps between checkpoints

    def __post_init__(self) -> None:
        for name in ("steps", "batch_size", "log_every", "evaluate_every", "save_every"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least 1")
        if self.precision not in ("no", "bf16"):
            raise ValueError(f"precision is {self.precision!r}; it must be 'no' or 'bf16'")


class Task(Protocol):
    """What a part of the model brings to the loop."""

    model: nn.Module
    config: Any  # a dataclass, written into run.json

    def __len__(self) -> int: ...  # samples in an epoch
    def optimizers(self) -> list[torch.optim.Optimizer]: ...
    def batch(self, step: int, indices: Tensor, generators: Generators) -> dict[str, Any]: ...
    def loss(self, model: nn.Module, batch: dict[str, Any]) -> tuple[Tensor, dict[str, Tensor]]: ...
    def after_step(self, step: int, accelerator: Accelerator) -> None: ...
    def evaluate(self, samples: Path) -> dict[str, float]: ...  # held out; pictures to `samples`
    def export(self, folder: Path) -> None: ...
    def state_dict(self) -> dict[str, Any]: ...  # what must be kept beside model and optimizers
    def load_state_dict(self, state: dict[str, Any]) -> None: ...


def train(
    task: Task, config: LoopConfig, run: str | Path, *, progress: bool | None = None
) -> dict[str, float]:
    """Train to `config.steps`, from the run folder's last checkpoint if there is one.

    progress: whether to show a progress bar; None shows one on a terminal. Returns the last
    evaluation. Raises ValueError where the run folder was started with other settings, and
    FloatingPointError, naming step and samples, where the loss is no longer a number.
    """
    trainer = Trainer(task, config, Path(run))
    first_step = trainer.load_checkpoint()
    show = (sys.stderr.isatty() if progress is None else progress) and trainer.is_main
    bar = tqdm(total=config.steps, initial=first_step, disable=not show, dynamic_ncols=True)
    since, logged = time.perf_counter(), first_step
    for step in range(first_step, config.steps):
        metrics = trainer.take_step(step)
        done = step + 1
        last = done == config.steps
        bar.update()
        if done % config.log_every == 0 or last:
            seconds, since = time.perf_counter() - since, time.perf_counter()
            speed = (done - logged) * config.batch_size / seconds
            logged = done
            line = trainer.log(done, metrics | {"samples_per_second": torch.tensor(speed)})
            bar.set_postfix({name: f"{value:.3g}" for name, value in line.items()})
        if done % config.evaluate_every == 0 and not last:
            trainer.evaluate(done)
        if done % config.save_every == 0 or last:
            trainer.save_checkpoint(done)
    bar.close()
    result = trainer.evaluate(config.steps)
    if trainer.is_main:
        task.export(trainer.run)
    return result


class Trainer:
    """One task on this process's device, in one run folder."""

    def __init__(self, task: Task, config: LoopConfig, run: Path):
        self.task, self.config, self.run = task, config, run
        self.accelerator = Accelerator(mixed_precision=config.precision)
        if config.batch_size % self.accelerator.num_processes:
            raise ValueError(
                f"batch_size is {config.batch_size}; it must be divisible by the number of "
                f"processes, {self.accelerator.num_processes}"
            )
        self.is_main = self.accelerator.is_main_process  # one process writes for all
        if self.is_main:
            settings = {"loop": asdict(config), "task": asdict(task.config)}
            start_run_folder(run, settings)
        self.model = self.accelerator.prepare(task.model)
        self.optimizers = [self.accelerator.prepare(optimizer) for optimizer in task.optimizers()]
        self.groups = [group for o in self.optimizers for group in o.param_groups]
        self.peak_rates = [group["lr"] for group in self.groups]
        self.last_good = "no checkpoint yet; what the run was started from"

    def take_step(self, step: int) -> dict[str, Tensor]:
        """One forward and backward pass and one update; return the numbers worth logging."""
        accelerator, config = self.accelerator, self.config
        for group, rate in zip(self.groups, self.peak_rates, strict=True):
            group["lr"] = rate * learning_rate_factor(step, config)
        here, processes = accelerator.process_index, accelerator.num_processes
        indices = samples_of_step(step, len(self.task), config)[here::processes]
        seed = seed_of(config.seed, step)
        places = range(here, config.batch_size, processes)
        generators = [torch.Generator().manual_seed(seed_of(seed, place)) for place in places]
        batch = self.task.batch(step, indices, generators)
        batch = {name: value.to(accelerator.device) for name, value in batch.items()}
        self.model.train()
        with torch.random.fork_rng():  # dropout draws from the global generator: lend it a seed
            torch.manual_seed(seed_of(seed, here))
            loss, metrics = self.task.loss(self.model, batch)
            if not torch.isfinite(loss):
                raise FloatingPointError(
                    f"the loss is {loss.item()} in step {step} (samples {indices.tolist()[:8]}…); "
                    f"lower the learning rate: {self.last_good} is still good"
                )
            accelerator.backward(loss)
        norm = accelerator.clip_grad_norm_(self.model.parameters(), config.grad_clip)
        for optimizer in self.optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        self.task.after_step(step, accelerator)
        return {"loss": loss, **metrics, "gradient_norm": torch.as_tensor(norm)}

    def log(self, step: int, metrics: dict[str, Tensor]) -> dict[str, float]:
        """Append the metrics, as means over the processes, to metrics.jsonl; return them."""
        device, reduce = self.accelerator.device, self.accelerator.reduce
        line = {n: float(reduce(v.detach().float().to(device), "mean")) for n, v in metrics.items()}
        self.write_metrics(step, line)
        return line

    def evaluate(self, step: int) -> dict[str, float]:
        """Let the task evaluate, on the main process; log and return what it found."""
        result: dict[str, float] = {}
        if self.is_main:
            self.task.model.eval()
            result = self.task.evaluate(self.run / "samples")
            self.write_metrics(step, {f"validation_{name}": v for name, v in result.items()})
        self.accelerator.wait_for_everyone()
        return result

    def write_metrics(self, step: int, line: dict[str, float]) -> None:
        """Append one line to metrics.jsonl."""
        if self.is_main:
            rounded = {name: round(value, 6) for name, value in line.items()}
            with open(self.run / "metrics.jsonl", "a") as file:
                file.write(json.dumps({"step": step, **rounded}) + "\n")

    def save_checkpoint(self, step: int) -> None:
        """Write the whole state aside, then rename it over the last one."""
        if self.is_main:
            state = {
                "step": step,
                "model": self.accelerator.unwrap_model(self.model).state_dict(),
                "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
                "task": self.task.state_dict(),
            }
            temporary = self.run / ".checkpoint.pt.part"
            try:
                torch.save(state, temporary)
                os.replace(temporary, self.run / "checkpoint.pt")
            except (OSError, RuntimeError) as error:  # torch.save says a full disk as the latter
                temporary.unlink(missing_ok=True)
                raise OSError(
                    f"{self.run / 'checkpoint.pt'} of step {step} could not be written: {error}; "
                    f"{self.last_good} is still good"
                ) from error
        self.last_good = f"{self.run / 'checkpoint.pt'} of step {step}"
        self.accelerator.wait_for_everyone()

    def load_checkpoint(self) -> int:
        """Take up the run folder's last state and return its step; 0 where there is none."""
        path = self.run / "checkpoint.pt"
        if not path.exists():
            return 0
        state = torch.load(path, map_location="cpu", weights_only=True)
        self.accelerator.unwrap_model(self.model).load_state_dict(state["model"])
        for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        self.groups = [group for o in self.optimizers for group in o.param_groups]
        self.task.load_state_dict(state["task"])
        self.last_good = f"{path} of step {state['step']}"
        if self.is_main:
            forget_later_metrics(self.run / "metrics.jsonl", state["step"])
        log.info("resuming %s at step %d", self.run, state["step"])
        return state["step"]


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
    positions = torch.arange(first, first + config.batch_size)
    orders = {
        epoch: torch.randperm(
            size, generator=torch.Generator().manual_seed(seed_of(config.seed + 997, epoch))
        )
        for epoch in range(first // size, (first + config.batch_size - 1) // size + 1)
    }
    return torch.stack([orders[int(p) // size][int(p) % size] for p in positions])


def in_batch_order(tensor: Tensor) -> Tensor:
    """All processes' rows of a batch, (B/processes, …) each, as one process would have them."""
    if not (dist.is_available() and dist.is_initialized()):
        return tensor
    parts = [torch.empty_like(tensor) for _ in range(dist.get_world_size())]
    dist.all_gather(parts, tensor.contiguous())
    return torch.stack(parts, dim=1).flatten(0, 1)


def forget_later_metrics(path: Path, step: int) -> None:
    """Drop the lines of steps after `step`, which will be taken again, and a line cut short."""
    kept = []
    for line in path.read_text().splitlines() if path.exists() else []:
        try:
            if json.loads(line)["step"] <= step:
                kept.append(line)
        except ValueError:
            continue
    write_atomically(path, "".join(f"{line}\n" for line in kept).encode())


def start_run_folder(run: Path, settings: dict[str, Any]) -> None:
    """Make the run folder, or check that the one there was started with the same settings."""
    path = run / "run.json"
    run.mkdir(parents=True, exist_ok=True)
    (run / "samples").mkdir(exist_ok=True)
    settings = json.loads(json.dumps(settings))
    if path.exists() and (run / "checkpoint.pt").exists():
        before = json.loads(path.read_text())
        changed = [
            f"{part}.{name} was {before[part].get(name)!r}, is {value!r}"
            for part in settings
            for name, value in settings[part].items()
            if before[part].get(name) != value
        ]
        if changed:
            raise ValueError(
                f"{run} was started with other settings: {'; '.join(changed)}. Use another folder"
            )
    path.write_text(json.dumps(settings, indent=2) + "\n")
