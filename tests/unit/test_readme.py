"""The README's code blocks do what they say."""

import shlex
import subprocess
import sys

import pytest
from pages import ROOT, blocks_of, commands_of, dead_links, understand

PATH = ROOT / "README.md"
README = PATH.read_text(encoding="utf-8")
BLOCKS = blocks_of(README)
SHELL_LINES = [
    line.split("#")[0].strip()
    for block in BLOCKS
    if block.kind == "bash"
    for line in block.text.splitlines()
]


def test_python_blocks_run(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    blocks = [block.text for block in BLOCKS if block.kind == "python"]
    assert len(blocks) == 1
    names = {}
    exec(blocks[0], names)
    assert (tmp_path / "apples.png").exists()
    assert (names["again"].tokens[0] == names["tokens"][2]).all()  # "the third picture, alone"
    assert "64 of 64 image tokens" in capsys.readouterr().out


@pytest.mark.parametrize("line", [line for line in SHELL_LINES if line.startswith("make")])
def test_make_lines_name_targets(line):
    subprocess.run([*shlex.split(line), "-n"], cwd=ROOT, check=True, capture_output=True)


@pytest.mark.parametrize("line", [line for line in SHELL_LINES if "minidalle generate" in line])
def test_generate_lines_draw(line, tmp_path):
    """With the embedded model in the place of one that is still to be trained."""
    arguments = shlex.split(line)[1:]
    if "--model" in arguments:
        where = arguments.index("--model")
        del arguments[where : where + 2]
    command = [sys.executable, "-m", "minidalle", *arguments]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / arguments[-1]).exists()


@pytest.mark.parametrize("arguments", commands_of(README), ids=" ".join)
def test_every_command_is_understood(arguments):
    understand(arguments)


def test_links_lead_somewhere():
    assert "](docs/" in README and not dead_links(PATH)
