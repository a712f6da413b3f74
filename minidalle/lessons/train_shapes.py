"""The model of the lessons that draws shapes: a VQGAN in three runs, then a Bart in four.

    python -m minidalle.lessons.train_shapes           into the package's pretrained/ folder
    python -m minidalle.lessons.train_shapes --into runs

It takes about 40 minutes on one CPU core. The runs are kept in `runs-shapes/` of the folder that
you are in; the same command goes on after a crash.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

from minidalle.bart import BartConfig
from minidalle.lessons import SHIPPED
from minidalle.pipeline import MiniDalle
from minidalle.sampling import SamplingConfig
from minidalle.training.bart import BartTask, BartTrainConfig
from minidalle.training.loop import LoopConfig, train
from minidalle.training.vqgan import VQGANTask, VQGANTrainConfig
from minidalle.vqgan import VQGANConfig

RUNS = Path("runs-shapes")
# 32×32 pictures, 8×8 tokens; first of 64 codes, then of 128.
VQGAN_64 = VQGANConfig(
    ch=64, ch_mult=(1,), num_res_blocks=1, attn_resolutions=(), resolution=32,
    z_channels=32, embed_dim=16, n_embed=64, patch=4,
)  # fmt: skip
VQGAN_128 = replace(VQGAN_64, n_embed=128)
BART = BartConfig(
    d_model=96, encoder_layers=2, decoder_layers=3, encoder_ffn_dim=256, decoder_ffn_dim=256,
    encoder_attention_heads=4, decoder_attention_heads=4, encoder_vocab_size=512,
    codebook_size=128, image_vocab_size=128, image_length=64, max_text_length=16,
    normalize_text=False,
)  # fmt: skip
SAMPLING = SamplingConfig(temperature=0.5, condition_scale=2.0)
LOOP = LoopConfig(steps=800, batch_size=16, warmup_steps=20, precision="no")


def train_vqgan() -> Path:
    """Pictures to tokens: a short run, one of twice the codes, and one for the decoder alone."""
    common = VQGANTrainConfig(vqgan=VQGAN_128, data="shapes", lr=2e-3, jitter_until=0.0)
    first = replace(common, vqgan=VQGAN_64, revive_below=0.2)
    run_vqgan("vqgan-1", first, replace(LOOP, warmup_steps=50))
    second = replace(common, init=str(RUNS / "vqgan-1"), revive_below=0.05)
    run_vqgan("vqgan-2", second, replace(LOOP, steps=1600, seed=1))
    third = replace(common, init=str(RUNS / "vqgan-2"), freeze_tokens=True)
    return run_vqgan("vqgan", third, replace(LOOP, steps=1500, seed=2))


def run_vqgan(name: str, config: VQGANTrainConfig, loop: LoopConfig) -> Path:
    print(name, train(VQGANTask(config, loop), loop, RUNS / name))
    return RUNS / name


def train_bart(vqgan: Path) -> Path:
    """Captions to tokens: four runs, in which different shares of the input are swapped."""
    common = BartTrainConfig(vqgan=str(vqgan), data="shapes", bart=BART, sampling=SAMPLING)
    loop = replace(LOOP, batch_size=32, warmup_steps=30, weights_ema=0.99)
    folder = run_bart("bart-1", replace(common, swap_at_most=0.3), replace(loop, steps=1200))
    later = [
        (0.15, 0.0, replace(loop, steps=2000, seed=1)),
        (0.8, 0.0, replace(loop, steps=1500, seed=2)),
        (0.6, 0.5, replace(loop, steps=5000, batch_size=48, weights_ema=0.997, seed=5)),
    ]
    for number, (swapped, spread, plan) in enumerate(later, 2):
        config = replace(common, init=str(folder), swap_at_most=swapped, label_spread=spread)
        folder = run_bart(f"bart-{number}", replace(config, lr=2e-3), plan)
    return folder


def run_bart(name: str, config: BartTrainConfig, loop: LoopConfig) -> Path:
    print(name, train(BartTask(config, loop), loop, RUNS / name))
    return RUNS / name


def main(into: Path) -> None:
    whole = MiniDalle.from_pretrained(train_bart(train_vqgan()))
    whole.save_pretrained(into / "shapes", dtype="float16")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--into", type=Path, default=SHIPPED, help="where the folder goes")
    main(parser.parse_args().into)
