"""How much memory generation needs, from the configs alone.

What is counted is what grows with the model and the number of pictures: the weights, the key/value
cache of the decoder, and the largest feature maps of the VQGAN's decoder. Python and torch
themselves come on top. The one measured number is FEATURE_MAPS.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from minidalle.bart import Bart, BartConfig
from minidalle.clip import CLIP, CLIPConfig
from minidalle.vqgan import VQGAN, VQGANConfig

# How many full-size feature maps the VQGAN's decoder holds at once: 5.3 to 5.5 at f16-16384's size
# on a CPU, four pictures, both precisions (peak resident memory).
FEATURE_MAPS = 5.4


@dataclass(frozen=True)
class MemoryNeeded:
    """Bytes that drawing n pictures takes."""

    weights: int  # of all parts, in the precision computed in
    cache: int  # keys and values of text and image tokens; freed before pictures are decoded
    pictures: int  # feature maps while the VQGAN decodes

    @property
    def peak(self) -> int:
        """The most that is held at one time."""
        return self.weights + max(self.cache, self.pictures)


def memory_needed(
    bart: BartConfig | None,
    vqgan: VQGANConfig | None,
    *,
    parameters: int,
    n: int,
    dtype: torch.dtype,
) -> MemoryNeeded:
    """Memory to draw n pictures with super-conditioning, which doubles the decoder's rows.

    parameters: of all parts together; see `parameter_count`.
    """
    cache = pictures = 0
    if bart is not None:
        length = bart.image_length + bart.max_text_length
        cache = 2 * bart.decoder_layers * 2 * n * length * bart.d_model
    if vqgan is not None:
        channels = vqgan.ch * max(vqgan.ch_mult[:2])  # the second level's arrive at full size
        side = vqgan.resolution // vqgan.patch
        pictures = int(FEATURE_MAPS * n * channels * side**2)
    return MemoryNeeded(*(count * dtype.itemsize for count in (parameters, cache, pictures)))


def parameter_count(config: BartConfig | VQGANConfig | CLIPConfig) -> int:
    """Parameters of the network of this shape, without allocating any."""
    with torch.device("meta"):
        module = {BartConfig: Bart, VQGANConfig: VQGAN, CLIPConfig: CLIP}[type(config)](config)
    return sum(parameter.numel() for parameter in module.parameters())
