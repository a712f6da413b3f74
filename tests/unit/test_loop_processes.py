"""The loop in two processes: CLIP, batches in parts, averaged weights, all as in one process.

This file is also the script that runs in those processes: `test_loop_processes.py FOLDER`. With
`apart` after it, every process has a run folder of its own, as on machines that share no disk.
"""

import hashlib
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from training_helpers import LOOP, FewEmoji, ToyTask, checkpoint_of, losses_of

from minidalle.clip import CLIPConfig
from minidalle.data import sources
from minidalle.training import loop as training_loop
from minidalle.training.clip import CLIPTask, CLIPTrainConfig
from minidalle.training.processes import gather_rows, part_company

STEPS = replace(LOOP, steps=12, evaluate_every=100)
LOOPS = {
    "clip": replace(STEPS, batch_size=8),
    "whole": STEPS,
    "parts": replace(STEPS, accumulate=2),
    "average": replace(STEPS, weights_ema=0.5),
}
ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"}


# What runs in the processes.


class WatchedAverage(training_loop.WeightsEMA):
    """The loop's, which other processes than the first keep to themselves."""

    def __init__(self, model, decay):
        super().__init__(model, decay)
        model.average = self


def fingerprint(state: dict[str, torch.Tensor]) -> str:
    digest = hashlib.sha256()
    for value in state.values():
        digest.update(value.contiguous().numpy().tobytes())
    return digest.hexdigest()


def of_all_processes(found: object) -> list:
    if not dist.is_initialized():
        return [found]
    everywhere = [None] * dist.get_world_size()
    dist.all_gather_object(everywhere, found)
    return everywhere


def train_stage(stage: str, folder: Path) -> list[list[str]]:
    """Train; return fingerprints of what each process has then: weights, and averages if any."""
    if stage == "clip":
        config = CLIPTrainConfig(clip=replace(CLIPConfig.tiny(), resolution=64, patch=8))
        task = CLIPTask(config, LOOPS[stage])
    else:
        task = ToyTask()
    training_loop.train(task, LOOPS[stage], folder / stage)
    states = [task.model.state_dict()]
    if hasattr(task.model, "average"):
        states.append(task.model.average.weights)
    return of_all_processes([fingerprint(state) for state in states])


def gather_numbers() -> list[list[list[float]]]:
    """What each process gathers of six numbers, and the gradient of a loss that weighs them."""
    here, processes = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
    rows = torch.arange(6.0)[here::processes, None].requires_grad_()
    gathered = gather_rows(rows)
    (gathered[:, 0] * torch.tensor([1.0, 2, 4, 8, 16, 32])).sum().backward()
    return of_all_processes([gathered.flatten().tolist(), rows.grad.flatten().tolist()])


def main(folder: Path) -> None:
    sources.EmojiDataset, training_loop.WeightsEMA = FewEmoji, WatchedAverage
    found = {stage: train_stage(stage, folder) for stage in LOOPS} | {"numbers": gather_numbers()}
    if not dist.is_initialized() or dist.get_rank() == 0:
        print(json.dumps(found))
    part_company()
    assert not dist.is_initialized()


def train_apart(folder: Path) -> None:
    """Train with a run folder that the other process cannot see."""
    rank = os.environ.get("RANK", "0")
    training_loop.train(ToyTask(), STEPS, folder / f"machine-{rank}")
    part_company()


# The tests.


def start(count: int, *arguments: str | Path) -> subprocess.CompletedProcess:
    """Run the script in so many processes to its end; if they wait for each other, not for ever."""
    command = [sys.executable]
    if count > 1:
        command += ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={count}"]
    command += [__file__, *map(str, arguments)]
    return subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, timeout=900)


def in_processes(count: int, folder: Path) -> dict[str, list]:
    """What the script prints: by stage, a list of what each process found."""
    done = start(count, folder)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="module")
def one(folder):
    return in_processes(1, folder / "one")


@pytest.fixture(scope="module")
def two(folder):
    return in_processes(2, folder / "two")


@pytest.mark.parametrize("stage", LOOPS)
def test_two_processes_give_one_processes_curve(stage, one, two, folder):
    """The same global batches, float32: every loss to 1e-5; all processes end with the same.

    CLIP's loss looks at all pairs of the batch, so they must come together from both. Parts are
    compared with whole batches.
    """
    losses = losses_of(folder / "one" / ("whole" if stage == "parts" else stage))
    assert len(losses) == 12 and losses[-1] < losses[0]
    assert losses_of(folder / "two" / stage) == pytest.approx(losses, abs=1e-5)
    assert len(two[stage]) == 2 and two[stage][0] == two[stage][1]


def test_two_processes_give_one_processes_average(one, two, folder):
    averages = [checkpoint_of(folder / name / "average")["weights_ema"] for name in ("one", "two")]
    for name, value in averages[0].items():
        torch.testing.assert_close(value, averages[1][name], atol=1e-5, rtol=1e-5)
    weights, average = two["average"][1]  # of the process that writes no checkpoint
    assert average == fingerprint(averages[1]) != weights


def test_machines_that_share_no_disk_do_not_go_on_apart(tmp_path):
    """Who has no checkpoint would begin at step 0 while the others wait: said, and stopped."""
    assert start(2, tmp_path, "apart").returncode == 0
    last = tmp_path / "machine-0/checkpoint.pt"
    assert last.exists() and not (tmp_path / "machine-1/checkpoint.pt").exists()
    before = last.read_bytes()
    done = start(2, tmp_path, "apart")
    assert done.returncode != 0
    assert "process 0 found that of step 12, process 1 none. The run folder must" in done.stderr
    assert last.read_bytes() == before
    (tmp_path / "machine-1").mkdir(exist_ok=True)
    (tmp_path / "machine-1/checkpoint.pt").write_bytes(before)  # as the message says
    assert start(2, tmp_path, "apart").returncode == 0


def test_rows_are_gathered_in_the_batchs_order(one, two):
    """Every process has them all; a row's gradient is the sum over the processes' losses."""
    assert one["numbers"] == [[[0, 1, 2, 3, 4, 5], [1, 2, 4, 8, 16, 32]]]
    assert [rows for rows, _ in two["numbers"]] == [[0, 1, 2, 3, 4, 5]] * 2
    assert [gradient for _, gradient in two["numbers"]] == [[2, 8, 32], [4, 16, 64]]


if __name__ == "__main__":
    (train_apart if sys.argv[2:] == ["apart"] else main)(Path(sys.argv[1]))
