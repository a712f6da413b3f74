"""The benchmark of generation: who is asked what, and what is made of the seconds; never how many.

Seconds come from fake contestants; real ones, tiny, are only asked whether they obey.
"""

import io
import json
import subprocess
import sys
from dataclasses import asdict, replace

import pytest
import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from minidalle.bart import Bart, BartConfig
from minidalle.bench import contestants, generation, limits, parts, worker
from minidalle.bench.contestants import Ours, TheirBart, why_not
from minidalle.bench.costs import (
    Cost,
    Limits,
    decode_cost,
    encode_cost,
    limits_of_road,
    step_cost,
)
from minidalle.bench.generation import ON_CPU, PARTS, bench_generation
from minidalle.bench.table import lines_of_generation
from minidalle.bench.worker import Worker, WorkerError, build, serve
from minidalle.vqgan import VQGAN, Upsample, VQGANConfig

TINY, TINY_VQGAN = BartConfig.tiny(), VQGANConfig.tiny()
SECONDS = {  # of a road, an image token, a picture's decoding: what fake contestants take
    "ours-float32": 6.0,
    "ours-bfloat16": 3.0,
    "min-dalle-float32": 24.0,
    "transformers-float32": 15.0,
    "transformers-bfloat16": 12.0,
}
LIMITS = {
    "read": {"slow": 1e6, "fast": 2e6},
    "matrix": {"float32": {"a": 1e8}, "bfloat16": {"a": 1e8, "b": 4e8}},
}


class FakeTeam:
    """Answers at once: round i takes i times as long as SECONDS says; keeps what was asked."""

    def __init__(self, device, threads):
        self.device, self.asked = device, []
        FakeTeam.last = self

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def keep(self, contestants):
        pass

    def ask(self, one, do, **arguments):
        if do == "limits":
            return LIMITS
        before = self.asked.count((one, do, arguments))
        self.asked.append((one, do, arguments))
        seconds = SECONDS[one.name] * (1 + before)
        memory = {"peak_bytes": 2**30 * (1 + before), "gpu_peak_bytes": None}
        if do == "steps":
            return {"encode": 1.0, "steps": [seconds] * len(arguments["positions"]), **memory}
        return {"seconds": seconds, **memory}


@pytest.fixture
def fake(monkeypatch):
    monkeypatch.setattr(generation, "Team", FakeTeam)


@pytest.fixture(scope="module")
def told():
    """Every part, with fake contestants."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(generation, "Team", FakeTeam)
        patch.setattr(generation, "multiplies_bfloat16", lambda device: True)
        return bench_generation("tiny", rounds=3, tokens=8, threads=1)


def row_of(rows, name, pictures):
    [row] = [r for r in rows if (f"{r['who']}-{r['dtype']}", r["pictures"]) == (name, pictures)]
    return row


def flops_of(work) -> int:
    with torch.no_grad(), FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        work()
    return counter.get_total_flops()


# What must be done, and how fast it could be.


def test_operations_are_those_that_torch_counts():
    """Of the encoder and the text's keys and values; of a decoder step, those less."""
    bart = Bart(TINY).eval()
    text = torch.full((3, TINY.max_text_length), 5)
    memory = bart.encode(text, torch.ones_like(text))
    d, layers = TINY.d_model, TINY.decoder_layers
    of_text = 2 * 3 * TINY.max_text_length * 2 * d * d * layers
    encoding = flops_of(lambda: bart.encode(text, torch.ones_like(text)))
    assert encode_cost(TINY, 3, 4).flops == encoding + of_text
    start = torch.full((3, 1), TINY.codebook_size)
    whole = flops_of(lambda: bart.decode(start, memory, torch.ones_like(text)))
    assert step_cost(TINY, 3, 0, 4).flops == whole - of_text
    later = step_cost(TINY, 3, 10, 4)
    assert later.flops - step_cost(TINY, 3, 0, 4).flops == 10 * 3 * layers * 4 * d
    assert later.bytes - step_cost(TINY, 3, 0, 4).bytes == 10 * 3 * layers * 2 * d * 4


def test_a_step_reads_every_weight_that_it_needs_once():
    """Matrices of decoder and head, but those that make keys and values of the text."""
    bart = Bart(TINY)
    matrices = [p for layer in bart.decoder.layers for p in layer.parameters() if p.ndim == 2]
    weights = sum(p.numel() for p in [*matrices, bart.lm_head.weight])
    weights -= TINY.decoder_layers * 2 * TINY.d_model**2
    cache = TINY.decoder_layers * 2 * 2 * (TINY.max_text_length + 1) * TINY.d_model
    assert step_cost(TINY, 2, 0, 2).bytes == 2 * (weights + cache)


def test_operations_of_decoding_are_those_of_its_convolutions_and_its_attention():
    vqgan, counted = VQGAN(TINY_VQGAN), []

    def count(conv, _, output):
        counted.append(2 * output.numel() * conv.weight[0].numel())

    def count_upsampling(layer, inputs, _):
        channels = len(layer.conv.weight)
        counted.append(2 * inputs[0].numel() * 16 * channels)  # each number leaves a print of 4×4
        counted.append(2 * channels**2 * 16 * 9)  # which is made of a kernel of 3×3

    for module in vqgan.modules():
        if isinstance(module, nn.Conv2d):
            module.register_forward_hook(count)
        elif isinstance(module, Upsample):
            module.register_forward_hook(count_upsampling)
    vqgan.decode(torch.zeros(1, TINY_VQGAN.image_length, dtype=torch.long))
    n, c = TINY_VQGAN.image_length, TINY_VQGAN.ch * TINY_VQGAN.ch_mult[-1]
    cost = decode_cost(TINY_VQGAN, 1, 2)
    assert cost.flops == sum(counted) + 4 * n * n * c
    assert decode_cost(TINY_VQGAN, 9, 2) == Cost(cost.bytes, 9 * cost.flops)
    drawing = [*vqgan.decoder.parameters(), *vqgan.post_quant_conv.parameters()]
    assert cost.bytes == 2 * sum(p.numel() for p in drawing)


def test_the_limit_is_the_slower_of_reading_and_computing():
    machine = Limits(bandwidth=100.0, flops={"float32": 10.0, "bfloat16": 40.0})
    assert machine.seconds(Cost(bytes=500, flops=80), "float32") == 8.0
    assert machine.seconds(Cost(bytes=500, flops=80), "bfloat16") == 5.0
    least = limits_of_road(TINY, TINY_VQGAN, 4, 6, "bfloat16", machine)
    steps = [machine.seconds(step_cost(TINY, 8, i, 2), "bfloat16") for i in range(6)]
    assert least["steps"] == pytest.approx(sum(steps))
    assert least["road"] == pytest.approx(least["encode"] + least["steps"] + least["decode"])


def test_speeds_are_work_over_the_best_time(monkeypatch):
    monkeypatch.setattr(limits, "best_seconds", lambda work, *_: work() is None or 0.5)
    sizes = {"read_bytes": 2**12, "side": 8, "picture_side": 4, "times": 1}
    found = limits.measure_limits(16, 24, ("float32", "bfloat16"), **sizes)
    assert set(found["read"].values()) == {2**12 / 0.5} and len(found["read"]) == 6
    flops = [2 * 18 * 16 * 24, 2 * 128 * 16 * 24, 2 * 8**3, 2 * 9 * 128 * 128 * 16]
    for ways in found["matrix"].values():
        assert list(ways.values()) == [count / 0.5 for count in flops]


def test_the_best_time_leaves_out_the_first(monkeypatch):
    """By a clock that only the work moves."""
    clock, taken = [0.0], iter([1.0, 5.0, 3.0, 4.0])
    monkeypatch.setattr(limits.time, "perf_counter", lambda: clock[0])
    work = lambda: clock.__setitem__(0, clock[0] + next(taken))  # noqa: E731
    assert limits.best_seconds(work, torch.device("cpu"), 3) == 3.0


# What is made of the seconds.


def test_medians_ratios_and_memory(told):
    """Rounds take 1, 2 and 3 times as long for all: the ratios do not move."""
    assert told["tokens"] == 8 and told["rounds"] == 3
    for part in ("road", "decode"):
        for n in (1, 9):
            row = row_of(told[part], "ours-bfloat16", n)
            assert "min-dalle" not in row["faster"]
            # The round that does not count is the same order but for roads: rounds 2, 3, 4 count.
            times = [3.0, 6.0, 9.0] if part == "road" else [6.0, 9.0, 12.0]
            assert row["seconds"]["median"] == times[1]
            assert row["seconds"]["low"] == (times[0] + times[1]) / 2
            assert row["faster"]["min-dalle-float32"] == dict.fromkeys(row["seconds"], 8.0)
            assert row["peak_bytes"] == 2**30 * (3 if part == "road" else 4)
            assert row_of(told[part], "min-dalle-float32", n)["faster"] == {}
            ratio = row_of(told[part], "ours-float32", n)["faster"]["min-dalle-float32"]
            assert ratio["median"] == 4.0


def test_each_precision_is_compared_with_its_own(told):
    """Without super-conditioning, and as image tokens a second."""
    row = row_of(told["transformers"], "ours-bfloat16", 9)
    assert row["faster"] == {"transformers-bfloat16": dict.fromkeys(row["seconds"], 4.0)}
    assert row["tokens_per_second"] == 9 * 8 / 6.0
    row = row_of(told["transformers"], "ours-float32", 1)
    assert row["faster"] == {"transformers-float32": dict.fromkeys(row["seconds"], 2.5)}
    assert row_of(told["transformers"], "transformers-float32", 1)["faster"] == {}


def test_shares_are_the_least_time_over_the_median(told):
    machine = Limits(2e6, {"float32": 1e8, "bfloat16": 4e8})
    assert told["limits"]["bandwidth"] == 2e6
    assert told["limits"]["flops"] == machine.flops
    for n in (1, 9):
        least = limits_of_road(TINY, TINY_VQGAN, n, 8, "bfloat16", machine)
        row = row_of(told["road"], "ours-bfloat16", n)
        assert row["least_seconds"] == pytest.approx(least["road"])
        assert row["share"] == pytest.approx(least["road"] / 6.0)
        row = row_of(told["decode"], "ours-bfloat16", n)
        assert row["share"] == pytest.approx(least["decode"] / 9.0)
        row = row_of(told["step"], "ours-float32", n)
        ends = [machine.seconds(step_cost(TINY, 2 * n, i, 4), "float32") for i in (3, 4)]
        assert ends[0] <= row["least_seconds"] <= ends[1]
        encode = machine.seconds(encode_cost(TINY, 2, 4), "float32")
        assert row["encode"]["share"] == pytest.approx(encode / 1.0)


def test_steps_are_told_by_position(told):
    row = row_of(told["step"], "ours-float32", 9)
    assert row["positions"] == [*range(8)] and row["step_seconds"] == [12.0] * 8
    growth = told["growth"]
    assert [r["pictures"] for r in growth["pictures"]] == [*parts.GROWTH_PICTURES] * 2
    assert [r["d_model"] for r in growth["d_model"]] == [12, 24, 48, 96] * 2
    assert growth["positions"] == [2, 3, 4, 5, 6, 7]


def test_min_dalle_is_timed_at_a_few_positions_spread_over_all(fake):
    bench_generation("mini", rounds=1, parts=["step"], pictures=[1], only=["min-dalle-float32"])
    _, _, arguments = FakeTeam.last.asked[-1]
    assert arguments["positions"] == [*range(0, 256, 16)]


def test_they_take_turns_and_the_first_round_draws_a_little(fake):
    said = []
    only = ["ours-float32", "min-dalle-float32"]
    bench_generation("tiny", rounds=2, parts=["road"], pictures=[4], only=only, say=said.append)
    asked = [(one.who, arguments["tokens"]) for one, _, arguments in FakeTeam.last.asked]
    a, b = "ours", "min-dalle"
    assert asked == [(a, 2), (b, 2), (b, 16), (a, 16), (a, 16), (b, 16)]
    turns = ("warm-up", "round 1 of 2", "round 2 of 2")
    assert [line.split(":")[0] for line in said] == [f"road, 4 pictures, {turn}" for turn in turns]
    assert "ours-float32 12.000 s" in said[2] and "min-dalle-float32 48.000 s" in said[2]


def test_who_fails_is_out_and_the_row_says_why(fake, monkeypatch):
    """Nothing is compared with it, and the others go on."""
    ask = FakeTeam.ask

    def fail(self, one, do, **arguments):
        if one.who == "min-dalle":
            raise WorkerError("it is not there")
        return ask(self, one, do, **arguments)

    monkeypatch.setattr(FakeTeam, "ask", fail)
    told = bench_generation("tiny", rounds=2, parts=["road"], pictures=[1])
    row = row_of(told["road"], "min-dalle-float32", 1)
    assert row["not_measured"] == "it is not there" and "seconds" not in row
    ours = row_of(told["road"], "ours-float32", 1)
    assert ours["faster"] == {} and "share" not in ours  # nor were the limits measured
    text = "\n".join(lines_of_generation(told))
    assert "not measured: it is not there" in text and "%" not in text


def test_the_table_has_every_figure(told):
    lines = lines_of_generation(told)
    text = "\n".join(lines)
    assert "all cut to the first 8 of 16 image tokens" in text
    assert "reads 0.0 GB/s (fast)" in text
    assert json.loads(json.dumps(told)) == told
    for row in told["road"]:
        [line] = [
            line for line in lines[: lines.index(next(x for x in lines if "decoder step" in x))]
            if f"{row['who']} {row['dtype']}" in line and f"{row['seconds']['median']:.3f}" in line
            and f"{row['least_seconds']:.3g}" in line
        ]  # fmt: skip
        assert f"{row['share']:.0%}" in line
    assert "min-dalle-float32 8.00 (8.00 – 8.00)" in text
    assert "12.0 image tokens a second" in text and "at position 0: 12, " in text
    assert "float32, by D, one picture: 12: " in text


# What is asked for.


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ("--size huge", "size is 'huge'; it must be one of tiny, emoji, mini, mega"),
        ("--pictures 2", "pictures is 2; it must be a square number"),
        ("--tokens 17", "tokens is 17; it must be from 1 to 16"),
        ("--tokens 0", "tokens is 0"),
        ("--rounds 0", "rounds is 0"),
        ("--part speed", "part is 'speed'; it must be one of limits, road"),
        ("--only ours-int8", "contestant is 'ours-int8'"),
        ("--only others-float32", "contestant is 'others-float32'"),
        ("--device nowhere", "device is 'nowhere'"),
        ("--threads 0", "threads is 0"),
        ("--stored int8", "stored is 'int8'; it must be one of float32, bfloat16, float16"),
        ("--part road --only transformers-float32", "part road has nobody to measure"),
    ],
)
def test_mistakes_are_one_line(run, fake, options, words):
    done = run("bench", "--size", "tiny", *options.split())
    assert done.code == 2 and words in done.err


def test_help_shows_examples_and_the_other_commands(run):
    done = run("bench", "--help")
    examples = done.out.split("Examples:")[1].strip().splitlines()
    assert all(line.strip().startswith("minidalle bench") for line in examples)
    assert all(f"  {command} " in done.out for command in ("load", "convert", "train"))


def test_what_does_not_fit_is_refused_at_once(fake, monkeypatch):
    monkeypatch.setattr(generation, "available_memory", lambda: 6 * 2**30)
    mini = ["ours-float32", "min-dalle-float32", "ours-bfloat16"]
    bench_generation("mini", parts=["road"], rounds=1, only=mini)
    with pytest.raises(ValueError, match=r"part road holds 24\.8 GiB of weights at once, 6\.0 GiB"):
        bench_generation("mega", parts=["road"], rounds=1, only=mini)


def test_the_command_writes_after_every_part(run, fake, monkeypatch, tmp_path):
    found = []
    write = parts.MEASURED["decode"]

    def measure(*arguments):
        found.append(json.loads((tmp_path / "b.json").read_text()))
        return write(*arguments)

    monkeypatch.setitem(parts.MEASURED, "decode", measure)
    options = ("--size", "tiny", "--rounds", 1, "--part", "decode", "--part", "road")
    done = run("bench", *options, "--json", "b.json", "--pictures", 4)
    told = json.loads((tmp_path / "b.json").read_text())
    assert "road" in found[0] and "decode" not in found[0] and "decode" in told
    assert done.out.splitlines() == lines_of_generation(told)
    assert {row["pictures"] for row in told["road"]} == {4}
    assert [path.name for path in tmp_path.iterdir()] == ["b.json"]


def test_min_dalle_is_asked_only_where_it_can_be(monkeypatch):
    full = (BartConfig.mini(), VQGANConfig.f16_16384())
    monkeypatch.setattr(contestants.importlib.util, "find_spec", lambda name: object())
    assert why_not("min-dalle", *full) is None and why_not("ours", TINY, TINY_VQGAN) is None
    assert "256 image tokens of 16,384 codes" in why_not("min-dalle", TINY, TINY_VQGAN)
    monkeypatch.setattr(contestants.importlib.util, "find_spec", lambda name: None)
    assert why_not("min-dalle", *full) == "not installed: pip install 'minidalle[bench]'"


# The contestants, tiny, and their processes.


def order(do="build", who="ours", **more) -> str:
    fields = {"bart": asdict(TINY), "vqgan": asdict(TINY_VQGAN), "dtype": "float32"}
    where = {"device": "cpu", "threads": torch.get_num_threads(), "contestant": who}
    where["stored"] = None
    return json.dumps({"do": do, **(fields | where if do == "build" else {}), **more})


def test_a_worker_obeys_and_goes_on_after_an_error():
    answers = io.StringIO()
    orders = [
        order("decode", pictures=1),
        order(),
        order("decode", pictures=2),
        order("dance"),
        order("road", pictures=1, tokens=3),
        order("steps", pictures=1, positions=[0, 4]),
    ]
    serve(orders, answers)
    first, built, decoded, unknown, road, steps = map(json.loads, answers.getvalue().splitlines())
    assert "nothing is built" in first["error"]
    assert built == {"threads": torch.get_num_threads()}
    assert decoded["seconds"] > 0 and decoded["gpu_peak_bytes"] is None
    assert "must be one of road, tokens, decode, steps" in unknown["error"]
    assert road["seconds"] == pytest.approx(road["tokens"] + road["decode"])
    assert len(steps["steps"]) == 2 and steps["encode"] > 0
    assert (decoded["peak_bytes"] is not None) == worker.STATUS.exists()


@pytest.mark.parametrize(("who", "parts"), [("ours", ["bart", "vqgan"]), ("transformers", [])])
def test_weights_are_rounded_as_if_stored(who, parts):
    """All of them, and only where that was asked for; min-dalle's networks: `MIN_DALLE` below."""
    for stored, rounded in [(None, False), ("float16", True)]:
        made, _ = build(json.loads(order(who=who, stored=stored)))
        for network in [getattr(made.model, part) for part in parts] or [made.model]:
            for weight in (w for w in network.parameters() if w.ndim > 1):  # norms' are 0 and 1
                assert torch.equal(weight, weight.half().float()) == rounded


def test_what_is_rounded_is_said(fake):
    said = lines_of_generation(bench_generation("tiny", rounds=1, parts=["road"]))
    assert "random weights: T" in said[2]
    said = lines_of_generation(bench_generation("tiny", rounds=1, parts=["road"], stored="float16"))
    assert "random weights rounded to float16: T" in said[2]
    assert {one.stored for one, *_ in FakeTeam.last.asked} == {"float16"}


def test_a_worker_process_answers_in_spite_of_what_is_printed():
    """A real one: what libraries print goes where errors go."""
    with Worker("ours") as real:
        assert real.ask(**json.loads(order())) == {"threads": torch.get_num_threads()}
        assert real.ask("tokens", pictures=1, tokens=2)["seconds"] > 0
        with pytest.raises(WorkerError, match=r"ours could not decode: .*pictures"):
            real.ask("decode")
        few, many = (real.ask("decode", pictures=n)["peak_bytes"] for n in (1, 256))
    assert real.process.returncode == 0
    if worker.STATUS.exists():  # in a process of its own: the pictures' memory is seen
        pixels = 4 * 256 * 3 * TINY_VQGAN.resolution**2
        assert few + pixels < many < 4e9  # and torch itself is counted in bytes


@pytest.mark.parametrize(
    ("code", "words"),
    [
        ("import sys; sys.exit('out of memory')", "x ended with code 1 .* road: out of memory"),
        ("import sys; input(); sys.exit(3)", "x ended with code 3 .* road: nothing was said"),
    ],
)
def test_a_worker_that_dies_is_named(code, words):
    with Worker("x", [sys.executable, "-c", code]) as dead, pytest.raises(WorkerError, match=words):
        dead.ask("road", pictures=1, tokens=1)


def test_a_worker_that_does_not_end_is_killed(monkeypatch):
    monkeypatch.setattr(worker, "PATIENCE", 0.2)
    with Worker("x", [sys.executable, "-c", "import time; time.sleep(600)"]) as stuck:
        pass
    assert stuck.process.returncode < 0


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_ours_draws_what_it_is_asked(dtype, monkeypatch):
    ours = Ours(TINY, TINY_VQGAN, dtype, "cpu")
    assert ours.model.bart.lm_head.weight.dtype == getattr(torch, dtype)
    assert torch.get_default_dtype() == torch.float32
    whole, cut = (ours.draw(4, tokens, 10.0) for tokens in (16, 5))
    assert whole.shape == cut.shape == (4, 16) and not torch.equal(whole[0], whole[1])
    assert torch.equal(cut[:, :5], whole[:, :5]) and not cut[:, 5:].any()
    rows = []
    monkeypatch.setattr(ours, "pixels", lambda ids: rows.append(ids.shape))
    ours.decode(9), ours.road(1, 2)
    assert rows == [(9, 16), (1, 16)]
    assert len(ours.steps(1, [0, 15])["steps"]) == 2


def test_transformers_draws_all_its_tokens_with_a_cache(monkeypatch):
    theirs = TheirBart(TINY, TINY_VQGAN, "float32", "cpu")
    widths = []
    theirs.model.get_decoder().embed_tokens.register_forward_hook(
        lambda *call: widths.append(tuple(call[-1].shape[:2]))
    )
    assert theirs.tokens(4, 16)["seconds"] > 0
    assert widths == [(4, 1)] * 16  # one new token a step, for all four pictures
    encoded = []
    theirs.model.get_encoder().register_forward_hook(lambda *call: encoded.append(call[1]))
    theirs.tokens(4, 2)
    assert len(encoded) == 1  # the prompt, once


MIN_DALLE = """
import json, torch
from dataclasses import replace
from types import SimpleNamespace
import min_dalle.min_dalle as package
from minidalle.bart import BartConfig
from minidalle.bench.contestants import TheirMinDalle
from minidalle.vqgan import VQGANConfig

decoded = []
class Detokenizer(torch.nn.Module):
    def forward(self, is_seamless, ids):
        decoded.append(list(ids.shape))
package.VQGanDetokenizer = Detokenizer  # the real one takes seconds
torch.set_num_threads(1)
small = dict(d_model=32, encoder_layers=1, decoder_layers=2, encoder_ffn_dim=32, decoder_ffn_dim=32)
small |= dict(encoder_attention_heads=2, decoder_attention_heads=2, encoder_vocab_size=300)
one = TheirMinDalle(replace(BartConfig.mini(), **small), VQGANConfig(), "float32", "cpu")
steps = []
one.model.decoder.register_forward_hook(lambda *_: steps.append(1))
forward = one.model.decoder.forward
def count(**arguments):
    steps.append([int(arguments["token_index"][0]), *arguments["encoder_state"].shape])
    return forward(**arguments)
one.model.decoder.forward = count
answers = [one.road(4, 3), one.road(1, 256), one.decode(9), one.steps(1, [0, 200])]
print(json.dumps({"steps": steps, "decoded": decoded, "answers": answers,
    "networks": [type(network).__name__ for network in one.networks]}))
"""


@pytest.mark.skipif(not contestants.importlib.util.find_spec("min_dalle"), reason="no min-dalle")
def test_min_dalle_runs_its_own_loop_cut_where_asked():
    """In a process of its own, with a stand-in for its VQGAN."""
    done = subprocess.run([sys.executable, "-c", MIN_DALLE], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    rows = [[0, 8, 64, 32], [1, 8, 64, 32], [2, 8, 64, 32]]  # 4 pictures twice: super-conditioned
    rows += [[i, 2, 64, 32] for i in (*range(256), 0, 200)]
    assert told["steps"] == rows
    assert told["decoded"] == [[4, 256], [1, 256], [9, 256]]
    assert told["networks"] == ["DalleBartEncoder", "DalleBartDecoder", "Detokenizer"]
    for road in told["answers"][:2]:
        assert road["seconds"] == pytest.approx(road["tokens"] + road["decode"])
    assert len(told["answers"][3]["steps"]) == 2


@pytest.mark.parametrize("fast", [True, False])
def test_bfloat16_is_timed_only_where_it_is_not_emulated(fake, monkeypatch, fast):
    """Unless it is asked for by name."""
    monkeypatch.setattr(generation, "multiplies_bfloat16", lambda device: fast)

    def dtypes(**options):
        told = bench_generation("tiny", rounds=1, parts=["road"], pictures=[1], **options)
        return {row["dtype"] for row in told["road"]}

    assert dtypes() == ({"float32", "bfloat16"} if fast else {"float32"})
    assert dtypes(only=["ours-bfloat16"]) == {"bfloat16"}


def test_all_are_of_one_size():
    """Names of contestants and parts are what they are said to be."""
    for name in ON_CPU:
        one = generation.contestant_of(name, TINY, TINY_VQGAN)
        assert one.name == name
    assert PARTS == ("limits", "road", "step", "decode", "transformers", "growth")
    wide = replace(one, who="ours", bart=BartConfig.mini())
    widths = [narrow.bart for narrow in parts.narrower(wide)]
    assert [bart.d_model // bart.decoder_attention_heads for bart in widths] == [64] * 4
    assert [bart.decoder_layers for bart in widths] == [12] * 4
