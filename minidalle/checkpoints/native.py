"""minidalle's own layout: a folder with `config.json`, a safetensors file per part, a tokenizer.

    config.json          {"format": "minidalle", "version": 1, "bart": {…}, "vqgan": {…}, …}
    bart.safetensors     the parameters of Bart under their module names
    vqgan.safetensors    the parameters of VQGAN, likewise (these are taming-transformers' names)
    clip.safetensors     the parameters of CLIP, likewise
    tokenizer.json       byte-level BPE, in the format of the `tokenizers` library
    enwiki-words-frequency.txt    the normalizer's word list, where the model came with one

A part that a folder does not hold is null in the config. Weights may be stored in half precision;
they are cast to the dtype asked for on loading. Every key and every shape must fit: nothing is
skipped in silence.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import asdict, fields
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from minidalle.bart import Bart, BartConfig
from minidalle.checkpoints.parts import Part, config_from, one_line, read_json, write_atomically
from minidalle.clip import CLIP, CLIPConfig
from minidalle.sampling import SamplingConfig
from minidalle.tokenizer import ByteLevelBPE
from minidalle.vqgan import VQGAN, VQGANConfig

FORMAT, VERSION = "minidalle", 1
STORED = ("F32", "F16", "BF16", "F64")  # safetensors' names of the precisions that are read
KINDS = {Bart: ("bart", BartConfig), VQGAN: ("vqgan", VQGANConfig), CLIP: ("clip", CLIPConfig)}
WORD_LIST = "enwiki-words-frequency.txt"  # for hashtags; as it is called beside DALL·E mini


def is_native(folder: Path) -> bool:
    """Whether the folder's config.json says that it is one of ours."""
    path = folder / "config.json"
    return path.is_file() and read_json(path).get("format") == FORMAT


def save(
    folder: str | Path,
    *,
    bart: Bart | None = None,
    vqgan: VQGAN | None = None,
    clip: CLIP | None = None,
    tokenizer: ByteLevelBPE | None = None,
    sampling: SamplingConfig | None = None,
    word_list: str | Path | None = None,
    dtype: torch.dtype = torch.float32,
) -> None:
    """Write the given parts.

    Each file is written aside and renamed, the config last, so none is ever half there.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    for name, part in (("bart", bart), ("vqgan", vqgan), ("clip", clip)):
        if part is not None:
            write_weights(folder / f"{name}.safetensors", part, dtype)
    if tokenizer is not None:
        tokenizer.save(folder)
    if word_list is not None:
        write_atomically(folder / WORD_LIST, Path(word_list).read_bytes())
    config = {
        "format": FORMAT,
        "version": VERSION,
        "bart": asdict(bart.config) if bart is not None else None,
        "vqgan": asdict(vqgan.config) if vqgan is not None else None,
        "clip": asdict(clip.config) if clip is not None else None,
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
    except SafetensorError as error:  # what the library makes of a full disk
        raise OSError(f"{path} cannot be written: {one_line(error)}") from error
    except RuntimeError as error:  # what it makes of parameters that share memory
        raise ValueError(f"{path} cannot be written: {one_line(error)}") from error
    finally:
        temporary.unlink(missing_ok=True)


def read_config(folder: Path) -> dict[str, Any]:
    """The checked contents of a native folder's config.json."""
    path = folder / "config.json"
    config = read_json(path)
    if config.get("format") != FORMAT:
        raise ValueError(f"{path}: format is {config.get('format')!r:.80}, expected {FORMAT!r}")
    if config.get("version") != VERSION:
        raise ValueError(
            f"{path}: version is {config.get('version')!r:.80}; this minidalle reads {VERSION}. "
            f"Install the minidalle that wrote it, or convert the folder again"
        )
    return config


def part_config(folder: Path, name: str, kind: type) -> Any:
    """One part's config dataclass from config.json; unknown fields are refused by name."""
    path, values = folder / "config.json", read_config(folder).get(name)
    known = {field.name for field in fields(kind)}
    if not isinstance(values, dict) or set(values) - known:
        extra = sorted(set(values) - known) if isinstance(values, dict) else values
        raise ValueError(
            f"{path}: {name} has unknown fields {extra!r:.80}; known are {sorted(known)}"
        )
    return config_from(path, values, kind, optional=known)


def find(path: Path, kind: type[Bart] | type[VQGAN] | type[CLIP]) -> list[Part]:
    """The part of a kind in a folder of ours, or beside one of its weights files."""
    folder = path if path.is_dir() else path.parent
    name, config_kind = KINDS[kind]
    if not is_native(folder) or read_config(folder).get(name) is None:
        return []
    weights = folder / f"{name}.safetensors"
    config = partial(part_config, folder, name, config_kind)
    return [Part(kind, FORMAT, (weights,), config, partial(read_tensors, weights))]


def load_sampling(folder: Path) -> SamplingConfig:
    """The folder's sampling defaults; plain sampling where it states none."""
    if read_config(folder).get("sampling") is None:
        return SamplingConfig()
    return part_config(folder, "sampling", SamplingConfig)


def read_tensors(path: Path) -> Iterator[tuple[str, Tensor]]:
    """The parameters in a safetensors file, mapped into memory."""
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            for name in file.keys():  # noqa: SIM118 - the file is no dictionary
                dtype = file.get_slice(name).get_dtype()
                if dtype not in STORED:
                    raise ValueError(f"{path}: {name!r:.80} is {dtype}; known are {STORED}")
                yield name, file.get_tensor(name)
    except FileNotFoundError:
        raise FileNotFoundError(
            f"{path}: missing, although {path.parent / 'config.json'} describes it"
        ) from None
    except SafetensorError as error:
        raise ValueError(f"{path}: not a whole safetensors file: {one_line(error)}") from error
