"""Who is measured at generating: ours, min-dalle, and transformers' BART; all with random weights.

Each is built at the same size, of some `networks`, and obeys the same few orders, so that
`worker.py` can run any of them in a process of its own. An order returns seconds.

min-dalle's own token loop runs, unchanged, over its own encoder, decoder and detokenizer; only its
constructor is left out, which downloads weights, and so is its tokenizer. Importing it sets the
number of threads and turns gradients off everywhere: never import it into a process of ours.
"""

from __future__ import annotations

import importlib.util
import time
from collections.abc import Sequence
from contextlib import contextmanager
from itertools import islice
from types import SimpleNamespace
from typing import Any

import torch
import transformers
from torch import Tensor

from minidalle.bart import Bart, BartConfig
from minidalle.bench.common import synchronize
from minidalle.bench.training import transformers_bart
from minidalle.pipeline import MiniDalle
from minidalle.sampling import SamplingConfig, generate_tokens, stream_tokens
from minidalle.tokenizer import ByteLevelBPE
from minidalle.vqgan import VQGAN, VQGANConfig

TOP_K, SCALE = 50, 10.0  # and temperature 1: what DALL·E mini was published with
TEXT_START, TEXT_PAD, TEXT_END = 0, 1, 2
MIN_DALLE_LENGTH, MIN_DALLE_CODES, MIN_DALLE_TEXT = 256, 2**14, 64  # fixed in its code


class Ours:
    """minidalle: `generate_tokens` and `VQGAN.decode`."""

    def __init__(self, bart: BartConfig, vqgan: VQGANConfig, dtype: str, device: str):
        self.device = torch.device(device)
        with built_as(dtype, self.device):
            parts = {"bart": Bart(bart).eval(), "vqgan": VQGAN(vqgan).eval()}
        # The whole model, so that whatever it does to its parts is done.
        self.model = MiniDalle(**parts, tokenizer=ByteLevelBPE.train(["a"], vocab_size=300))
        self.networks = (self.model.bart, self.model.vqgan)
        self.length = bart.image_length
        self.prompt, self.blank = (
            torch.tensor([ids], device=self.device) for ids in (prompt_ids(bart), blank_ids(bart))
        )

    def road(self, pictures: int, tokens: int) -> dict[str, float]:
        """Text tokens to pixels: `tokens` and `decode` seconds, and their sum as `seconds`."""
        clock = Clock(self.device)
        drawn = self.draw(pictures, tokens, SCALE)
        taken = {"tokens": clock.lap()}
        self.pixels(drawn)
        return with_sum({**taken, "decode": clock.lap()})

    def tokens(self, pictures: int, tokens: int) -> dict[str, float]:
        """Image tokens alone, without super-conditioning."""
        clock = Clock(self.device)
        self.draw(pictures, tokens, 1.0)
        return {"seconds": clock.lap()}

    def decode(self, pictures: int) -> dict[str, float]:
        """Random image tokens to pixels."""
        codes = self.model.vqgan.config.n_embed
        ids = torch.randint(codes, (pictures, self.length), device=self.device)
        clock = Clock(self.device)
        self.pixels(ids)
        return {"seconds": clock.lap()}

    def steps(self, pictures: int, positions: Sequence[int]) -> dict[str, Any]:
        """Seconds of the encoder, and of one decoder step at each position, on the way there."""
        clock, laps = Clock(self.device), []
        for _ in islice(self.stream(pictures, SCALE), max(positions) + 2):
            laps.append(clock.lap())
        return {"encode": laps[0], "steps": [laps[1 + position] for position in positions]}

    def draw(self, pictures: int, tokens: int, scale: float) -> Tensor:
        """Image tokens, (n, N); with fewer than N to draw, the rest are zeros."""
        if tokens == self.length:
            return generate_tokens(self.model.bart, **self.arguments(pictures, scale))
        *_, drawn = islice(self.stream(pictures, scale), tokens + 1)
        return torch.cat([drawn, drawn.new_zeros(pictures, self.length - tokens)], dim=1)

    def stream(self, pictures: int, scale: float) -> Any:
        return stream_tokens(self.model.bart, **self.arguments(pictures, scale))

    def arguments(self, pictures: int, scale: float) -> dict[str, Any]:
        """What `generate_tokens` is called with: n pictures of one prompt of T text tokens."""
        text = self.prompt.expand(pictures, -1)
        return {
            "text_ids": text,
            "text_mask": torch.ones_like(text),
            "config": SamplingConfig(top_k=TOP_K, condition_scale=scale),
            "seeds": range(pictures),
            "uncond_ids": self.blank,
            "uncond_mask": (self.blank != TEXT_PAD).long(),
        }

    def pixels(self, ids: Tensor) -> Tensor:
        """(n, N) -> (n, 3, S, S), 0 to 255, as min-dalle gives them."""
        return self.model.vqgan.decode(ids).clamp(0, 1) * 255


class TheirMinDalle:
    """min-dalle: its loop over its classes."""

    def __init__(self, bart: BartConfig, vqgan: VQGANConfig, dtype: str, device: str):
        package = importlib.import_module("min_dalle.min_dalle")  # has its effects on this process
        self.device, self.width = torch.device(device), bart.d_model
        model = package.MinDalle.__new__(package.MinDalle)
        model.device, model.dtype = device, getattr(torch, dtype)
        model.is_reusable, model.is_verbose = True, False
        model.text_token_count, model.layer_count = bart.max_text_length, bart.decoder_layers
        model.embed_count = bart.d_model
        shape = {"embed_count": bart.d_model, "device": device}
        with built_as(dtype, self.device):
            model.encoder = package.DalleBartEncoder(
                layer_count=bart.encoder_layers,
                attention_head_count=bart.encoder_attention_heads,
                text_vocab_count=bart.encoder_vocab_size,
                text_token_count=bart.max_text_length,
                glu_embed_count=bart.encoder_ffn_dim,
                **shape,
            ).eval()
            model.decoder = package.DalleBartDecoder(
                layer_count=bart.decoder_layers,
                attention_head_count=bart.decoder_attention_heads,
                image_vocab_count=bart.image_vocab_size,
                glu_embed_count=bart.decoder_ffn_dim,
                **shape,
            ).eval()
        with built_as("float32", self.device):  # as its constructor does, whatever the dtype
            model.detokenizer = package.VQGanDetokenizer().eval()
        ids = prompt_ids(bart)
        model.tokenizer = SimpleNamespace(tokenize=lambda text, is_verbose: ids)
        self.model = model
        self.networks = (model.encoder, model.decoder, model.detokenizer)

    def road(self, pictures: int, tokens: int) -> dict[str, float]:
        """Text tokens to pixels: `tokens` and `decode` seconds, and their sum as `seconds`."""
        decoder, detokenizer = self.model.decoder, self.model.detokenizer
        clock, taken = Clock(self.device), {}

        def count(**arguments: Tensor) -> Any:
            drawn = decoder.sample_tokens(**arguments)
            taken["steps"] = taken.get("steps", 0) + 1
            if taken["steps"] == tokens < MIN_DALLE_LENGTH:
                raise StopEarly
            return drawn

        def detokenize(is_seamless: bool, ids: Tensor) -> Tensor:
            taken["tokens"] = clock.lap()
            return detokenizer.forward(is_seamless, ids)

        self.model.decoder = SimpleNamespace(sample_tokens=count)
        self.model.detokenizer = SimpleNamespace(forward=detokenize)
        try:
            list(
                self.model.generate_raw_image_stream(
                    "", seed=1, grid_size=round(pictures**0.5), temperature=1, top_k=TOP_K,
                    supercondition_factor=int(SCALE),
                )
            )  # fmt: skip
        except StopEarly:
            self.model.image_grid_from_tokens(self.some_tokens(pictures), is_seamless=False)
        finally:
            self.model.decoder, self.model.detokenizer = decoder, detokenizer
        del taken["steps"]
        return with_sum({**taken, "decode": clock.lap()})

    def decode(self, pictures: int) -> dict[str, float]:
        """Random image tokens to pixels."""
        ids = self.some_tokens(pictures)
        clock = Clock(self.device)
        self.model.image_grid_from_tokens(ids, is_seamless=False)
        return {"seconds": clock.lap()}

    def steps(self, pictures: int, positions: Sequence[int]) -> dict[str, Any]:
        """Seconds of the encoder, and of one decoder step at each position, as its loop asks."""
        model, clock = self.model, Clock(self.device)
        text = torch.ones(2, model.text_token_count, dtype=torch.long, device=self.device)
        text[0, :2] = torch.tensor([TEXT_START, TEXT_END])
        text[1] = torch.tensor(model.tokenizer.tokenize("", False))
        with torch.autocast(self.device.type, model.dtype, enabled=self.device.type == "cuda"):
            state = model.encoder.forward(text)
            encode, rows, seconds = clock.lap(), [0] * pictures + [1] * pictures, []
            shape = (model.layer_count, 4 * pictures, MIN_DALLE_LENGTH, self.width)
            arguments = {
                "settings": torch.tensor([1, TOP_K, SCALE], device=self.device),
                "attention_mask": text[rows].not_equal(TEXT_PAD)[:, None, None, :],
                "encoder_state": state[rows],
                "attention_state": torch.zeros(shape, device=self.device),
                "prev_tokens": self.some_tokens(pictures)[:, :1],
            }
            for position in positions:
                index = torch.tensor([position], device=self.device)
                clock.lap()
                model.decoder.sample_tokens(**arguments, token_index=index)
                seconds.append(clock.lap())
        return {"encode": encode, "steps": seconds}

    def some_tokens(self, pictures: int) -> Tensor:
        shape = (pictures, MIN_DALLE_LENGTH)
        return torch.randint(MIN_DALLE_CODES, shape, device=self.device)


class StopEarly(Exception):
    """min-dalle has drawn as many tokens as were asked for."""


class TheirBart:
    """transformers' BartForConditionalGeneration with as many parameters as our Bart."""

    def __init__(self, bart: BartConfig, vqgan: VQGANConfig, dtype: str, device: str):
        self.device, self.prompt = torch.device(device), prompt_ids(bart)
        with built_as(dtype, self.device):
            self.model = transformers_bart(bart)[0].eval()
        self.networks = (self.model,)
        self.start = bart.codebook_size

    @torch.no_grad()
    def tokens(self, pictures: int, tokens: int) -> dict[str, float]:
        """Image tokens alone: the prompt is encoded once, the cache is on, nothing ends early."""
        ids = torch.tensor([self.prompt], device=self.device)
        config = transformers.GenerationConfig(
            do_sample=True, temperature=1.0, top_k=TOP_K, top_p=1.0, use_cache=True,
            max_new_tokens=tokens, num_return_sequences=pictures,
            decoder_start_token_id=self.start, pad_token_id=TEXT_PAD, bos_token_id=TEXT_START,
        )  # fmt: skip
        clock = Clock(self.device)
        # Its model has defaults of its own for text, among them a token that must come last.
        self.model.generation_config = config
        drawn = self.model.generate(ids, attention_mask=torch.ones_like(ids))
        seconds = clock.lap()
        if drawn.shape != (pictures, 1 + tokens):
            raise RuntimeError(
                f"transformers drew {tuple(drawn.shape)} for {(pictures, 1 + tokens)}"
            )
        return {"seconds": seconds}


CONTESTANTS = {"ours": Ours, "min-dalle": TheirMinDalle, "transformers": TheirBart}


class Clock:
    """Seconds since the last lap, when the device had done what it was asked."""

    def __init__(self, device: torch.device):
        self.device = device
        self.lap_start = self.now()

    def now(self) -> float:
        synchronize(self.device)
        return time.perf_counter()

    def lap(self) -> float:
        """Seconds since the last lap."""
        start, self.lap_start = self.lap_start, self.now()
        return self.lap_start - start


@contextmanager
def built_as(dtype: str, device: torch.device):
    """Make parameters in this dtype on this device from the start, never in float32 first."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(getattr(torch, dtype))
    try:
        with device:
            yield
    finally:
        torch.set_default_dtype(before)


def with_sum(taken: dict[str, float]) -> dict[str, float]:
    return {**taken, "seconds": sum(taken.values())}


def prompt_ids(bart: BartConfig) -> list[int]:
    """T text tokens without padding."""
    middle = [3 + i % (bart.encoder_vocab_size - 3) for i in range(bart.max_text_length - 2)]
    return [TEXT_START, *middle, TEXT_END]


def blank_ids(bart: BartConfig) -> list[int]:
    """The empty prompt, padded to T text tokens."""
    return [TEXT_START, TEXT_END] + [TEXT_PAD] * (bart.max_text_length - 2)


def why_not(name: str, bart: BartConfig, vqgan: VQGANConfig) -> str | None:
    """Why a contestant cannot be measured at this size, in one line; None where it can."""
    if name != "min-dalle":
        return None
    if importlib.util.find_spec("min_dalle") is None:
        return "not installed: pip install 'minidalle[bench]'"
    if (bart.image_length, bart.codebook_size, bart.max_text_length) != (
        MIN_DALLE_LENGTH, MIN_DALLE_CODES, MIN_DALLE_TEXT,
    ) or vqgan != VQGANConfig.f16_16384():  # fmt: skip
        return (
            f"it only draws {MIN_DALLE_LENGTH} image tokens of {MIN_DALLE_CODES:,} codes "
            f"from {MIN_DALLE_TEXT} text tokens, by the VQGAN of DALL·E mini"
        )
    return None
