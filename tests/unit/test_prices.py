"""A codebook whose rare codes are dear: what the nearest code is, and what that does to tokens."""

import math
from dataclasses import replace

import pytest
import torch
from training_helpers import Stop, assert_equal_states, checkpoint_of, state_of, stop_at

from minidalle.checkpoints import load_vqgan
from minidalle.data.shapes import ShapesDataset
from minidalle.data.sources import ShapesSource
from minidalle.training.loop import LoopConfig, train
from minidalle.training.vqgan import CodebookEMA, VQGANTask, VQGANTrainConfig
from minidalle.vqgan import VectorQuantizer, VQGANConfig

SHAPE = VQGANConfig(
    ch=32, ch_mult=(1,), num_res_blocks=1, attn_resolutions=(), resolution=32,
    z_channels=16, embed_dim=9, n_embed=32, patch=4,
)  # fmt: skip
CONFIG = VQGANTrainConfig(vqgan=SHAPE, data="shapes", lr=2e-3, jitter_until=0.0, rate=0.5)
LOOP = LoopConfig(steps=12, batch_size=8, warmup_steps=2, precision="no", save_every=4)
SOURCES = tuple(ShapesSource(ShapesDataset(40, seed), 32) for seed in (0, 1))


class Alone:
    """What CodebookEMA asks of an accelerator, for one process."""

    def reduce(self, value, how="sum"):
        return value


def test_the_nearest_code_is_the_cheapest_by_distance_and_price():
    """By hand: squared distance in the other coordinates, plus rate·error·(−ln share)."""
    generator = torch.Generator().manual_seed(0)
    codebook = torch.randn(6, 3, generator=generator)
    latents = torch.randn(50, 3, generator=generator)
    latents[:, -1] = 0
    ema = CodebookEMA(codebook, decay=0.9)
    ids = torch.randint(6, (50,), generator=generator) // 2
    error = (latents[:, :2] - codebook[ids, :2]).square().sum(1).mean()
    ema.update(codebook, latents, ids, Alone())
    torch.testing.assert_close(ema.error, 0.1 * error)
    ema.set_prices(codebook, rate=2.0)

    shares = (ema.counts / ema.counts.sum()).tolist()
    prices = [2.0 * float(ema.error) * -math.log(max(share, 1 / 48)) for share in shares]
    assert prices[5] > prices[0] > 0  # the last codes were not chosen
    cost = torch.cdist(latents[:, :2], codebook[:, :2]).square() + torch.tensor(prices)
    quantizer = VectorQuantizer(6, 3)
    quantizer.embedding.weight.data.copy_(codebook)
    assert torch.equal(quantizer.nearest(latents), cost.argmin(1))


def test_latents_keep_their_last_coordinate_free(tmp_path):
    task = VQGANTask(CONFIG, LOOP, SOURCES)
    train(task, LOOP, tmp_path, progress=False)
    vqgan = load_vqgan(tmp_path)
    latents = vqgan.encode_latents(SOURCES[1].pictures(range(4)))
    assert latents[..., -1].count_nonzero() == 0
    assert latents[..., :-1].count_nonzero() == latents[..., :-1].numel()
    assert vqgan.quantize.embedding.weight[:, -1].min() > 0


def test_a_killed_run_with_prices_ends_the_same(tmp_path):
    whole, broken = VQGANTask(CONFIG, LOOP, SOURCES), VQGANTask(CONFIG, LOOP, SOURCES)
    train(whole, LOOP, tmp_path / "whole", progress=False)
    stop_at(broken, 7)
    with pytest.raises(Stop):
        train(broken, LOOP, tmp_path / "run", progress=False)
    resumed = VQGANTask(CONFIG, LOOP, SOURCES)
    train(resumed, LOOP, tmp_path / "run", progress=False)
    assert_equal_states(state_of(resumed.model), state_of(whole.model))
    assert checkpoint_of(tmp_path / "run")["step"] == LOOP.steps


def test_plain_places_share_fewer_codes(tmp_path):
    """The point of it: white places take fewer codes where codes have prices."""

    def codes_on_white(rate):
        config = replace(CONFIG, rate=rate, revive_below=0.05)
        loop = replace(LOOP, steps=60, batch_size=16)
        task = VQGANTask(config, loop, SOURCES)
        train(task, loop, tmp_path / str(rate), progress=False)
        images = SOURCES[1].pictures(range(40))
        white = images.unfold(2, 4, 4).unfold(3, 4, 4).amin((1, 4, 5)).flatten(1) == 1  # (B, N)
        ids = task.model.encode(images)[white]
        shares = torch.bincount(ids).float() / len(ids)
        return float(torch.special.entr(shares).sum().exp())

    assert codes_on_white(1.0) < 0.7 * codes_on_white(0.0)


def test_going_on_makes_room_for_prices(tmp_path):
    """From codes without prices to one coordinate more: the same pictures to begin with."""
    plain = replace(CONFIG, rate=0.0, vqgan=replace(SHAPE, embed_dim=8))
    first = VQGANTask(plain, LOOP, SOURCES)
    train(first, LOOP, tmp_path, progress=False)
    task = VQGANTask(replace(CONFIG, init=str(tmp_path)), LOOP, SOURCES)
    images = SOURCES[1].pictures(range(4))
    assert torch.equal(task.model.encode(images), first.model.encode(images))
    ids = first.model.encode(images)
    torch.testing.assert_close(task.model.decode(ids), first.model.decode(ids))
    with pytest.raises(ValueError, match="embed_dim to 9, or rate to 0"):
        VQGANTask(replace(CONFIG, init=str(tmp_path), vqgan=plain.vqgan), LOOP, SOURCES)


def test_going_on_keeps_the_prices_at_first(tmp_path):
    """Those of `init`, until this run has seen how often each code is chosen."""
    train(VQGANTask(CONFIG, LOOP, SOURCES), LOOP, tmp_path / "first", progress=False)
    given = load_vqgan(tmp_path / "first").quantize.embedding.weight[:, -1]
    task = VQGANTask(replace(CONFIG, init=str(tmp_path / "first")), LOOP, SOURCES)
    stop_at(task, 2)  # a tenth of twelve steps
    with pytest.raises(Stop):
        train(task, LOOP, tmp_path / "run", progress=False)
    assert torch.equal(task.codebook[:, -1], given)
    again = VQGANTask(replace(CONFIG, init=str(tmp_path / "first")), LOOP, SOURCES)
    train(again, LOOP, tmp_path / "run", progress=False)
    assert not torch.equal(again.codebook[:, -1], given) and again.codebook[:, -1].all()
