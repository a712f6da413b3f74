"""What the loop can do beyond stepping: averaged weights, batches in parts, the bar, the order."""

import re
from contextlib import contextmanager
from dataclasses import replace
from itertools import chain

import pytest
import torch
from accelerate import Accelerator
from torch import nn
from training_helpers import (
    LOOP,
    FewEmoji,
    Stop,
    ToyTask,
    assert_equal_states,
    checkpoint_of,
    lines_of,
    losses_of,
    state_of,
    stop_at,
)

from minidalle.bart import BartConfig
from minidalle.checkpoints import load_vqgan, native
from minidalle.clip import CLIPConfig
from minidalle.data import sources
from minidalle.training.average import WeightsEMA
from minidalle.training.bart import BartTask, BartTrainConfig
from minidalle.training.clip import CLIPTask, CLIPTrainConfig
from minidalle.training.loop import train
from minidalle.training.schedule import LoopConfig, order_of_epoch, samples_of_step, seed_of
from minidalle.training.vqgan import VQGANTask, VQGANTrainConfig
from minidalle.vqgan import VQGAN, VQGANConfig

ROUNDING = 2e-6  # the log keeps six digits after the point
EMA = replace(LOOP, weights_ema=0.2)
VQGAN_32 = replace(VQGANConfig.tiny(), resolution=64, patch=4, n_embed=32)
BART_16 = replace(BartConfig.tiny(), image_length=16, image_vocab_size=32, codebook_size=32)


@pytest.fixture
def few_emoji(monkeypatch):
    monkeypatch.setattr(sources, "EmojiDataset", FewEmoji)


# Averaged weights.


def averages_by_hand(history, decay):
    """After step t the average keeps min(decay, t / (t + 9)) of what it was; from the states."""
    average = {n: v.double() for n, v in history[0].items() if v.is_floating_point()}
    for t, state in enumerate(history[1:], 1):
        keep = min(decay, t / (t + 9))
        average = {n: keep * v + (1 - keep) * state[n].double() for n, v in average.items()}
    return average


@pytest.mark.parametrize("decay", [0.2, 0.999])  # reached in the fourth step, and not at all
def test_the_average_is_that_of_the_weights_after_every_step(decay, tmp_path):
    """By hand from the states after the steps: parameters and buffers of fractions, no others."""
    task = ToyTask()
    train(task, replace(LOOP, weights_ema=decay), tmp_path)
    saved = checkpoint_of(tmp_path)["weights_ema"]
    expected = averages_by_hand(task.history, decay)
    assert saved.keys() == expected.keys() == dict(task.model.named_parameters()).keys() | {"level"}
    for name, value in expected.items():
        torch.testing.assert_close(saved[name].double(), value, atol=1e-6, rtol=1e-6)
        assert not torch.equal(saved[name], task.history[-1][name])


def test_evaluation_and_export_see_the_average_and_training_does_not(tmp_path):
    """The curve is that of a run without it; the task is left with its own weights."""
    plain, averaged = ToyTask(), ToyTask()
    train(plain, LOOP, tmp_path / "plain")
    train(averaged, EMA, tmp_path / "averaged")
    assert losses_of(tmp_path / "plain") == losses_of(tmp_path / "averaged")
    assert_equal_states(plain.model.state_dict(), averaged.model.state_dict())
    assert "weights_ema" not in checkpoint_of(tmp_path / "plain")
    for seen, step in zip(averaged.evaluated, (3, 6, 8), strict=True):
        for name, value in averages_by_hand(averaged.history[:step], 0.2).items():
            torch.testing.assert_close(seen[name].double(), value, atol=1e-6, rtol=1e-6)
        assert seen["count"] == step
    assert_equal_states(averaged.exported[0], averaged.evaluated[-1])
    assert_equal_states(plain.exported[0], plain.model.state_dict())


def test_a_killed_run_resumes_its_average(tmp_path):
    """Killed in step 5 (last checkpoint: 3): the same averages to the bit, saved and exported."""
    whole, resumed = ToyTask(), ToyTask()
    train(whole, EMA, tmp_path / "whole")
    with pytest.raises(Stop):
        train(stop_at(ToyTask(), 5), EMA, tmp_path / "killed")
    train(resumed, EMA, tmp_path / "killed")
    states = [checkpoint_of(tmp_path / name)["weights_ema"] for name in ("whole", "killed")]
    assert_equal_states(*states)
    assert_equal_states(whole.exported[0], resumed.exported[0])
    assert_equal_states(whole.model.state_dict(), resumed.model.state_dict())


def test_the_weights_come_back_whatever_happens_meanwhile():
    model = ToyTask().model
    average = WeightsEMA(model, 0.9)
    nn.init.zeros_(model.layers[0].weight)
    before = state_of(model)
    with pytest.raises(Stop), average.in_place():
        assert model.layers[0].weight.any()
        nn.init.ones_(model.layers[2].weight)
        raise Stop
    assert_equal_states(state_of(model), before)
    assert not torch.equal(average.weights["layers.2.weight"], torch.ones(1, 5))


def test_the_average_of_half_precision_weights_is_kept_in_float32():
    """1 and 1 + 2⁻⁷ are neighbours in bfloat16; their mean is between them."""
    model = nn.Linear(1, 1).bfloat16()
    average = WeightsEMA(model, 0.5)
    for step in range(100):
        nn.init.constant_(model.weight, 1 + 2**-7 * (step % 2))
        average.update(step)
    assert average.weights["weight"].dtype == torch.float32
    assert 1.001 < average.weights["weight"].item() < 1.0068
    with average.in_place():
        assert model.weight.dtype == torch.bfloat16


def test_a_vqgan_is_exported_with_averaged_weights_and_codebook(few_emoji, tmp_path):
    loop = replace(EMA, log_every=8, evaluate_every=8)
    task = VQGANTask(VQGANTrainConfig(vqgan=VQGAN_32, revive_every=2, revive_below=2.0), loop)
    train(task, loop, tmp_path)
    saved = checkpoint_of(tmp_path)["weights_ema"]
    assert_equal_states(load_vqgan(tmp_path).state_dict(), saved)
    assert not torch.equal(saved["quantize.embedding.weight"], task.codebook)
    assert not torch.equal(saved["encoder.conv_in.weight"], task.model.encoder.conv_in.weight)


@pytest.mark.parametrize("decay", [-0.1, 1.0, float("nan")])
def test_decays_that_are_none(decay):
    with pytest.raises(ValueError, match="weights_ema is"):
        LoopConfig(weights_ema=decay)


# Batches in parts.


def test_parts_give_the_whole_batchs_curve_and_metrics(tmp_path):
    """Four samples as 4, 2 + 2 and 1 + 1 + 1 + 1, in this order; one update for each batch."""
    tasks = {parts: ToyTask() for parts in (1, 2, 4)}
    for parts, task in tasks.items():
        train(task, replace(LOOP, accumulate=parts), tmp_path / str(parts))
        assert {len(samples) for samples in task.seen} == {4 // parts}
        assert list(chain(*task.seen)) == list(chain(*tasks[1].seen))
        assert len(task.history) == 8
        one, several = lines_of(tmp_path / "1"), lines_of(tmp_path / str(parts))
        for a, b in zip(one, several, strict=True):
            for name in a.keys() - {"samples_per_second"}:
                assert a[name] == pytest.approx(b[name], abs=ROUNDING), name
    for state in (tasks[2].history[-1], tasks[4].history[-1]):
        for name, value in tasks[1].history[-1].items():
            torch.testing.assert_close(value, state[name], atol=1e-6, rtol=1e-5)


def test_barts_parts_give_the_whole_batchs_curve(few_emoji, tmp_path):
    """Captions of all lengths, in float32 without dropout: every loss, as it is logged."""
    torch.manual_seed(0)
    native.save(tmp_path / "vqgan", vqgan=VQGAN(VQGAN_32))
    config = BartTrainConfig(vqgan=str(tmp_path / "vqgan"), bart=BART_16, optimizer="adamw")
    losses = []
    for parts in (1, 3):
        loop = replace(LOOP, batch_size=6, accumulate=parts, evaluate_every=8)
        task = BartTask(replace(config, lr=1e-3), loop)
        train(task, loop, tmp_path / str(parts))
        losses.append(losses_of(tmp_path / str(parts)))
    assert losses[0] == pytest.approx(losses[1], abs=ROUNDING)
    assert losses[0][-1] < losses[0][0]


def test_processes_tell_each_other_gradients_once_a_step(monkeypatch, tmp_path):
    """All parts but the last, their forward passes too, are inside `no_sync`."""
    inside, seen = [], []

    @contextmanager
    def no_sync(self, model):
        inside.append(model)
        yield
        inside.pop()

    class Watched(ToyTask):
        def loss(self, model, batch):
            seen.append(len(inside))
            return super().loss(model, batch)

    monkeypatch.setattr(Accelerator, "no_sync", no_sync)
    train(Watched(), replace(LOOP, steps=2, accumulate=4), tmp_path / "parts")
    assert seen == [1, 1, 1, 0] * 2
    seen.clear()
    train(Watched(), replace(LOOP, steps=2), tmp_path / "whole")
    assert seen == [0, 0]


def test_a_part_whose_loss_is_no_number_is_named(tmp_path):
    task = ToyTask()
    task.y[9] = float("inf")
    with pytest.raises(FloatingPointError, match=r"is inf in step \d \(samples 9\); lower"):
        train(task, replace(LOOP, accumulate=4), tmp_path)


def test_a_gradient_that_is_no_number_is_not_followed(tmp_path):
    """The loss is a number, its gradient is not: no step is taken, so the last state is still good.

    Without names of its own, a task's samples are told by their numbers, no more than eight.
    """
    task = ToyTask()
    loss = task.loss

    def broken(model, batch):
        value, metrics = loss(model, batch)
        if len(task.history) == 4:  # in step 4; step 3 was the last that was saved
            value = value + 0 * (value - value.detach()).sqrt()  # its slope at 0 is infinite
        return value, metrics

    task.loss = broken
    with pytest.raises(FloatingPointError) as error:
        train(task, replace(LOOP, batch_size=12), tmp_path)
    step = ", ".join(map(str, samples_of_step(4, 24, replace(LOOP, batch_size=12)).tolist()[:8]))
    assert str(error.value) == (
        f"the gradient is nan in step 4 (samples {step} and 4 more); lower the learning rate, or "
        f"look at these samples: {tmp_path / 'checkpoint.pt'} of step 3 is still good"
    )
    assert_equal_states(task.history[-1], state_of(task.model))
    assert checkpoint_of(tmp_path)["step"] == 3


def test_samples_are_called_as_the_task_calls_them(tmp_path):
    """Of the part that was no good only."""
    task = ToyTask()
    task.sample_names = lambda indices: [f"{i}.png" for i in indices.tolist()]
    task.y[:] = float("nan")
    first = samples_of_step(0, 24, LOOP).tolist()
    with pytest.raises(FloatingPointError, match=rf"step 0 \(samples {first[0]}.png, {first[1]}.p"):
        train(task, replace(LOOP, accumulate=2), tmp_path)
    assert not (tmp_path / "checkpoint.pt").exists()


def test_parts_that_cannot_be(few_emoji, tmp_path):
    """Refused before a run folder is made: by size, and by tasks that do not offer it."""
    run = tmp_path / "run"
    with pytest.raises(ValueError, match=r"accumulate is 3; it must divide .* 4"):
        train(ToyTask(), replace(LOOP, accumulate=3), run)
    with pytest.raises(ValueError, match="accumulate is 0; it must be at least 1"):
        replace(LOOP, accumulate=0)
    loop = replace(LOOP, accumulate=2)
    clip = replace(CLIPConfig.tiny(), resolution=64, patch=8)
    for task in (
        VQGANTask(VQGANTrainConfig(vqgan=VQGAN_32), loop),
        CLIPTask(CLIPTrainConfig(clip=clip), loop),
    ):
        with pytest.raises(ValueError, match=rf"must be 1 for {type(task).__name__}"):
            train(task, loop, run)
    with pytest.raises(ValueError, match=r"it must divide .* 4; accumulate is 3; it must be 1"):
        task = ToyTask()
        task.splits_batches = False
        train(task, replace(LOOP, accumulate=3), run)
    assert not run.exists()


# The order of the samples.


def samples_by_hand(step, size, config):
    """All epochs' orders end to end, cut into batches, drawn anew."""
    epochs = (step + 1) * config.batch_size // size + 1
    orders = [
        torch.randperm(
            size, generator=torch.Generator().manual_seed(seed_of(config.seed + 997, epoch))
        )
        for epoch in range(epochs)
    ]
    return torch.cat(orders)[step * config.batch_size : (step + 1) * config.batch_size]


@pytest.mark.parametrize("size", [1, 3, 7, 8, 50])
def test_samples_are_those_of_the_epochs_orders(size):
    """For epochs shorter than a batch, as long, and longer; forwards, backwards, by another run."""
    one, other = LoopConfig(batch_size=7), LoopConfig(batch_size=7, seed=3)
    for loop in (one, other, one):
        for step in [*range(12), *reversed(range(12))]:
            samples = samples_of_step(step, size, loop)
            assert samples.tolist() == samples_by_hand(step, size, loop).tolist()
            samples.zero_()  # whoever writes to them must not change what comes next


def test_an_epochs_order_is_drawn_once():
    order_of_epoch.cache_clear()
    loop = LoopConfig(batch_size=8)
    for step in range(100):
        samples_of_step(step, 100, loop)
    assert order_of_epoch.cache_info().misses == 8
    assert order_of_epoch.cache_info().currsize == 1


# What is shown.


def test_the_bar_shows_loss_speed_and_the_time_that_is_left(few_emoji, tmp_path, capsys):
    """Perplexity for a VQGAN; tokens per second where a sample has tokens. The log has them all."""
    loop = replace(LOOP, steps=2, evaluate_every=2)
    vqgan = VQGANTask(VQGANTrainConfig(vqgan=VQGAN_32), loop)
    train(vqgan, loop, tmp_path / "vqgan", progress=True)
    bar = capsys.readouterr().err.replace("\r", "\n")
    assert re.search(r"2/2 \[\d\d:\d\d<\d\d:\d\d", bar) and "step" in bar
    for name in ("loss", "perplexity", "samples_per_second"):
        assert f"{name}=" in bar
    assert "tokens_per_second" not in bar and "psnr=" not in bar
    names = {"step", "loss", "l1", "psnr", "commitment", "perplexity", "gradient_norm"}
    (first, *_) = lines_of(tmp_path / "vqgan")
    assert first.keys() == names | {"samples_per_second"}

    toy = ToyTask()
    toy.tokens_per_sample = 5
    train(toy, loop, tmp_path / "toy", progress=True)
    assert "tokens_per_second=" in capsys.readouterr().err
    for line in lines_of(tmp_path / "toy"):
        if "loss" in line:
            assert line["tokens_per_second"] == pytest.approx(5 * line["samples_per_second"])
    train(ToyTask(), loop, tmp_path / "silent", progress=False)
    assert capsys.readouterr().err == ""
