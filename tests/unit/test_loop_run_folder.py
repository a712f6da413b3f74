"""A run's folder: who may go on in it, and what it holds when the disk is full."""

import json
import re
import resource
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

import pytest
import torch
from training_helpers import (
    LOOP,
    InnerConfig,
    Stop,
    ToyConfig,
    ToyTask,
    assert_equal_states,
    lines_of,
    stop_at,
)

from minidalle.training.loop import train
from minidalle.training.run_folder import (
    append_metrics,
    forget_later_metrics,
    start_run_folder,
)

SHORT = replace(LOOP, steps=2, evaluate_every=2)


@pytest.fixture
def run(tmp_path):
    """The folder of a finished run."""
    train(ToyTask(), SHORT, tmp_path)
    return tmp_path


def edit(run, change):
    """Let `change` write into the settings of run.json, as another version would have."""
    path = run / "run.json"
    settings = json.loads(path.read_text())
    change(settings)
    path.write_text(json.dumps(settings))


def without(part, *names):
    def change(settings):
        for name in names:
            del settings[part][name]

    return change


def start(run, loop=SHORT, task=None):
    start_run_folder(run, {"loop": loop, "task": task or ToyConfig()})


def test_settings_of_newer_versions_had_their_defaults(run):
    """Fields that an older version did not know, the task's and those inside others, too."""
    edit(run, without("loop", "weights_ema", "accumulate", "trackers"))
    edit(run, without("task", "lr"))
    edit(run, lambda settings: settings["task"]["inner"].pop("sides"))
    before = (run / "checkpoint.pt").read_bytes()
    train(ToyTask(), SHORT, run)
    assert (run / "checkpoint.pt").read_bytes() == before  # nothing was left to do
    saved = json.loads((run / "run.json").read_text())
    assert saved["loop"]["weights_ema"] == 0 and saved["task"]["inner"]["sides"] == [1, 2]


@pytest.mark.parametrize(
    ("name", "loop", "task", "message"),
    [
        ("weights_ema", replace(SHORT, weights_ema=0.9), None, r"loop\.weights_ema was 0\.0, is 0"),
        ("lr", SHORT, ToyConfig(lr=0.1), r"task\.lr was 0\.05, is 0\.1\. Use"),
        (
            "sides",
            SHORT,
            ToyConfig(InnerConfig(5, (3,))),
            r"task\.inner\.sides was \[1, 2\], is \[",
        ),
        # A whole field's default is what its owner gives it, not what its own fields have.
        ("inner", SHORT, ToyConfig(InnerConfig()), r"task\.inner\.width was 5, is 6\. Use"),
    ],
)
def test_a_new_setting_that_changes_something_is_refused(run, name, loop, task, message):
    for part in ("loop", "task"):
        edit(run, lambda settings, part=part: settings[part].pop(name, None))
    edit(run, lambda settings: settings["task"].get("inner", {}).pop(name, None))
    with pytest.raises(ValueError, match=message):
        start(run, loop, task)


def test_every_changed_setting_is_named(run):
    before = (run / "run.json").read_text()
    with pytest.raises(ValueError) as error:
        start(run, replace(SHORT, batch_size=6, seed=1), ToyConfig(InnerConfig(7)))
    assert str(error.value) == (
        f"{run} was started with other settings: loop.batch_size was 4, is 6; loop.seed was 0, "
        "is 1; task.inner.width was 5, is 7. Use another folder, by --run"
    )
    assert (run / "run.json").read_text() == before


def test_a_setting_without_a_default_counts_as_changed(run):
    @dataclass(frozen=True)
    class Demanding:
        depth: int
        inner: InnerConfig = field(default_factory=lambda: InnerConfig(width=5))
        lr: float = 0.05

    with pytest.raises(ValueError, match=r"task\.depth was not set, is 3\. Use"):
        start(run, task=Demanding(3))


def test_settings_that_are_gone_are_named_and_stop_nothing(run, caplog):
    edit(run, lambda settings: settings["loop"].update(momentum=0.9))
    edit(run, lambda settings: settings["task"]["inner"].update(depth=[1]))
    start(run)
    (record,) = caplog.records
    assert record.levelname == "WARNING"
    assert "loop.momentum = 0.9, task.inner.depth = [1]" in record.getMessage()
    caplog.clear()
    start(run)
    assert not caplog.records
    edit(run, lambda settings: settings["task"].update(inner="plain"))  # it was of another kind
    with pytest.raises(ValueError, match=r"task\.inner\.width was not set, is 5"):
        start(run)


def test_who_watches_may_change(run):
    start(run, replace(SHORT, trackers="wandb"))
    assert json.loads((run / "run.json").read_text())["loop"]["trackers"] == "wandb"
    start(run)


def test_a_folder_without_checkpoint_may_be_started_otherwise(run):
    (run / "checkpoint.pt").unlink()
    start(run, replace(SHORT, batch_size=6))
    assert json.loads((run / "run.json").read_text())["loop"]["batch_size"] == 6


def test_settings_that_cannot_be_read(run):
    (run / "run.json").write_text('{"loop": {"ste')
    with pytest.raises(ValueError, match=r"run\.json: not valid JSON"):
        start(run)


def test_lines_of_later_steps_and_broken_ones_are_forgotten(tmp_path):
    lines = ['{"step": 1, "loss": 2.0}', '{"step": 2, "loss": 1.0}', '{"step": 3, "lo']
    (tmp_path / "metrics.jsonl").write_text("\n".join(lines))
    forget_later_metrics(tmp_path, 1)
    assert lines_of(tmp_path) == [{"step": 1, "loss": 2.0}]


def test_a_full_disk_leaves_the_last_checkpoint(tmp_path, monkeypatch):
    """The first save works, the second does not: said in one line, and the run can go on."""
    save, times = torch.save, []

    def full_disk(state, path):
        times.append(state["step"])
        if len(times) == 2:
            path.write_bytes(b"half of it")
            raise RuntimeError("no space left")
        save(state, path)

    monkeypatch.setattr(torch, "save", full_disk)
    with pytest.raises(OSError) as error:
        train(ToyTask(), LOOP, tmp_path)
    last = tmp_path / "checkpoint.pt"
    pattern = r"(.+) of step 6 could not be written, with \d+\.\d MB left on the disk: no space "
    message = re.fullmatch(pattern + r"left; (.+) of step 3 is still good", str(error.value))
    assert message.groups() == (str(last), str(last))
    assert torch.load(last, weights_only=True)["step"] == 3
    assert not list(tmp_path.glob(".*.part"))
    train(ToyTask(), LOOP, tmp_path)
    assert times == [3, 6, 6, 8]


@contextmanager
def files_of_at_most(size):
    """The system refuses to let a file grow beyond `size` bytes, as a full disk would."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("share", [0.0, 0.5, 0.99])
def test_the_system_stops_a_checkpoint_in_the_middle(share, tmp_path):
    """No stand-in for torch.save: it is cut off. The last one is whole, and the run goes on."""
    last = tmp_path / "run" / "checkpoint.pt"
    with pytest.raises(Stop):
        train(stop_at(ToyTask(), 4), LOOP, last.parent)  # saved after three steps
    before = last.read_bytes()
    most = max(int(share * len(before)), 2048)  # the log and the settings still fit
    assert most < len(before)
    with files_of_at_most(most), pytest.raises(OSError) as error:
        train(ToyTask(), LOOP, last.parent)
    assert str(error.value).startswith(f"{last} of step 6 could not be written, with ")
    assert str(error.value).endswith(f"; {last} of step 3 is still good")
    assert last.read_bytes() == before
    assert not list(last.parent.glob(".*.part"))

    resumed, calm = ToyTask(), ToyTask()
    train(resumed, LOOP, last.parent)
    train(calm, LOOP, tmp_path / "calm")
    assert_equal_states(resumed.model.state_dict(), calm.model.state_dict())
    assert [line["step"] for line in lines_of(last.parent) if "loss" in line] == [*range(1, 9)]


def test_a_log_that_cannot_be_written_is_named(run):
    (run / "metrics.jsonl").unlink()
    (run / "metrics.jsonl").mkdir()
    with pytest.raises(OSError, match=r"metrics\.jsonl: the line of step 3 could not be written"):
        append_metrics(run, 3, {"loss": 1.0})


def test_a_state_with_nan_in_it_is_not_saved(tmp_path):
    """It came after the step: from a codebook's average, say, which no gradient shows."""
    task = ToyTask()
    after_step = task.after_step

    def broken(step, accelerator):
        after_step(step, accelerator)
        if step == 5:
            task.model.level[1] = float("nan")

    task.after_step = broken
    last = tmp_path / "checkpoint.pt"
    with pytest.raises(FloatingPointError) as error:
        train(task, LOOP, tmp_path)
    assert str(error.value) == (
        "model.level has nan in it after step 6, which is not saved; lower the learning rate: "
        f"{last} of step 3 is still good"
    )
    assert torch.load(last, weights_only=True)["step"] == 3


@pytest.mark.parametrize("damage", ["half", "empty", "zeros"])
def test_a_damaged_checkpoint_is_named(damage, run):
    """As a crash of the whole machine may leave it."""
    path = run / "checkpoint.pt"
    data = path.read_bytes()
    left = {"half": data[: len(data) // 2], "empty": b"", "zeros": bytes(len(data))}
    path.write_bytes(left[damage])
    with pytest.raises(ValueError, match=r"checkpoint\.pt: not a whole checkpoint \(.+\)\. It was"):
        train(ToyTask(), SHORT, run)
