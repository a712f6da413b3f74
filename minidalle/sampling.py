"""Sampling: from logits to image tokens, one at a time.

Logits are super-conditioned (the unconditional branch subtracted; Boris Dayma's DALL·E mini took
the idea from Katherine Crowson), cooled by a temperature, cut to the likeliest by top-k and top-p
(Holtzman et al., 2019), in this order, as DALL·E mini's generation does; then a token is drawn.

A picture belongs to its seed: for each picture N uniform numbers are drawn on the CPU from its own
seed, and token t is the inverse of the cumulative distribution at number t. So a picture does not
depend on what else is in the batch.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from minidalle.bart import Bart
from minidalle.graphs import StepGraphs
from minidalle.packed import can_pack, packed


@dataclass(frozen=True)
class SamplingConfig:
    """How tokens are drawn. The defaults draw from the model's own distribution."""

    temperature: float = 1.0  # above 1 flatter, below 1 sharper; 0 = greedy
    top_k: int = 0  # draw from so many of the likeliest tokens; 0 = all
    top_p: float = 1.0  # draw from the likeliest, up to this probability together; 1 = all
    condition_scale: float = 1.0  # from the empty prompt's logits (0) past the prompt's (1 = off)

    def __post_init__(self) -> None:
        if not (math.isfinite(self.temperature) and self.temperature >= 0):
            raise ValueError(
                f"temperature is {self.temperature}; it must be a number of at least 0"
            )
        if self.top_k < 0:
            raise ValueError(f"top_k is {self.top_k}; it must be at least 0 (0 = off)")
        if not 0 < self.top_p <= 1:
            raise ValueError(f"top_p is {self.top_p}; it must be above 0 and at most 1 (1 = off)")
        if not math.isfinite(self.condition_scale):
            raise ValueError(f"condition_scale is {self.condition_scale}; it must be a number")


def super_condition(cond: Tensor, uncond: Tensor, scale: float) -> Tensor:
    """Move from the unconditional logits through the conditional ones: (B, K) twice -> (B, K)."""
    return uncond + scale * (cond - uncond)


def filter_logits(logits: Tensor, config: SamplingConfig) -> Tensor:
    """Temperature, then top-k, then top-p: (B, K) -> (B, K), −inf on tokens not to be drawn.

    Exactly k tokens stay after top-k, also where values tie. Top-p keeps the token that crosses the
    limit. At temperature 0 the likeliest token alone stays.

    >>> filter_logits(torch.tensor([[1.0, 3.0, 2.0]]), SamplingConfig(top_k=2))
    tensor([[-inf, 3., 2.]])
    """
    if config.temperature == 0:
        return keep_only(logits, logits.argmax(-1, keepdim=True))
    logits = logits / config.temperature
    if 0 < config.top_k < logits.shape[-1]:
        logits = keep_only(logits, logits.topk(config.top_k).indices)
    if config.top_p < 1:
        ordered, order = logits.sort(descending=True)  #      (B, K)
        probabilities = ordered.softmax(-1)  #                (B, K)
        before = probabilities.cumsum(-1) - probabilities  #  (B, K) what the likelier ones sum to
        ordered = ordered.masked_fill(before >= config.top_p, -math.inf)
        logits = torch.empty_like(logits).scatter(-1, order, ordered)
    return logits


def keep_only(logits: Tensor, indices: Tensor) -> Tensor:
    """−inf everywhere but at `indices` (B, k) of the logits (B, K)."""
    return torch.full_like(logits, -math.inf).scatter(-1, indices, logits.gather(-1, indices))


def uniform_numbers(seeds: Sequence[int], length: int) -> Tensor:
    """`length` numbers in [0, 1) per seed, from a generator of its own: (B, length)."""
    return torch.stack(
        [torch.rand(length, generator=torch.Generator().manual_seed(seed)) for seed in seeds]
    )


def draw_tokens(logits: Tensor, uniform: Tensor) -> Tensor:
    """Where the cumulative distribution passes a uniform number: (B, K), (B,) -> (B,) tokens."""
    cumulative = logits.float().softmax(-1).cumsum(-1)  #          (B, K)
    total = cumulative[:, -1:]  #                                  (B, 1) 1, but for rounding
    token = (cumulative <= uniform[:, None] * total).sum(-1)  #    (B,)
    last = (cumulative < total).sum(-1)  #                         (B,) the last one possible
    return torch.minimum(token, last)


def generate_tokens(
    bart: Bart,
    text_ids: Tensor,
    text_mask: Tensor,
    config: SamplingConfig,
    *,
    seeds: Sequence[int],
    uncond_ids: Tensor | None = None,
    uncond_mask: Tensor | None = None,
    prefix: Tensor | None = None,
    graphs: StepGraphs | None = None,
    pack: bool = True,
) -> Tensor:
    """Draw the N image tokens of B pictures: (B, N), all below K.

    Arguments as for `stream_tokens`.
    """
    *_, tokens = stream_tokens(
        bart,
        text_ids,
        text_mask,
        config,
        seeds=seeds,
        uncond_ids=uncond_ids,
        uncond_mask=uncond_mask,
        prefix=prefix,
        graphs=graphs,
        pack=pack,
    )
    return tokens


def stream_tokens(
    bart: Bart,
    text_ids: Tensor,
    text_mask: Tensor,
    config: SamplingConfig,
    *,
    seeds: Sequence[int],
    uncond_ids: Tensor | None = None,
    uncond_mask: Tensor | None = None,
    prefix: Tensor | None = None,
    graphs: StepGraphs | None = None,
    pack: bool = True,
) -> Iterator[Tensor]:
    """Draw image tokens one at a time; yield those so far, (B, t), first the prefix alone.

    text_ids, text_mask: (B, T), one row per picture; equal rows are encoded once.
    seeds: B whole numbers.
    uncond_ids, uncond_mask: (1, T) or (B, T), the empty prompt; ignored if condition_scale is 1.
    prefix: (B, n) image tokens to keep.
    graphs: play recorded decoder steps, on a GPU; see `minidalle.graphs`.
    pack: on a CPU, hold the decoder's weights a second time meanwhile, in the order in which they
        are multiplied, which is faster; see `minidalle.packed`.
    Raises ValueError where shapes or ids do not fit.
    """
    b, k, length = text_ids.shape[0], bart.config.codebook_size, bart.config.image_length
    if len(seeds) != b:
        raise ValueError(f"{len(seeds)} seeds for {b} pictures; each picture needs one")
    prefix = text_ids.new_empty(b, 0) if prefix is None else prefix.to(text_ids.device)
    if prefix.shape[0] != b or prefix.shape[1] > length:
        raise ValueError(
            f"the prefix has shape {tuple(prefix.shape)}; expected ({b}, n) with n at most {length}"
        )
    if prefix.numel() and not 0 <= int(prefix.min()) <= int(prefix.max()) < k:
        raise ValueError(f"the prefix has ids outside the codebook's 0 to {k - 1}")
    conditioned = config.condition_scale != 1
    if conditioned:
        if uncond_ids is None or uncond_mask is None:
            raise ValueError(
                "super-conditioning needs uncond_ids and uncond_mask: the empty prompt's tokens"
            )
        text_ids = torch.cat([text_ids, uncond_ids.expand(b, -1)])  #                    (2B, T)
        text_mask = torch.cat([text_mask, uncond_mask.expand(b, -1)])  #                 (2B, T)
    uniform = uniform_numbers(seeds, length)
    pack = pack and can_pack(bart.lm_head.weight)
    return token_loop(bart, text_ids, text_mask, config, uniform, prefix, conditioned, graphs, pack)


@torch.no_grad()
def token_loop(
    bart: Bart,
    text_ids: Tensor,
    text_mask: Tensor,
    config: SamplingConfig,
    uniform: Tensor,
    prefix: Tensor,
    conditioned: bool,
    graphs: StepGraphs | None,
    pack: bool,
) -> Iterator[Tensor]:
    """The loop behind `stream_tokens`.

    With `conditioned`, the second half of the text rows is unconditional.
    """
    (b, n), k = prefix.shape, bart.config.codebook_size
    length = bart.config.image_length
    together = pictures_together(text_ids, text_mask)
    text_ids, text_mask = text_ids[::together], text_mask[::together]  #        (R, T)
    memory = encode_once(bart, text_ids, text_mask)  #                          (R, T, D)
    if graphs is not None:
        decode = graphs.start(memory, text_mask, together)
    else:
        cache = bart.new_cache(memory)
        fast = packed(bart, (1 + conditioned) * b) if pack else bart
        decode = partial(fast.decode, memory=memory, text_mask=text_mask, cache=cache)
    uniform = uniform.to(text_ids.device)
    tokens = torch.cat([prefix, prefix.new_zeros(b, length - n)], dim=1)  #     (B, N)
    start = prefix.new_full((b, 1), k)  #                                       (B, 1)
    inputs = torch.cat([start, prefix], dim=1)[:, :length]  #                   (B, n+1)
    yield tokens[:, :n]
    for t in range(n, length):
        rows = inputs.repeat(2, 1) if conditioned else inputs
        logits = decode(rows)  #                                                (B or 2B, n, K′)
        logits = logits[:, -1, :k].float()  #                                   (B or 2B, K)
        if conditioned:
            logits = super_condition(*logits.chunk(2), config.condition_scale)
        drawn = draw_tokens(filter_logits(logits, config), uniform[:, t])  #    (B,)
        tokens[:, t] = drawn
        inputs = drawn[:, None]  #                                              (B, 1)
        yield tokens[:, : t + 1]


def pictures_together(text_ids: Tensor, text_mask: Tensor) -> int:
    """The largest m for which rows 0 … m−1 have the same text, rows m … 2m−1 too, and so on.

    The decoder then keeps one set of text keys for every m pictures.
    """
    rows = torch.cat([text_ids, text_mask], dim=1)  #                (B, 2T)
    changes = (rows[1:] != rows[:-1]).any(1).nonzero().flatten() + 1
    return math.gcd(len(rows), *changes.tolist())


def encode_once(bart: Bart, text_ids: Tensor, text_mask: Tensor) -> Tensor:
    """Memory for every row, (B, T, D), running the encoder on different rows only."""
    rows = torch.cat([text_ids, text_mask], dim=1)  #                (B, 2T)
    _, which = torch.unique(rows, dim=0, return_inverse=True)  #     (B,) equal rows, equal numbers
    first = torch.stack([(which == i).nonzero()[0, 0] for i in range(int(which.max()) + 1)])
    return bart.encode(text_ids[first], text_mask[first])[which]
