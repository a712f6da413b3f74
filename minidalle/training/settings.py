"""Changing one field of a preset by name: `steps=500`, `lr=1e-3`, `d_model=192`."""

from __future__ import annotations

import ast
import difflib
from collections.abc import Iterable
from dataclasses import fields, is_dataclass, replace
from typing import Any


def with_settings(configs: tuple[Any, ...], settings: Iterable[str]) -> tuple[Any, ...]:
    """The config dataclasses with `name=value` settings applied, to nested fields too.

    Raises ValueError for a setting that is no `name=value`, a name that no field has (the nearest
    is named), or a value of another kind than the field's.
    """
    configs = tuple(configs)
    for setting in settings:
        name, equals, text = setting.partition("=")
        if not equals:
            raise ValueError(f"setting {setting!r}: expected name=value")
        known = sorted({field for config in configs for field in field_names(config)})
        if name not in known:
            (nearest,) = difflib.get_close_matches(name, known, n=1, cutoff=0)
            raise ValueError(
                f"setting {setting!r}: no field is named {name!r}; did you mean {nearest!r}? "
                f"There are: {', '.join(known)}"
            )
        configs = tuple(with_field(config, name, text) for config in configs)
    return configs


def field_names(config: Any) -> list[str]:
    """The names of a dataclass's plain fields, those of nested dataclasses included."""
    names = []
    for field in fields(config):
        value = getattr(config, field.name)
        names += field_names(value) if is_dataclass(value) else [field.name]
    return names


def with_field(config: Any, name: str, text: str) -> Any:
    """The dataclass with `name`, a field of it or nested in it, set to what `text` says."""
    changes = {}
    for field in fields(config):
        value = getattr(config, field.name)
        if is_dataclass(value):
            changes[field.name] = with_field(value, name, text)
        elif field.name == name:
            changes[name] = parse_value(name, text, value)
    return replace(config, **changes)


def parse_value(name: str, text: str, old: Any) -> Any:
    """`text` as a value of the same kind as `old`."""
    if isinstance(old, str):
        return text
    try:
        value = ast.literal_eval({"true": "True", "false": "False"}.get(text, text))
    except (ValueError, SyntaxError):
        value = text
    if isinstance(old, float) and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    if type(value) is not type(old):
        raise ValueError(f"setting {name}={text}: expected {type(old).__name__}, such as {old!r}")
    return value
