"""Checkpoints: one file per layout, and here the functions that find out which layout a path has.

    load_bart(path), load_vqgan(path), load_clip(path), load_tokenizer(path)

The layout is detected from the files, never guessed: a path that is none of the known layouts is
refused, with what was found there, and so is one that is two of them, unless `variant` decides.
Checkpoints are data: nothing in them is ever executed.
"""

from __future__ import annotations

import logging
from functools import partial
from pathlib import Path

import torch

from minidalle.bart import Bart
from minidalle.checkpoints import flax, hub, min_dalle, native, taming
from minidalle.checkpoints.native import WORD_LIST
from minidalle.checkpoints.parts import Part
from minidalle.clip import CLIP
from minidalle.sampling import SamplingConfig
from minidalle.tokenizer import ByteLevelBPE
from minidalle.vqgan import VQGAN

log = logging.getLogger(__name__)

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
PUBLISHED_SAMPLING = SamplingConfig(temperature=1.0, top_k=50, top_p=1.0, condition_scale=10.0)
WORDS_REPOSITORY = "dalle-mini/dalle-mini"  # has the word list for hashtags, mega's has not

LOOKED_FOR = {
    native.FORMAT: f'config.json with "format": "{native.FORMAT}"',
    flax.LAYOUT: f"config.json and {flax.WEIGHTS}",
    min_dalle.LAYOUT: "encoder.pt and decoder.pt, detoker.pt",
    taming.LAYOUT: " or ".join(taming.NAMES) + ", or the path of another .ckpt",
}


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
    path: str | Path,
    *,
    variant: str | None = None,
    device: str = "cpu",
    dtype: str | torch.dtype = "float32",
) -> Bart:
    """The Bart in a folder of any known layout, in eval mode.

    path: a folder, or a file in it.
    variant: which, where there are several: "mini" or "mega", or a layout's name.
    device, dtype: where and in what precision to have it; arrays are cast as they are read.
    Raises FileNotFoundError, ValueError where there is none, or where anything does not fit.
    """
    return choose(path, Bart, find_barts(Path(path)), variant).load(
        to_device(device), to_dtype(dtype)
    )


def load_vqgan(
    path: str | Path,
    *,
    variant: str | None = None,
    image_length: int | None = None,
    device: str = "cpu",
    dtype: str | torch.dtype = "float32",
) -> VQGAN:
    """The VQGAN in a folder or file of any known layout, in eval mode.

    image_length: N, for min-dalle's detoker.pt, which does not say it; 256 unless given.
    path, variant, device, dtype and what is raised: as for `load_bart`.
    """
    return choose(path, VQGAN, find_vqgans(Path(path), image_length), variant).load(
        to_device(device), to_dtype(dtype)
    )


def load_clip(
    path: str | Path, *, device: str = "cpu", dtype: str | torch.dtype = "float32"
) -> CLIP:
    """The CLIP in a folder of ours, in eval mode; for transformers', see `TransformersCLIP`.

    path, device, dtype and what is raised: as for `load_bart`.
    """
    parts = native.find(Path(path), CLIP)
    return choose(path, CLIP, parts).load(to_device(device), to_dtype(dtype))


def load_tokenizer(path: str | Path, *, variant: str | None = None) -> ByteLevelBPE:
    """The tokenizer in a folder, from `tokenizer.json` or from `vocab.json` and `merges.txt`.

    variant: "mini" or "mega", where min-dalle's files of both are there.
    """
    parts = min_dalle.find_barts(Path(path))
    if parts:
        return min_dalle.load_tokenizer(choose(path, Bart, parts, variant))
    belongs_to_weights = Path(path).suffix in (".msgpack", ".safetensors")
    return ByteLevelBPE.load(Path(path).parent if belongs_to_weights else path)


def locate(path: str | Path, *, revision: str | None = None, variant: str | None = None) -> Path:
    """The folder or file that is meant; a hub id, "owner/name" or with "@revision", is fetched.

    Raises what `hub.fetch` raises, and ValueError for a revision of something that has none.
    """
    repo_id, _, stated = str(path).partition("@")
    if Path(path).exists() or not hub.is_repo_id(repo_id):
        if revision is not None:
            raise ValueError(f"{path} is no hub id, so it has no revision {revision!r}")
        return Path(path)
    wanted = partial(files_to_fetch, variant=variant)
    try:
        return hub.fetch(repo_id, wanted, revision=revision or stated or None)
    except ValueError as error:
        raise ValueError(f"{path} is no folder here, and as a hub id: {error}") from error
    except OSError as error:
        raise OSError(f"{path} is no folder here, and as a hub id: {error}") from error


def files_to_fetch(names: list[str], variant: str | None = None) -> list[str]:
    """Of the files in a hub repository, those that loading it needs."""
    tokenizer = ["tokenizer.json", "vocab.json", "merges.txt", WORD_LIST]
    if flax.WEIGHTS in names:
        wanted = ["config.json", flax.WEIGHTS, *tokenizer]
    elif weights := {"bart.safetensors", "vqgan.safetensors", "clip.safetensors"} & set(names):
        wanted = ["config.json", *sorted(weights), *tokenizer]
    elif variants := min_dalle.variants_among(names):
        if variant is None and len(variants) > 1:
            raise ValueError(f"holds {' and '.join(variants)}; choose by variant=")
        wanted = min_dalle.files_of(variant or variants[0])
    else:
        raise ValueError(f"holds no known layout; found {', '.join(names[:12])}")
    return [name for name in wanted if name in names]


def hashtag_words(source: Path) -> Path | None:
    """The word list beside a checkpoint; for one from the hub, else DALL·E mini's.

    None where there is none, or no way to get it: hashtags stay whole then.
    """
    folder = source if source.is_dir() else source.parent
    if (folder / WORD_LIST).is_file():
        return folder / WORD_LIST
    from_hub = folder.parent.name == "snapshots"  # as the hub's cache is laid out
    if not from_hub or native.is_native(folder):
        return None
    try:
        folder = hub.fetch(WORDS_REPOSITORY, lambda names: [n for n in names if n == WORD_LIST])
        return folder / WORD_LIST if (folder / WORD_LIST).is_file() else None
    except (ValueError, OSError) as error:
        log.warning("hashtags will not be split: %s", error)
        return None


def load_sampling(path: str | Path) -> SamplingConfig:
    """The sampling defaults of a folder of ours; those of DALL·E mini for any other layout."""
    folder = Path(path)
    return native.load_sampling(folder) if native.is_native(folder) else PUBLISHED_SAMPLING


def find_barts(path: Path) -> list[Part]:
    """Every Bart that a path may mean."""
    return [*native.find(path, Bart), *flax.find(path, Bart), *min_dalle.find_barts(path)]


def find_vqgans(
    path: Path, image_length: int | None = None, drop_classes: bool = False
) -> list[Part]:
    """Every VQGAN that a path may mean."""
    return [
        *native.find(path, VQGAN),
        *flax.find(path, VQGAN),
        *min_dalle.find_vqgans(path, image_length=image_length),
        *taming.find(path, drop_classes=drop_classes),
    ]


def choose(path: str | Path, kind: type, parts: list[Part], variant: str | None = None) -> Part:
    """The one part that is meant; errors for none and for several."""
    path, name = Path(path), kind.__name__
    if not path.exists():
        raise FileNotFoundError(f"{path}: there is no such folder or file")
    if path.is_file():
        parts = [part for part in parts if path in part.weights]
    if variant is not None:
        fitting = [part for part in parts if variant in (part.variant, part.layout)]
    else:
        fitting = parts
    if len(fitting) == 1:
        return fitting[0]
    choices = ", ".join(describe(part) for part in parts)
    if parts and variant is not None and not fitting:
        raise ValueError(f"{path} holds no {name} of variant {variant!r}; there is: {choices}")
    if parts:
        raise ValueError(f"{path} holds more than one {name}: {choices}; choose by variant=")
    inside = sorted(path.iterdir()) if path.is_dir() else [path]
    found = ", ".join(entry.name for entry in inside[:12]) or "nothing"
    looked_for = "; ".join(f"{layout}: {files}" for layout, files in LOOKED_FOR.items())
    raise ValueError(
        f"{path} holds no {name} in a known layout. Looked for {looked_for}. Found: {found}"
    )


def describe(part: Part) -> str:
    """A part in a few words: "mega (min-dalle, encoder.pt and decoder.pt)"."""
    files = " and ".join(file.name for file in part.weights)
    return f"{part.variant or part.layout} ({part.layout}, {files})"
