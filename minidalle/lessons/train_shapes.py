"""The model of the lessons that draws shapes: a VQGAN with prices for its codes, then a Bart.

    python -m minidalle.lessons.train_shapes           into the package's pretrained/ folder
    python -m minidalle.lessons.train_shapes --into runs

It takes about forty minutes on one CPU core. The runs are kept in `runs-shapes/` of the folder that
you are in; the same command goes on after a crash.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from minidalle.bart import BartConfig
from minidalle.data.shapes import Scene, ShapesDataset, held_out, sample_scene
from minidalle.data.sources import SHAPES_HELD_OUT, ShapesSource
from minidalle.lessons import SHIPPED
from minidalle.pipeline import MiniDalle
from minidalle.sampling import SamplingConfig
from minidalle.training.bart import BartTask, BartTrainConfig
from minidalle.training.loop import LoopConfig, train
from minidalle.training.vqgan import VQGANTask, VQGANTrainConfig
from minidalle.vqgan import VQGANConfig

RUNS = Path("runs-shapes")
# 32×32 pictures, 8×8 tokens of 128 codes; the last of 17 coordinates is a code's price.
VQGAN = VQGANConfig(
    ch=64, ch_mult=(1,), num_res_blocks=1, attn_resolutions=(), resolution=32,
    z_channels=32, embed_dim=17, n_embed=128, patch=4,
)  # fmt: skip
BART = BartConfig(
    d_model=96, encoder_layers=2, decoder_layers=3, encoder_ffn_dim=256, decoder_ffn_dim=256,
    encoder_attention_heads=4, decoder_attention_heads=4, encoder_vocab_size=512,
    codebook_size=128, image_vocab_size=128, image_length=64, max_text_length=16,
    dropout=0.1, normalize_text=False,
)  # fmt: skip
SAMPLING = SamplingConfig(temperature=1.0, top_p=0.5, condition_scale=2.0)
SCENES = 100_000  # that Bart learns from; the VQGAN needs fewer


class MoreSmallThings(ShapesDataset):
    """Scenes to train on; every other one is drawn anew until something small is in it.

    Small things are harder to draw.
    """

    def __init__(self, size: int):
        super().__init__(size, seed=0)

    def scene(self, index: int) -> Scene:
        scene = super().scene(index)
        if index % 2 == 0:
            generator = torch.Generator().manual_seed(index + 77)
            while not has_small(scene) or held_out(scene, self.exclude):
                scene = sample_scene(generator, self.max_objects)
        return scene


def has_small(scene: Scene) -> bool:
    return any(thing.kind.size == "small" for thing in scene.objects)


def train_vqgan() -> Path:
    """Pictures to tokens. Few codes for plain places: what Bart cannot know is noise to it."""
    config = VQGANTrainConfig(
        vqgan=VQGAN, data="shapes", lr=2e-3, jitter_until=0.0, revive_below=0.05, rate=0.5
    )
    loop = LoopConfig(steps=4200, batch_size=16, warmup_steps=50, precision="no")
    print(train(VQGANTask(config, loop), loop, RUNS / "vqgan"))
    return RUNS / "vqgan"


def train_bart(vqgan: Path) -> Path:
    """Captions to tokens."""
    config = BartTrainConfig(
        vqgan=str(vqgan), bart=BART, sampling=SAMPLING, lr=2e-3, tables_lr=0.1, weight_decay=0.3,
        label_spread=0.5, swap_at_most=0.6,
    )  # fmt: skip
    loop = LoopConfig(
        steps=4500, batch_size=48, warmup_steps=100, precision="no", weights_ema=0.998, seed=5
    )
    known = ShapesSource(MoreSmallThings(SCENES), VQGAN.resolution)
    unseen = ShapesSource(ShapesDataset(SHAPES_HELD_OUT, 1, "held_out"), VQGAN.resolution)
    print(train(BartTask(config, loop, (known, unseen)), loop, RUNS / "bart"))
    return RUNS / "bart"


def main(into: Path) -> None:
    whole = MiniDalle.from_pretrained(train_bart(train_vqgan()))
    whole.save_pretrained(into / "shapes", dtype="float16")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--into", type=Path, default=SHIPPED, help="where the folder goes")
    main(parser.parse_args().into)
