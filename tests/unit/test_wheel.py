"""The wheel carries everything: installed elsewhere, without network, it draws pictures."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
OFFLINE = ["--no-deps", "--no-build-isolation", "--no-index", "--quiet"]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wheel")
    pip = [sys.executable, "-m", "pip", "wheel", *OFFLINE, "--wheel-dir", str(folder), str(ROOT)]
    subprocess.run(pip, check=True, cwd=folder)
    (wheel,) = folder.glob("minidalle-*.whl")
    return wheel


def test_size(wheel):
    assert wheel.stat().st_size <= 50 * 2**20


def test_installed_elsewhere_it_generates_and_finds_its_data(wheel, tmp_path):
    site, work = tmp_path / "site", tmp_path / "work"
    work.mkdir()
    pip = [sys.executable, "-m", "pip", "install", *OFFLINE, "--target", str(site), str(wheel)]
    subprocess.run(pip, check=True)
    code = (
        "import minidalle, sys\n"
        "from minidalle.data.emoji import find_parquet\n"
        "model = minidalle.MiniDalle.from_pretrained()\n"
        "model.generate('red apple, twemoji style', n=1).images[0].save('apple.png')\n"
        "print(minidalle.__file__, find_parquet(), sep='\\n')\n"
    )
    environment = os.environ | {"PYTHONPATH": str(site), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=work, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert all(line.startswith(str(site)) for line in done.stdout.splitlines())
    assert (work / "apple.png").exists()
