"""What each part of generation cannot do without: bytes to read and operations to do.

Counted from the configs alone. The bytes are the weights of a part, once, and for a decoder step
the keys and values it attends to; the operations are those of matrix products and convolutions,
2 for a multiply-add. Read at the machine's bandwidth and computed at its matrix rate, the slower of
the two is the least time that the part can take: its limit.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from minidalle.bart import BartConfig
from minidalle.vqgan import VQGAN, VQGANConfig


@dataclass(frozen=True)
class Cost:
    """What a part must do at the least."""

    bytes: int  # to read
    flops: int  # of matrix products and convolutions


@dataclass(frozen=True)
class Limits:
    """What the machine was measured to do at the most."""

    bandwidth: float  # bytes read a second
    flops: dict[str, float]  # by dtype: operations a second

    def seconds(self, cost: Cost, dtype: str) -> float:
        """The least time that this takes: reading or computing, whichever is slower."""
        return max(cost.bytes / self.bandwidth, cost.flops / self.flops[dtype])


def encode_cost(config: BartConfig, texts: int, itemsize: int) -> Cost:
    """The encoder over different texts of T tokens each, and their keys and values for the decoder.

    itemsize: bytes of a number.
    """
    d, t = config.d_model, config.max_text_length
    block = 4 * d * d + 3 * d * config.encoder_ffn_dim
    weights = config.encoder_layers * block + config.decoder_layers * 2 * d * d
    attention = 4 * texts * config.encoder_layers * t * t * d
    return Cost(itemsize * weights, 2 * texts * t * weights + attention)


def step_cost(config: BartConfig, rows: int, position: int, itemsize: int) -> Cost:
    """One decoder step and the head, for `rows` rows with `position` inputs before this one.

    The keys and values of the text are in the cache. Rows are pictures, twice as many with
    super-conditioning.
    """
    d, layers = config.d_model, config.decoder_layers
    seen = position + 1 + config.max_text_length  # keys: of image tokens so far, and of the text
    weights = layers * (6 * d * d + 3 * d * config.decoder_ffn_dim)
    weights += d * (config.image_vocab_size + 1)
    cache = 2 * layers * rows * seen * d
    return Cost(itemsize * (weights + cache), 2 * rows * weights + 4 * layers * rows * seen * d)


def decode_cost(config: VQGANConfig, pictures: int, itemsize: int) -> Cost:
    """The VQGAN's codes to pictures.

    Feature maps are not counted: how often they travel is a matter of the implementation.
    """
    weights, flops = decoder_size(config)
    return Cost(itemsize * weights, pictures * flops)


@cache
def decoder_size(config: VQGANConfig) -> tuple[int, int]:
    """Parameters of the half that draws, and its operations for one picture."""
    with torch.device("meta"):  # shapes only
        vqgan = VQGAN(config)
        codes = torch.empty(1, config.image_length, config.embed_dim)
    parts = (vqgan.post_quant_conv, vqgan.decoder)
    counter = FlopCounterMode(display=False)
    with torch.no_grad(), counter, sdpa_kernel(SDPBackend.MATH):
        vqgan.decode_latents(codes)
    weights = sum(p.numel() for part in parts for p in part.parameters())
    return weights, counter.get_total_flops()


def limits_of_road(
    bart: BartConfig, vqgan: VQGANConfig, pictures: int, tokens: int, dtype: str, limits: Limits
) -> dict[str, float]:
    """The least seconds of n pictures' `encode`, `steps`, `decode` and the `road` of all three.

    With super-conditioning: two texts, the prompt and the empty one, and two rows a picture.
    """
    size = getattr(torch, dtype).itemsize
    steps = (step_cost(bart, 2 * pictures, position, size) for position in range(tokens))
    least = {
        "encode": limits.seconds(encode_cost(bart, 2, size), dtype),
        "steps": sum(limits.seconds(cost, dtype) for cost in steps),
        "decode": limits.seconds(decode_cost(vqgan, pictures, size), dtype),
    }
    return {**least, "road": sum(least.values())}
