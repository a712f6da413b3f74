"""From any layout to minidalle's own, and what a checkpoint holds without loading it."""

from __future__ import annotations

import os
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from minidalle.bart import Bart
from minidalle.checkpoints import (
    choose,
    find_barts,
    find_vqgans,
    hashtag_words,
    load_sampling,
    load_tokenizer,
    native,
    to_dtype,
)
from minidalle.checkpoints.parts import NoInitialisation, Part
from minidalle.clip import CLIP
from minidalle.memory import memory_needed, parameter_count
from minidalle.tokenizer import ByteLevelBPE
from minidalle.vqgan import VQGAN


def convert(
    source: str | Path,
    folder: str | Path,
    *,
    vqgan: str | Path | None = None,
    variant: str | None = None,
    dtype: torch.dtype = torch.float32,
    drop_classes: bool = False,
) -> None:
    """Write what `source` holds as a new folder of ours, whole or not at all.

    source: a folder or file in any known layout; a Bart, a VQGAN or both.
    folder: a new folder.
    vqgan: where the VQGAN is, for a source that holds only a Bart; without it the folder has none.
    variant: which, where there are several; see `load_bart`.
    dtype: the precision that weights are cast to as they are read, and stored in.
    drop_classes: pass over pickled classes in a `.ckpt`; see `load_torch_file`.
    Raises FileExistsError where the folder is there already, and what loading raises.
    """
    source, folder = Path(source), Path(folder)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise FileExistsError(f"{folder} is there already; name a new folder, or remove it")
    parts = find_parts(source, variant=variant, drop_classes=drop_classes)
    if vqgan is not None:
        length = parts["bart"].config().image_length if "bart" in parts else None
        found = find_vqgans(Path(vqgan), length, drop_classes)
        parts["vqgan"] = choose(Path(vqgan), VQGAN, found)
    temporary = folder.with_name(f".{folder.name}.part")
    shutil.rmtree(temporary, ignore_errors=True)  # of a conversion that was killed
    try:
        native.save(
            temporary,
            **{name: part.load(dtype=dtype) for name, part in parts.items()},
            tokenizer=find_tokenizer(source, variant) if "bart" in parts else None,
            sampling=load_sampling(source) if "bart" in parts else None,
            word_list=hashtag_words(source) if "bart" in parts else None,
            dtype=dtype,
        )
        os.replace(temporary, folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def find_parts(
    source: Path, *, variant: str | None = None, drop_classes: bool = False
) -> dict[str, Part]:
    """The parts of a path by name: of "bart", "vqgan" and "clip" those that are there."""
    found = {}
    length = None  # N, which a detokenizer beside a Bart is told by it
    for name, kind in {"bart": Bart, "vqgan": VQGAN, "clip": CLIP}.items():
        if kind is VQGAN:
            parts = find_vqgans(source, length, drop_classes)
        else:
            parts = find_barts(source) if kind is Bart else native.find(source, kind)
        if source.is_file():  # a weights file means the part it belongs to
            parts = [part for part in parts if source in part.weights]
        if not parts:
            continue
        # Beside a Bart that `variant` chose a single other part needs no choosing.
        found[name] = choose(source, kind, parts, variant if len(parts) > 1 or not found else None)
        length = found[name].config().image_length if kind is Bart else length
    if not found:
        choose(source, Bart, [])  # says what was looked for and what was found
    return found


def find_tokenizer(source: Path, variant: str | None) -> ByteLevelBPE | None:
    """The tokenizer beside a Bart, if there is one."""
    try:
        return load_tokenizer(source, variant=variant)
    except FileNotFoundError:
        return None


def describe(path: Path, *, variant: str | None = None) -> dict[str, Any]:
    """What a checkpoint holds, without loading its weights, as JSON can hold it.

    Memory is in bytes, by precision and number of pictures; see `memory_needed`.
    """
    # To tell a precision, pickled classes need not be refused: they are passed over, never made.
    parts = find_parts(path, variant=variant, drop_classes=True)
    tokenizer = find_tokenizer(path, variant) if "bart" in parts else None
    configs = {name: part.config() for name, part in parts.items()}
    stored = {name: part.precision() for name, part in parts.items()}
    with NoInitialisation():
        parameters = {name: parameter_count(config) for name, config in configs.items()}
    memory = [
        {
            "dtype": dtype,
            "n": n,
            **asdict(needed),
            "peak": needed.peak,
            "peak_packed": needed.peak_packed,
        }
        for dtype in ("float32", "bfloat16")
        for n in (1, 4, 9, 16)
        for needed in [
            memory_needed(
                configs.get("bart"),
                configs.get("vqgan"),
                n=n,
                dtype=to_dtype(dtype),
                parameters=sum(parameters.values()),
                halves=stored.get("bart") == torch.float16,
            )
        ]
    ]
    return {
        "path": str(path),
        "parts": {
            name: {
                "layout": part.layout,
                "variant": part.variant,
                "files": {str(file): file.stat().st_size for file in part.weights},
                "parameters": parameters[name],
                "precision": str(stored[name]).removeprefix("torch."),
                "config": asdict(configs[name]),
            }
            for name, part in parts.items()
        },
        "text_tokens": tokenizer.vocab_size if tokenizer else None,
        "memory": memory,
    }
