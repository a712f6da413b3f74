"""What each change for speed is worth: a decoder step of mini's size with one of them undone.

    python tests/benchmarks/undone.py              about four minutes on two cores

Random weights, rounded as those of a checkpoint stored in float16; everything takes turns, and
medians are told as ratios to the code as it is. The steps are those at positions 128 to 135, with
super-conditioning.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from unittest.mock import patch

import torch
import torch.nn.functional as F
from torch import nn

from minidalle import bart, packed, sampling, vqgan
from minidalle.processor import multiplies_bfloat16, multiplies_few_rows
from minidalle.sampling import SamplingConfig, stream_tokens

START, STEPS = 128, 8
CONFIG = SamplingConfig(top_k=50, condition_scale=10.0)


def extend_in_part(self, keys, values):
    """The cache as one piece of full length, of which attention sees the part that is filled."""
    if not self.keep:
        return keys, values
    if not self.keys.numel():
        shape = (*keys.shape[:2], 256, keys.shape[3])
        self.keys, self.values = keys.new_zeros(shape), keys.new_zeros(shape)
    self.keys.index_copy_(2, self.places, keys)
    self.values.index_copy_(2, self.places, values)
    return self.keys[:, :, : self.room], self.values[:, :, : self.room]


@contextmanager
def cache_in_part() -> Iterator[None]:
    with (
        patch.object(bart.LayerCache, "extend", extend_in_part),
        patch.object(bart.Cache, "BLOCK", 1),
    ):
        yield


MULTIPLY, TOGETHER = packed.PackedProduct.multiply, packed.PackedDense.together


def two_as_two(self, x):
    with patch.object(self, "two_as_four", False):
        return MULTIPLY(self, x)


def one_by_one(self, x, *others):
    return tuple(TOGETHER(each, x)[0] for each in (self, *others))


def masked_by_filling(queries, keys, values, mask):
    if queries.shape[2] > 1:
        return F.scaled_dot_product_attention(queries, keys, values, mask)
    scores = (queries * queries.shape[-1] ** -0.5 @ keys.transpose(-1, -2)).float()
    scores = scores.masked_fill(~mask, float("-inf"))
    return scores.softmax(-1).to(values.dtype) @ values


@contextmanager
def as_on_the_other() -> Iterator[None]:
    """The rules for few rows are those for the other make of processor, Intel's or AMD's."""
    other = not multiplies_few_rows()
    with (
        patch.object(bart, "multiplies_few_rows", lambda: other),
        patch.object(packed, "multiplies_few_rows", lambda: other),
    ):
        yield


def channels_first(self, latents):
    grid = latents.unflatten(1, (16, 16)).permute(0, 3, 1, 2).contiguous()
    return self.decoder(self.post_quant_conv(grid))


def repeated_first(self, x):
    return self.conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))


UNDONE = {
    "as it is": nullcontext,
    "torch's attention for a lone query": lambda: patch.object(
        bart, "attend", F.scaled_dot_product_attention
    ),
    "few rows as this processor has them best": as_on_the_other,
    "cache of full length, seen in part": cache_in_part,
    "weights packed": lambda: patch.object(sampling, "can_pack", lambda _: False),
    "packed in float16": lambda: patch.object(packed, "can_pack_halves", lambda _: False),
    "two packed rows multiplied as four": lambda: patch.object(
        packed.PackedProduct, "multiply", two_as_two
    ),
    "packed products of one x joined": lambda: patch.object(
        packed.PackedDense, "together", one_by_one
    ),
    "mask added as its log": lambda: patch.object(bart, "attend", masked_by_filling),
    "text keys for every picture": lambda: patch.object(
        sampling, "pictures_together", lambda *_: 1
    ),
    "two rows multiplied rows first": lambda: patch.object(
        bart.Dense, "forward", nn.Linear.forward
    ),
}
PICTURES_UNDONE = {
    "as it is": nullcontext,
    "channels first": lambda: patch.object(vqgan.VQGAN, "decode_latents", channels_first),
    "pixels repeated by convolution": lambda: patch.object(
        vqgan.Upsample, "forward", repeated_first
    ),
}


def steps(model: bart.Bart, pictures: int) -> float:
    """Median seconds of a step."""
    text = torch.arange(3, 67).expand(pictures, -1)
    blank = torch.tensor([[0, 2] + [1] * 62])
    prefix = torch.zeros(pictures, START, dtype=torch.long)
    stream = stream_tokens(
        model, text, torch.ones_like(text), CONFIG, seeds=range(pictures), prefix=prefix,
        uncond_ids=blank, uncond_mask=(blank != 1).long(),
    )  # fmt: skip
    next(stream), next(stream)  # the encoder, then the prefix with the first step
    seconds = []
    for _ in range(STEPS):
        start = time.perf_counter()
        next(stream)
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds)


def pixels(model: vqgan.VQGAN) -> float:
    start = time.perf_counter()
    model.decode(torch.zeros(1, 256, dtype=torch.long))
    return time.perf_counter() - start


def compare(what: str, undone: dict, measure, rounds: int) -> None:
    """Print the median of every way, after one round that does not count."""
    seconds: dict[str, list[float]] = {name: [] for name in undone}
    for _ in range(1 + rounds):
        for name, change in undone.items():
            with change():
                seconds[name].append(measure())
    medians = {name: statistics.median(found[1:]) for name, found in seconds.items()}
    print(f"\n{what}: {1000 * medians['as it is']:.0f} ms")
    for name, median in medians.items():
        print(f"  {name:38} {median / medians['as it is']:.2f} times")


def main(rounds: int) -> None:
    for name in ("bfloat16", "float32") if multiplies_bfloat16("cpu") else ("float32",):
        torch.set_default_dtype(getattr(torch, name))
        model = bart.Bart(bart.BartConfig.mini()).eval()
        model.load_state_dict({name: value.half() for name, value in model.state_dict().items()})
        for pictures in (1, 9):
            compare(
                f"one step, {name}, pictures: {pictures}",
                UNDONE,
                lambda model=model, pictures=pictures: steps(model, pictures),
                rounds,
            )
        del model
        network = vqgan.VQGAN(vqgan.VQGANConfig.f16_16384()).eval()
        compare(
            f"VQGAN, {name}, one picture",
            PICTURES_UNDONE,
            lambda network=network: pixels(network),
            rounds,
        )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    main(parser.parse_args().rounds)
