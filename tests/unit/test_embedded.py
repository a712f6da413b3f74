"""The embedded model: its size, its card, and that its pictures belong to their seeds."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from minidalle import MiniDalle
from minidalle.data.emoji import EmojiDataset
from minidalle.pictures import to_pil
from minidalle.pipeline import EMBEDDED
from minidalle.training.evaluate import evaluate_bart, evaluate_model

CAPTION = "red apple, twemoji style"


@pytest.fixture(scope="module")
def model():
    return MiniDalle.from_pretrained()


def test_files_are_small_and_all_there():
    files = {path.name: path.stat().st_size for path in EMBEDDED.iterdir()}
    assert set(files) == {
        "config.json", "bart.safetensors", "vqgan.safetensors", "clip.safetensors",
        "tokenizer.json", "MODEL_CARD.md",
    }  # fmt: skip
    assert sum(files.values()) <= 25_000_000


@pytest.mark.parametrize("n", [1, 4, 9])
def test_a_picture_belongs_to_its_seed(model, n):
    """Seed 8 gives the same tokens in grids of 1, 4 and 9 (CPU, float32)."""
    tokens = model.generate(CAPTION, n=n, seed=9 - n).tokens
    assert torch.equal(tokens[-1], model.generate(CAPTION, seed=8).tokens[0])


def test_the_best_comes_first(model):
    """The embedded CLIP sorts pictures, and prefers the drawing that a caption is about."""
    ranked = model.rerank(model.generate(CAPTION, n=4))
    assert ranked.scores == sorted(ranked.scores, reverse=True)
    data = EmojiDataset("test")
    chosen = range(0, len(data), 5)
    images = [to_pil(data.images[i] / 255) for i in chosen]
    drawn = model.generate("", n=1)
    found = 0
    for place, i in enumerate(chosen):
        many = replace(
            drawn,
            prompt=data.records[i].caption,
            images=images,
            tokens=drawn.tokens.expand(len(images), -1),
            seeds=list(range(len(images))),
        )
        found += place in model.rerank(many).seeds[:5]
    assert found > 0.7 * len(images)


def test_mixed_prompts(model):
    prompts = [CAPTION, "rocket, noto style", ""]
    for result in model.generate(prompts, n=2, seed=3):
        alone = model.generate(result.prompt, n=2, seed=3)
        assert torch.equal(result.tokens, alone.tokens)


def test_bfloat16_agrees_with_float32(model):
    """Stated tolerance: teacher-forced, the likeliest token is the same in 90 % of places."""
    rough = MiniDalle.from_pretrained(dtype="bfloat16")
    ids, mask = model.text_tokens([CAPTION])
    tokens = model.generate(CAPTION).tokens
    with torch.no_grad():
        exact, half = (m.bart(ids, mask, tokens).argmax(-1) for m in (model, rough))
    assert (exact == half).float().mean() >= 0.9
    image, other = (np.asarray(m.decode(tokens[0])).astype(int) for m in (model, rough))
    assert np.abs(image - other).mean() < 2  # grey levels


def test_the_card_states_what_is_measured(model):
    """The figures in the model card are those of this model on the test split."""
    card = (EMBEDDED / "MODEL_CARD.md").read_text()
    stated = json.loads(card.split("```json")[1].split("```")[0])
    measured = evaluate_model(model, EmojiDataset("test"))
    assert measured["vqgan"]["psnr"] == pytest.approx(stated["vqgan"]["psnr"], abs=0.02)
    assert measured["vqgan"]["codes_used"] == pytest.approx(
        stated["vqgan"]["codes_used"], abs=0.005
    )
    assert measured["bart"] == pytest.approx(stated["bart"], abs=0.02)


def test_the_caption_matters(model):
    """On training pictures the right caption predicts the tokens much better than a wrong one."""
    train = EmojiDataset("train")
    chosen = torch.arange(0, len(train), 60)
    captions = [model.normalizer(train.records[i].caption) for i in chosen.tolist()]
    tokens = model.vqgan.encode(train.images[chosen] / 255)
    losses = evaluate_bart(model.bart, model.tokenizer, captions, tokens)
    assert losses["right"] < losses["empty"] < losses["wrong"]
    assert losses["right"] < losses["wrong"] - 1
