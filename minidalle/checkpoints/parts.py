"""One network of a checkpoint, found but not read; and how it becomes a module.

Every layout has a file of its own that finds its parts in a folder and gives their parameters one
by one, under our names. Here is what the layouts share: a part's config is checked field by field,
its parameters are cast as they come, so that the file is never in memory beside the network, and
every name and every shape must fit.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import MISSING, dataclass, fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from minidalle.bart import Bart, BartConfig
from minidalle.clip import CLIP, CLIPConfig
from minidalle.vqgan import VQGAN, VQGANConfig

MAX_JSON = 2**20  # bytes of a config file; the published ones have less than 2 kB
SLACK = 2**28  # bytes that a network may have beyond its files: these say better what is wrong


@dataclass(frozen=True)
class Part:
    """A network that lies in some files; none of its arrays was read yet."""

    kind: type[Bart] | type[VQGAN] | type[CLIP]
    layout: str  # "minidalle", "flax", "min-dalle" or "taming"
    weights: tuple[Path, ...]  # the files that hold its parameters
    config: Callable[[], BartConfig | VQGANConfig | CLIPConfig]
    tensors: Callable[[], Iterator[tuple[str, Tensor]]]  # our names, in the file's own precision
    variant: str | None = None  # "mini" or "mega", in a layout that may hold both in one folder
    stated: Callable[[], torch.dtype] | None = None  # the precision, where an index tells it

    def precision(self) -> torch.dtype:
        """What its first array is stored in; a file has rarely more than one precision.

        Raises ValueError where it holds none.
        """
        if self.stated is not None:
            return self.stated()
        for _, tensor in self.tensors():  # mapped, not read
            return tensor.dtype
        raise ValueError(f"{self.weights[0]} holds no arrays")

    def load(self, device: str = "cpu", dtype: torch.dtype = torch.float32) -> Any:
        """The network, in eval mode; ValueError where anything does not fit."""
        source, config = " and ".join(str(path) for path in self.weights), self.config()
        try:
            with torch.device("meta"), NoInitialisation():
                module = self.kind(config)
        except (RuntimeError, TypeError) as error:  # a product of sizes that torch cannot count
            raise ValueError(
                f"{source}: the config asks for impossible sizes: {config!r:.200}"
            ) from error
        count = sum(parameter.numel() for parameter in module.parameters())
        size = sum(path.stat().st_size for path in self.weights if path.is_file())
        if 2 * count > size + SLACK:  # room is made for all of them, so this comes first
            raise ValueError(
                f"{source}: {size:,} bytes, but the config asks for {count:,} parameters"
            )
        fill(module, self.tensors(), device=device, dtype=dtype, source=source)
        return module


class NoInitialisation(TorchFunctionMode):
    """Modules made inside keep their parameters as they are: no time goes into random numbers."""

    def __torch_function__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if getattr(function, "__module__", None) == "torch.nn.init":
            return kwargs["tensor"] if "tensor" in kwargs else args[0]
        return function(*args, **kwargs)


def fill(
    module: nn.Module,
    tensors: Iterable[tuple[str, Tensor]],
    *,
    device: str = "cpu",
    dtype: torch.dtype = torch.float32,
    source: str,
) -> None:
    """Give a module built on the meta device its parameters, and put it in eval mode.

    Raises ValueError where a parameter is missing, left over, or of another shape; `source` is
    named in the message.
    """
    expected = {name: tuple(value.shape) for name, value in module.state_dict().items()}
    # All room is set aside before anything is read. Memory that nobody wrote to costs nothing, and
    # the pieces that are read do not come to lie between the parameters.
    room = {name: torch.empty(s, dtype=dtype, device=device) for name, s in expected.items()}
    filled: dict[str, Tensor] = {}
    for name, tensor in tensors:
        if name not in expected:
            raise ValueError(f"{source}: unexpected parameter {name!r}: the config asks for none")
        if name in filled:
            raise ValueError(f"{source}: parameter {name!r} occurs twice")
        if tuple(tensor.shape) != expected[name]:
            raise ValueError(
                f"{source}: {name} has shape {tuple(tensor.shape)}, "
                f"the config asks for {expected[name]}"
            )
        place = room.pop(name)
        as_it_is = (tensor.dtype, tensor.device) == (place.dtype, place.device)
        filled[name] = tensor if as_it_is and tensor.is_contiguous() else place.copy_(tensor)
    missing = [name for name in expected if name not in filled]
    if missing:
        raise ValueError(f"{source}: {len(missing)} parameters are missing: {missing[:5]}")
    module.load_state_dict(filled, assign=True)
    module.eval()
    for parameter in module.parameters():
        parameter.requires_grad_(True)


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file; ValueError names the file where it holds anything else."""
    if path.stat().st_size > MAX_JSON:
        raise ValueError(f"{path}: {path.stat().st_size:,} bytes are too many for a config")
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: not valid JSON: {one_line(error)}") from error
    if not isinstance(value, dict):
        raise ValueError(f"{path}: expected a JSON object, found {type(value).__name__}")
    return value


def write_atomically(path: Path, data: bytes) -> None:
    """Write a file aside, then rename it into place."""
    temporary = path.with_name(f".{path.name}.part")
    try:
        temporary.write_bytes(data)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def config_from(source: Path, values: Any, kind: type, *, optional: Iterable[str] = ()) -> Any:
    """A config dataclass from a file's values, every field there and of its type.

    Values of other names are passed over; `optional` fields may be absent.
    """
    found: dict[str, Any] = {}
    for field in fields(kind):
        if field.name not in values:
            if field.name in optional and field.default is not MISSING:
                continue
            raise ValueError(f"{source}: the field {field.name!r} is missing")
        value = values[field.name]
        value = tuple(value) if isinstance(value, list) else value
        if not has_type(value, field.type):
            raise ValueError(f"{source}: {field.name} is {value!r:.80}, expected {field.type}")
        found[field.name] = value
    try:
        return kind(**found)
    except (ValueError, OverflowError) as error:
        raise ValueError(f"{source}: {one_line(error)}") from error


def one_line(error: Exception) -> str:
    """What an error says, fit for a message: others put pieces of files into theirs."""
    text = " ".join(str(error).split()) or type(error).__name__
    return "".join(c if c.isprintable() else "�" for c in text[:300])


def has_type(value: Any, annotation: str) -> bool:
    """Whether a JSON value is what a field of a config dataclass holds."""
    if annotation == "tuple[int, ...]":
        return isinstance(value, tuple) and all(type(item) is int for item in value)
    kinds = {"int": (int,), "float": (int, float), "bool": (bool,)}[annotation]
    return type(value) in kinds


def refuse_other_flags(source: Path, values: dict[str, Any], implemented: dict[str, Any]) -> None:
    """Raise ValueError for a flag whose value is not the implemented one."""
    for name, value in implemented.items():
        if values.get(name, value) != value:
            raise ValueError(
                f"{source}: {name} is {values[name]!r:.80}; only {value!r} is implemented"
            )
