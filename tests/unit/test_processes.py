"""Training in several processes, and training that is killed: both give what one calm run gives."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

SCRIPT = Path(__file__).parents[1] / "training_run.py"
ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"}


STEPS = 12


def start(stage: str, run: Path, steps: int = STEPS, processes: int = 1) -> subprocess.Popen:
    command = [sys.executable]
    if processes > 1:
        command += ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    return subprocess.Popen(
        [*command, str(SCRIPT), stage, str(run), str(steps)],
        env=ENVIRONMENT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(process: subprocess.Popen) -> dict:
    out, err = process.communicate()
    assert process.returncode == 0, err
    return json.loads(out.splitlines()[-1])


@pytest.mark.parametrize("stage", ["vqgan", "bart"])
def test_two_processes_give_one_processes_loss_curve(stage, tmp_path):
    """The same global batches, float32: 1e-5 over ten steps; parameters equal on all processes.

    For the VQGAN that holds for the codebook's start, its moving average and its revivals.
    """
    two = finish(start(stage, tmp_path / "two", processes=2))
    one = finish(start(stage, tmp_path / "one"))
    assert len(one["losses"]) == STEPS
    assert two["losses"][:10] == pytest.approx(one["losses"][:10], abs=1e-5)
    assert len(two["fingerprints"]) == 2 and len(set(two["fingerprints"])) == 1


def kill_at_random(run: Path, steps: int, kills: int, chance: random.Random) -> int:
    """Start the run again and again, killing it `kills` times at moments drawn at random.

    Every kill must hit: the run may not be over before. Returns how many left a half-written
    checkpoint behind.
    """
    checkpoint, halves = run / "checkpoint.pt", 0
    for kill in range(kills):
        process = start("vqgan", run, steps)
        before = checkpoint.stat().st_mtime_ns if checkpoint.exists() else 0
        while process.poll() is None:  # from here on the moments count: training has begun
            if checkpoint.exists() and checkpoint.stat().st_mtime_ns > before:
                break
            time.sleep(0.002)
        time.sleep(chance.uniform(0, 0.3))
        process.send_signal(signal.SIGKILL)
        _, err = process.communicate()
        assert process.returncode == -signal.SIGKILL, f"ended before kill {kill + 1}: {err}"
        halves += (run / ".checkpoint.pt.part").exists()
    return halves


def check_kills(tmp_path: Path, kills: int) -> None:
    steps = 6 * kills  # one or two are taken between kills, on the machines that were tried
    calm = finish(start("vqgan", tmp_path / "calm", steps))
    run = tmp_path / "killed"
    halves = kill_at_random(run, steps, kills, random.Random(kills))
    killed = finish(start("vqgan", run, steps))
    print(f"{kills} kills, {halves} while a checkpoint was written")
    assert len(calm["losses"]) == steps
    assert killed == calm  # parameters bit-equal, and every step's loss once in the log
    states = [
        torch.load(tmp_path / name / "checkpoint.pt", weights_only=True)
        for name in ("calm", "killed")
    ]
    assert states[0]["step"] == states[1]["step"] == steps


def test_a_run_killed_five_times_ends_bit_equal(tmp_path):
    """SIGKILL at random moments; a checkpoint follows every step, so often while one is written."""
    check_kills(tmp_path, 5)


@pytest.mark.slow
def test_a_run_killed_fifty_times_ends_bit_equal(tmp_path):
    check_kills(tmp_path, 50)
