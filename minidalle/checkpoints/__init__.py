"""Checkpoints: one file per layout, and here the functions that find out which layout a path has.

    load_bart(path), load_vqgan(path), load_tokenizer(path)

The layout is detected from the files, never guessed: a path that is none of the known layouts is
refused, with what was found there. Checkpoints are data: nothing in them is ever executed.
"""

from __future__ import annotations

from pathlib import Path

import torch

from minidalle.bart import Bart
from minidalle.checkpoints import flax, native
from minidalle.tokenizer import ByteLevelBPE
from minidalle.vqgan import VQGAN

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def to_dtype(dtype: str | torch.dtype) -> torch.dtype:
    """A torch dtype from its name; ValueError for one we do not compute in."""
    if isinstance(dtype, torch.dtype):
        return dtype
    if dtype not in DTYPES:
        raise ValueError(f"dtype is {dtype!r}; it must be one of {', '.join(DTYPES)}")
    return DTYPES[dtype]


def to_device(device: str) -> str:
    """The device, if torch knows it and this machine has it; ValueError if not."""
    try:
        kind = torch.device(device).type
    except RuntimeError:
        raise ValueError(f"device is {device!r}; it must be cpu, cuda, cuda:1, mps …") from None
    if kind == "cuda" and not torch.cuda.is_available():
        raise ValueError(f"device is {device!r}; this torch sees no CUDA GPU, so use cpu")
    return device


def load_bart(
    path: str | Path, *, device: str = "cpu", dtype: str | torch.dtype = "float32"
) -> Bart:
    """The Bart in a folder of any known layout, in eval mode.

    FileNotFoundError, ValueError where there is none.
    """
    folder = existing_folder(path)
    if native.is_native(folder):
        return native.load_bart(folder, device=to_device(device), dtype=to_dtype(dtype))
    if flax.is_bart(folder):
        return flax.load_bart(folder, device=to_device(device), dtype=to_dtype(dtype))
    raise unknown_layout(folder, "Bart")


def load_vqgan(
    path: str | Path, *, device: str = "cpu", dtype: str | torch.dtype = "float32"
) -> VQGAN:
    """The VQGAN in a folder of any known layout, in eval mode.

    FileNotFoundError, ValueError where there is none.
    """
    folder = existing_folder(path)
    if native.is_native(folder):
        return native.load_vqgan(folder, device=to_device(device), dtype=to_dtype(dtype))
    if flax.is_vqgan(folder):
        return flax.load_vqgan(folder, device=to_device(device), dtype=to_dtype(dtype))
    raise unknown_layout(folder, "VQGAN")


def load_tokenizer(path: str | Path) -> ByteLevelBPE:
    """The tokenizer in a folder, from `tokenizer.json` or from `vocab.json` and `merges.txt`."""
    return ByteLevelBPE.load(path)


def existing_folder(path: str | Path) -> Path:
    """The path, if it is a folder."""
    folder = Path(path)
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder} is not a folder that exists; a checkpoint is a folder")
    return folder


def unknown_layout(folder: Path, part: str) -> ValueError:
    """The error for a folder that holds no `part` in a layout we know."""
    found = ", ".join(sorted(path.name for path in folder.iterdir())[:12]) or "nothing"
    return ValueError(
        f"{folder} holds no {part} in a known layout. Looked for: minidalle's own "
        f'(config.json with "format": "{native.FORMAT}"), Flax (config.json and {flax.WEIGHTS}). '
        f"Found: {found}"
    )
