"""The layout that DALL·E mini, DALL·E mega and their VQGAN are published in.

A folder with `config.json` and `flax_model.msgpack`; beside a Bart also the tokenizer's files.
Decoder and encoder layers are stacked on a leading axis (`FlaxBartEncoderLayers`) or lie one by one
(`FlaxBartEncoderLayer_0` …); dense kernels are (in, out), convolutions (height, width, in, out).
Arrays are read one layer at a time and cast on the way.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from minidalle.bart import Bart, BartConfig
from minidalle.checkpoints.msgpack import Leaf, read_index
from minidalle.checkpoints.parts import Part, config_from, read_json, refuse_other_flags
from minidalle.vqgan import VQGAN, VQGANConfig

LAYOUT = "flax"
WEIGHTS = "flax_model.msgpack"

# Flags of published configs that change the network, with the one value that is implemented.
BART_FLAGS = {
    "activation_function": "gelu",
    "ln_positions": "normformer",
    "ln_type": "layernorm",
    "use_absolute_position_embeddings": True,
    "use_final_ln_decoder": True,
    "use_final_ln_encoder": True,
    "use_glu": True,
    "force_ln_scale": False,
    "scale_embedding": False,
    "tie_word_embeddings": False,
    "use_alibi": False,
    "use_bias": False,
    "use_cosine_attention": False,
    "use_deepnet_scaling": False,
    "use_head_scale": False,
    "use_swin_position_embeddings": False,
    "sinkhorn_iters": 1,
    "is_encoder_decoder": True,
}
VQGAN_FLAGS = {"double_z": False, "give_pre_end": False, "resamp_with_conv": True, "dropout": 0.0}

BART_NAMES = {
    "FlaxBartAttention_0": "self_attn",
    "FlaxBartAttention_1": "encoder_attn",
    "GLU_0": "glu",
    "GLU_0/LayerNorm_0": "ln0",
    "GLU_0/LayerNorm_1": "ln1",
    "Dense_0": "fc0",
    "Dense_1": "fc1",
    "Dense_2": "fc2",
    "LayerNorm_0": "pre_self_attn_layer_norm",
    "LayerNorm_1": "self_attn_layer_norm",
    "LayerNorm_2": "pre_encoder_attn_layer_norm",
    "LayerNorm_3": "encoder_attn_layer_norm",
}
LEAF_NAMES = {"kernel": "weight", "scale": "weight", "embedding": "weight", "bias": "bias"}
STACKED = re.compile(r"FlaxBart(En|De)coderLayers$")
SINGLE = re.compile(r"FlaxBart(En|De)coderLayer_(\d+)$")


def find(path: Path, kind: type[Bart] | type[VQGAN]) -> list[Part]:
    """The Bart or the VQGAN in a folder, or that a weights file in it belongs to."""
    folder = path if path.is_dir() else path.parent
    weights, config = folder / WEIGHTS, folder / "config.json"
    if not (weights.is_file() and config.is_file()):
        return []
    values = read_json(config)
    if kind is Bart and values.get("model_type") == "dallebart":
        read = partial(read_bart, weights)
        fields = partial(bart_config, config)
        return [Part(Bart, LAYOUT, (weights,), fields, read, stated=partial(precision, weights))]
    if kind is VQGAN and "n_embed" in values:
        read = partial(read_vqgan, weights)
        fields = partial(vqgan_config, config)
        return [Part(VQGAN, LAYOUT, (weights,), fields, read, stated=partial(precision, weights))]
    return []


def bart_config(path: Path, optional: Iterable[str] = ()) -> BartConfig:
    """The published config as ours; a flag that would change the network is refused by name."""
    values = read_json(path)
    refuse_other_flags(path, values, BART_FLAGS)
    values["codebook_size"] = values.get("decoder_start_token_id")
    return config_from(path, values, BartConfig, optional=optional)


def vqgan_config(path: Path) -> VQGANConfig:
    """The published config as ours; a flag that would change the network is refused by name."""
    values = read_json(path)
    refuse_other_flags(path, values, VQGAN_FLAGS)
    return config_from(path, values, VQGANConfig, optional=("patch", "encoder"))


def precision(path: Path) -> torch.dtype:
    """What the first array is stored in; ValueError where there is none."""
    for leaf in read_index(path).values():
        return leaf.dtype
    raise ValueError(f"{path} holds no arrays")


def read_bart(path: Path) -> Iterator[tuple[str, Tensor]]:
    """A Bart's parameters under our names, one layer in memory at a time."""
    for leaf in read_index(path).values():
        yield from bart_tensors(leaf)


def read_vqgan(path: Path) -> Iterator[tuple[str, Tensor]]:
    """A VQGAN's parameters under our names."""
    for leaf in read_index(path).values():
        yield vqgan_name(leaf.path), to_torch_axes(leaf.read(), leaf.path[-1])


def bart_tensors(leaf: Leaf) -> Iterator[tuple[str, Tensor]]:
    """Our names and tensors for one array of the file; a stacked array has one for each layer."""
    *_, last = leaf.path
    layers = next((i for i, part in enumerate(leaf.path) if STACKED.match(part)), None)
    if layers is None:
        yield bart_name(leaf.path), to_torch_axes(leaf.read(), last)
        return
    if not leaf.shape:
        raise ValueError(f"{leaf.file}: {'/'.join(leaf.path)} has no axis of layers")
    for i in range(leaf.shape[0]):
        path = (
            *leaf.path[:layers],
            leaf.path[layers].removesuffix("s") + f"_{i}",
            *leaf.path[layers + 1 :],
        )
        yield bart_name(path), to_torch_axes(leaf.read(i), last)


def bart_name(path: tuple[str, ...]) -> str:
    """Our name for a path such as (…, "FlaxBartEncoderLayer_0", "GLU_0", "Dense_0", "kernel")."""
    parts = []
    for i, part in enumerate(path[:-1]):
        layer = SINGLE.match(part)
        within = f"{path[i - 1]}/{part}" if i else part
        parts.append(layer[2] if layer else BART_NAMES.get(within, BART_NAMES.get(part, part)))
    return ".".join([*parts, LEAF_NAMES.get(path[-1], path[-1])]).removeprefix("model.")


def vqgan_name(path: tuple[str, ...]) -> str:
    """("decoder", "up_4", "attn_0", "norm", "scale") -> "decoder.up.4.attn.0.norm.weight"."""
    parts = list(path[:-1])
    if len(parts) > 1 and parts[1] != "mid":
        parts = [re.sub(r"^(down|up|block|attn)_(\d+)$", r"\1.\2", part) for part in parts]
    return ".".join([*parts, LEAF_NAMES.get(path[-1], path[-1])])


def to_torch_axes(tensor: Tensor, leaf: str) -> Tensor:
    """Kernels in torch's order: (in, out) -> (out, in), (h, w, in, out) -> (out, in, h, w)."""
    if leaf != "kernel" or tensor.ndim < 2:
        return tensor
    return tensor.permute(3, 2, 0, 1) if tensor.ndim == 4 else tensor.transpose(-1, -2)
