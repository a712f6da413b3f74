"""A run's folder: the settings it was started with, what was measured, its last whole state.

    run.json       the settings of the loop and of the task; to go on takes the same ones
    metrics.jsonl  one line per log, {"step": 20, "loss": …}
    checkpoint.pt  the state from which the run goes on
    samples/       pictures drawn at the evaluations

Every file is written aside and renamed, or is a list of lines whose last may be cut short: a run
that is killed at any moment can go on. A run folder of an older version can go on, too: a setting
that was unknown then has the value that changes nothing, its default.
"""

from __future__ import annotations

import json
import logging
import os
import pickle
import shutil
from dataclasses import MISSING, asdict, fields, is_dataclass
from pathlib import Path
from typing import Any

import torch

from minidalle.checkpoints.parts import read_json, write_atomically

log = logging.getLogger(__name__)

MAY_CHANGE = {"loop.trackers"}  # settings that do not touch what is learned


def start_run_folder(run: Path, configs: dict[str, Any]) -> None:
    """Make the run folder, or check that the one there was started with the same settings.

    configs: dataclasses by name, such as {"loop": LoopConfig(…), "task": …}. Raises ValueError,
    naming every setting that differs, where the folder has a checkpoint of a run with others.
    """
    path = run / "run.json"
    run.mkdir(parents=True, exist_ok=True)
    (run / "samples").mkdir(exist_ok=True)
    settings = plain({name: asdict(config) for name, config in configs.items()})
    if path.exists() and (run / "checkpoint.pt").exists():
        saved = read_json(path)
        known = {name: with_defaults(saved.get(name, {}), c) for name, c in configs.items()}
        check_unchanged(run, before=flat(plain(known)), now=flat(settings))
    write_atomically(path, (json.dumps(settings, indent=2) + "\n").encode())


def with_commit(name: str, found: Path) -> str:
    """A checkpoint's name for run.json: a hub id has the commit that it was found to stand for.

    name: as `locate` takes it. found: what it gave, for a hub id its folder at a commit.
    """
    if Path(name).exists() or found.parent.name != "snapshots":
        return name
    return f"{name.partition('@')[0]}@{found.name}"


def check_unchanged(run: Path, before: dict[str, Any], now: dict[str, Any]) -> None:
    """Compare settings, flat: ValueError for those that differ, a warning for those that are gone.

    Nobody can set what this version no longer has, so that must not stop a run.
    """
    changed = [
        f"{name} was {repr(before[name]) if name in before else 'not set'}, is {value!r}"
        for name, value in now.items()
        if name not in MAY_CHANGE and (name not in before or before[name] != value)
    ]
    if changed:
        raise ValueError(
            f"{run} was started with other settings: {'; '.join(changed)}. Use another folder, "
            "by --run"
        )
    gone = [f"{name} = {value!r}" for name, value in before.items() if name not in now]
    if gone:
        log.warning("%s: this version goes on without the settings %s", run, ", ".join(gone))


def with_defaults(saved: dict[str, Any], config: Any) -> dict[str, Any]:
    """The saved values of a dataclass, and the defaults of its fields that were not saved.

    Fields that are dataclasses themselves are filled up in the same way.
    """
    known = dict(saved)
    for field in fields(config):
        value = getattr(config, field.name)
        if field.name in saved:
            if is_dataclass(value) and isinstance(saved[field.name], dict):
                known[field.name] = with_defaults(saved[field.name], value)
        elif field.default is not MISSING:
            known[field.name] = field.default
        elif field.default_factory is not MISSING:
            known[field.name] = field.default_factory()
    return known


def plain(settings: dict[str, Any]) -> dict[str, Any]:
    """Settings as a JSON file gives them back: tuples are lists, dataclasses are objects."""
    return json.loads(json.dumps(settings, default=asdict))


def flat(settings: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings under joined names: {"loop": {"steps": 9}} -> {"loop.steps": 9}."""
    found: dict[str, Any] = {}
    for name, value in settings.items():
        inner = flat(value, f"{prefix}{name}.") if isinstance(value, dict) else None
        found |= {f"{prefix}{name}": value} if inner is None else inner
    return found


def append_metrics(run: Path, step: int, line: dict[str, float]) -> None:
    """Append one line to metrics.jsonl."""
    rounded = {name: round(value, 6) for name, value in line.items()}
    path = run / "metrics.jsonl"
    try:
        with open(path, "a") as file:
            file.write(json.dumps({"step": step, **rounded}) + "\n")
    except OSError as error:  # which does not always say of which file
        raise OSError(f"{path}: the line of step {step} could not be written: {error}") from error


def forget_later_metrics(run: Path, step: int) -> None:
    """Drop the lines of steps after `step`, which will be taken again, and a line cut short."""
    path = run / "metrics.jsonl"
    kept = []
    for line in path.read_text().splitlines() if path.exists() else []:
        try:
            if json.loads(line)["step"] <= step:
                kept.append(line)
        except ValueError:
            continue
    write_atomically(path, "".join(f"{line}\n" for line in kept).encode())


def write_checkpoint(path: Path, state: dict[str, Any], last_good: str) -> None:
    """Write the whole state aside, then rename it over the last one.

    last_good: what there is to go on from without this one, for the errors. Raises OSError where it
    cannot be written, FloatingPointError where nobody could go on from it, since it has NaN in it.
    """
    for name, value in flat(state).items():
        if isinstance(value, torch.Tensor) and value.isnan().any():
            raise FloatingPointError(
                f"{name} has nan in it after step {state['step']}, which is not saved; lower the "
                f"learning rate: {last_good} is still good"
            )
    temporary = path.with_name(f".{path.name}.part")
    try:
        torch.save(state, temporary)
        os.replace(temporary, path)
    except (OSError, RuntimeError) as error:  # torch.save says a full disk as the latter
        left = shutil.disk_usage(path.parent).free / 1e6
        temporary.unlink(missing_ok=True)
        raise OSError(
            f"{path} of step {state['step']} could not be written, with {left:.1f} MB left on the "
            f"disk: {error}; {last_good} is still good"
        ) from error


def read_checkpoint(path: Path) -> dict[str, Any]:
    """The state that `write_checkpoint` wrote, on the CPU; ValueError where it is damaged."""
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, EOFError, pickle.UnpicklingError) as error:
        reason = (str(error) or "it ends too early").splitlines()[0]
        raise ValueError(
            f"{path}: not a whole checkpoint ({reason}). It was whole when it was written: put a "
            "copy back, or delete it and begin anew"
        ) from error
