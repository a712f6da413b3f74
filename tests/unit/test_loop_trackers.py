"""Trackers: they get what the log gets, send nothing unasked, and are left alone unless named."""

import subprocess
import sys
from dataclasses import replace
from types import ModuleType

import pytest
from accelerate import tracking as their_tracking
from accelerate.utils import LoggerType
from training_helpers import LOOP, Stop, ToyTask, lines_of, stop_at

from minidalle.training.loop import train

TRACKED = replace(LOOP, trackers="wandb")


class StandIn(ModuleType):
    """What accelerate uses of wandb."""

    def __init__(self):
        super().__init__("wandb")
        self.options, self.lines, self.settings, self.finished = [], [], {}, 0
        self.config = self

    def init(self, **options):
        self.options.append(options)
        return self

    def update(self, settings, allow_val_change):
        self.settings |= settings

    def log(self, values, step):
        self.lines.append({"step": step, **values})

    def finish(self):
        self.finished += 1


@pytest.fixture
def wandb(monkeypatch):
    """A wandb that is installed, whether it is or not."""
    stand_in = StandIn()
    monkeypatch.setitem(sys.modules, "wandb", stand_in)
    monkeypatch.setattr(their_tracking, "_available_trackers", [LoggerType.WANDB])
    monkeypatch.delenv("WANDB_MODE", raising=False)
    return stand_in


def test_trackers_get_every_line_of_the_log_and_the_settings(wandb, tmp_path):
    run = tmp_path / "first try"
    train(ToyTask(), TRACKED, run)
    rounded = [{n: round(value, 6) for n, value in line.items()} for line in wandb.lines]
    assert rounded == lines_of(run)
    assert any("validation_error" in line for line in wandb.lines)
    assert wandb.settings["loop.steps"] == 8 and wandb.settings["task.inner.width"] == 5
    assert wandb.settings["task.inner.sides"] == "(1, 2)"  # not every tracker takes a list
    assert wandb.finished == 1
    (options,) = wandb.options
    assert options == {
        "project": "minidalle", "mode": "offline", "dir": str(run), "name": "first try"
    }  # fmt: skip


def test_the_environment_says_where_wandb_sends(wandb, tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "online")
    train(ToyTask(), TRACKED, tmp_path)
    assert wandb.options[0]["mode"] == "online"


def test_trackers_are_finished_when_a_run_breaks_off_and_started_again(wandb, tmp_path):
    with pytest.raises(Stop):
        train(stop_at(ToyTask(), 5), TRACKED, tmp_path)
    assert wandb.finished == 1
    train(ToyTask(), TRACKED, tmp_path)
    assert wandb.finished == len(wandb.options) == 2
    assert [line["step"] for line in wandb.lines if "loss" in line] == [
        1,
        2,
        3,
        4,
        5,
        4,
        5,
        6,
        7,
        8,
    ]


def test_nothing_is_tracked_unless_asked_for(wandb, tmp_path):
    train(ToyTask(), LOOP, tmp_path)
    assert not wandb.options and not wandb.lines


def test_trackers_do_not_touch_what_is_learned(wandb, tmp_path):
    tasks = [ToyTask(), ToyTask()]
    for task, loop in zip(tasks, (LOOP, TRACKED), strict=True):
        train(task, loop, tmp_path / (loop.trackers or "none"))
    assert (tasks[0].model.layers[0].weight == tasks[1].model.layers[0].weight).all()


@pytest.mark.parametrize(
    ("trackers", "message"),
    [
        ("csv", r"there is no tracker 'csv'; there are: .*tensorboard.*wandb"),
        ("wandb, csv", "there is no tracker 'csv'"),
        ("all", "there is no tracker 'all'"),
        ("wandb,tensorboard", "'tensorboard' is not installed: pip install tensorboard"),
    ],
)
def test_trackers_that_cannot_be(wandb, trackers, message, tmp_path):
    """Refused before anything is started, by name."""
    with pytest.raises(ValueError, match=message):
        train(ToyTask(), replace(LOOP, trackers=trackers), tmp_path / "run")
    assert not (tmp_path / "run").exists() and not wandb.options


def test_no_tracker_is_imported_with_the_loop():
    code = (
        "import sys, minidalle.training.loop\n"
        "known = {'wandb', 'tensorboard', 'tensorboardX', 'mlflow', 'aim', 'comet_ml', 'swanlab'}\n"
        "assert not known & set(sys.modules), known & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_tensorboard_has_the_curve(tmp_path):
    """The real one, where it is installed."""
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    train(ToyTask(), replace(LOOP, trackers="tensorboard"), tmp_path)
    events = EventAccumulator(str(tmp_path / "minidalle")).Reload()
    losses = {event.step: event.value for event in events.Scalars("loss")}
    expected = {line["step"]: line["loss"] for line in lines_of(tmp_path) if "loss" in line}
    assert losses == pytest.approx(expected, abs=1e-6)
    assert [event.step for event in events.Scalars("validation_error")] == [3, 6, 8]
