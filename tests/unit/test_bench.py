"""The benchmark of training: a fair race, and what is told of it; never how long it took."""

import json
import math
from functools import partial

import pytest
import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.optim.optimizer import register_optimizer_step_pre_hook
from torch.utils.flop_counter import FlopCounterMode

from minidalle.bart import Bart, BartConfig
from minidalle.bench import training as bench
from minidalle.bench.common import parameter_count, per_round, spread
from minidalle.bench.table import lines_of_training
from minidalle.bench.training import (
    SIZES,
    WARM_UP,
    bench_train,
    compare,
    growth,
    our_loss,
    random_batch,
    smaller_ones,
    step_flops,
    take_turns,
    their_bart,
    their_loss,
    training_step,
    transformers_bart,
)

CPU = torch.device("cpu")
TINY = BartConfig.tiny()
TURNS = ["a", "b", "b", "a"]  # of two rounds


@pytest.fixture(scope="module")
def figures():
    return bench_train("tiny", batch_size=2, steps=3)


@pytest.fixture
def pair():
    """Ours and theirs, tiny, with how the loss of each is computed."""
    torch.manual_seed(0)
    theirs, _ = transformers_bart(TINY)
    return {"minidalle": (Bart(TINY).train(), our_loss), "transformers": (theirs, their_loss)}


@pytest.mark.parametrize("size", SIZES)
def test_both_have_as_many_parameters_within_two_percent(size):
    """By the width of their feed-forward layers alone; nothing but shapes is made."""
    config = getattr(BartConfig, size)()
    with torch.device("meta"):
        ours, (theirs, width) = Bart(config), transformers_bart(config)
    assert parameter_count(theirs) == pytest.approx(parameter_count(ours), rel=0.02)
    shape = theirs.config
    assert width == shape.encoder_ffn_dim == shape.decoder_ffn_dim
    for name in ("d_model", "encoder_layers", "decoder_layers", "decoder_attention_heads"):
        assert getattr(shape, name) == getattr(config, name)
    assert theirs.get_encoder().embed_tokens.weight.shape == ours.encoder.embed_tokens.weight.shape
    assert theirs.get_decoder().embed_tokens.weight.shape == ours.decoder.embed_tokens.weight.shape
    assert theirs.lm_head.weight.shape == ours.lm_head.weight.shape
    names = {name for name, _ in theirs.named_parameters()}
    assert not any("shared" in name for name in names - {"model.shared.weight"})
    assert theirs.model.shared is theirs.model.decoder.embed_tokens  # counted once, no table unused
    assert theirs.lm_head.weight is not theirs.model.shared.weight  # as ours, not tied


def test_every_parameter_of_theirs_learns(pair):
    """A table that is never looked up would make theirs cheaper than it counts."""
    model, loss = pair["transformers"]
    loss(model, random_batch(TINY, 3, CPU)).backward()
    assert not [name for name, value in model.named_parameters() if value.grad is None]


def test_both_see_the_same_and_are_asked_the_same(pair):
    """The decoder inputs, the rows of the head, the captions' mask; no dropout, fast attention."""
    batch, seen = random_batch(TINY, 3, CPU), {}
    for name, (model, loss) in pair.items():
        decoder = model.decoder if name == "minidalle" else model.get_decoder()
        take = partial(lambda key, _, inputs: seen.__setitem__(key, inputs[0]), name)
        decoder.embed_tokens.register_forward_pre_hook(take)
        first = loss(model, batch)
        assert model.training and torch.equal(first, loss(model, batch))
        padded = batch | {"text_ids": batch["text_ids"].masked_fill(batch["text_mask"] == 0, 7)}
        torch.testing.assert_close(first, loss(model, padded))  # padding is not looked at
        for value in batch["image_ids"][:, -1:], batch["text_ids"][:, :1]:
            before = value.clone()
            value.copy_((value + 1) % TINY.codebook_size)
            assert not torch.isclose(first, loss(model, batch), atol=1e-6)
            value.copy_(before)
    assert torch.equal(seen["minidalle"], seen["transformers"])
    assert (seen["minidalle"][:, 0] == TINY.codebook_size).all()
    theirs = pair["transformers"][0]
    assert theirs.config._attn_implementation == theirs.get_decoder().config._attn_implementation
    assert theirs.config._attn_implementation == "sdpa"


def test_captions_are_of_many_lengths():
    batch = random_batch(TINY, 200, CPU)
    lengths = batch["text_mask"].sum(1)
    assert lengths.min() == math.ceil(TINY.max_text_length / 2)
    assert lengths.max() == TINY.max_text_length and len(lengths.unique()) > 6
    assert (batch["text_mask"].diff(dim=1) <= 0).all()  # padding is at the end
    assert batch["text_ids"].shape == (200, 24) and batch["image_ids"].shape == (200, 16)
    assert batch["image_ids"].max() < TINY.codebook_size
    assert batch["text_ids"].max() < TINY.encoder_vocab_size


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_both_learn_in_the_precision_asked_for(pair, precision):
    """Ten steps on one batch; the loss that comes back is that of before the step."""
    batch, dtypes = random_batch(TINY, 4, CPU), set()
    for model, loss in pair.values():
        model.lm_head.register_forward_hook(lambda *call: dtypes.add(call[-1].dtype))
        with torch.no_grad():
            before = float(loss(model, batch))
        dtypes.clear()
        step = training_step(model, partial(loss, model, batch), precision)
        losses = [float(step()) for _ in range(10)]
        assert dtypes == {getattr(torch, precision)}
        assert losses[0] == pytest.approx(before, abs=1e-5 if precision == "float32" else 0.02)
        assert losses[-1] < losses[0] - 0.02
        assert all(parameter.grad is None for parameter in model.parameters())
        assert all(parameter.dtype == torch.float32 for parameter in model.parameters())


def test_gradients_are_clipped():
    """What comes to the optimizer has norm 1, however large the loss."""
    model, norms = nn.Linear(3, 1), []
    step = training_step(model, lambda: 1e3 * model(torch.ones(2, 3)).square().sum(), "float32")

    def norm_of(optimizer, *_):
        gradients = [p.grad for group in optimizer.param_groups for p in group["params"]]
        norms.append(float(torch.cat([g.flatten() for g in gradients]).norm()))

    handle = register_optimizer_step_pre_hook(norm_of)
    step()
    handle.remove()
    assert norms == [pytest.approx(1.0, abs=1e-3)]


def test_they_take_turns_and_each_has_its_own_seconds(monkeypatch):
    """By a clock that only the steps move: every round in the other order, warming up not told."""
    clock, order = [0.0], []
    monkeypatch.setattr(bench.time, "perf_counter", lambda: clock[0])

    def step(name, seconds):
        order.append(name)
        clock[0] += seconds if len(order) > 2 * WARM_UP else 100
        return torch.tensor(float(len(order)))

    seconds, first = take_turns({"a": partial(step, "a", 1), "b": partial(step, "b", 3)}, 4, CPU)
    assert order == (TURNS * (WARM_UP + 4))[: 2 * (WARM_UP + 4)]
    assert seconds == {"a": [1.0] * 4, "b": [3.0] * 4}
    assert first == {"a": 1.0, "b": 2.0}


def fixed_turns(steps, times, device):
    """As if the first took 2, 4, 8, … seconds and the second five times as long."""
    a, b = steps
    seconds = [2.0 ** (i + 1) for i in range(times)]
    return {a: seconds, b: [5 * s for s in seconds]}, {a: 1.0, b: 2.0}


def test_ratios_are_the_right_way_round(monkeypatch):
    """Theirs takes five times as long: ours has five times the throughput, round by round."""
    monkeypatch.setattr(bench, "take_turns", fixed_turns)
    told = compare(TINY, 6, 3, "float32", CPU)
    assert told["ratio"] == {"median": 5.0, "low": 5.0, "high": 5.0}
    assert told["models"]["minidalle"]["step"]["median"] == 4.0
    assert told["models"]["transformers"]["step"] == {"median": 20.0, "low": 15.0, "high": 30.0}
    assert told["models"]["minidalle"]["pictures_per_second"] == 1.5
    assert told["models"]["transformers"]["first_loss"] == 2.0
    rows = growth(TINY, 6, 3, "float32", CPU)
    for row in rows:  # the part takes five times as long as the whole
        assert row["time_ratio"]["median"] == 0.2 and row["step"]["median"] == 20.0
        assert row["flops_ratio"] > 1


@pytest.mark.parametrize("config", [TINY, *smaller_ones(TINY).values()])
def test_flops_are_those_that_torch_counts(config):
    """Of the matrix products of a forward and a backward pass, attention by plain products."""
    model, batch = Bart(config), random_batch(config, 3, CPU)
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        our_loss(model, batch).backward()
    assert step_flops(config, 3) == counter.get_total_flops()


def test_smaller_ones_are_smaller_in_one_thing_only():
    parts = smaller_ones(BartConfig.mini())
    assert list(parts) == ["D 512", "layers 6 + 6", "N 128", "D 256", "layers 3 + 3", "N 64"]
    assert parts["D 256"].decoder_ffn_dim == 2730 // 4
    for name, part in parts.items():
        whole = vars(BartConfig.mini())
        changed = {field for field, value in vars(part).items() if value != whole[field]}
        words = {"D": ("d_model", "ffn_dim"), "l": ("layers",), "N": ("image_length",)}[name[0]]
        assert changed and all(field.endswith(words) for field in changed)


def test_what_is_told(figures):
    """All of it can be written as JSON; both start where a uniform guess is."""
    assert json.loads(json.dumps(figures)) == figures
    assert set(figures) == {
        *("machine", "size", "batch_size", "precision", "steps", "text_length", "image_length"),
        *("ln_k", "models", "ratio", "growth"),
    }
    names = {"processor", "gpu", "threads", "python", "torch", "transformers", "minidalle"}
    assert set(figures["machine"]) == names and figures["machine"]["threads"] >= 1
    assert list(figures["models"]) == ["minidalle", "transformers"]
    for model in figures["models"].values():
        assert math.isfinite(model["first_loss"])
        assert model["first_loss"] == pytest.approx(math.log(65), abs=0.15)
        step = model["step"]
        assert 0 < step["low"] <= step["median"] <= step["high"]
    counts = [model["parameters"] for model in figures["models"].values()]
    assert counts[0] == parameter_count(Bart(TINY)) != counts[1]
    assert figures["ln_k"] == math.log(65) and figures["ratio"]["median"] > 0
    assert [row["smaller"] for row in figures["growth"]] == list(smaller_ones(TINY))
    assert [row["parameters"] for row in figures["growth"]] == [
        parameter_count(Bart(part)) for part in smaller_ones(TINY).values()
    ]


def test_lines_name_every_figure(figures):
    text = "\n".join(lines_of_training(figures))
    model = figures["models"]["transformers"]
    for figure in (f"{model['parameters']:,}", str(model["ffn_dim"]), figures["machine"]["torch"]):
        assert figure in text
    for row in figures["growth"]:
        assert f"{row['smaller']} " in text and f"{row['flops_ratio']:.2f}" in text
    assert f"transformers: {figures['ratio']['median']:.3f} (" in text
    assert max(map(len, lines_of_training(figures))) <= 120


def test_the_command_prints_one_object(run, monkeypatch, figures):
    asked = {}
    monkeypatch.setattr(bench, "bench_train", lambda *a, **k: asked.update(k, size=a[0]) or figures)
    options = ("--size", "tiny", "--steps", 3, "--batch-size", 2, "--precision", "bfloat16")
    done = run("bench", "train", *options, "--json")
    assert json.loads(done.out) == figures
    assert asked == {
        "size": "tiny", "steps": 3, "batch_size": 2, "precision": "bfloat16", "device": "cpu",
    }  # fmt: skip
    assert run("bench", "train").out.splitlines() == lines_of_training(figures)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ("--size huge", "size is 'huge'; it must be one of tiny, emoji, mini, mega"),
        ("--batch-size 0", "batch size is 0"),
        ("--steps 0", "steps is 0"),
        ("--precision bf16", "precision is 'bf16'; it must be float32 or bfloat16"),
        ("--device nowhere", "device is 'nowhere'"),
    ],
)
def test_mistakes_are_one_line(run, options, words):
    done = run("bench", "train", "--size", "tiny", *options.split())
    assert done.code == 2 and words in done.err


def test_the_callers_randomness_is_left_alone(monkeypatch):
    """And what is drawn inside is the same whatever the caller's seed is."""
    drawn = []
    monkeypatch.setattr(bench, "compare", lambda *_: drawn.append(torch.rand(3)) or {})
    monkeypatch.setattr(bench, "growth", lambda *_: drawn.append(torch.rand(3)) or [])
    for seed in (3, 4):
        torch.manual_seed(seed)
        expected = torch.rand(2)
        torch.manual_seed(seed)
        bench_train("tiny")
        assert torch.equal(torch.rand(2), expected)
    assert torch.equal(torch.stack(drawn[:2]), torch.stack(drawn[2:]))


def test_spread_is_median_and_quartiles():
    assert spread([4.0, 1.0, 2.0, 3.0, 5.0]) == {"median": 3.0, "low": 2.0, "high": 4.0}
    assert spread([7.0]) == {"median": 7.0, "low": 7.0, "high": 7.0}
    assert per_round([4.0, 9.0], [2.0, 3.0]) == [2.0, 3.0]


def test_a_wider_one_of_theirs_has_more_parameters():
    """The width is the one nearest, among multiples of eight."""
    _, width = transformers_bart(TINY)
    wanted = parameter_count(Bart(TINY))
    off = [abs(parameter_count(their_bart(TINY, width + by)) - wanted) for by in (-8, 0, 8)]
    assert off[1] == min(off)
