"""A short training run in a process of its own, or in several: `training_run.py STAGE RUN STEPS`.

For the tests that kill processes or count them. Learns from 24 emoji; prints, by the first process,
what every step's loss was and whether all processes ended with the same parameters.
"""

import hashlib
import json
import sys
from dataclasses import replace
from pathlib import Path

import torch
import torch.distributed as dist

from minidalle.bart import BartConfig
from minidalle.checkpoints import native
from minidalle.data import sources
from minidalle.data.emoji import EmojiDataset
from minidalle.training.bart import BartTask, BartTrainConfig
from minidalle.training.loop import LoopConfig, train
from minidalle.training.processes import part_company
from minidalle.training.vqgan import VQGANTask, VQGANTrainConfig
from minidalle.vqgan import VQGAN, VQGANConfig

VALIDATION = EmojiDataset("validation")
VQGAN_32 = replace(VQGANConfig.tiny(), resolution=64, patch=4, n_embed=32)
BART_16 = replace(BartConfig.tiny(), image_length=16, image_vocab_size=32, codebook_size=32)


class FewEmoji:
    """24 pictures, whatever the split: decoding thousands would take longer than the test."""

    def __init__(self, split):
        self.records, self.images = VALIDATION.records[:24], VALIDATION.images[:24]

    def __len__(self):
        return len(self.records)


def make_task(stage: str, loop: LoopConfig, run: Path):
    if stage == "vqgan":
        return VQGANTask(VQGANTrainConfig(vqgan=VQGAN_32, revive_every=2, revive_below=2.0), loop)
    folder = run.with_name(f"{run.name}-vqgan")
    if not (folder / "config.json").exists():
        torch.manual_seed(0)
        native.save(folder, vqgan=VQGAN(VQGAN_32))
    config = BartTrainConfig(vqgan=str(folder), bart=BART_16)
    return BartTask(config, loop)


def fingerprint(module: torch.nn.Module) -> str:
    digest = hashlib.sha256()
    for value in module.state_dict().values():
        digest.update(value.contiguous().numpy().tobytes())
    return digest.hexdigest()


def main(stage: str, run: Path, steps: int) -> None:
    sources.EmojiDataset = FewEmoji
    loop = LoopConfig(
        steps=steps, batch_size=8, warmup_steps=2, precision="no",
        log_every=1, evaluate_every=1000, save_every=1,
    )  # fmt: skip
    task = make_task(stage, loop, run)
    train(task, loop, run)
    prints = [fingerprint(task.model)]
    if dist.is_initialized():
        prints = [None] * dist.get_world_size()
        dist.all_gather_object(prints, fingerprint(task.model))
    if not dist.is_initialized() or dist.get_rank() == 0:
        lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
        losses = [line["loss"] for line in lines if "loss" in line]
        print(json.dumps({"losses": losses, "fingerprints": prints}))
    part_company()
    assert not dist.is_initialized()


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]))
