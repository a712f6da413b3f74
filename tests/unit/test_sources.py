"""What can be trained on: each kind of data, what is held out of it, and what is wrong with it."""

import json
import re
import tarfile
from dataclasses import replace

import pytest
import torch
from PIL import Image
from training_helpers import Stop

from minidalle.bart import BartConfig
from minidalle.checkpoints import load_tokenizer, load_vqgan, native
from minidalle.clip import CLIPConfig
from minidalle.data import sources
from minidalle.data.emoji import STYLE_NAMES, EmojiDataset
from minidalle.data.encode import encode_to_shards
from minidalle.data.folder import FolderDataset
from minidalle.data.sources import open_source, some_pictures
from minidalle.data.stream import is_shards
from minidalle.pipeline import MiniDalle
from minidalle.training.bart import BartTask, BartTrainConfig
from minidalle.training.clip import CLIPTask, CLIPTrainConfig
from minidalle.training.loop import LoopConfig, train
from minidalle.training.vqgan import VQGANTask, VQGANTrainConfig
from minidalle.vqgan import VQGAN, VQGANConfig

LOOP = LoopConfig(
    steps=6, batch_size=4, warmup_steps=2, precision="no",
    log_every=1, evaluate_every=50, save_every=2,
)  # fmt: skip
TINY = VQGANConfig.tiny()
SMALL = [  # a VQGAN of the command line that trains in a second
    *("--set", "ch_mult=(1, 1, 2)", "--set", "resolution=32", "--set", "n_embed=32"),
    *("--set", "steps=3", "--set", "batch_size=4", "--set", "precision=no"),
]  # fmt: skip
COLOURS = {"red": (220, 20, 20), "green": (20, 180, 40), "blue": (30, 40, 230), "black": (0, 0, 0)}


def make_pictures(folder, count=24, side=40):
    """A folder of plain pictures; each has two captions that name its colour."""
    folder.mkdir()
    for i in range(count):
        name = list(COLOURS)[i % len(COLOURS)]
        Image.new("RGB", (side, side), COLOURS[name]).save(folder / f"{i:03d}.png")
        (folder / f"{i:03d}.txt").write_text(f"a {name} wall\nall {name}\n")
    return folder


@pytest.fixture
def pictures(tmp_path):
    return make_pictures(tmp_path / "pictures")


@pytest.fixture
def vqgan(tmp_path):
    torch.manual_seed(0)
    native.save(tmp_path / "vqgan", vqgan=VQGAN(TINY))
    return tmp_path / "vqgan"


@pytest.fixture(autouse=True)
def few_shapes(monkeypatch):
    monkeypatch.setattr(sources, "SHAPES", 60)
    monkeypatch.setattr(sources, "SHAPES_HELD_OUT", 10)


def lines_of(run):
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def colour_of(image):
    """The name of a plain picture's colour."""
    rgb = (255 * image).mean((1, 2))
    return min(COLOURS, key=lambda name: float((rgb - torch.tensor(COLOURS[name])).square().sum()))


def test_a_source_gives_pictures_with_their_captions(pictures):
    """True captions, both of them in time; training and held-out part have nothing in common."""
    train_data, held_out = open_source(str(pictures), 32)
    assert len(train_data) + len(held_out) == 24 and len(held_out) >= 1
    assert not set(train_data.dataset.paths) & set(held_out.dataset.paths)
    images = train_data.pictures(range(len(train_data)))
    assert images.shape == (len(train_data), 3, 32, 32) and images.min() >= 0 and images.max() <= 1
    drawn = set()
    for i, image in enumerate(images):
        captions = {train_data.caption(i, torch.Generator().manual_seed(s)) for s in range(9)}
        assert all(colour_of(image) in caption for caption in captions)
        assert train_data.caption(i) == f"a {colour_of(image)} wall"
        drawn |= captions
    assert drawn == {text for c in COLOURS for text in (f"a {c} wall", f"all {c}")}


def test_shapes_and_emoji_fit_any_side():
    shapes, unseen = open_source("shapes", 32)
    assert len(shapes) == 60 and len(unseen) == 10
    assert not {s for (s,) in shapes.captions} & {s for (s,) in unseen.captions}
    assert torch.equal(shapes.pictures([3])[0], shapes.dataset[3][0])
    assert open_source("shapes", 64)[0].pictures([3, 4]).shape == (2, 3, 64, 64)
    emoji = sources.EmojiSource(64, EmojiDataset("validation"))
    assert torch.equal(some_pictures(emoji, 9), emoji.images[:9])  # to the byte
    assert torch.equal(emoji[5][0], emoji.images[5] / 255)


def test_a_drawing_is_also_called_what_it_stands_in_for():
    """Most of the time its own name; never a style in which its concept was drawn."""
    source, held_out = sources.open_source("emoji-filled", 64)
    drawn = {(record.concept, record.style) for record in source.records}
    # "classic noto style" has the name of noto in it.
    index = next(i for i, styles in source.stand_ins.items() if styles == ["fluent_3d"])
    record, (other,) = source.records[index], source.stand_ins[index]
    assert (record.concept, other) not in drawn
    assert source.caption(index) == record.caption
    assert source.captions[index] == [  # what a tokenizer and shards of it know
        *record.all_captions(),
        *replace(record, style=other).all_captions(),
    ]
    generator = torch.Generator().manual_seed(0)
    captions = [source.caption(index, generator) for _ in range(1000)]
    own, stood_in_for = (
        sum(STYLE_NAMES[style] in caption for caption in captions)
        for style in (record.style, other)
    )
    assert 0.5 < stood_in_for / own < 0.95
    assert not held_out.stand_ins and not sources.open_source("emoji-more", 64)[0].stand_ins


def test_of_few_pictures_one_is_held_out(tmp_path):
    for count in (2, 3, 5):
        train_data, held_out = open_source(str(make_pictures(tmp_path / f"{count}", count)), 8)
        assert (len(train_data), len(held_out)) == (count - 1, 1)


def test_a_picture_that_cannot_be_read_is_counted_and_the_batch_stays_full(
    pictures, vqgan, caplog, tmp_path
):
    """The next picture takes its place, with the caption of what is shown; logged once."""
    train_data, _ = open_source(str(pictures), 32)
    broken = pictures / train_data.dataset.paths[2]
    broken.write_bytes(broken.read_bytes()[:60])
    for _ in range(3):
        assert train_data.pictures([1, 2, 2]).shape == (3, 3, 32, 32)
    assert train_data.caption(2) == train_data.caption(3) != train_data.caption(1)
    assert caplog.text.count(broken.name) == 1
    config = BartTrainConfig(vqgan=str(vqgan), data=str(pictures), bart=BartConfig.tiny())
    task = BartTask(config, LOOP)
    assert torch.equal(task.train_tokens[2], task.train_tokens[3])
    train(VQGANTask(VQGANTrainConfig(vqgan=TINY, data=str(pictures)), LOOP), LOOP, tmp_path / "run")
    assert lines_of(tmp_path / "run")[-2]["unreadable"] == 1


@pytest.mark.parametrize("data", ["shapes", "pictures"])
def test_a_vqgan_learns_from_it(data, run, pictures):
    done = run("train", "vqgan", "--run", "out", "--data", data, *SMALL)
    assert done.code == 0, done.err
    assert load_vqgan("out").config.n_embed == 32
    assert json.loads((pictures.parent / "out/run.json").read_text())["task"]["data"] == data
    again = run("train", "vqgan", "--run", "out", "--data", "emoji", *SMALL)
    assert again.code == 2 and f"task.data was '{data}', is 'emoji'" in again.err


def test_encode_then_learn_from_token_shards(run, pictures, vqgan, monkeypatch):
    """Bart never runs the VQGAN's encoder; its loss falls, and the whole model loads."""
    (pictures / "000.txt").unlink()
    broken = pictures / "005.png"
    broken.write_bytes(broken.read_bytes()[:60])
    done = run("encode", pictures, "--vqgan", vqgan, "--out", "tokens", "--per-shard", 6, "--json")
    facts = json.loads(done.out)
    assert (facts["count"], facts["shards"], facts["folder"]) == (22, 4, "tokens")
    assert len(facts["skipped"]) == 2 and facts["skipped"][0].startswith("000.png: no caption")
    assert "005.png" in facts["skipped"][1] and done.err.count("skipped") == 2
    assert run("encode", pictures, "--vqgan", vqgan, "--out", "tokens", "--per-shard", 6).code == 0

    def never(*_):
        raise AssertionError("the VQGAN was run")

    monkeypatch.setattr(VQGAN, "encode_latents", never)
    done = run(
        "train", "tokenizer", "--data", "tokens", "--run", "words", "--set", "vocab_size=270"
    )
    assert done.out.splitlines() == ["vocabulary size 270", "words"]
    loop = replace(LOOP, steps=40, batch_size=8, warmup_steps=5, save_every=40)
    config = BartTrainConfig(
        vqgan=str(vqgan), data="tokens", tokenizer="words", bart=BartConfig.tiny(),
        swap_at_most=0.5, lr=5e-3,
    )  # fmt: skip
    figures = train(BartTask(config, loop), loop, "whole")
    losses = [line["loss"] for line in lines_of(pictures.parent / "whole") if "loss" in line]
    assert losses[0] > 3.5 and losses[-1] < 0.5 * losses[0]
    assert figures["train_right"] < 0.5 * losses[0]
    monkeypatch.undo()
    model = MiniDalle.from_pretrained(pictures.parent / "whole")
    assert model.tokenizer.vocab == load_tokenizer(pictures.parent / "words").vocab
    assert model.generate("a red wall", n=2).tokens.shape == (2, 16)


def test_token_shards_go_on_at_a_shard_boundary(pictures, vqgan, tmp_path, caplog):
    """Killed in step 5, last checkpoint after step 4: on with the shard that was open then."""
    caplog.set_level("INFO")
    encode_to_shards(
        FolderDataset(pictures, 32), load_vqgan(vqgan), tmp_path / "tokens", per_shard=6
    )
    config = BartTrainConfig(
        vqgan=str(vqgan), data=str(tmp_path / "tokens"), bart=BartConfig.tiny()
    )
    seen = []

    def task(killed_in=None):
        made = BartTask(config, LOOP)
        draw = made.stream.draw

        def watched(count):
            samples = draw(count)
            seen.append((made.stream.position, samples.contents))
            if len(seen) - 1 == killed_in:
                raise Stop
            return samples

        made.stream.draw = watched
        return made

    train(task(), LOOP, tmp_path / "calm")
    calm, seen = seen, []
    # Four samples a step, six a shard.
    assert [position for position, _ in calm] == [0, 1, 1, 2, 3, 3]
    with pytest.raises(Stop):
        train(task(killed_in=4), LOOP, tmp_path / "run")
    killed, seen = seen, []
    assert all(torch.equal(a, b) for (_, a), (_, b) in zip(calm[:5], killed, strict=True))
    train(task(), LOOP, tmp_path / "run")
    # After four steps position 2, the third shard, was open: it is begun again.
    assert [position for position, _ in seen] == [2, 3]
    assert "going on at shard 2 of 3 in epoch 0" in caplog.text
    assert [line["shard"] for line in lines_of(tmp_path / "run") if "shard" in line][-2:] == [2, 3]
    third = torch.cat([t for _, t in calm])[12:16]
    assert torch.equal(seen[0][1], third)


def test_a_bad_batch_is_named_by_its_files_and_by_its_shard(pictures, vqgan, tmp_path):
    """Pictures by their paths, variations as their picture; samples of shards by shard and key."""
    encode_to_shards(
        FolderDataset(pictures, 32), load_vqgan(vqgan), tmp_path / "tokens", per_shard=6
    )
    config = BartTrainConfig(vqgan=str(vqgan), bart=BartConfig.tiny(), variations=1)
    for data, name in (("pictures", r"0\d\d\.png"), ("tokens", r"\S+/0\d+\.tar: \S+")):
        task = BartTask(replace(config, data=str(tmp_path / data)), LOOP)
        torch.nn.init.constant_(task.model.lm_head.weight, float("nan"))
        with pytest.raises(FloatingPointError) as error:
            train(task, LOOP, tmp_path / f"run-{data}")
        found = re.fullmatch(
            rf"the loss is nan in step 0 \(samples ({name}), ({name}), ({name}), ({name})\); lower "
            "the learning rate, or look at these samples: no checkpoint yet; what the run was "
            "started from is still good",
            str(error.value),
        )
        assert found, error.value
        if data == "tokens":
            (shard, key), *_ = (name.split(": ") for name in found.groups())
            with tarfile.open(shard) as archive:
                assert f"{key}.tokens.npy" in archive.getnames()


def test_sources_of_ones_own(vqgan, tmp_path):
    """In the place of what `data` names, whose files are not looked for; run.json says so."""

    class Walls(sources.Source):
        def __init__(self, *names):
            self.walls = names

        @property
        def captions(self):
            return [[f"a {name} wall"] for name in self.walls]

        def __len__(self):
            return len(self.walls)

        def pictures(self, indices):
            colours = torch.tensor([COLOURS[self.walls[i]] for i in indices]) / 255
            return colours[:, :, None, None].expand(-1, 3, 32, 32).clone()

        def caption(self, index, generator=None):
            return self.captions[index][0]

    given = Walls("red", "green", "blue"), Walls("black")
    common = {"data": "no such folder"}
    clip = CLIPConfig.tiny()
    for name, task in {
        "vqgan": VQGANTask(VQGANTrainConfig(vqgan=TINY, **common), LOOP, given),
        "bart": BartTask(
            BartTrainConfig(vqgan=str(vqgan), bart=BartConfig.tiny(), **common), LOOP, given
        ),
        "clip": CLIPTask(CLIPTrainConfig(clip=clip, **common), LOOP, given),
    }.items():
        train(task, LOOP, tmp_path / name)
        assert task.validation is given[1] and len(task) == 3
        settings = json.loads((tmp_path / name / "run.json").read_text())
        assert settings["task"]["data"] == "sources given in Python"


def test_a_vqgan_learns_from_picture_shards(pictures, tmp_path):
    for shard in range(3):
        with tarfile.open(tmp_path / f"{shard}.tar", "w") as archive:
            for i in range(8 * shard, 8 * shard + 8):
                for suffix in ("png", "txt"):
                    archive.add(pictures / f"{i:03d}.{suffix}", f"{i:03d}.{suffix}")
    config = VQGANTrainConfig(vqgan=TINY, data=str(tmp_path / "{0..2}.tar"))
    task = VQGANTask(config, LOOP)
    assert len(some_pictures(task.validation)) == 8
    train(task, LOOP, tmp_path / "run")
    state = torch.load(tmp_path / "run" / "checkpoint.pt", weights_only=True)["task"]
    assert state["data"] == {"position": 2}  # 24 samples were drawn, 8 a shard
    resumed = VQGANTask(config, LOOP)
    resumed.load_state_dict(state)
    assert resumed.train_data.position == 2


def test_what_data_can_be(tmp_path):
    assert is_shards("a/{000..099}.tar") and is_shards("https://x.org/a.tar") and is_shards("*.tar")
    assert not is_shards("emoji") and not is_shards("shapes") and not is_shards(str(tmp_path))
    (tmp_path / "0.tar").touch()
    assert is_shards(str(tmp_path))


def one_picture(folder):
    make_pictures(folder, 1)


def empty_captions(folder):
    for path in make_pictures(folder).glob("*.txt"):
        path.write_text(" \n")


def one_shard(folder):
    pictures = make_pictures(folder.with_name("some"), 4)
    encode_to_shards(FolderDataset(pictures, 32), VQGAN(TINY), folder)


@pytest.mark.parametrize(
    "make, message",
    [
        (None, "no such folder; expected emoji, emoji-more, emoji-filled, shapes, a folder"),
        (lambda folder: folder.mkdir(), "no captioned picture among 0 files"),
        (one_picture, "found 1 picture, expected 2 or more"),
        (empty_captions, "the caption is empty"),
        (one_shard, "found 1 shard, expected 2 or more"),
    ],
)
def test_data_that_cannot_be_learned_from(make, message, run, tmp_path):
    if make:
        make(tmp_path / "data")
    done = run("train", "vqgan", "--run", "out", "--data", "data", *SMALL)
    assert done.code == 2 and message in done.err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "setting, message",
    [
        ("resolution=65", "resolution 65 is not divisible by 8"),
        ("n_embed=1", "n_embed is 1; a codebook needs at least 2 codes"),
        ("dta=shapes", "did you mean 'data'"),
    ],
)
def test_impossible_settings(setting, message, run):
    done = run("train", "vqgan", "--run", "out", "--set", setting)
    assert done.code == 2 and message in done.err


def test_token_shards_of_another_vqgan_are_refused(run, pictures, vqgan, tmp_path):
    """By K and N, by its weights, and without an index by the samples; pictures, too."""
    for name, config in (("other", TINY), ("larger", replace(TINY, n_embed=128))):
        native.save(tmp_path / name, vqgan=VQGAN(config))
    run("encode", pictures, "--vqgan", vqgan, "--out", "tokens", "--per-shard", 6)
    arguments = ("train", "bart", "--run", "out", "--data", "tokens", "--vqgan")
    done = run(*arguments, "larger")
    assert done.code == 2 and "16 image tokens below 64; VQGAN larger has 16 below 128" in done.err
    done = run(*arguments, "other")
    assert done.code == 2 and "shards.json: encoded with VQGAN " in done.err
    assert "; other is VQGAN " in done.err
    (tmp_path / "tokens/shards.json").unlink()
    native.save(tmp_path / "smaller", vqgan=VQGAN(replace(TINY, n_embed=8)))
    done = run(*arguments, "smaller")
    assert done.code == 2 and "an image token is not from 0 to below 8" in done.err
    for shard in range(2):
        with tarfile.open(tmp_path / f"{shard}.tar", "w") as archive:
            for suffix in ("png", "txt"):
                archive.add(pictures / f"000.{suffix}", f"000.{suffix}")
    done = run("train", "bart", "--run", "out", "--data", "*.tar", "--vqgan", vqgan)
    assert done.code == 2 and "`minidalle encode` turns pictures into them" in done.err
    done = run("train", "vqgan", "--run", "out", "--data", "tokens", *SMALL)
    assert done.code == 2 and "no picture (" in done.err


def test_a_tokenizer_from_shapes(run, tmp_path):
    arguments = ("train", "tokenizer", "--data", "shapes", "--run", "words", "--set")
    assert run(*arguments, "vocab_size=300").code == 0
    words = load_tokenizer(tmp_path / "words")
    assert words.vocab_size == 300 and len(words.encode("a small red circle")) < 12
    done = run(*arguments, "vocab_size=100")
    assert done.code == 2 and "vocab_size: found 100, expected at least 261" in done.err
