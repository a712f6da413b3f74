"""minidalle's own layout: a folder with `config.json`, a safetensors file per part, a tokenizer.

    config.json          {"format": "minidalle", "version": 1, "bart": {…}, "vqgan": {…}, …}
    bart.safetensors     the parameters of Bart under their module names
    vqgan.safetensors    the parameters of VQGAN, likewise (these are taming-transformers' names)
    tokenizer.json       byte-level BPE, in the format of the `tokenizers` library

A part that a folder does not hold is null in the config. Weights may be stored in half precision;
they are cast to the dtype asked for on loading. Every key and every shape must fit: nothing is
skipped in silence.
"""

from __future__ import annotations

import json
import os
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import nn

from minidalle.bart import Bart, BartConfig
from minidalle.sampling import SamplingConfig
from minidalle.tokenizer import ByteLevelBPE
from minidalle.vqgan import VQGAN, VQGANConfig

FORMAT, VERSION = "minidalle", 1


def is_native(folder: Path) -> bool:
    """Whether the folder's config.json says that it is one of ours."""
    path = folder / "config.json"
    return path.is_file() and read_json(path).get("format") == FORMAT


def save(
    folder: str | Path,
    *,
    bart: Bart | None = None,
    vqgan: VQGAN | None = None,
    tokenizer: ByteLevelBPE | None = None,
    sampling: SamplingConfig | None = None,
    dtype: torch.dtype = torch.float32,
) -> None:
    """Write the given parts.

    Each file is written aside and renamed, the config last, so none is ever half there.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    for name, part in (("bart", bart), ("vqgan", vqgan)):
        if part is not None:
            write_weights(folder / f"{name}.safetensors", part, dtype)
    if tokenizer is not None:
        tokenizer.save(folder)
    config = {
        "format": FORMAT,
        "version": VERSION,
        "bart": asdict(bart.config) if bart is not None else None,
        "vqgan": asdict(vqgan.config) if vqgan is not None else None,
        "clip": None,
        "sampling": asdict(sampling) if sampling is not None else None,
    }
    write_atomically(folder / "config.json", (json.dumps(config, indent=2) + "\n").encode())


def write_weights(path: Path, module: nn.Module, dtype: torch.dtype) -> None:
    """Write a module's parameters as safetensors, cast to `dtype`, by way of a temporary file."""
    tensors = {
        name: value.detach().to("cpu", dtype).contiguous()
        for name, value in module.state_dict().items()
    }
    temporary = path.with_name(f".{path.name}.part")
    try:
        save_file(tensors, temporary)
        temporary.chmod(0o644)  # the library writes for the owner alone
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_atomically(path: Path, data: bytes) -> None:
    """Write a file aside, then rename it into place."""
    temporary = path.with_name(f".{path.name}.part")
    try:
        temporary.write_bytes(data)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file; ValueError names the file where it holds anything else."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: not valid JSON: {error}") from error
    if not isinstance(value, dict):
        raise ValueError(f"{path}: expected a JSON object, found {type(value).__name__}")
    return value


def read_config(folder: Path) -> dict[str, Any]:
    """The checked contents of a native folder's config.json."""
    path = folder / "config.json"
    config = read_json(path)
    if config.get("format") != FORMAT:
        raise ValueError(f"{path}: format is {config.get('format')!r}, expected {FORMAT!r}")
    if config.get("version") != VERSION:
        raise ValueError(
            f"{path}: version is {config.get('version')!r}; this minidalle reads {VERSION}. "
            f"Install the minidalle that wrote it, or convert the folder again"
        )
    return config


def part_config(folder: Path, name: str, kind: type) -> Any:
    """One part's config dataclass from config.json; unknown fields are refused by name."""
    values = read_config(folder).get(name)
    if values is None:
        raise ValueError(f"{folder / 'config.json'}: this checkpoint has no {name!r}")
    known = {field.name for field in fields(kind)}
    if not isinstance(values, dict) or set(values) - known:
        extra = sorted(set(values) - known) if isinstance(values, dict) else values
        raise ValueError(
            f"{folder / 'config.json'}: {name} has unknown fields {extra}; "
            f"known are {sorted(known)}"
        )
    return kind(
        **{key: tuple(value) if isinstance(value, list) else value for key, value in values.items()}
    )


def load_bart(folder: Path, *, device: str = "cpu", dtype: torch.dtype = torch.float32) -> Bart:
    """The folder's Bart, in eval mode."""
    config = part_config(folder, "bart", BartConfig)
    return load_weights(folder / "bart.safetensors", Bart, config, device, dtype)


def load_vqgan(folder: Path, *, device: str = "cpu", dtype: torch.dtype = torch.float32) -> VQGAN:
    """The folder's VQGAN, in eval mode."""
    config = part_config(folder, "vqgan", VQGANConfig)
    return load_weights(folder / "vqgan.safetensors", VQGAN, config, device, dtype)


def load_sampling(folder: Path) -> SamplingConfig:
    """The folder's sampling defaults; plain sampling where it states none."""
    if read_config(folder).get("sampling") is None:
        return SamplingConfig()
    return part_config(folder, "sampling", SamplingConfig)


def load_weights(path: Path, kind: type, config: Any, device: str, dtype: torch.dtype) -> Any:
    """Build `kind(config)`, allocated once, and fill it from a safetensors file, strictly."""
    with torch.device("meta"):
        module = kind(config)
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            names = file.keys()
            tensors = {name: file.get_tensor(name).to(device, dtype) for name in names}
    except FileNotFoundError:
        raise FileNotFoundError(
            f"{path}: missing, although {path.parent / 'config.json'} describes it"
        ) from None
    except SafetensorError as error:
        raise ValueError(f"{path}: not a whole safetensors file: {error}") from error
    fill(module, tensors, source=str(path))
    return module


def fill(module: nn.Module, tensors: dict[str, torch.Tensor], *, source: str) -> None:
    """Give a module built on the meta device its parameters, and put it in eval mode.

    Raises ValueError where a parameter is missing, left over, or of another shape; `source` is
    named in the message.
    """
    expected = {name: tuple(value.shape) for name, value in module.state_dict().items()}
    missing, extra = sorted(set(expected) - set(tensors)), sorted(set(tensors) - set(expected))
    if missing or extra:
        raise ValueError(
            f"{source}: missing parameters {missing[:5]}, unexpected parameters {extra[:5]}"
        )
    for name, shape in expected.items():
        if tuple(tensors[name].shape) != shape:
            raise ValueError(
                f"{source}: {name} has shape {tuple(tensors[name].shape)}, "
                f"the config asks for {shape}"
            )
    module.load_state_dict(tensors, assign=True)
    module.eval()
    for parameter in module.parameters():
        parameter.requires_grad_(True)
