"""The command line as a user meets it: what it writes, what it prints, how it refuses."""

import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

import minidalle


def run(*arguments, cwd) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "minidalle", *map(str, arguments)]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=300)


def test_generate_writes_a_grid_and_prints_its_path(tmp_path):
    arguments = ("generate", "red apple, twemoji style", "-n", 4, "--seed", 7, "--timings")
    first = run(*arguments, "-o", "a.png", cwd=tmp_path)
    assert first.returncode == 0, first.stderr
    path, timings = first.stdout.splitlines()
    assert path == "a.png" and "load" in timings and "draw tokens" in timings
    assert Image.open(tmp_path / "a.png").size == (128, 128)
    run(*arguments, "-o", "b.png", cwd=tmp_path)
    run("generate", "red apple, twemoji style", "-n", 4, "--seed", 8, "-o", "c.png", cwd=tmp_path)
    a, b, c = ((tmp_path / name).read_bytes() for name in ("a.png", "b.png", "c.png"))
    assert a == b != c
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.png", "b.png", "c.png"]


def test_version_and_help(tmp_path):
    assert run("--version", cwd=tmp_path).stdout == f"minidalle {minidalle.__version__}\n"
    for arguments, words in [((), "generate"), (("generate", "--help"), "--condition-scale")]:
        done = run(*arguments, cwd=tmp_path)
        assert done.returncode == 0 and words in done.stdout


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["generate"], "prompt"),
        (["generate", "x", "--colour", "red"], "--colour"),
        (["generate", "x", "-n", "many"], "-n"),
        (["generate", "x", "-n", "0"], "n is 0"),
        (["generate", "x", "--seed", "-1"], "seed is -1"),
        (["generate", "x", "--temperature", "nan"], "temperature is nan"),
        (["generate", "x", "--top-p", "0"], "top_p is 0.0"),
        (["generate", "x", "--dtype", "float8"], "float8"),
        (["generate", "x", "--device", "toaster"], "toaster"),
        (["evaluate", "--split", "holdout"], "'holdout'"),
        (["generate", "x", "--model", "nowhere"], "nowhere"),
        (["generate", "x", "-o", "nowhere/a.png"], "nowhere"),
        (["generate", "x", "-o", "a.txt"], ".png"),
        (["train"], "command"),
        (["train", "vqgan"], "--run"),
        (["train", "vqgan", "--run", "r", "--set", "stps=3"], "'steps'"),
        (["train", "vqgan", "--run", "r", "--preset", "huge"], "'huge'"),
        (["train", "bart", "--run", "r", "--vqgan", "nowhere"], "nowhere"),
        (["paint", "x"], "paint"),
    ],
)
def test_mistakes_are_one_line_and_exit_code_2(tmp_path, arguments, words):
    done = run(*arguments, cwd=tmp_path)
    assert done.returncode == 2 and done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert line.startswith("minidalle: ") and words in line
    assert not list(tmp_path.glob("*.png"))


def test_an_unwritable_output_is_refused_before_any_work(tmp_path):
    (tmp_path / "taken.png").mkdir()
    done = run("generate", "x", "-o", "taken.png", cwd=tmp_path)
    assert done.returncode == 2 and "cannot be written" in done.stderr


def test_makefile_targets_do_what_the_readme_says():
    """`make -n` prints the commands without running them."""
    root = Path(__file__).parents[2]
    make = ["make", "-n", "-C", str(root), "demo", "PROMPT=rocket, noto style", "SEED=3"]
    printed = subprocess.run(make, capture_output=True, text=True, check=True).stdout
    assert 'generate "rocket, noto style" -n 9 --seed 3 -o demo.png' in printed
