"""The layout that DALL·E mini, DALL·E mega and their VQGAN are published in.

A folder with `config.json` and `flax_model.msgpack`; beside a Bart also the tokenizer's files.
Decoder and encoder layers are stacked on a leading axis (`FlaxBartEncoderLayers`) or lie one by one
(`FlaxBartEncoderLayer_0` …); dense kernels are (in, out), convolutions (height, width, in, out).
Arrays are read one layer at a time and cast on the way.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from minidalle.bart import Bart, BartConfig
from minidalle.checkpoints.msgpack import Leaf, read_index
from minidalle.checkpoints.native import fill, read_json
from minidalle.vqgan import VQGAN, VQGANConfig

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


def is_bart(folder: Path) -> bool:
    """Whether the folder holds a DALL·E mini Bart."""
    return (
        _has_weights(folder) and read_json(folder / "config.json").get("model_type") == "dallebart"
    )


def is_vqgan(folder: Path) -> bool:
    """Whether the folder holds a VQGAN in vqgan-jax's layout."""
    return _has_weights(folder) and "n_embed" in read_json(folder / "config.json")


def _has_weights(folder: Path) -> bool:
    return (folder / WEIGHTS).is_file() and (folder / "config.json").is_file()


def load_bart(folder: Path, *, device: str = "cpu", dtype: torch.dtype = torch.float32) -> Bart:
    """The folder's Bart, in eval mode."""
    with torch.device("meta"):
        bart = Bart(bart_config(folder))
    tensors = {
        name: tensor.to(device, dtype).contiguous()
        for leaf in read_index(folder / WEIGHTS).values()
        for name, tensor in bart_tensors(leaf)
    }
    fill(bart, tensors, source=str(folder / WEIGHTS))
    return bart


def load_vqgan(folder: Path, *, device: str = "cpu", dtype: torch.dtype = torch.float32) -> VQGAN:
    """The folder's VQGAN, in eval mode."""
    with torch.device("meta"):
        vqgan = VQGAN(vqgan_config(folder))
    tensors = {
        vqgan_name(leaf.path): to_torch_axes(leaf.read(), leaf.path[-1])
        .to(device, dtype)
        .contiguous()
        for leaf in read_index(folder / WEIGHTS).values()
    }
    fill(vqgan, tensors, source=str(folder / WEIGHTS))
    return vqgan


def bart_config(folder: Path) -> BartConfig:
    """The published config as ours; a flag that would change the network is refused by name."""
    path = folder / "config.json"
    values = read_json(path)
    refuse_other_flags(path, values, BART_FLAGS)
    values["codebook_size"] = values.get("decoder_start_token_id")
    return _known_fields(path, values, BartConfig)


def vqgan_config(folder: Path) -> VQGANConfig:
    """The published config as ours; a flag that would change the network is refused by name."""
    path = folder / "config.json"
    values = read_json(path)
    refuse_other_flags(path, values, VQGAN_FLAGS)
    return _known_fields(path, values, VQGANConfig, optional={"patch"})


def refuse_other_flags(path: Path, values: dict[str, Any], implemented: dict[str, Any]) -> None:
    """Raise ValueError for a flag whose value is not the implemented one."""
    for name, value in implemented.items():
        if values.get(name, value) != value:
            raise ValueError(f"{path}: {name} is {values[name]!r}; only {value!r} is implemented")


def _known_fields(
    path: Path, values: dict[str, Any], kind: type, optional: set[str] = frozenset()
) -> Any:
    names = {field.name for field in fields(kind)} - optional
    missing = sorted(names - set(values))
    if missing:
        raise ValueError(f"{path}: the fields {missing} are missing")
    return kind(**{name: tuple(v) if isinstance(v := values[name], list) else v for name in names})


def bart_tensors(leaf: Leaf) -> Iterator[tuple[str, Tensor]]:
    """Our names and tensors for one array of the file; a stacked array has one for each layer."""
    *_, last = leaf.path
    layers = next((i for i, part in enumerate(leaf.path) if STACKED.match(part)), None)
    if layers is None:
        yield bart_name(leaf.path), to_torch_axes(leaf.read(), last)
        return
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
    if leaf != "kernel":
        return tensor
    return tensor.permute(3, 2, 0, 1) if tensor.ndim == 4 else tensor.transpose(-1, -2)
