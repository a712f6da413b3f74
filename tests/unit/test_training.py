"""The training loop and its tasks: resuming is exact, learning happens, nothing is lost."""

import json
import re
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator
from PIL import Image
from torch import nn
from training_helpers import FewEmoji, Stop, stop_at

from minidalle.bart import BartConfig
from minidalle.checkpoints import load_bart, load_vqgan, native
from minidalle.data import sources
from minidalle.pipeline import EMBEDDED, MiniDalle
from minidalle.training.bart import BartTask, BartTrainConfig, swap_tokens
from minidalle.training.clip import CLIPTrainConfig
from minidalle.training.evaluate import evaluate_bart, evaluate_vqgan, psnr
from minidalle.training.loop import LoopConfig, train
from minidalle.training.losses import LossConfig
from minidalle.training.schedule import learning_rate_factor, samples_of_step
from minidalle.training.settings import with_settings
from minidalle.training.vqgan import CodebookEMA, VQGANTask, VQGANTrainConfig, jitter
from minidalle.vqgan import VQGAN, VQGANConfig

LOOP = LoopConfig(
    steps=8,
    batch_size=4,
    warmup_steps=2,
    precision="no",
    log_every=2,
    evaluate_every=8,
    save_every=3,
)
VQGAN_32 = replace(VQGANConfig.tiny(), resolution=64, patch=4, n_embed=32)
BART_16 = replace(BartConfig.tiny(), image_length=16, image_vocab_size=32, codebook_size=32)


@pytest.fixture(autouse=True)
def few_emoji(monkeypatch):
    monkeypatch.setattr(sources, "EmojiDataset", FewEmoji)


def vqgan_task(loop=LOOP, **changes):
    return VQGANTask(VQGANTrainConfig(vqgan=VQGAN_32, **changes), loop)


@pytest.fixture
def vqgan_folder(tmp_path):
    torch.manual_seed(0)
    native.save(tmp_path / "vqgan", vqgan=VQGAN(VQGAN_32))
    return tmp_path / "vqgan"


def bart_task(vqgan_folder, loop=LOOP, **changes):
    config = BartTrainConfig(vqgan=str(vqgan_folder), bart=BART_16)
    return BartTask(replace(config, **changes), loop)


@pytest.mark.parametrize("stage", ["vqgan", "bart"])
def test_a_killed_run_ends_bit_equal_to_one_never_killed(stage, vqgan_folder, tmp_path):
    """Killed in step 5 (last checkpoint: 3) and started again: the same parameters to the bit."""

    def task():
        if stage == "vqgan":
            return vqgan_task()
        return bart_task(vqgan_folder, bart=replace(BART_16, dropout=0.1))

    whole = task()
    train(whole, LOOP, tmp_path / "whole")
    with pytest.raises(Stop):
        train(stop_at(task(), 5), LOOP, tmp_path / "killed")
    resumed = task()
    train(resumed, LOOP, tmp_path / "killed")
    for (name, a), b in zip(
        whole.model.state_dict().items(), resumed.model.state_dict().values(), strict=True
    ):
        assert torch.equal(a, b), name


def test_vqgan_run_leaves_what_it_should(tmp_path):
    figures = train(vqgan_task(), LOOP, tmp_path)
    assert set(figures) == {"psnr", "ssim", "codes_used", "perplexity"}
    loaded = load_vqgan(tmp_path)
    assert loaded.config == VQGAN_32
    assert evaluate_vqgan(loaded, FewEmoji("validation").images) == pytest.approx(figures, rel=1e-3)
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if "loss" in line] == [2, 4, 6, 8]
    assert Image.open(tmp_path / "samples" / "reconstructions.png").size == (8 * 64, 2 * 64)
    assert not list(tmp_path.glob(".*.part"))


def test_vqgan_learns(tmp_path):
    """100 steps on 24 pictures: reconstructions better than the best single grey by far."""
    loop = replace(LOOP, steps=100, batch_size=12, evaluate_every=100, save_every=100)
    task = vqgan_task(loop, lr=2e-3, max_shift=0)
    before = evaluate_vqgan(task.model, task.train_data.images)["psnr"]
    train(task, loop, tmp_path)
    after = evaluate_vqgan(task.model, task.train_data.images)["psnr"]
    assert after > before + 4


def test_bart_learns_and_writes_the_whole_model(vqgan_folder, tmp_path):
    loop = replace(LOOP, steps=60, batch_size=12, evaluate_every=60, save_every=60, warmup_steps=10)
    task = bart_task(vqgan_folder, loop, lr=5e-3, swap_at_most=0.0)
    captions = [task.normalizer(record.caption) for record in task.train_data.records]
    before = evaluate_bart(task.model, task.tokenizer, captions, task.train_tokens)["right"]
    figures = train(task, loop, tmp_path / "run")
    assert before == pytest.approx(torch.tensor(33.0).log().item(), abs=0.2)  # starts at ln K′
    assert figures["train_right"] < 0.7 * before
    names = ("right", "empty", "wrong", "ln_k")
    assert {f"{split}_{name}" for split in ("train", "held_out") for name in names} == set(figures)
    model = MiniDalle.from_pretrained(tmp_path / "run")
    drawn = model.generate("grinning face, noto style", n=2)
    assert drawn.tokens.shape == (2, 16) and drawn.sampling == BartTrainConfig().sampling
    assert load_bart(tmp_path / "run").config == task.config.bart


def test_going_on_from_trained_parts(vqgan_folder, tmp_path):
    """`init` starts with the weights, codebook and tokenizer of a finished run."""
    first = bart_task(vqgan_folder)
    train(first, LOOP, tmp_path / "first")
    again = bart_task(vqgan_folder, init=str(tmp_path / "first"))
    assert again.tokenizer.vocab == first.tokenizer.vocab
    for a, b in zip(first.model.parameters(), again.model.parameters(), strict=True):
        torch.testing.assert_close(a, b, atol=1e-3, rtol=1e-3)  # stored in half precision

    old = load_vqgan(vqgan_folder)
    task = vqgan_task(init=str(vqgan_folder))
    task.start_codebook(task.train_data.images[:4] / 255)
    assert torch.equal(task.codebook, old.quantize.embedding.weight)
    assert torch.equal(task.model.encoder.conv_in.weight, old.encoder.conv_in.weight)


def test_a_new_bart_writes_the_tokens_that_its_vqgan_reads(vqgan_folder):
    config = BartTrainConfig(vqgan=str(vqgan_folder), bart=BartConfig.tiny())
    bart = BartTask(config, LOOP).model.config
    assert config.bart.codebook_size != VQGAN_32.n_embed == bart.codebook_size
    assert bart.image_vocab_size == VQGAN_32.n_embed
    assert bart.image_length == VQGAN_32.image_length


def test_presets_are_complete():
    for kind in (VQGANTrainConfig, BartTrainConfig):
        for config, loop in kind.presets().values():
            assert isinstance(config, kind) and isinstance(loop, LoopConfig)
    mini = BartTrainConfig.presets()["mini"][0]
    assert mini.bart == BartConfig.mini() and not mini.variations and not mini.label_spread


def test_resuming_with_other_settings_is_refused(tmp_path):
    train(vqgan_task(replace(LOOP, steps=3)), replace(LOOP, steps=3), tmp_path)
    with pytest.raises(ValueError, match=r"loop\.batch_size was 4, is 6"):
        train(vqgan_task(), replace(LOOP, steps=3, batch_size=6), tmp_path)


def test_a_loss_that_is_no_number_stops_the_run(tmp_path):
    task = vqgan_task()
    with torch.no_grad():
        task.model.decoder.conv_out.bias.fill_(float("nan"))
    with pytest.raises(FloatingPointError, match="in step 0"):
        train(task, LOOP, tmp_path)


@dataclass(frozen=True)
class NoConfig:
    pass


def test_every_sample_of_an_epoch_is_seen_once():
    """Over steps and epochs, whatever the batch size; an epoch's order is not the last one's."""
    loop = LoopConfig(steps=100, batch_size=7)
    seen = torch.cat([samples_of_step(step, 21, loop) for step in range(6)])
    assert sorted(seen[:21].tolist()) == list(range(21)) == sorted(seen[21:].tolist())
    assert seen[:21].tolist() != seen[21:].tolist()


def test_learning_rate_rises_then_falls_to_zero():
    loop = LoopConfig(steps=100, warmup_steps=10)
    factors = [learning_rate_factor(step, loop) for step in range(100)]
    assert factors[0] == pytest.approx(0.1) and factors[9] == 1.0
    assert all(a >= b for a, b in pairwise(factors[9:])) and factors[-1] < 0.001


def test_codebook_follows_and_revives():
    """A code moves to the mean of its latents; dead codes land on latents."""
    codebook = torch.tensor([[0.0, 0.0], [10.0, 10.0], [50.0, 50.0]])
    ema = CodebookEMA(codebook, decay=0.5)
    latents = torch.tensor([[1.0, 1.0], [3.0, 3.0], [9.0, 9.0]])
    for _ in range(60):
        ema.update(codebook, latents, torch.tensor([0, 0, 1]), Accelerator(cpu=True))
    torch.testing.assert_close(codebook[:2], torch.tensor([[2.0, 2.0], [9.0, 9.0]]))
    assert ema.revive(codebook, latents, 0.5, torch.Generator().manual_seed(0)) == 1
    assert (latents == codebook[2]).all(1).any() and ema.counts[2] == 1
    torch.testing.assert_close(codebook[:2], torch.tensor([[2.0, 2.0], [9.0, 9.0]]))


def generators(count):
    return [torch.Generator().manual_seed(i) for i in range(count)]


def test_jitter_moves_and_mirrors():
    image = torch.zeros(1, 3, 8, 8)
    image[:, :, 3, 1] = 1
    moved = jitter(image.expand(200, -1, -1, -1), 1, generators(200))
    places = {tuple(m[0].nonzero()[0].tolist()) for m in moved}
    assert places == {(y, x) for y in (2, 3, 4) for x in (0, 1, 2, 5, 6, 7)}
    assert (moved.sum((1, 2, 3)) == 3).all()
    assert torch.equal(jitter(image, 0, generators(1)).sum(), image.sum())


def test_swapped_tokens_come_from_the_same_place():
    tokens = torch.arange(400).view(20, 20)  # the column is the number modulo 20
    swapped = torch.stack(
        [swap_tokens(row, tokens, 1.0, g) for row, g in zip(tokens, generators(20), strict=True)]
    )
    assert torch.equal(swapped % 20, tokens % 20)
    share = (swapped != tokens).float().mean()
    assert 0.3 < share < 0.65
    assert torch.equal(swap_tokens(tokens[3], tokens, 0.0, generators(1)[0]), tokens[3])


def test_psnr():
    image = torch.full((1, 3, 4, 4), 0.5)
    assert psnr(image, image + 0.1).item() == pytest.approx(20.0, abs=1e-3)
    assert psnr(torch.ones(1, 3, 4, 4), torch.full((1, 3, 4, 4), 7.0)).item() == pytest.approx(
        100.0
    )


def test_the_recipe_can_be_run_and_is_the_one_that_the_card_tells():
    """Of `make train`: each run has its preset and settings, and goes on from runs before it."""
    makefile = (Path(__file__).parents[2] / "Makefile").read_text()
    commands = re.findall(r"(minidalle train .*)", makefile)
    card = (EMBEDDED / "MODEL_CARD.md").read_text()
    told = re.findall(r"^(minidalle train .*?) *(?:#.*)?$", card, re.MULTILINE)
    assert commands == told
    kinds = {"vqgan": VQGANTrainConfig, "bart": BartTrainConfig, "clip": CLIPTrainConfig}
    made = set()
    for command in commands:
        part, *options = command.split()[2:]
        given = dict(zip(options[::2], options[1::2], strict=True))
        settings = [value for option, value in given.items() if option == "--set"]
        with_settings(kinds[part].presets()[given.get("--preset", "emoji")], settings)
        starts = [value.split("=")[1] for value in settings]
        starts += [given[option] for option in ("--vqgan", "--model") if option in given]
        assert set(starts) <= made
        made.add(given["--run"])
    assert len(made) == len(commands) == 6


def test_settings_by_name():
    task, loop = with_settings(
        VQGANTrainConfig.presets()["emoji"],
        ["steps=5", "lr=1", "ch_mult=(1, 1, 2)", "precision=no"],
    )
    assert (loop.steps, task.lr, task.vqgan.ch_mult, loop.precision) == (5, 1.0, (1, 1, 2), "no")
    (sparing,) = with_settings((BartTrainConfig(),), ["gradient_checkpointing=true"])
    assert sparing.gradient_checkpointing is True
    for setting, message in [
        ("stps=5", "did you mean 'steps'"),
        ("widht=5", "did you mean '"),  # however far it is, some field is the nearest
        ("steps", "expected name=value"),
        ("steps=many", "expected int"),
        ("batch_size=0", "batch_size is 0"),
        ("n_embed=1", "n_embed"),
    ]:
        with pytest.raises(ValueError, match=message):
            with_settings(VQGANTrainConfig.presets()["emoji"], [setting])


def test_settings_that_are_wrong_are_named_together():
    """Of both dataclasses and of those inside: unknown, unreadable, refused. Each once."""
    with pytest.raises(ValueError) as error:
        with_settings(
            BartTrainConfig.presets()["emoji"],
            [
                *("steps=0", "btch_size=4", "lr=fast", "swap_at_most=2", "precision", "stps=1"),
                *("precision=fp8", "temperature=-1", "label_spread=-1"),
            ],
        )
    problems = [
        "setting 'precision': expected name=value",
        "setting lr=fast: expected float",
        "temperature is -1.0",
        "label_spread is -1.0; it must be at least 0",
        "swap_at_most is 2.0; it must be from 0 to 1",
        "steps is 0; it must be at least 1",
        "precision is 'fp8'; it must be 'auto', 'no' or 'bf16'",
        "no field is named 'btch_size'; did you mean 'batch_size'?",
        "no field is named 'stps'; did you mean 'steps'? There are: accumulate, batch_size, ",
    ]
    message = str(error.value)
    places = [message.index(problem) for problem in problems]
    assert places == sorted(places)
    assert all(message.count(problem) == 1 for problem in problems)


def test_settings_that_are_possible_only_together():
    """Neither could be set before the other: 8 pixels for each place, of a side of 60."""
    together = ["resolution=60", "ch_mult=(1, 1)"]
    for settings in (together, together[::-1]):
        task, _ = with_settings(VQGANTrainConfig.presets()["emoji"], settings)
        assert (task.vqgan.resolution, task.vqgan.factor) == (60, 4)
    with pytest.raises(ValueError, match="60 is not divisible by 8"):
        with_settings(VQGANTrainConfig.presets()["emoji"], together[:1])


@pytest.mark.parametrize(
    ("config", "wrong"),
    [
        (LoopConfig, {"batch_size": 0, "warmup_steps": -1, "grad_clip": 0.0, "weights_ema": 1.0}),
        (BartTrainConfig, {"lr": 0.0, "weight_decay": -1.0, "optimizer": "sgd", "variations": -1}),
        (VQGANTrainConfig, {"lr": float("nan"), "revive_every": 0, "ema_decay": 2.0}),
        (VQGANTrainConfig, {"revive_below": -0.1, "jitter_until": -1.0, "max_shift": -1}),
        (CLIPTrainConfig, {"lr": -1.0, "max_shift": -1.0, "max_zoom": 1.0}),
        (LossConfig, {"l1_weight": -1.0, "discriminator_width": 40, "discriminator_lr": 0.0}),
    ],
)
def test_fields_that_are_wrong_are_named_together(config, wrong):
    with pytest.raises(ValueError) as error:
        config(**wrong)
    for name, value in wrong.items():
        assert f"{name} is {value!r}; it must be" in str(error.value)
    assert str(error.value).count("; it must be") == len(wrong)


class LinearTask:
    """The smallest task: what the loop needs, and no more."""

    config = NoConfig()

    def __init__(self):
        torch.manual_seed(0)
        self.model = nn.Linear(2, 1)

    def __len__(self):
        return 10

    def optimizers(self):
        return [torch.optim.SGD(self.model.parameters(), lr=0.1)]

    def batch(self, step, indices, generator):
        return {"x": torch.stack([indices / 10, indices / 5], dim=1)}

    def loss(self, model, batch):
        return (model(batch["x"]) - 1).square().mean(), {}

    def after_step(self, step, accelerator):
        pass

    def evaluate(self, samples):
        return {"weight": float(self.model.weight.detach().sum())}

    def export(self, folder):
        (folder / "done").touch()

    def state_dict(self):
        return {}

    def load_state_dict(self, state):
        pass


def test_the_loop_on_the_smallest_task(tmp_path):
    """Thirty steps; a finished run started again does nothing and keeps what it has."""
    loop = LoopConfig(
        steps=30, batch_size=5, warmup_steps=1, precision="no", log_every=10, save_every=30
    )
    train(LinearTask(), loop, tmp_path)
    losses = [
        json.loads(line).get("loss")
        for line in (tmp_path / "metrics.jsonl").read_text().splitlines()
    ]
    losses = [loss for loss in losses if loss is not None]
    assert losses[-1] < 0.6 * losses[0]
    again = LinearTask()
    train(again, loop, tmp_path)
    assert torch.load(tmp_path / "checkpoint.pt", weights_only=True)["step"] == 30
    assert (tmp_path / "done").exists()
