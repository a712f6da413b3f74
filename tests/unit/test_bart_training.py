"""What makes Bart learn from few pictures: alike codes, soft labels, variations; less memory."""

import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from minidalle.bart import Bart, BartConfig
from minidalle.checkpoints import load_vqgan, native
from minidalle.data.emoji import MORE, EmojiDataset
from minidalle.data.sources import open_source
from minidalle.training.bart import BartTask, BartTrainConfig, soft_labels, start_from_codebook
from minidalle.training.loop import LoopConfig, train
from minidalle.training.vqgan import VQGANTask, VQGANTrainConfig
from minidalle.vqgan import VQGAN, VQGANConfig

LOOP = LoopConfig(steps=3, batch_size=4, warmup_steps=1, precision="no", log_every=1)
VQGAN_64 = replace(VQGANConfig.tiny(), resolution=32)  # of 64 codes
BART = replace(BartConfig.tiny(), image_length=VQGAN_64.image_length)


@pytest.fixture
def vqgan_folder(tmp_path):
    torch.manual_seed(0)
    native.save(tmp_path / "vqgan", vqgan=VQGAN(VQGAN_64))
    return tmp_path / "vqgan"


@pytest.fixture(autouse=True)
def few_shapes(monkeypatch):
    monkeypatch.setattr("minidalle.data.sources.SHAPES", 24)
    monkeypatch.setattr("minidalle.data.sources.SHAPES_HELD_OUT", 8)


def task(vqgan_folder, **changes):
    config = BartTrainConfig(vqgan=str(vqgan_folder), data="shapes", bart=BART)
    return BartTask(replace(config, **changes), LOOP)


def first_batch(task, seed=0):
    generators = [torch.Generator().manual_seed(seed + i) for i in range(4)]
    return task.batch(0, torch.arange(4), generators)


def test_alike_codes_start_with_alike_embeddings():
    torch.manual_seed(0)
    bart = Bart(replace(BART, d_model=384))
    start_row = bart.decoder.embed_tokens.weight[64].clone()
    codes = torch.randn(64, 8) + 5
    codes[1] = codes[0] + 0.01  # the most alike of all
    start_from_codebook(bart, codes)
    for table in (bart.decoder.embed_tokens.weight, bart.lm_head.weight):
        distances = torch.pdist(table[:64])
        assert int(distances.argmin()) == 0 and distances.min() < 0.1 * distances.median()
        assert float(table[:64].detach().std()) == pytest.approx(BART.init_std, rel=0.2)
    assert torch.equal(bart.decoder.embed_tokens.weight[64], start_row)  # is no code


def test_the_first_loss_is_that_of_a_guess(vqgan_folder):
    for from_codebook in (True, False):
        fresh = task(vqgan_folder, start_from_codebook=from_codebook)
        loss, _ = fresh.loss(fresh.model, first_batch(fresh))
        assert float(loss.detach()) == pytest.approx(math.log(64), rel=0.03)


def test_embedding_and_head_may_learn_slower(vqgan_folder):
    """Adam's first step goes as far as the learning rate says, whatever the gradient."""
    moved = []
    for tables_lr in (1.0, 0.1):
        one = task(vqgan_folder, tables_lr=tables_lr, weight_decay=0.0)
        tables = [one.model.decoder.embed_tokens.weight, one.model.lm_head.weight]
        words = one.model.encoder.embed_tokens.weight
        before = [table.detach().clone() for table in (*tables, words)]
        loss, _ = one.loss(one.model, first_batch(one))
        loss.backward()
        for optimizer in one.optimizers():
            optimizer.step()
        pairs = zip((*tables, words), before, strict=True)
        moved.append([float((now - then).detach().abs().max()) for now, then in pairs])
    assert moved[0] == pytest.approx([2.5e-3] * 3, rel=0.01)
    assert moved[1] == pytest.approx([2.5e-4, 2.5e-4, 2.5e-3], rel=0.01)


def test_labels_are_spread_over_near_codes_only():
    codes = torch.tensor([[0.0], [1.0], [2.0], [50.0]])
    labels = soft_labels(codes, 0.5)
    torch.testing.assert_close(labels.sum(1), torch.ones(4))
    assert labels[0, 1] == pytest.approx(math.exp(-2) / (1 + math.exp(-2) + math.exp(-8)), rel=1e-4)
    assert labels[1, 0] == labels[1, 2] and labels[3, 3] == 1
    assert soft_labels(codes, 1.0)[0, 0] < labels[0, 0] < soft_labels(codes, 0.1)[0, 0]
    assert soft_labels(codes, 0.0) is None


def test_labels_are_not_spread_over_thousands_of_codes():
    with pytest.raises(ValueError, match="for 4097 codes"):
        soft_labels(torch.zeros(4097, 1), 0.5)


def test_the_loss_with_soft_labels_is_the_mean_over_them(vqgan_folder):
    plain, soft = task(vqgan_folder), task(vqgan_folder, label_spread=0.5)
    batch = first_batch(plain)
    logits = plain.model(batch["text_ids"], batch["text_mask"], batch["input_ids"])
    chances = logits[..., :64].log_softmax(-1)  # (B, N, K)
    labels = soft_labels(soft.vqgan.quantize.embedding.weight, 0.5)[batch["image_ids"]]
    expected = -(labels * chances).sum(-1).mean()
    torch.testing.assert_close(soft.loss(soft.model, batch)[0], expected)
    hard = F.cross_entropy(logits.flatten(0, 1), batch["image_ids"].flatten())
    torch.testing.assert_close(plain.loss(plain.model, batch)[0], hard)


def test_variations_are_encoded_beside_the_pictures(vqgan_folder):
    varied = task(vqgan_folder, variations=2)
    assert len(varied) == 72 and varied.train_tokens.shape == (72, BART.image_length)
    assert torch.equal(varied.train_tokens[::3], task(vqgan_folder).train_tokens)
    assert not torch.equal(varied.train_tokens[1::3], varied.train_tokens[::3])


def test_towards_the_end_pictures_are_as_they_are(vqgan_folder):
    """From a share of the run on a variation's place is taken by its picture, also its caption."""
    varied = task(vqgan_folder, variations=2, variations_until=0.5)
    own = varied.train_tokens[[0, 0, 0, 3]]
    generators = [torch.Generator().manual_seed(i) for i in range(4)]
    batches = [varied.batch(step, torch.arange(4), generators)["image_ids"] for step in range(3)]
    assert torch.equal(batches[0], varied.train_tokens[:4])  # of 3 steps the first two vary
    assert torch.equal(batches[1], varied.train_tokens[:4])
    assert torch.equal(batches[2], own) and not torch.equal(batches[1], own)


def test_gradient_checkpointing_changes_no_gradient(vqgan_folder):
    """With dropout, too: what was dropped in the first pass is dropped again in the second."""
    gradients = []
    for save_memory in (False, True):
        one = task(
            vqgan_folder, gradient_checkpointing=save_memory, bart=replace(BART, dropout=0.2)
        )
        one.model.train()
        torch.manual_seed(1)
        calls = []
        block = one.model.decoder.layers[0].glu
        block.register_forward_hook(lambda *_, calls=calls: calls.append(1))
        loss, _ = one.loss(one.model, first_batch(one))
        loss.backward()
        assert len(calls) == (2 if save_memory else 1)  # computed again, or not
        gradients.append({name: p.grad.clone() for name, p in one.model.named_parameters()})
    for name, expected in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], expected, msg=name)


@pytest.mark.parametrize(
    "name, value",
    [("variations", -1), ("variations_until", 1.5), ("label_spread", -0.5), ("tables_lr", 0.0)],
)
def test_what_is_out_of_range_is_refused(name, value):
    with pytest.raises(ValueError, match=f"{name} is {value}"):
        BartTrainConfig(**{name: value})


def test_more_drawings_are_for_training_only():
    train_data, held_out = open_source("emoji-more", 64)
    more, known = EmojiDataset(MORE), EmojiDataset("train")
    assert len(train_data) == len(known) + len(more)
    assert len(held_out) == len(EmojiDataset("validation"))
    styles = {record.style for record in known.records}
    assert styles.isdisjoint(record.style for record in more.records)
    assert {record.concept for record in more.records} <= {r.concept for r in known.records}


def test_frozen_tokens_stay_and_the_decoder_learns(vqgan_folder, tmp_path):
    config = VQGANTrainConfig(
        vqgan=VQGAN_64, data="shapes", init=str(vqgan_folder), freeze_tokens=True
    )
    train(VQGANTask(config, LOOP), LOOP, tmp_path / "run")
    before, after = (load_vqgan(f) for f in (vqgan_folder, tmp_path / "run"))
    pictures = open_source("shapes", 32)[0].pictures(range(8))
    assert torch.equal(before.encode(pictures), after.encode(pictures))
    same = {n: torch.equal(p, after.state_dict()[n]) for n, p in before.state_dict().items()}
    assert all(same[n] for n in same if n.startswith(("encoder", "quant")))
    assert not any(same[n] for n in same if n.startswith("decoder") and n.endswith("weight"))


@pytest.mark.parametrize("of, codes", [("nothing", "brings 0 of 64"), ("fewer", "brings 64 of 96")])
def test_frozen_tokens_need_a_model_that_brings_them_all(of, codes, vqgan_folder):
    init = "" if of == "nothing" else str(vqgan_folder)
    shape = VQGAN_64 if of == "nothing" else replace(VQGAN_64, n_embed=96)
    config = VQGANTrainConfig(vqgan=shape, data="shapes", init=init, freeze_tokens=True)
    with pytest.raises(ValueError, match=f"freeze_tokens .* {codes}"):
        VQGANTask(config, LOOP)
