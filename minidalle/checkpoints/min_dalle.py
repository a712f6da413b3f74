"""The layout of kuprel/min-dalle: PyTorch files of DALL·E mini's and mega's weights.

    hub      encoder.pt  decoder.pt  vocab.json  merges.txt  config.json          this is mega
             encoder_mini.pt  decoder_mini.pt  vocab_mini.json  …                 in the same folder
             detoker.pt                                          the VQGAN's half that draws
    local    dalle_bart_mini/encoder.pt …  dalle_bart_mega/encoder.pt …  vqgan/detoker.pt

Encoder and decoder are dictionaries of half-precision tensors whose names are ours. min-dalle
leaves no config in its local folders, so there the weights must fit mini or mega as published.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from torch import Tensor

from minidalle.bart import Bart, BartConfig
from minidalle.checkpoints import flax
from minidalle.checkpoints.parts import Part
from minidalle.checkpoints.taming import named_tensors
from minidalle.checkpoints.torch_file import load_torch_file
from minidalle.tokenizer import ByteLevelBPE
from minidalle.vqgan import VQGAN, VQGANConfig

LAYOUT = "min-dalle"
PUBLISHED_LENGTH = 256  # image tokens: what the detokenizer's file does not say
SUFFIXES = {"mega": "", "mini": "_mini"}  # of the hub's file names
ABSENT = ("dropout", "init_std", "normalize_text")  # that min-dalle's configs may leave out


def find_barts(folder: Path) -> list[Part]:
    """The Barts in a folder: mini, mega, both or none."""
    if not folder.is_dir():
        folder = folder.parent
    places = [(variant, folder, suffix) for variant, suffix in SUFFIXES.items()]
    if folder.name == "dalle_bart_mini":
        places = [("mini", folder, "")]
    places += [(variant, folder / f"dalle_bart_{variant}", "") for variant in SUFFIXES]
    return [
        Part(
            Bart,
            LAYOUT,
            weights=(place / f"encoder{suffix}.pt", place / f"decoder{suffix}.pt"),
            config=partial(bart_config, place, suffix),
            tensors=partial(bart_tensors, place, suffix),
            variant=variant,
        )
        for variant, place, suffix in places
        if all((place / f"{half}{suffix}.pt").is_file() for half in ("encoder", "decoder"))
    ]


def find_vqgans(path: Path, *, image_length: int | None = None) -> list[Part]:
    """The detokenizer in a folder; `image_length` is N, which its file does not say."""
    folder = path if path.is_dir() else path.parent
    length = image_length or PUBLISHED_LENGTH
    return [
        Part(
            VQGAN,
            LAYOUT,
            weights=(file,),
            config=partial(detokenizer_config, file, length),
            tensors=partial(detokenizer_tensors, file),
        )
        for file in (folder / "detoker.pt", folder / "vqgan" / "detoker.pt")
        if file.is_file()
    ]


def variants_among(names: list[str]) -> list[str]:
    """Which of mega and mini the files of a hub repository hold."""
    return [name for name, suffix in SUFFIXES.items() if f"encoder{suffix}.pt" in names]


def files_of(variant: str) -> list[str]:
    """The hub's files of mini or mega, and the detokenizer."""
    if variant not in SUFFIXES:
        raise ValueError(f"variant is {variant!r}; min-dalle has {', '.join(SUFFIXES)}")
    names = ("encoder.pt", "decoder.pt", "vocab.json", "merges.txt", "config.json")
    suffix = SUFFIXES[variant]
    return [name.replace(".", f"{suffix}.") for name in names] + ["detoker.pt"]


def load_tokenizer(part: Part) -> ByteLevelBPE:
    """The tokenizer beside a Bart: vocabulary and merges bear the suffix of its files."""
    folder, suffix = part.weights[0].parent, part.weights[0].stem.removeprefix("encoder")
    return ByteLevelBPE.load(folder / f"vocab{suffix}.json", folder / f"merges{suffix}.txt")


def bart_config(folder: Path, suffix: str) -> BartConfig:
    """The config beside the weights; without one, the published mini's or mega's, by width."""
    path = folder / f"config{suffix}.json"
    if path.is_file():
        return flax.bart_config(path, optional=ABSENT)
    weights = folder / f"encoder{suffix}.pt"
    table = dict(bart_half(weights)).get("embed_tokens.weight")
    published = {config.d_model: config for config in (BartConfig.mini(), BartConfig.mega())}
    width = table.shape[-1] if table is not None and table.ndim else None
    if width not in published:
        raise ValueError(
            f"{weights}: no {path.name} beside it, and d_model {width} is neither DALL·E mini's "
            f"nor mega's ({', '.join(map(str, published))})"
        )
    return published[width]


def bart_tensors(folder: Path, suffix: str) -> Iterator[tuple[str, Tensor]]:
    """Encoder and decoder together; the head lies with the decoder."""
    for half in ("encoder", "decoder"):
        for name, tensor in bart_half(folder / f"{half}{suffix}.pt"):
            yield (name if name.startswith("lm_head.") else f"{half}.{name}"), tensor


def bart_half(path: Path) -> Iterator[tuple[str, Tensor]]:
    """The tensors of one of the files, by min-dalle's names."""
    return named_tensors(path, load_torch_file(path), "the file")


def detokenizer_tensors(path: Path) -> Iterator[tuple[str, Tensor]]:
    """Our names: the codebook is called `embedding` there, all else as in taming."""
    for name, tensor in bart_half(path):
        yield ("quantize.embedding.weight" if name == "embedding.weight" else name), tensor


def detokenizer_config(path: Path, image_length: int) -> VQGANConfig:
    """The shape of a detokenizer, read off its tensors; its pictures have `image_length` tokens."""
    shapes = {name: tuple(tensor.shape) for name, tensor in detokenizer_tensors(path)}
    try:
        n_embed, embed_dim = shapes["quantize.embedding.weight"]
        z_channels = shapes["post_quant_conv.weight"][0]
        widths: list[int] = []
        while (name := f"decoder.up.{len(widths)}.block.0.conv1.weight") in shapes:
            widths.append(shapes[name][0])
        ch = math.gcd(*widths)
        blocks = 0
        while f"decoder.up.0.block.{blocks}.conv1.weight" in shapes:
            blocks += 1
        side = math.isqrt(image_length) * 2 ** (len(widths) - 1)
        return VQGANConfig(
            ch=ch,
            ch_mult=tuple(width // ch for width in widths),
            num_res_blocks=blocks - 1,
            attn_resolutions=tuple(
                side >> level
                for level in range(len(widths))
                if f"decoder.up.{level}.attn.0.q.weight" in shapes
            ),
            resolution=side,
            z_channels=z_channels,
            embed_dim=embed_dim,
            n_embed=n_embed,
            encoder=False,
        )
    except (KeyError, ValueError, IndexError, ZeroDivisionError) as error:
        raise ValueError(f"{path}: not min-dalle's detokenizer: {error}") from error
