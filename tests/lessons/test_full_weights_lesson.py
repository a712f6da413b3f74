"""Lesson 10 where there are weights: its cells run on the stand-in, as if that were published.

nbval runs the lesson where there are none. Here the stand-in lies in a hub's cache, or is named as
a folder. The cells run in a process of their own, since the hub's tools read the environment once.
"""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from minidalle.lessons import shipped
from minidalle.pipeline import PUBLISHED_VQGAN

LESSON = Path(__file__).parents[2] / "notebooks" / "10_full_weights.ipynb"
TINY = shipped("fixture")
RUN = """
import json, sys
space = {}
for number, source in enumerate(json.loads(sys.argv[1])):
    exec(compile(source, f"code cell {number}", "exec"), space)
assert space["full"] is (sys.argv[2] == "full")
"""


def cells(last: str, **settings: str) -> list[str]:
    """The lesson's code after Colab's cell, up to the cell with `last`; settings filled in."""
    notebook = json.loads(LESSON.read_text(encoding="utf-8"))
    found = ["".join(cell["source"]) for cell in notebook["cells"] if cell["cell_type"] == "code"]
    found = found[1 : 1 + next(i for i, source in enumerate(found) if last in source)]
    for name, value in settings.items():
        line = next(line for line in found[0].splitlines() if line.startswith(f'{name} = ""'))
        found[0] = found[0].replace(line, f"{name} = {value!r}")
    return found


def run(sources: list[str], kind: str, **environment: str) -> str:
    """What the cells print; they must run to their end, with the weights (full) or without."""
    command = [sys.executable, "-c", RUN, json.dumps(sources), kind]
    settings = os.environ | {"HF_HUB_OFFLINE": "1", "PYTHONIOENCODING": "utf-8"} | environment
    done = subprocess.run(command, env=settings, capture_output=True, encoding="utf-8")
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture
def cache(tmp_path) -> str:
    """A hub's cache that holds the stand-in under the names of the published models."""
    repository, revision = PUBLISHED_VQGAN.split("@")
    for name, commit, source in (
        ("dalle-mini/dalle-mini", "0" * 40, TINY),
        (repository, revision, TINY / "vqgan"),
    ):
        snapshot = tmp_path / f"models--{name.replace('/', '--')}" / "snapshots" / commit
        snapshot.mkdir(parents=True)
        for file in source.iterdir():
            if file.is_file():
                shutil.copy(file, snapshot)
    return str(tmp_path)


def test_weights_in_the_cache_draw_nine_pictures_and_are_ranked(cache):
    said = run(cells("model.rerank(", DEVICE="cpu"), "full", HF_HUB_CACHE=cache)
    assert "The weights are here: the cells below run them on cpu." in said
    assert "Bart: 287,826 parameters, VQGAN: 1,285,027" in said
    assert "100% of the picture's tokens are the same" in said


def test_a_folder_is_loaded(tmp_path):
    settings = {"WEIGHTS": str(TINY), "VQGAN": str(TINY / "vqgan"), "DEVICE": "cpu"}
    said = run(cells("from_pretrained(weights", **settings), "full", HF_HUB_CACHE=str(tmp_path))
    assert "The weights are here: the cells below run them on cpu." in said
    assert "Bart: 287,826 parameters, VQGAN: 1,285,027" in said


@pytest.mark.skipif(
    torch.cuda.is_available() or torch.backends.mps.is_available(), reason="there is a GPU"
)
def test_weights_without_a_gpu_wait_for_a_word(cache):
    said = run(cells("def in_cache"), "stand-in", HF_HUB_CACHE=cache)
    assert "The weights are here, but no GPU: the stand-in runs, unless you set DEVICE" in said
