"""Loss against size: what lesson 09 plots, and how it was measured.

Four Barts that differ in width alone learn the same scenes of `data.shapes` from the same batches.
So that no VQGAN stands in the way, a picture's image tokens are its patches of 4 × 4 pixels, each
told by the nearest of K patches of a hand-made codebook, as in lesson 02.

    python -m minidalle.lessons.scaling        trains the four again and writes `scaling.json`
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from minidalle.bart import Bart, BartConfig
from minidalle.data.shapes import draw, sample_scene

RESULTS = Path(__file__).with_name("scaling.json")
WIDTHS = (16, 32, 64, 128)  # D of the four
PATCH, K = 4, 128  # pixels along a patch's side; patches in the codebook
TRAIN, HELD_OUT = 4000, 500  # scenes
STEPS, BATCH = 300, 32


class Point(NamedTuple):
    """What one model came to."""

    d_model: int
    parameters: int
    loss: float  # nats per image token, on held-out scenes
    seconds: float  # of CPU time, for the training


@dataclass(frozen=True)
class Scenes:
    """Captions as word numbers, and image tokens: train first, held out last."""

    text_ids: Tensor  # (count, T), 0 where a caption has ended
    image_ids: Tensor  # (count, N)


def load_results() -> list[Point]:
    """The four that were trained once."""
    return [Point(**point) for point in json.loads(RESULTS.read_text())["points"]]


def make_scenes(count: int = TRAIN + HELD_OUT) -> Scenes:
    """Scenes 0, 1, … of seed 0; the codebook is made of the first 500."""
    generator = torch.Generator().manual_seed(0)
    scenes = [sample_scene(generator) for _ in range(count)]
    captions = [scene.caption.split() for scene in scenes]
    number = {w: i + 1 for i, w in enumerate(sorted({w for text in captions for w in text}))}
    rows = [torch.tensor([number[word] for word in text]) for text in captions]
    text_ids = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)  # (count, T)
    images = torch.stack([draw(scene) for scene in scenes])  # (count, 3, S, S)
    patches = F.pixel_unshuffle(images, PATCH).flatten(2).transpose(1, 2)  # (count, N, 48)
    codebook = far_apart(patches[:500].flatten(0, 1).unique(dim=0), K)
    image_ids = torch.cat([torch.cdist(part, codebook).argmin(-1) for part in patches.split(500)])
    return Scenes(text_ids, image_ids)


def far_apart(patches: Tensor, count: int) -> Tensor:
    """Choose patches, each the farthest from all chosen before: (n, d) -> (count, d)."""
    chosen = [len(patches) - 1]  # `unique` sorts: the last patch is white
    distance = torch.full((len(patches),), math.inf)
    while len(chosen) < count:
        distance = distance.minimum((patches - patches[chosen[-1]]).square().sum(1))
        chosen.append(int(distance.argmax()))
    return patches[chosen]


def config_of(d_model: int, scenes: Scenes) -> BartConfig:
    """Two layers in the encoder and two in the decoder, 16 numbers to a head, F = 2 D."""
    heads = max(1, d_model // 16)
    return BartConfig(
        d_model=d_model, encoder_layers=2, decoder_layers=2,
        encoder_attention_heads=heads, decoder_attention_heads=heads,
        encoder_ffn_dim=2 * d_model, decoder_ffn_dim=2 * d_model,
        encoder_vocab_size=int(scenes.text_ids.max()) + 1, image_vocab_size=K, codebook_size=K,
        max_text_length=scenes.text_ids.shape[1], image_length=scenes.image_ids.shape[1],
    )  # fmt: skip


def train_point(d_model: int, scenes: Scenes, steps: int = STEPS) -> Point:
    """Train one model, always on the same batches, and measure its loss on held-out scenes."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = Bart(config_of(d_model, scenes))
    start = time.process_time()
    rate = 0.02 / d_model**0.5  # wider models want smaller steps
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate, betas=(0.9, 0.98))
    for step, rows in enumerate(batches(steps)):
        optimizer.param_groups[0]["lr"] = rate * min((step + 1) / 40, 1 - step / steps)
        loss = loss_of(model, scenes, rows)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    seconds = time.process_time() - start
    with torch.no_grad():
        held_out = loss_of(model.eval(), scenes, torch.arange(TRAIN, len(scenes.text_ids)))
    count = sum(parameter.numel() for parameter in model.parameters())
    return Point(d_model, count, round(float(held_out), 4), round(seconds, 1))


def batches(steps: int) -> Iterator[Tensor]:
    """Numbers of the scenes of each step: every scene once, in random order, then again."""
    generator = torch.Generator().manual_seed(1)
    epochs = math.ceil(steps * BATCH / TRAIN)
    order = torch.cat([torch.randperm(TRAIN, generator=generator) for _ in range(epochs)])
    yield from order[: steps * BATCH].split(BATCH)


def loss_of(model: Bart, scenes: Scenes, rows: Tensor) -> Tensor:
    """Nats per image token."""
    text_ids, image_ids = scenes.text_ids[rows], scenes.image_ids[rows]  # (B, T), (B, N)
    logits = model(text_ids, text_ids > 0, image_ids)  #                   (B, N, K′)
    return F.cross_entropy(logits.flatten(0, 1), image_ids.flatten())


def main() -> None:
    scenes = make_scenes()
    points = [train_point(d_model, scenes)._asdict() for d_model in WIDTHS]
    made_by = "python -m minidalle.lessons.scaling"
    RESULTS.write_text(json.dumps({"made by": made_by, "points": points}, indent=2) + "\n")


if __name__ == "__main__":
    main()
