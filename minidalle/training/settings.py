"""The settings of a run: dataclasses, of which `steps=500`, `lr=1e-3`, `d_model=192` set a field.

Everything that is wrong with them is said at once, so that nobody mends them one by one.
"""

from __future__ import annotations

import ast
import difflib
from collections.abc import Iterable
from dataclasses import fields, is_dataclass, replace
from typing import Any


def refuse(wrong: Iterable[str]) -> None:
    """Raise ValueError that says everything that is wrong; nothing wrong raises nothing."""
    if said := list(dict.fromkeys(wrong)):
        raise ValueError("; ".join(said))


def with_settings(configs: tuple[Any, ...], settings: Iterable[str]) -> tuple[Any, ...]:
    """The config dataclasses with `name=value` settings applied, to nested fields too.

    Raises ValueError, for all settings together, for one that is no `name=value`, a name that no
    field has (the nearest is named), and a value of another kind than the field's or one that its
    dataclass refuses. A field that is set twice has the last value.
    """
    known = sorted({field for config in configs for field in field_names(config)})
    texts: dict[str, str] = {}
    wrong: list[str] = []
    unknown: list[str] = []
    for setting in settings:
        name, equals, text = setting.partition("=")
        if not equals:
            wrong.append(f"setting {setting!r}: expected name=value")
        elif name not in known:
            (nearest,) = difflib.get_close_matches(name, known, n=1, cutoff=0)
            unknown.append(f"no field is named {name!r}; did you mean {nearest!r}?")
        else:
            texts[name] = text
    changed = tuple(with_fields(config, texts, wrong) for config in configs)
    if unknown:
        wrong.append(f"{' '.join(unknown)} There are: {', '.join(known)}")
    refuse(wrong)
    return changed


def field_names(config: Any) -> list[str]:
    """The names of a dataclass's plain fields, those of nested dataclasses included."""
    names = []
    for field in fields(config):
        value = getattr(config, field.name)
        names += field_names(value) if is_dataclass(value) else [field.name]
    return names


def with_fields(config: Any, texts: dict[str, str], wrong: list[str]) -> Any:
    """The dataclass with fields, of its own or nested in it, set to what `texts` says of them.

    What cannot be is left as it was, and the reason added to `wrong`.
    """
    changes = {}
    for field in fields(config):
        value = getattr(config, field.name)
        if is_dataclass(value):
            changes[field.name] = with_fields(value, texts, wrong)
        elif field.name in texts:
            try:
                changes[field.name] = parse_value(field.name, texts[field.name], value)
            except ValueError as error:
                wrong.append(str(error))
    try:
        return replace(config, **changes)  # all at once: they may only be possible together
    except ValueError as error:
        wrong.append(str(error))
        return config


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
