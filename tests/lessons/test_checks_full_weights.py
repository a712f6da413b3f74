"""The checkers of lesson 10 tell right answers from plausible wrong ones, and say why."""

import pytest
import torch

from minidalle.bart import BartConfig
from minidalle.lessons.checks import full_weights as checks
from minidalle.lessons.exercise import NOT_ANSWERED, RIGHT, WRONG
from minidalle.memory import memory_needed
from minidalle.vqgan import VQGANConfig


def summed(needed):
    return needed.weights + needed.cache + needed.logits + needed.pictures


def needed(n, dtype=torch.bfloat16):
    parameters = checks.published_parameters()
    config = VQGANConfig.f16_16384()
    return memory_needed(BartConfig.mega(), config, parameters=parameters, n=n, dtype=dtype)


def count(fits):
    """An answer that counts up as long as fits(n, free)."""

    def answer(free):
        n = 0
        while fits(n + 1, free):
            n += 1
        return n

    return answer


def test_pictures_that_fit():
    right = count(lambda n, free: needed(n).peak <= free)
    assert checks.pictures_that_fit.verdict(right) == RIGHT


@pytest.mark.parametrize(
    ("answer", "hint"),
    [
        (lambda free: count(lambda n, f: needed(n).peak <= f)(free) + 1, "the weights alone"),
        (lambda free: max(1, count(lambda n, f: needed(n).peak <= f)(free)), "the weights alone"),
        (
            lambda free: count(lambda n, f: needed(n).peak <= f)(free) + (free > 5e9),
            "one too many",
        ),
        (count(lambda n, f: summed(needed(n)) <= f), "freed before"),
        (count(lambda n, f: needed(n, torch.float32).peak <= f), "two bytes"),
    ],
)
def test_pictures_that_do_not_fit(answer, hint):
    said = checks.pictures_that_fit.verdict(answer)
    assert said.startswith(WRONG) and hint in said


def test_from_flax():
    assert checks.from_flax.verdict(lambda kernel, layer: kernel[layer].T) == RIGHT


@pytest.mark.parametrize(
    ("answer", "hint"),
    [
        (lambda kernel, layer: kernel[layer], "the other way round"),
        (lambda kernel, layer: kernel[layer - 1].T, "another layer"),
        (lambda kernel, layer: kernel[layer].reshape(4, 3), "do not reshape"),
        (lambda kernel, layer: kernel[:, layer], "expected (4, 3)"),
        (lambda kernel, layer: kernel.numpy(), "expected a tensor"),
    ],
)
def test_from_flax_wrongly(answer, hint):
    said = checks.from_flax.verdict(answer)
    assert said.startswith(WRONG) and hint in said


@pytest.mark.parametrize("rounded", [lambda x: x, torch.round])
def test_to_bytes(rounded):
    def answer(images):
        return rounded(images.clamp(0, 1) * 255).byte().permute(0, 2, 3, 1)

    assert checks.to_bytes.verdict(answer) == RIGHT


@pytest.mark.parametrize(
    ("answer", "hint"),
    [
        (lambda x: (x * 255).to(torch.int32).to(torch.uint8).permute(0, 2, 3, 1), "wraps around"),
        (lambda x: (x.clamp(0, 1) * 255).byte(), "expected (2, 4, 4, 3)"),
        (lambda x: (x.clamp(0, 1) * 255).byte().reshape(2, 4, 4, 3), "do not reshape"),
        (lambda x: (x.clamp(0, 1) * 255).permute(0, 2, 3, 1), "torch.uint8"),
        (lambda x: x.clamp(0, 1).byte().permute(0, 2, 3, 1), "nearly black"),
        (
            lambda x: ((x.clamp(-1, 1) + 1) * 127.5).byte().permute(0, 2, 3, 1),
            "expected 63 or 64",
        ),
    ],
)
def test_to_bytes_wrongly(answer, hint):
    said = checks.to_bytes.verdict(answer)
    assert said.startswith(WRONG) and hint in said


@pytest.mark.parametrize("name", ["pictures_that_fit", "from_flax", "to_bytes"])
@pytest.mark.parametrize("answer", [..., lambda *arguments: ...])
def test_not_answered(name, answer):
    assert getattr(checks, name).verdict(answer) == NOT_ANSWERED
