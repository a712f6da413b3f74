"""The training loop, one for every part of the model.

A *task* knows what is learned: it makes a batch from the numbers of its samples, computes the loss,
and evaluates. The loop knows how: devices and precision by `accelerate`, learning-rate schedule,
gradient clipping, logs, and checkpoints from which the same command goes on after a crash.

Everything random comes from generators seeded by (seed, step), and for each sample by its place in
the batch, too: which samples, how they are augmented, dropout. So a resumed run needs nothing but
the step's number to go on exactly as if it had never stopped, and a batch dealt out to many
processes is the batch that one process would have had.

A run folder (`run_folder`) holds settings, logs and the whole state, for resuming, and at the end
the trained parts in minidalle's native layout: `config.json` and the weights.
"""

from __future__ import annotations

import logging
import sys
import time
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, Protocol

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from torch import Tensor, nn
from tqdm import tqdm

from minidalle.training.average import WeightsEMA, copy_values
from minidalle.training.run_folder import (
    append_metrics,
    forget_later_metrics,
    read_checkpoint,
    start_run_folder,
    write_checkpoint,
)
from minidalle.training.schedule import (
    LoopConfig,
    learning_rate_factor,
    precision_of,
    samples_of_step,
    seed_of,
)
from minidalle.training.settings import refuse
from minidalle.training.trackers import tracker_names, tracking

log = logging.getLogger(__name__)

Generators = list[torch.Generator]  # one for each sample of a batch, for what is random about it
NAMED = 8  # samples that an error lists
IN_THE_BAR = ("loss", "perplexity", "samples_per_second", "tokens_per_second")


class Task(Protocol):
    """What a part of the model brings to the loop.

    A task may also have these; they count as 0, False and the samples' numbers where it has not:
        tokens_per_sample: int   tokens that are learned from one sample, for the speed in tokens
        splits_batches: bool     the loss is a mean over samples, and nothing else looks at the
                                 batch as a whole: it may be worked through in parts
        sample_names(indices)    what to call the samples of the last batch, when one is no good
    """

    model: nn.Module
    config: Any  # a dataclass, written into run.json

    def __len__(self) -> int: ...  # samples in an epoch
    def optimizers(self) -> list[torch.optim.Optimizer]: ...  # their rates are the peaks
    # Tensors by name, each with a row per sample: samples `indices`, of which there may be fewer
    # than in the whole batch, where other processes have the rest.
    def batch(self, step: int, indices: Tensor, generators: Generators) -> dict[str, Tensor]: ...
    # What to make small for some rows of a batch, and what else is worth logging. `model` is the
    # task's, wrapped for several processes.
    def loss(
        self, model: nn.Module, batch: dict[str, Tensor]
    ) -> tuple[Tensor, dict[str, Tensor]]: ...
    def after_step(self, step: int, accelerator: Accelerator) -> None: ...  # on all processes
    def evaluate(self, samples: Path) -> dict[str, float]: ...  # held out; pictures to `samples`
    def export(self, folder: Path) -> None: ...
    def state_dict(self) -> dict[str, Any]: ...  # what must be kept beside model and optimizers
    def load_state_dict(self, state: dict[str, Any]) -> None: ...


def train(
    task: Task, config: LoopConfig, run: str | Path, *, progress: bool | None = None
) -> dict[str, float]:
    """Train to `config.steps`, from the run folder's last checkpoint if there is one.

    progress: whether to show a progress bar; None shows one on a terminal. Returns the last
    evaluation. Raises ValueError where the run folder was started with other settings or the task
    cannot be trained with these, and FloatingPointError, naming step and samples, where the loss or
    its gradient is no longer a number.
    """
    trainer = Trainer(task, config, Path(run))
    first_step = trainer.load_checkpoint()
    show = (sys.stderr.isatty() if progress is None else progress) and trainer.is_main
    options = {"total": config.steps, "initial": first_step, "unit": "step", "disable": not show}
    trackers = tracking(trainer.accelerator, trainer.run, trainer.configs)
    with trackers, tqdm(**options, dynamic_ncols=True) as bar:
        since, logged = time.perf_counter(), first_step
        for step in range(first_step, config.steps):
            metrics = trainer.take_step(step)
            done = step + 1
            last = done == config.steps
            bar.update()
            if done % config.log_every == 0 or last:
                seconds, since = time.perf_counter() - since, time.perf_counter()
                metrics |= trainer.speed(done - logged, seconds)
                logged = done
                line = trainer.log(done, metrics)
                bar.set_postfix({n: f"{line[n]:.3g}" for n in IN_THE_BAR if n in line})
            if done % config.evaluate_every == 0 and not last:
                trainer.evaluate(done)
            if done % config.save_every == 0 or last:
                trainer.save_checkpoint(done)
        return trainer.finish()


class Trainer:
    """One task on this process's device, in one run folder."""

    def __init__(self, task: Task, config: LoopConfig, run: Path):
        self.task, self.config, self.run = task, config, run
        self.configs = {"loop": config, "task": task.config}
        trackers = tracker_names(config.trackers) or None
        AcceleratorState._reset_state()  # else only runs of one precision could follow each other
        self.accelerator = Accelerator(
            mixed_precision=precision_of(config), log_with=trackers, project_dir=run
        )
        check_parts(task, config, self.accelerator.num_processes)
        self.is_main = self.accelerator.is_main_process  # one process writes for all
        if self.is_main:
            start_run_folder(run, self.configs)
            precision = "bfloat16" if self.accelerator.mixed_precision == "bf16" else "float32"
            log.info("computing in %s on %s", precision, self.accelerator.device)
        self.model = self.accelerator.prepare(task.model)
        self.optimizers = [self.accelerator.prepare(optimizer) for optimizer in task.optimizers()]
        # The parameters' groups, whose learning rates the loop sets before every step.
        self.groups = [group for o in self.optimizers for group in o.param_groups]
        self.peak_rates = [group["lr"] for group in self.groups]
        self.average = WeightsEMA(task.model, config.weights_ema) if config.weights_ema else None
        self.last_good = "no checkpoint yet; what the run was started from"

    def take_step(self, step: int) -> dict[str, Tensor]:
        """One pass over a batch, forward and backward, and one update; return what to log."""
        accelerator, config = self.accelerator, self.config
        for group, rate in zip(self.groups, self.peak_rates, strict=True):
            group["lr"] = rate * learning_rate_factor(step, config)
        # Of P processes, number p has the batch's samples p, p + P, …: dealt out like cards.
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
            metrics = self.add_gradients(step, indices, batch)
        norm = accelerator.clip_grad_norm_(self.model.parameters(), config.grad_clip)
        self.check_number("gradient", torch.as_tensor(norm), step, indices)
        for optimizer in self.optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        self.task.after_step(step, accelerator)
        if self.average:
            self.average.update(step)
        return {**metrics, "gradient_norm": torch.as_tensor(norm)}

    def add_gradients(
        self, step: int, indices: Tensor, batch: dict[str, Tensor]
    ) -> dict[str, Tensor]:
        """Work a batch through, part by part; return the loss and the metrics, as means.

        The model is left with the gradient of the loss over the whole batch, of all processes. What
        a part's backward pass needs is forgotten before the next one begins.
        """
        parts = self.config.accumulate
        size = len(indices) // parts
        found: list[dict[str, Tensor]] = []
        for i in range(parts):
            rows = slice(i * size, (i + 1) * size)
            part = {name: value[rows] for name, value in batch.items()}
            last = i == parts - 1  # only then need the processes tell each other their gradients
            with nullcontext() if last else self.accelerator.no_sync(self.model):
                loss, metrics = self.task.loss(self.model, part)
                self.check_number("loss", loss, step, indices, rows)
                self.accelerator.backward(loss / parts)
            found.append({n: v.detach().float() for n, v in {"loss": loss, **metrics}.items()})
        return {name: torch.stack([part[name] for part in found]).mean() for name in found[0]}

    def check_number(
        self, what: str, value: Tensor, step: int, indices: Tensor, rows: slice = slice(None)
    ) -> None:
        """Raise FloatingPointError, with all that helps to find out why, for NaN and infinity.

        rows: those of the batch, of samples `indices`, that the value comes from.
        """
        if torch.isfinite(value):
            return
        names = getattr(self.task, "sample_names", lambda indices: map(str, indices.tolist()))
        samples = list(names(indices))[rows]
        more = f" and {len(samples) - NAMED} more" if len(samples) > NAMED else ""
        raise FloatingPointError(
            f"the {what} is {value.item()} in step {step} (samples {', '.join(samples[:NAMED])}"
            f"{more}); lower the learning rate, or look at these samples: {self.last_good} is "
            "still good"
        )

    def speed(self, steps: int, seconds: float) -> dict[str, Tensor]:
        """Samples per second over all processes, and tokens where a sample has tokens."""
        samples = steps * self.config.batch_size / seconds
        tokens = getattr(self.task, "tokens_per_sample", 0)
        speeds = {"samples_per_second": torch.tensor(samples)}
        return speeds | ({"tokens_per_second": torch.tensor(samples * tokens)} if tokens else {})

    def log(self, step: int, metrics: dict[str, Tensor]) -> dict[str, float]:
        """Write the metrics, as means over the processes, and return them."""
        device, reduce = self.accelerator.device, self.accelerator.reduce
        line = {n: float(reduce(v.detach().float().to(device), "mean")) for n, v in metrics.items()}
        self.write_metrics(step, line)
        return line

    def evaluate(self, step: int) -> dict[str, float]:
        """Let the task evaluate, on the main process; write and return what it found."""
        result: dict[str, float] = {}
        if self.is_main:
            self.task.model.eval()
            with self.averaged_weights():
                result = self.task.evaluate(self.run / "samples")
            self.write_metrics(step, {f"validation_{name}": v for name, v in result.items()})
        self.accelerator.wait_for_everyone()
        return result

    def finish(self) -> dict[str, float]:
        """Evaluate for the last time, and let the task write what was learned."""
        result = self.evaluate(self.config.steps)
        if self.is_main:
            with self.averaged_weights():
                self.task.export(self.run)
        return result

    def averaged_weights(self) -> AbstractContextManager[None]:
        """A context in which the model has its averaged weights, if they are asked for."""
        return self.average.in_place() if self.average else nullcontext()

    def write_metrics(self, step: int, line: dict[str, float]) -> None:
        """One line for metrics.jsonl, and for the trackers."""
        if self.is_main:
            append_metrics(self.run, step, line)
            self.accelerator.log(line, step=step)

    def save_checkpoint(self, step: int) -> None:
        """Write the whole state, over the last one."""
        path = self.run / "checkpoint.pt"
        if self.is_main:
            state = {
                "step": step,
                "model": self.accelerator.unwrap_model(self.model).state_dict(),
                "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
                "task": self.task.state_dict(),
            }
            if self.average:
                state["weights_ema"] = self.average.weights
            write_checkpoint(path, state, self.last_good)
        self.last_good = f"{path} of step {step}"
        self.accelerator.wait_for_everyone()

    def load_checkpoint(self) -> int:
        """Take up the run folder's last state and return its step; 0 where there is none."""
        path = self.run / "checkpoint.pt"
        state = read_checkpoint(path) if path.exists() else None
        self.check_shared(path, state["step"] if state else 0)
        if state is None:
            return 0
        self.accelerator.unwrap_model(self.model).load_state_dict(state["model"])
        for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        # Loading has put new groups in the place of the old ones.
        self.groups = [group for o in self.optimizers for group in o.param_groups]
        self.task.load_state_dict(state["task"])
        if self.average:
            copy_values(state["weights_ema"], to=self.average.weights)
        self.last_good = f"{path} of step {state['step']}"
        if self.is_main:
            forget_later_metrics(self.run, state["step"])
        log.info("resuming %s at step %d", self.run, state["step"])
        return state["step"]

    def check_shared(self, path: Path, step: int) -> None:
        """Raise ValueError unless all processes, on all machines, found the same checkpoint."""
        here = torch.tensor([step], device=self.accelerator.device)
        first, *others = self.accelerator.gather(here).tolist()
        for number, other in enumerate(others, 1):
            if other != first:
                found = [f"that of step {s}" if s else "none" for s in (first, other)]
                raise ValueError(
                    f"{path}: process 0 found {found[0]}, process {number} {found[1]}. The run "
                    "folder must be on a disk that all machines share; or copy the first "
                    "machine's checkpoint.pt to that place on the others"
                )


def check_parts(task: Task, config: LoopConfig, processes: int) -> None:
    """Raise ValueError unless batches can be dealt out to the processes, and worked in parts."""
    wrong = []
    if config.batch_size % processes:
        wrong.append(
            f"batch_size is {config.batch_size}; it must be divisible by the number of "
            f"processes, {processes}"
        )
    share = config.batch_size // processes
    if share % config.accumulate:
        wrong.append(
            f"accumulate is {config.accumulate}; it must divide the samples that each process "
            f"has of a batch, {share}"
        )
    if config.accumulate > 1 and not getattr(task, "splits_batches", False):
        wrong.append(
            f"accumulate is {config.accumulate}; it must be 1 for {type(task).__name__}, which "
            "looks at a batch as a whole"
        )
    refuse(wrong)
