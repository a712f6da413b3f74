"""The README's code blocks do what they say."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```", README, flags=re.MULTILINE | re.DOTALL)
SHELL_LINES = [
    line.split("#")[0].strip()
    for kind, text in BLOCKS
    if kind == "bash"
    for line in text.splitlines()
]


def test_python_blocks_run(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    blocks = [text for kind, text in BLOCKS if kind == "python"]
    assert len(blocks) == 1
    names = {}
    exec(blocks[0], names)
    assert (tmp_path / "apples.png").exists()
    assert (names["again"].tokens[0] == names["tokens"][2]).all()  # "the third picture, alone"
    assert "64 of 64 image tokens" in capsys.readouterr().out


@pytest.mark.parametrize("line", [line for line in SHELL_LINES if line.startswith("make")])
def test_make_lines_name_targets(line):
    subprocess.run([*shlex.split(line), "-n"], cwd=ROOT, check=True, capture_output=True)


@pytest.mark.parametrize("line", [line for line in SHELL_LINES if "minidalle " in line])
def test_minidalle_lines_are_understood(line, tmp_path):
    """Drawing is done; training is stopped by an impossible setting after all else is read."""
    arguments = shlex.split(line)[1:]
    if "train" in arguments:
        arguments += ["--set", "steps=0"]
    elif "--model" in arguments:
        where = arguments.index("--model")
        del arguments[where : where + 2]
    command = [sys.executable, "-m", "minidalle", *arguments]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    if "train" in arguments:
        assert done.returncode == 2 and "steps is 0" in done.stderr
    else:
        assert done.returncode == 0, done.stderr
        assert (tmp_path / arguments[-1]).exists()


def test_links_lead_somewhere():
    targets = re.findall(r"\]\(([^)#:]+)\)", README)
    assert targets and all((ROOT / target).exists() for target in targets)
