"""`minidalle info`, `convert` and `bench` on checkpoints, as a practitioner meets them."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch

from minidalle.checkpoints import load_vqgan, native
from minidalle.pipeline import PUBLISHED_VQGAN

FIXTURES = Path(__file__).parents[1] / "fixtures"
ROOT = Path(__file__).parents[2]
MINI, VQGAN = FIXTURES / "dalle_mini", FIXTURES / "vqgan"


def test_info_tells_what_a_checkpoint_holds(run):
    done = run("info", MINI)
    assert "bart: 287,826 parameters in float32, layout flax" in done.out
    assert "tokenizer: 607 text tokens" in done.out and "flax_model.msgpack  1.2 MB" in done.out
    assert re.search(r"dtype +n = 1 +n = 4 +n = 9 +n = 16\n +float32( +\d\.\d){4}\n", done.out)
    facts = json.loads(run("info", FIXTURES / "min_dalle/mega", "--json").out)
    assert facts["parts"]["bart"]["variant"] == "mega"
    assert facts["parts"]["bart"]["config"]["d_model"] == 80


def test_info_of_the_embedded_model(run):
    done = run("info", ROOT / "minidalle/pretrained/emoji")
    assert done.out.count("in float16, layout minidalle") == 3  # Bart, VQGAN and CLIP


def test_info_knows_what_is_packed_in_float16(run, tmp_path, monkeypatch):
    """The same model stored in two precisions: of one, half is packed, where that is done."""
    monkeypatch.setattr("minidalle.memory.can_pack_halves", lambda dtype: dtype == torch.float32)
    packed = {}
    for dtype in ("float32", "float16", "bfloat16"):
        run("convert", MINI, dtype, "--vqgan", VQGAN, "--dtype", dtype)
        facts = json.loads(run("info", dtype, "--json").out)
        assert {part["precision"] for part in facts["parts"].values()} == {dtype}
        rows = {(row["dtype"], row["n"]): row["packed"] for row in facts["memory"]}
        packed[dtype] = rows["float32", 9], rows["bfloat16", 9]
    whole, in_bfloat16 = packed["float32"]
    assert whole == 2 * in_bfloat16 > 0
    assert packed["float16"] == (in_bfloat16, in_bfloat16)
    assert packed["bfloat16"] == packed["float32"]


def test_convert_then_generate(run, tmp_path):
    """The road of a practitioner: look, convert, draw."""
    done = run("convert", MINI, "mini", "--vqgan", VQGAN, "--dtype", "bfloat16")
    assert (done.code, done.out) == (0, "mini\n")
    drawn = run("generate", "a cat", "-n", 1, "--model", "mini", "-o", "cat.png")
    assert drawn.code == 0 and (tmp_path / "cat.png").exists()
    direct = run("generate", "a cat", "-n", 1, "--model", MINI, "--vqgan", VQGAN, "-o", "b.png")
    assert direct.code == 0


def test_a_bart_from_the_hub_gets_the_published_vqgan(run, tmp_path, monkeypatch):
    """Of a folder that has none it is said; of an id the VQGAN is fetched, too."""
    alone = run("convert", MINI, "alone")
    assert alone.code == 0 and "alone has no VQGAN" in alone.err
    assert not (tmp_path / "alone/vqgan.safetensors").exists()

    places = {"dalle-mini/dalle-mini": MINI, PUBLISHED_VQGAN: VQGAN}
    monkeypatch.setattr("minidalle.checkpoints.locate", lambda source, **_: places[source])
    whole = run("convert", "dalle-mini/dalle-mini", "whole")
    assert (whole.code, whole.err) == (0, "")
    assert (tmp_path / "whole/vqgan.safetensors").exists()


def test_info_passes_over_the_classes_of_a_ckpt(run, monkeypatch):
    """taming's own names some: `convert` asks first, `info` tells its dtype without them."""
    module = ModuleType("trainer_of_others")
    module.Callback = type("Callback", (), {"__module__": "trainer_of_others"})
    monkeypatch.setitem(sys.modules, "trainer_of_others", module)
    document = torch.load(VQGAN / "taming_last.ckpt", weights_only=True)
    torch.save({**document, "callbacks": {module.Callback: 1}}, "last.ckpt")
    shutil.copy(VQGAN / "config.json", ".")
    assert "trainer_of_others Callback" in run("convert", "last.ckpt", "ours").err
    assert "vqgan: 1,285,027 parameters in float16, layout taming" in run("info", "last.ckpt").out


def test_convert_drops_classes_on_demand(run, tmp_path):
    shutil.copy(VQGAN / "taming_last.ckpt", "last.ckpt")
    shutil.copy(VQGAN / "config.json", ".")
    assert run("convert", "last.ckpt", "ours", "--drop-classes").code == 0
    assert load_vqgan("ours").config == load_vqgan(VQGAN).config


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("convert", "CHECKPOINT"),
        (f"convert {MINI}", "FOLDER"),
        (f"convert {MINI} taken", "taken is there already"),
        (f"convert {MINI} new --dtype int8", "int8"),
        (f"convert {MINI} new --vqgan {MINI}", "holds no VQGAN in a known layout"),
        ("convert empty new", "Found: nothing"),
        ("convert missing new", "no such folder or file"),
        ("info empty", "Looked for"),
        (f"info {MINI} --variant huge", "variant"),
        (f"bench load {MINI} --dtype int8", "int8"),
        ("bench load empty", "Looked for"),
    ],
)
def test_mistakes_are_one_line_and_leave_nothing(run, tmp_path, arguments, words):
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "file").touch()
    (tmp_path / "empty").mkdir()
    done = run(*arguments.split())
    assert done.code == 2 and done.out == "" and words in done.err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["empty", "taken"]


@pytest.mark.skipif(sys.platform != "linux", reason="peak memory is read from /proc")
def test_bench_counts_memory_above_torch(tmp_path):
    """In a process of its own: 1.15 MB of parameters are there, Python and torch are not."""

    def bench(*arguments) -> dict:
        command = [sys.executable, "-m", "minidalle", "bench", *map(str, arguments), "--json"]
        done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=tmp_path)
        return json.loads(done.stdout)

    loaded = bench("load", MINI)
    assert 1e6 < loaded["peak_bytes"] < 100e6 and loaded["seconds"] > 0
    converted = bench("convert", MINI, "ours", "--dtype", "float16")
    assert converted["peak_bytes"] < 100e6 and native.is_native(tmp_path / "ours")


def test_the_guide_says_what_works():
    """Every `minidalle` line of the guide to published weights is understood by the command."""
    guide = (ROOT / "docs" / "weights.md").read_text()
    blocks = "".join(re.findall(r"^```bash\n(.*?)^```", guide, flags=re.MULTILINE | re.DOTALL))
    lines = re.findall(r"^minidalle (.+)", blocks, flags=re.MULTILINE)
    assert len(lines) >= 4
    for line in lines:
        command = [sys.executable, "-m", "minidalle", *line.split()]
        subprocess.run([*command, "--help"], check=True, capture_output=True)
