"""The layout that taming-transformers publishes its VQGANs in.

A Lightning checkpoint (`last.ckpt`): a file of torch.save with the parameters under "state_dict",
and much besides. Module names are ours, since ours are taming's. The config is a `config.json` or a
yaml beside it; without either the weights must fit the published f16-16384.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path

import yaml
from torch import Tensor

from minidalle.checkpoints import flax
from minidalle.checkpoints.parts import (
    Part,
    config_from,
    one_line,
    read_json,
    refuse_other_flags,
)
from minidalle.checkpoints.torch_file import load_torch_file
from minidalle.vqgan import VQGAN, VQGANConfig

LAYOUT = "taming"
NAMES = ("last.ckpt", "model.ckpt")  # that taming gives; any other name must be given as a path
TARGET = "taming.models.vqgan.VQModel"
MAX_YAML, MAX_DEPTH = 2**16, 16  # bytes, and lists within lists: the reader of YAML is slow


def find(path: Path, *, drop_classes: bool = False) -> list[Part]:
    """The VQGAN in a `.ckpt`, or in a folder that has one under a name of taming's."""
    files = [path] if path.is_file() else [path / name for name in NAMES]
    return [
        Part(
            VQGAN,
            LAYOUT,
            weights=(file,),
            config=partial(read_config, file.parent),
            tensors=partial(read_tensors, file, drop_classes),
            variant=file.stem,
        )
        for file in files
        if file.suffix == ".ckpt" and file.is_file()
    ]


def read_config(folder: Path) -> VQGANConfig:
    """The config beside a checkpoint: published JSON, taming's yaml, else f16-16384."""
    path = folder / "config.json"
    if path.is_file() and "n_embed" in read_json(path):
        return flax.vqgan_config(path)
    yamls = sorted(folder.glob("*.yaml"))
    if len(yamls) > 1:
        raise ValueError(
            f"{folder}: which is the checkpoint's config: {', '.join(p.name for p in yamls)}? "
            f"Leave one"
        )
    return read_yaml(yamls[0]) if yamls else VQGANConfig.f16_16384()


def read_yaml(path: Path) -> VQGANConfig:
    """taming's own config: model.params.{embed_dim, n_embed, ddconfig}."""
    if path.stat().st_size > MAX_YAML:
        raise ValueError(f"{path}: {path.stat().st_size:,} bytes are too many for a config")
    try:
        text = path.read_text(encoding="utf-8")
        refuse_what_expands(text)
        document = yaml.safe_load(text)
        model = document["model"]
        params = model["params"]
        values = {**params["ddconfig"], **{k: params[k] for k in ("n_embed", "embed_dim")}}
    except (yaml.YAMLError, ValueError, OverflowError) as error:
        raise ValueError(f"{path}: not valid YAML: {one_line(error)}") from error
    except (KeyError, TypeError) as error:
        raise ValueError(
            f"{path}: not a config of taming's: expected model.params with ddconfig, n_embed and "
            f"embed_dim ({one_line(error)})"
        ) from error
    refuse_other_flags(path, model, {"target": TARGET})
    refuse_other_flags(path, values, flax.VQGAN_FLAGS)
    return config_from(path, values, VQGANConfig, optional=("patch", "encoder"))


def refuse_what_expands(text: str) -> None:
    """Raise ValueError for what taming's configs do not use, and what makes YAML dangerous.

    Aliases make a few lines an object that is too large to print; tags name classes.
    """
    depth = 0
    for event in yaml.parse(text, Loader=yaml.SafeLoader):
        depth += isinstance(event, yaml.CollectionStartEvent)
        depth -= isinstance(event, yaml.CollectionEndEvent)
        if depth > MAX_DEPTH or getattr(event, "anchor", None) or getattr(event, "tag", None):
            raise ValueError(
                f"line {event.start_mark.line + 1} has an alias, a tag or nests too deep"
            )


def read_tensors(path: Path, drop_classes: bool) -> Iterator[tuple[str, Tensor]]:
    """The parameters, without those of the training losses (`loss.…`)."""
    document = load_torch_file(path, drop_classes=drop_classes)
    state = document.get("state_dict") if isinstance(document, dict) else None
    yield from named_tensors(path, state, "state_dict", ignored="loss.")


def named_tensors(
    path: Path, state: object, what: str, *, ignored: str | None = None
) -> Iterator[tuple[str, Tensor]]:
    """The entries of a dictionary of tensors; ValueError for anything else."""
    if not isinstance(state, dict):
        raise ValueError(f"{path}: {what} is {type(state).__name__}, expected a dict of tensors")
    for name, value in state.items():
        if not isinstance(name, str) or not isinstance(value, Tensor):
            raise ValueError(f"{path}: {what} maps {name!r:.80} to {type(value).__name__}")
        if not value.is_floating_point() or value.device.type != "cpu":
            raise ValueError(f"{path}: {name} is {value.dtype}, expected floating point")
        if ignored is None or not name.startswith(ignored):
            yield name, value.detach()
