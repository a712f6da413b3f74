"""Training from checkpoints by hub id, against the small hub of `test_hub.py` on this machine."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from huggingface_hub import constants
from test_hub import Hub, server  # noqa: F401  the fixture
from training_helpers import LOOP, FewEmoji

from minidalle.checkpoints import load_bart, load_clip, load_vqgan, native
from minidalle.clip import CLIPConfig
from minidalle.data import sources
from minidalle.data.sources import EmojiSource
from minidalle.pipeline import MiniDalle
from minidalle.training.bart import BartTask, BartTrainConfig
from minidalle.training.clip import CLIPTask, CLIPTrainConfig
from minidalle.training.loop import train
from minidalle.training.vqgan import VQGANTask, VQGANTrainConfig
from minidalle.vqgan import VQGAN, VQGANConfig

FIXTURES = Path(__file__).parents[1] / "fixtures"
PUBLISHED = ("config.json", "flax_model.msgpack", "tokenizer.json", "vocab.json", "merges.txt")
SHORT = replace(LOOP, steps=2, evaluate_every=2, save_every=2)
SOURCES = EmojiSource(64, FewEmoji("train")), EmojiSource(64, FewEmoji("validation"))
VQGAN_32 = replace(VQGANConfig.tiny(), resolution=64, patch=4, n_embed=32)


def files_of(folder: Path) -> dict[str, bytes]:
    return {name: (folder / name).read_bytes() for name in PUBLISHED if (folder / name).exists()}


@pytest.fixture
def published(server: Hub, monkeypatch) -> dict[str, str]:  # noqa: F811
    """A hub with Bart and VQGAN in DALL·E mini's layout; the commit of each."""
    monkeypatch.setattr(sources, "SHAPES", 12)
    monkeypatch.setattr(sources, "SHAPES_HELD_OUT", 4)
    return {
        "owner/bart": server.push(files_of(FIXTURES / "dalle_mini"), repo="owner/bart"),
        "owner/vqgan": server.push(files_of(FIXTURES / "vqgan"), repo="owner/vqgan"),
    }


def native_files(folder: Path, **parts: object) -> dict[str, bytes]:
    native.save(folder, **parts)
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_bart_goes_on_from_a_hub_id_with_the_vqgan_of_another(published, run, tmp_path):
    """As from folders with the same files; run.json names the commits that the ids stood for."""
    settings = [
        f"--set={each}"
        for each in (
            "steps=1", "batch_size=4", "precision=no", "variations=0", "label_spread=0",
            "swap_at_most=0", "blank_caption_share=0", "optimizer=adamw", "dropout=0",
        )
    ]  # fmt: skip
    ids = ("--vqgan", f"owner/vqgan@{published['owner/vqgan']}", "--set=init=owner/bart")
    folders = ("--vqgan", FIXTURES / "vqgan", f"--set=init={FIXTURES / 'dalle_mini'}")
    for name, checkpoints in (("hub", ids), ("folders", folders)):
        shapes = ("--data", "shapes", "--run", name)
        done = run("train", "bart", *checkpoints, *shapes, *settings)
        assert done.code == 0, done.err
    barts = [load_bart(tmp_path / name).state_dict() for name in ("hub", "folders")]
    assert all(torch.equal(value, barts[1][name]) for name, value in barts[0].items())
    task = json.loads((tmp_path / "hub/run.json").read_text())["task"]
    assert task["init"] == f"owner/bart@{published['owner/bart']}"
    assert task["vqgan"] == f"owner/vqgan@{published['owner/vqgan']}"
    task = json.loads((tmp_path / "folders/run.json").read_text())["task"]
    assert task["vqgan"] == str(FIXTURES / "vqgan")


def test_a_run_does_not_go_on_with_what_an_id_stands_for_by_now(
    published,
    server,  # noqa: F811
    tmp_path,
    monkeypatch,
):
    """Also when the hub is away: then the id means what it was last seen to mean."""

    def task(vqgan):
        config = BartTrainConfig(vqgan=vqgan, init="owner/bart", optimizer="adamw")
        return BartTask(config, SHORT, SOURCES)

    train(task("owner/vqgan"), SHORT, tmp_path / "run")
    with monkeypatch.context() as away:
        away.setattr(constants, "HF_HUB_OFFLINE", True)
        train(task("owner/vqgan"), SHORT, tmp_path / "run")
    new = files_of(FIXTURES / "vqgan") | {"README.md": b"moved on"}
    moved = server.push(new, repo="owner/vqgan")
    with pytest.raises(ValueError) as error:
        train(task("owner/vqgan"), SHORT, tmp_path / "run")
    old = published["owner/vqgan"]
    assert f"task.vqgan was 'owner/vqgan@{old}', is 'owner/vqgan@{moved}'" in str(error.value)
    train(task(f"owner/vqgan@{old}"), SHORT, tmp_path / "run")


def test_a_vqgan_goes_on_from_a_hub_id_at_a_revision(server, tmp_path):  # noqa: F811
    versions = {}
    for seed, revision in enumerate(("v1", "main")):
        torch.manual_seed(seed)
        versions[revision] = VQGAN(VQGAN_32)
        files = native_files(tmp_path / revision, vqgan=versions[revision])
        commit = server.push(files, revision, "owner/ours")
        config = VQGANTrainConfig(vqgan=VQGAN_32, init=f"owner/ours@{revision}")
        task = VQGANTask(config, SHORT, SOURCES)
        assert task.config.init == f"owner/ours@{commit}"
        expected = load_vqgan(tmp_path / revision).state_dict()
        assert all(torch.equal(v, expected[n]) for n, v in task.model.state_dict().items())


def test_a_clip_is_put_into_a_model_from_the_hub(server, tmp_path):  # noqa: F811
    embedded = MiniDalle.from_pretrained(FIXTURES / "dalle_mini", vqgan=FIXTURES / "vqgan")
    embedded.save_pretrained(tmp_path / "whole")
    files = {path.name: path.read_bytes() for path in (tmp_path / "whole").iterdir()}
    commit = server.push(files, repo="owner/whole")
    clip = replace(CLIPConfig.tiny(), resolution=64, patch=8)
    task = CLIPTask(CLIPTrainConfig(model="owner/whole", clip=clip), SHORT, SOURCES)
    assert task.config.model == f"owner/whole@{commit}"
    train(task, SHORT, tmp_path / "run")
    assert load_clip(tmp_path / "run").config == task.config.clip
    assert load_bart(tmp_path / "run").config == embedded.bart.config


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("bart", "--vqgan", "owner/none"), "owner/none is no folder here, and as a hub id: "),
        (("bart", "--vqgan", "owner/vqgan@v9"), "has this repository, but no"),
        (("bart", "--vqgan", "owner/vqgan", "--set=init=owner/vqgan"), "holds no Bart"),
        (("bart", "--vqgan", "owner/vqgan", "--set=tokenizer=owner/none"), "owner/none is no"),
        (("vqgan", "--set=init=owner/none"), "owner/none is no folder here"),
        (("clip", "--model", "owner/none"), "owner/none is no folder here"),
        (("bart", "--vqgan", ""), "vqgan is empty; it must be the path or hub id of a trained"),
    ],
)
def test_ids_that_are_none(arguments, message, published, run, tmp_path):
    """Refused by name, before a run folder is made."""
    done = run("train", *arguments, "--data", "shapes", "--set=batch_size=4")
    assert done.code == 2 and message in done.err, done.err
    assert not (tmp_path / "runs").exists()
