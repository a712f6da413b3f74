"""The speed of training, told as a ratio.

One step of our Bart against one of transformers' BartForConditionalGeneration with as many
parameters, on the same batch, taking turns. So what else the machine does slows both alike.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
import transformers
from torch import Tensor, nn

from minidalle.bart import Bart, BartConfig
from minidalle.bench.common import machine, parameter_count, per_round, spread
from minidalle.checkpoints import to_device

SIZES = ("tiny", "emoji", "mini", "mega")  # presets of BartConfig
FFN_DIMS = ("encoder_ffn_dim", "decoder_ffn_dim")
WARM_UP = 2  # rounds that do not count: memory is set aside, the optimizer makes its state


def bench_train(
    size: str = "emoji",
    *,
    batch_size: int = 16,
    steps: int = 10,
    precision: str = "float32",
    device: str = "cpu",
) -> dict[str, Any]:
    """Time training steps: ours against transformers', and ours as it grows.

    size: a preset of BartConfig, see SIZES. steps: how often each is timed. precision: "float32",
    or "bfloat16" for autocast. Returns what JSON can hold; see the docstrings of what it calls.
    """
    if size not in SIZES:
        raise ValueError(f"size is {size!r}; it must be one of {', '.join(SIZES)}")
    for name, value in (("batch size", batch_size), ("steps", steps)):
        if value < 1:
            raise ValueError(f"{name} is {value}; it must be at least 1")
    if precision not in ("float32", "bfloat16"):
        raise ValueError(f"precision is {precision!r}; it must be float32 or bfloat16")
    config = getattr(BartConfig, size)()
    place = torch.device(to_device(device))
    with torch.random.fork_rng():  # weights and batches are random: lend them a seed
        torch.manual_seed(0)
        return {
            "machine": machine(place),
            "size": size,
            "batch_size": batch_size,
            "precision": precision,
            "steps": steps,
            "text_length": config.max_text_length,
            "image_length": config.image_length,
            "ln_k": math.log(config.image_vocab_size + 1),
            **compare(config, batch_size, steps, precision, place),
            "growth": growth(config, batch_size, steps, precision, place),
        }


def compare(
    config: BartConfig, batch_size: int, times: int, precision: str, device: torch.device
) -> dict[str, Any]:
    """Ours and transformers' in turns: `models`, and `ratio`, ours' throughput over theirs'.

    Of each model: parameters, ffn_dim, first_loss, step (seconds, see `spread`), pictures per
    second. The ratio is taken round by round.
    """
    batch = random_batch(config, batch_size, device)
    theirs, ffn_dim = transformers_bart(config)
    models = {"minidalle": Bart(config).train().to(device), "transformers": theirs.to(device)}
    losses = {"minidalle": our_loss, "transformers": their_loss}
    widths = {"minidalle": config.decoder_ffn_dim, "transformers": ffn_dim}
    steps = {
        name: training_step(model, partial(losses[name], model, batch), precision)
        for name, model in models.items()
    }
    seconds, first = take_turns(steps, times, device)
    return {
        "models": {
            name: {
                "parameters": parameter_count(model),
                "ffn_dim": widths[name],
                "first_loss": first[name],
                "step": spread(seconds[name]),
                "pictures_per_second": batch_size / statistics.median(seconds[name]),
            }
            for name, model in models.items()
        },
        "ratio": spread(per_round(seconds["transformers"], seconds["minidalle"])),
    }


def growth(
    config: BartConfig, batch_size: int, times: int, precision: str, device: torch.device
) -> list[dict[str, Any]]:
    """How much more a step of ours costs than one with less width, fewer layers, fewer tokens.

    Each smaller one takes turns with the whole. Of each: what is smaller, its parameters, its
    step in seconds, and how many times its FLOPs (`step_flops`) and its time the whole takes.
    """
    rows = []
    for name, smaller in smaller_ones(config).items():
        steps = {}
        for key, shape in (("whole", config), ("part", smaller)):
            batch, model = random_batch(shape, batch_size, device), Bart(shape).train().to(device)
            steps[key] = training_step(model, partial(our_loss, model, batch), precision)
        seconds, _ = take_turns(steps, times, device)
        rows.append(
            {
                "smaller": name,
                "parameters": parameter_count(model),
                "step": spread(seconds["part"]),
                "flops_ratio": step_flops(config, batch_size) / step_flops(smaller, batch_size),
                "time_ratio": spread(per_round(seconds["whole"], seconds["part"])),
            }
        )
    return rows


def smaller_ones(config: BartConfig) -> dict[str, BartConfig]:
    """A half and a quarter of the width (D and F), of the layers, and of the image tokens (N)."""
    smaller = {}
    for share in (2, 4):
        encoder, decoder = (
            max(1, count // share) for count in (config.encoder_layers, config.decoder_layers)
        )
        d, n = config.d_model // share, config.image_length // share
        inner = {name: getattr(config, name) // share for name in FFN_DIMS}
        layers = {"encoder_layers": encoder, "decoder_layers": decoder}
        smaller[f"D {d}"] = replace(config, d_model=d, **inner)
        smaller[f"layers {encoder} + {decoder}"] = replace(config, **layers)
        smaller[f"N {n}"] = replace(config, image_length=n)
    return smaller


def step_flops(config: BartConfig, batch_size: int) -> int:
    """Floating-point operations of the matrix products in one training step.

    Per multiply-add 2, and the backward pass costs twice the forward pass. Attention is counted
    whole, although its causal half would do.
    """
    d, t, n = config.d_model, config.max_text_length, config.image_length
    over_text = t * (4 * d * d + 3 * d * config.encoder_ffn_dim) + 2 * t * t * d
    over_image = n * (6 * d * d + 3 * d * config.decoder_ffn_dim) + 2 * n * (n + t) * d
    keys_of_text = 2 * t * d * d
    head = n * d * (config.image_vocab_size + 1)
    blocks = config.encoder_layers * over_text + config.decoder_layers * (over_image + keys_of_text)
    return 6 * batch_size * (blocks + head)


def transformers_bart(config: BartConfig) -> tuple[nn.Module, int]:
    """Their Bart with as many parameters as ours, random weights, and its feed-forward width.

    Everything but that width is ours: D, layers, heads, lengths, vocabularies.
    """
    with torch.device("meta"):
        wanted = parameter_count(Bart(config))
        few, more = (parameter_count(their_bart(config, width)) for width in (8, 16))
    eights = 1 + max(0, round((wanted - few) / (more - few)))  # a width that suits their kernels
    return their_bart(config, 8 * eights), 8 * eights


def their_bart(config: BartConfig, ffn_dim: int) -> nn.Module:
    """transformers' Bart of our shape, without dropout, with its fastest attention."""
    shape = transformers.BartConfig(
        vocab_size=config.image_vocab_size + 1,
        d_model=config.d_model,
        encoder_layers=config.encoder_layers,
        decoder_layers=config.decoder_layers,
        encoder_attention_heads=config.encoder_attention_heads,
        decoder_attention_heads=config.decoder_attention_heads,
        encoder_ffn_dim=ffn_dim,
        decoder_ffn_dim=ffn_dim,
        max_position_embeddings=max(config.max_text_length, config.image_length),
        init_std=config.init_std,
        dropout=0.0,
        decoder_start_token_id=config.codebook_size,
        tie_word_embeddings=False,
        attn_implementation="sdpa",
    )
    bart = transformers.BartForConditionalGeneration(shape)
    # It has one vocabulary for both sides; ours are two.
    text = nn.Embedding(config.encoder_vocab_size, config.d_model)
    nn.init.normal_(text.weight, std=config.init_std)
    bart.model.encoder.embed_tokens = text
    bart.model.shared = bart.model.decoder.embed_tokens
    return bart.train()


def random_batch(config: BartConfig, batch_size: int, device: torch.device) -> dict[str, Tensor]:
    """Captions of half to the whole text length, and pictures, all drawn at random."""
    t, n = config.max_text_length, config.image_length
    lengths = torch.randint(math.ceil(t / 2), t + 1, (batch_size, 1))
    lengths[0] = t
    batch = {
        "text_ids": torch.randint(config.encoder_vocab_size, (batch_size, t)),
        "text_mask": (torch.arange(t) < lengths).long(),
        "image_ids": torch.randint(config.codebook_size, (batch_size, n)),
    }
    return {name: value.to(device) for name, value in batch.items()}


def our_loss(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    """The loss as `BartTask` computes it."""
    logits = model(batch["text_ids"], batch["text_mask"], batch["image_ids"])  # (B, N, K′)
    return F.cross_entropy(logits.flatten(0, 1).float(), batch["image_ids"].flatten())


def their_loss(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    """The loss as transformers computes it, which shifts the image tokens right as ours does."""
    text = {"input_ids": batch["text_ids"], "attention_mask": batch["text_mask"]}
    return model(**text, labels=batch["image_ids"]).loss


def training_step(
    model: nn.Module, loss_of: Callable[[], Tensor], precision: str
) -> Callable[[], Tensor]:
    """A step of the same kind for every model: loss, backward, clip, AdamW; returns the loss."""
    parameters = list(model.parameters())
    optimizer = torch.optim.AdamW(parameters, lr=1e-4, betas=(0.9, 0.98), weight_decay=0.01)
    kind = parameters[0].device.type

    def step() -> Tensor:
        with torch.autocast(kind, torch.bfloat16, enabled=precision == "bfloat16"):
            loss = loss_of()
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return loss.detach()

    return step


def take_turns(
    steps: dict[str, Callable[[], Tensor]], times: int, device: torch.device
) -> tuple[dict[str, list[float]], dict[str, float]]:
    """Seconds of each step in each round, and the first loss of each.

    Every round goes through all of them, in the opposite order of the round before. The first
    WARM_UP rounds are not counted.
    """
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    first: dict[str, float] = {}
    for turn in range(WARM_UP + times):
        for name in steps if turn % 2 == 0 else reversed(steps):
            start = time.perf_counter()
            loss = steps[name]()
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            taken = time.perf_counter() - start
            first.setdefault(name, float(loss))
            if turn >= WARM_UP:
                seconds[name].append(taken)
    return seconds, first
