"""How much memory generation needs, from the configs alone, and how much there is.

What is counted is what grows with the model and the number of pictures: the weights, the key/value
cache of the decoder, the logits, and the feature maps of the VQGAN's decoder. Python and torch
themselves come on top. FEATURE_MAPS is measured, LOGITS counted in `sampling.py`.

Where there is plenty, drawing on a CPU also holds the decoder's weights packed (`packed.py`).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from minidalle.bart import Bart, BartConfig, Cache
from minidalle.clip import CLIP, CLIPConfig
from minidalle.packed import can_pack_halves, packed_bytes, pays
from minidalle.vqgan import VQGAN, VQGANConfig

# How many full-size feature maps the VQGAN's decoder holds at once: 5.3 to 5.5 at f16-16384's size
# on a CPU, four pictures, both precisions (peak resident memory).
FEATURE_MAPS = 5.4
# How many arrays of float32 logits sampling holds at once, those of the empty prompt among them.
LOGITS = 8
# Pictures are decoded so many at a time that their feature maps stay below this, in bytes: more at
# once are no faster on a CPU. A single picture may take more.
DECODED_AT_ONCE = {"cpu": 2**29, "cuda": 2**32}
MEMORY = Path("/proc/meminfo")
KEPT_FREE = 0.1  # of the free memory: for what is not counted, and for others
PACKED_AT_MOST = 0.25  # of the free memory: where packed weights would take more, there are none


@dataclass(frozen=True)
class MemoryNeeded:
    """Bytes that drawing n pictures takes."""

    weights: int  # of all parts, in the precision computed in
    cache: int  # keys and values of text and image tokens; freed before pictures are decoded
    logits: int  # while tokens are drawn
    pictures: int  # feature maps while the VQGAN decodes
    packed: int  # the decoder's weights once more, on a CPU with plenty of memory; freed likewise

    @property
    def peak(self) -> int:
        """The most that is held at one time, where memory is scarce."""
        return self.weights + max(self.cache + self.logits, self.pictures)

    @property
    def peak_packed(self) -> int:
        """The most that is held at one time, where there is plenty."""
        return self.weights + max(self.cache + self.logits + self.packed, self.pictures)


def memory_needed(
    bart: BartConfig | None,
    vqgan: VQGANConfig | None,
    *,
    parameters: int,
    n: int,
    dtype: torch.dtype,
    device: str = "cpu",
    halves: bool = False,
) -> MemoryNeeded:
    """Memory to draw n pictures of a prompt with super-conditioning, which doubles the rows.

    parameters: of all parts together; see `parameter_count`.
    halves: Bart's weights were stored in float16, and may be packed so.
    """
    cache = logits = pictures = packed = 0
    if bart is not None:
        cache = text_bytes(bart, dtype) + n * picture_bytes(bart, dtype)
        logits = n * logits_bytes(bart)
        halves = halves and can_pack_halves(dtype)
        if device == "cpu" and pays(dtype, 2 * n, halves=halves):
            packed = packed_bytes(bart, dtype, halves=halves)
    if vqgan is not None:
        pictures = min(n, decoded_at_once(vqgan, dtype, device)) * feature_bytes(vqgan, dtype)
    return MemoryNeeded(parameters * dtype.itemsize, cache, logits, pictures, packed)


def text_bytes(config: BartConfig, dtype: torch.dtype) -> int:
    """Keys and values of a prompt and of the empty one."""
    return 2 * 2 * config.decoder_layers * config.max_text_length * config.d_model * dtype.itemsize


def picture_bytes(config: BartConfig, dtype: torch.dtype) -> int:
    """Keys and values of a picture's two rows of image tokens."""
    room = -(-config.image_length // Cache.BLOCK) * Cache.BLOCK
    return 2 * 2 * config.decoder_layers * room * config.d_model * dtype.itemsize


def logits_bytes(config: BartConfig) -> int:
    """What sampling holds for each picture, in float32."""
    return LOGITS * 4 * (config.image_vocab_size + 1)


def feature_bytes(config: VQGANConfig, dtype: torch.dtype) -> int:
    """What the VQGAN's decoder holds for each picture."""
    channels = config.ch * max(config.ch_mult[:2])  # the second level's arrive at full size
    return int(FEATURE_MAPS * channels * (config.resolution // config.patch) ** 2) * dtype.itemsize


def decoded_at_once(config: VQGANConfig, dtype: torch.dtype, device: str) -> int:
    """How many pictures the VQGAN should decode together: at least 1."""
    bound = DECODED_AT_ONCE.get(device, DECODED_AT_ONCE["cpu"])
    return max(1, bound // feature_bytes(config, dtype))


def is_plenty(config: BartConfig, dtype: torch.dtype, free: int | None) -> bool:
    """Whether so much memory is free that packed weights can be held while drawing."""
    return free is None or packed_bytes(config, dtype) <= PACKED_AT_MOST * free


def drawn_at_once(
    config: BartConfig, dtype: torch.dtype, free: int | None, pack: bool = False
) -> int | None:
    """For how many pictures the free memory is enough, besides the weights; None = any number.

    Each is counted with a text of its own. Raises MemoryError where not even one fits.
    """
    if free is None:
        return None
    each = picture_bytes(config, dtype) + text_bytes(config, dtype) + logits_bytes(config)
    packed = packed_bytes(config, dtype) if pack else 0
    count = int((1 - KEPT_FREE) * free - packed) // each
    if count < 1:
        raise MemoryError(
            f"a picture needs {each / 2**20:,.0f} MiB of memory besides the weights, "
            f"{free / 2**20:,.0f} MiB are free; free some, or take a lower precision"
        )
    return count


def free_memory(device: torch.device) -> int | None:
    """Bytes that this process could still take; None where the system does not tell."""
    if device.type == "cuda":
        reserved = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + reserved
    if device.type != "cpu" or not MEMORY.exists():
        return None
    for line in MEMORY.read_text().splitlines():
        if line.startswith("MemAvailable"):
            return int(line.split()[1]) * 1024
    return None


def parameter_count(config: BartConfig | VQGANConfig | CLIPConfig) -> int:
    """Parameters of the network of this shape, without allocating any."""
    with torch.device("meta"):
        module = {BartConfig: Bart, VQGANConfig: VQGAN, CLIPConfig: CLIP}[type(config)](config)
    return sum(parameter.numel() for parameter in module.parameters())
