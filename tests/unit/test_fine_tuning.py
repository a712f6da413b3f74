"""Fine-tuning published weights: `init` takes a checkpoint's shape, weights and tokenizer as is."""

import json
import math
import re
import shlex
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image, ImageDraw

from minidalle.bart import Bart, BartConfig
from minidalle.checkpoints import load_bart, load_tokenizer, load_vqgan, native
from minidalle.normalizer import TextNormalizer
from minidalle.pipeline import MiniDalle
from minidalle.tokenizer import ByteLevelBPE
from minidalle.training.bart import BartTask, BartTrainConfig
from minidalle.training.evaluate import evaluate_bart
from minidalle.training.loop import LoopConfig, train

FIXTURES = Path(__file__).parents[1] / "fixtures"
VQGAN = FIXTURES / "vqgan"
PUBLISHED = {  # the layouts that Bart was published in, each with a tokenizer beside it
    "mini": FIXTURES / "dalle_mini",
    "mega": FIXTURES / "dalle_mega",
    "min-dalle": FIXTURES / "min_dalle" / "mini",
}
MINI = PUBLISHED["mini"]
GUIDE = (Path(__file__).parents[2] / "docs" / "training.md").read_text()
COLOURS, PLACES = ("red", "green", "blue", "orange"), ("left", "right", "middle")
LOOP = LoopConfig(
    steps=1, batch_size=4, warmup_steps=1, precision="no",
    log_every=1, evaluate_every=1000, save_every=1000,
)  # fmt: skip
# Nothing between the checkpoint and its loss: no empty captions, swapped tokens, or soft labels.
PLAIN = {"blank_caption_share": 0.0, "swap_at_most": 0.0, "label_spread": 0.0}


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """Twelve captioned pictures as large as the VQGAN's: a coloured square, and where it is."""
    folder = tmp_path_factory.mktemp("pictures")
    for colour in COLOURS:
        for i, place in enumerate(PLACES):
            image = Image.new("RGB", (64, 64), "white")
            ImageDraw.Draw(image).rectangle([8 + 16 * i, 20, 23 + 16 * i, 43], fill=colour)
            image.save(folder / f"{colour}-{place}.png")
            (folder / f"{colour}-{place}.txt").write_text(f"a {colour} square in the {place}")
    return folder


def make_task(pictures, init=MINI, loop=LOOP, **changes):
    config = BartTrainConfig(vqgan=str(VQGAN), data=str(pictures), init=str(init))
    return BartTask(replace(config, **{**PLAIN, **changes}), loop)


def losses_of(run):
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [line["loss"] for line in lines if "loss" in line]


@pytest.mark.parametrize("name", PUBLISHED)
def test_init_brings_its_shape_its_weights_and_its_tokenizer(name, pictures):
    """Nothing of it has to be repeated; of `bart`, which is the emoji's, only dropout is used."""
    bart = replace(BartConfig.emoji(), dropout=0.2)
    task, published = make_task(pictures, PUBLISHED[name], bart=bart), load_bart(PUBLISHED[name])
    assert task.model.config == task.config.bart == replace(published.config, dropout=0.2)
    ours, theirs = task.model.state_dict(), published.state_dict()
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[key], theirs[key]) for key in ours)
    assert task.tokenizer.vocab == load_tokenizer(PUBLISHED[name]).vocab


def test_the_first_loss_is_the_checkpoints_own(pictures, tmp_path):
    """To 1e-5 in float32, computed from the published files without any of training's code."""
    task = make_task(pictures)
    loop = replace(LOOP, batch_size=len(task))  # so the first batch is every training picture once
    task = make_task(pictures, loop=loop)
    train(task, loop, tmp_path)

    bart, vqgan, tokenizer = load_bart(MINI), load_vqgan(VQGAN), load_tokenizer(MINI)
    paths = task.train_data.dataset.paths
    captions = [
        TextNormalizer()((pictures / path).with_suffix(".txt").read_text()) for path in paths
    ]
    pixels = [np.array(Image.open(pictures / path)) for path in paths]
    images = torch.from_numpy(np.stack(pixels)).permute(0, 3, 1, 2) / 255
    with torch.no_grad():
        tokens = vqgan.encode(images)
        expected = evaluate_bart(bart, tokenizer, captions, tokens)["right"]
        fresh = evaluate_bart(Bart(bart.config), tokenizer, captions, tokens)["right"]
    [first] = losses_of(tmp_path)
    assert first == pytest.approx(expected, abs=1e-5)
    assert fresh == pytest.approx(math.log(65), abs=0.1)  # as a run from random weights begins
    assert abs(first - fresh) > 0.05


def test_fine_tuning_learns_and_writes_a_whole_model(pictures, tmp_path, run):
    """The loss falls by a half; what is written is drawn with, described and converted."""
    loop = replace(LOOP, steps=60, batch_size=8, warmup_steps=5)
    task = make_task(pictures, loop=loop, optimizer="adamw", lr=3e-3)
    figures = train(task, loop, tmp_path / "tuned")
    losses = losses_of(tmp_path / "tuned")
    assert figures["train_right"] < 0.5 * losses[0]
    assert figures["train_right"] < figures["train_wrong"]

    tuned, published = load_bart(tmp_path / "tuned"), load_bart(MINI)
    assert tuned.config == published.config
    for a, b in zip(tuned.parameters(), task.model.parameters(), strict=True):
        torch.testing.assert_close(a, b, atol=1e-3, rtol=1e-3)  # written in half precision
    model = MiniDalle.from_pretrained(tmp_path / "tuned")
    drawn = model.generate("a red square in the left", n=2, temperature=0, condition_scale=1)
    assert drawn.tokens.shape == (2, 16) and drawn.images[0].size == (64, 64)

    assert f"bart: {sum(p.numel() for p in published.parameters()):,}" in run("info", "tuned").out
    assert run("convert", "tuned", "copy", "--dtype", "float32").code == 0
    again = MiniDalle.from_pretrained(tmp_path / "copy")
    same = again.generate("a red square in the left", n=2, temperature=0, condition_scale=1)
    assert torch.equal(same.tokens, drawn.tokens)


def test_the_command_line_needs_no_more_than_init(pictures, tmp_path, run):
    settings = ("steps=2", "batch_size=4", "precision=no", f"init={MINI}")
    given = [part for setting in settings for part in ("--set", setting)]
    done = run("train", "bart", "--vqgan", VQGAN, "--data", pictures, "--run", "tuned", *given)
    assert done.code == 0 and done.out.endswith("tuned\n")
    saved = json.loads((tmp_path / "tuned" / "run.json").read_text())
    assert saved["task"]["bart"]["d_model"] == load_bart(MINI).config.d_model
    assert load_tokenizer(tmp_path / "tuned").vocab == load_tokenizer(MINI).vocab


def test_tokens_without_a_row_become_unknown_ones(tmp_path):
    """A published vocabulary has one token more than the embedding has rows."""
    tokenizer, rows = load_tokenizer(MINI), load_bart(MINI).config.encoder_vocab_size
    assert tokenizer.vocab_size == rows + 1 and rows in tokenizer.encode(" alpha")
    for i in range(4):
        Image.new("RGB", (64, 64), (60 * i, 0, 0)).save(tmp_path / f"{i}.png")
        (tmp_path / f"{i}.txt").write_text("the letter alpha")
    task = make_task(tmp_path)
    generators = [torch.Generator().manual_seed(i) for i in range(2)]
    batch = task.batch(0, torch.arange(2), generators)
    assert int(batch["text_ids"].max()) < rows and ByteLevelBPE.UNK in batch["text_ids"]
    loss, _ = task.loss(task.model, batch)
    assert torch.isfinite(loss)
    (tmp_path / "samples").mkdir()
    assert task.evaluate(tmp_path / "samples").keys() >= {"train_right", "held_out_right"}


def test_captions_are_cleaned_up_only_if_the_checkpoints_were(pictures, tmp_path):
    """What the model reads in training is what it will read when it draws."""
    published = load_bart(MINI)
    raw = Bart(replace(published.config, normalize_text=False))
    raw.load_state_dict(published.state_dict())
    native.save(tmp_path, bart=raw, tokenizer=load_tokenizer(MINI))
    for init in (MINI, tmp_path):
        task = make_task(pictures, init)
        task.known.dataset.captions[0] = ["A RED Square!"]
        batch = task.batch(0, torch.tensor([0]), [torch.Generator().manual_seed(0)])
        expected, _ = task.pipeline().text_tokens(["A RED Square!"])
        length = batch["text_ids"].shape[1]
        assert torch.equal(batch["text_ids"], expected[:, :length])


def test_what_does_not_fit_is_refused(pictures, tmp_path):
    """Another tokenizer, a VQGAN of another size: said before anything is trained."""
    large = ByteLevelBPE.train([f"word{i} " * 3 for i in range(900)], 1000)
    large.save(tmp_path)
    with pytest.raises(ValueError, match="tokenizer is not this Bart's"):
        make_task(pictures, tokenizer=str(tmp_path))
    with pytest.raises(ValueError, match="not a pair"):
        make_task(pictures, init=Path(__file__).parents[2] / "minidalle" / "pretrained" / "emoji")


def test_the_loss_is_cross_entropy_of_the_next_image_token(pictures):
    """By hand on the published weights: start token first, each token from those before it."""
    task = make_task(pictures)
    batch = task.batch(0, torch.arange(3), [torch.Generator().manual_seed(i) for i in range(3)])
    with torch.no_grad():
        loss, _ = task.loss(task.model, batch)
        bart, ids = load_bart(MINI), batch["image_ids"]
        memory = bart.encode(batch["text_ids"], batch["text_mask"])
        inputs = torch.cat([torch.full((3, 1), bart.config.codebook_size), ids[:, :-1]], dim=1)
        logits = bart.decode(inputs, memory, batch["text_mask"])
        by_hand = -F.log_softmax(logits, -1).gather(2, ids[:, :, None]).mean()
    assert float(loss) == pytest.approx(float(by_hand), abs=1e-5)


def lines_of_the_guide():
    """Arguments of every `minidalle` in the bash blocks, whatever launches it."""
    blocks = "".join(re.findall(r"^```bash\n(.*?)^```", GUIDE, flags=re.MULTILINE | re.DOTALL))
    lines = [shlex.split(line) for line in blocks.replace("\\\n", " ").splitlines()]
    return [line[line.index("minidalle") + 1 :] for line in lines if "minidalle" in line]


@pytest.mark.parametrize("arguments", lines_of_the_guide(), ids=" ".join)
def test_lines_of_the_guide_are_understood(run, arguments):
    """Settings by name and kind: an impossible one stops training after all else is read."""
    if arguments[0] == "train" and arguments[1] != "tokenizer":
        done = run(*arguments, "--set", "steps=0")
        assert done.code == 2 and "steps is 0" in done.err
    else:
        assert run(*arguments, "--help").code == 0


def test_settings_that_the_guide_names_exist(run):
    """Those in running text and tables, `name=value`, are fields of one training or another."""
    text = re.sub(r"^```.*?^```", "", GUIDE, flags=re.MULTILINE | re.DOTALL)
    named = set(re.findall(r"`(?:--set )?([a-z_]+)=[^`\s]+`", text))
    assert len(named) > 10
    for name in named:
        refused = [
            f"no field is named {name!r}"
            in run("train", *part, "--set", f"{name}=?", "--set", "steps=0").err
            for part in (
                ("tokenizer", "--run", "a"),
                ("vqgan", "--run", "a"),
                ("bart", "--run", "a", "--vqgan", "b"),
            )
        ]
        assert not all(refused), name
