"""The embedded model: its size, its card, and that its pictures belong to their seeds."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from minidalle import MiniDalle, bart, packed, sampling
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


@pytest.mark.parametrize("few", [True, False])
def test_fast_paths_draw_what_the_plain_one_draws(model, monkeypatch, few):
    """In float32 token for token: with torch's attention, rows first, a text for each picture.

    few: as on Intel's processors, where few rows are fast, and as on AMD's.
    """
    monkeypatch.setattr(bart, "multiplies_few_rows", lambda: few)
    monkeypatch.setattr(packed, "multiplies_few_rows", lambda: few)
    prompts = [CAPTION, "rocket, noto style", ""]
    drawn = [model.generate(prompts, n=n, seed=3) for n in (1, 3)]
    graphs = MiniDalle.from_pretrained(cuda_graphs=True).generate(prompts, n=3, seed=3)
    monkeypatch.setattr(bart, "attend", F.scaled_dot_product_attention)
    monkeypatch.setattr(bart.Dense, "forward", nn.Linear.forward)
    monkeypatch.setattr(bart.Cache, "BLOCK", 1)
    monkeypatch.setattr(sampling, "can_pack", lambda weight: False)
    monkeypatch.setattr(sampling, "pictures_together", lambda *_: 1)
    plain = model.generate(prompts, n=3, seed=3)
    for one, three, played, expected in zip(*drawn, graphs, plain, strict=True):
        assert torch.equal(one.tokens, expected.tokens[:1])
        assert torch.equal(three.tokens, expected.tokens)
        assert torch.equal(played.tokens, expected.tokens)


def test_bfloat16_agrees_with_float32(model):
    """Stated tolerance, step by step over 24 drawings, each step given the drawing's tokens so far:
    logits within a hundredth of their spread, the likeliest token the same in 90 % of places.
    """
    rough = MiniDalle.from_pretrained(dtype="bfloat16")
    prompts = [CAPTION, "cat face, noto style", "rocket, 3d fluent style", "pizza", "octopus", ""]
    ids, mask = model.text_tokens(prompts)
    tokens = torch.cat([result.tokens for result in model.generate(prompts, n=4)])
    inputs = torch.cat([torch.full((24, 1), model.bart.config.image_vocab_size), tokens], 1)
    with torch.no_grad():
        exact = model.bart(ids.repeat_interleave(4, 0), mask.repeat_interleave(4, 0), tokens)
        memory = rough.bart.encode(ids, mask)
        cache = rough.bart.new_cache(memory)
        steps = [rough.bart.decode(i, memory, mask, cache) for i in inputs[:, :-1].split(1, 1)]
    half = torch.cat(steps, 1).float()
    assert (half - exact).abs().mean() < 0.01 * exact.std()
    divergence = F.kl_div(half.log_softmax(-1), exact.softmax(-1), reduction="sum")
    assert 0 < divergence / tokens.numel() < 0.001  # nats
    assert (exact.argmax(-1) == half.argmax(-1)).float().mean() >= 0.9
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
