"""The two VQGANs of lesson 04: equal in everything, but one of them never saw a face.

    python -m minidalle.lessons.train_faces            both, into the package's pretrained/ folder
    python -m minidalle.lessons.train_faces --only no_faces --into runs

Both learn from the train split of the emoji for equally many steps of equally many pictures. Each
takes about four minutes on one CPU core. A run that was cut off goes on where it was.
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

import torch

from minidalle.checkpoints import native
from minidalle.data.emoji import EmojiDataset, EmojiRecord
from minidalle.data.sources import EmojiSource
from minidalle.lessons import SHIPPED
from minidalle.training.loop import LoopConfig, train
from minidalle.training.vqgan import VQGANTask, VQGANTrainConfig
from minidalle.vqgan import VQGANConfig

# 64×64 pictures, 8×8 tokens of 256 codes: small enough that a code must be worth its place.
CONFIG = VQGANConfig(
    ch=64, ch_mult=(1,), num_res_blocks=1, attn_resolutions=(), resolution=64,
    z_channels=64, embed_dim=16, n_embed=256, patch=8,
)  # fmt: skip
LOOP = LoopConfig(steps=4000, batch_size=16, warmup_steps=30, precision="no")

FACES = ("smileys", "people", "animals", "things with a face")
# Drawings in other groups that have a face or eyes, in one style at least.
THINGS = {
    *("eye in speech bubble", "kiss mark", "snowman", "snowman without snow", "jack-o-lantern"),
    *("Japanese dolls", "carp streamer", "carousel horse", "teddy bear", "nesting dolls", "joker"),
    *("performing arts", "Statue of Liberty", "moai", "framed picture", "piñata", "pirate flag"),
    *("identification card", "card index", "nazar amulet", "hamsa", "baby symbol", "mouse trap"),
    *("fishing pole", "sun with face", "wind face"),
}


def kind_of(record: EmojiRecord) -> str:
    """What a drawing shows: one of FACES, "hands", "hearts and signs", or its group's name."""
    if record.label in THINGS or "moon face" in record.label:
        return "things with a face"
    if record.group == "smileys-emotion":
        faceless = record.subgroup in ("heart", "emotion")
        return "hearts and signs" if faceless else "smileys"
    if record.group == "people-body":
        return "hands" if record.subgroup.startswith("hand") else "people"
    return "animals" if record.subgroup.startswith("animal-") else record.group


def shows_face(record: EmojiRecord) -> bool:
    """Whether a drawing shows a face."""
    return kind_of(record) in FACES


def subset(data: EmojiDataset, keep: list[bool]) -> EmojiSource:
    """The drawings of a dataset that are to be kept, to train on."""
    source = EmojiSource(CONFIG.resolution, data)
    source.records = [record for record, kept in zip(source.records, keep, strict=True) if kept]
    source.images = source.images[torch.tensor(keep)]
    return source


def train_one(name: str, into: Path) -> dict[str, float]:
    """Train "faces" (on everything) or "no_faces"; write the folder, return the evaluation."""
    task = VQGANTask(VQGANTrainConfig(vqgan=CONFIG, lr=2e-3), LOOP)
    if name == "no_faces":
        data = EmojiDataset("train")
        task.train_data = subset(data, [not shows_face(record) for record in data.records])
    run = into / f".{name}-run"
    figures = train(task, LOOP, run)
    native.save(into / name, vqgan=task.model, dtype=torch.float16)
    shutil.rmtree(run)
    return figures


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", choices=("faces", "no_faces"), help="one of the two")
    parser.add_argument("--into", type=Path, default=SHIPPED, help="where the folders go")
    options = parser.parse_args()
    for name in [options.only] if options.only else ["no_faces", "faces"]:
        print(name, train_one(name, options.into))
