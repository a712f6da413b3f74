"""Pages written from the code, so that they cannot go stale: the command line, and every setting.

A page asks for one by a comment, `<!-- generated: command_line -->`, or with an argument, as in
`<!-- generated: modules minidalle.bench -->`; Markdown is put in its place when the page is read.
What cannot be described is an error, which stops the build.
"""

from __future__ import annotations

import ast
import inspect
import io
import pkgutil
import re
import tokenize
from collections.abc import Iterator
from dataclasses import MISSING, Field, fields, is_dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import typer.main
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment

from minidalle.bart import BartConfig
from minidalle.cli import app as command_line_app
from minidalle.clip import CLIPConfig
from minidalle.sampling import SamplingConfig
from minidalle.training.bart import BartTrainConfig
from minidalle.training.clip import CLIPTrainConfig
from minidalle.training.loop import LoopConfig
from minidalle.training.losses import LossConfig
from minidalle.training.tokenizer import TokenizerTrainConfig
from minidalle.training.vqgan import VQGANTrainConfig
from minidalle.vqgan import VQGANConfig

MODEL_CONFIGS = (VQGANConfig, BartConfig, CLIPConfig, SamplingConfig)
TRAIN_CONFIGS = (
    LoopConfig, VQGANTrainConfig, LossConfig, BartTrainConfig, CLIPTrainConfig,
    TokenizerTrainConfig,
)  # fmt: skip
CODE = re.compile(r"(`[^`]*`|(?<![\w-])--[a-z-]+|'')")  # in backticks, an option, an empty text
MARK = re.compile(r"^<!-- generated: (\w+) ?(\S*) -->$", re.MULTILINE)


def model_configs() -> str:
    """A section for each config of a network, with its presets."""
    return "\n".join(config_section(config) for config in MODEL_CONFIGS)


def train_configs() -> str:
    """A section for each config of a training run, with its presets."""
    return "\n".join(config_section(config) for config in TRAIN_CONFIGS)


def config_section(config: type) -> str:
    """Markdown about a config dataclass: every field with its default and comment; presets."""
    doc = inspect.cleandoc(config.__doc__ or "")
    comments = field_comments(config)
    rows = [
        (f"`{field.name}`", code(default_of(field)), cell(comments.get(field.name, "")))
        for field in fields(config)
    ]
    parts = [f"### {config.__name__}", f"*{config.__module__}*", doc]
    parts.append(table(("field", "default", "meaning"), rows))
    if presets := presets_of(config):
        changed = [
            field.name
            for field in fields(config)
            if any(getattr(preset, field.name) != default_of(field) for preset in presets.values())
        ]
        rows = [
            (f"`{name}`", *(code(getattr(preset, name)) for preset in presets.values()))
            for name in changed
        ]
        rows += loop_row(config)
        parts += ["Presets, where they differ from the default:", table(("field", *presets), rows)]
    return "\n\n".join(part for part in parts if part) + "\n"


def loop_row(config: type) -> list[tuple[str, ...]]:
    """The line of a training config's presets that says how long each learns, if any does."""
    made = config.presets().values() if hasattr(config, "presets") else ()
    loops = [part for preset in made if isinstance(preset, tuple) for part in preset
             if isinstance(part, LoopConfig)]  # fmt: skip
    return [("loop", *map(code, loops))] if loops else []


def default_of(field: Field) -> Any:
    """A field's default value; MISSING where it must be given."""
    return field.default if field.default_factory is MISSING else field.default_factory()


def field_comments(config: type) -> dict[str, str]:
    """What the source says of each field: the comment behind it, else the lines above it."""
    source = inspect.getsource(config)
    comments, alone = {}, set()  # by line
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            comments[token.start[0]] = token.string.removeprefix("#").strip()
            if token.line.lstrip().startswith("#"):
                alone.add(token.start[0])
    found = {}
    (tree,) = ast.parse(source).body
    for node in tree.body:
        if isinstance(node, ast.AnnAssign):
            above, line = [], node.lineno - 1
            while line in alone:
                above.insert(0, comments[line])
                line -= 1
            behind = comments.get(node.lineno, "")
            found[node.target.id] = behind or " ".join(above)
    return found


def presets_of(config: type) -> dict[str, Any]:
    """A config's presets by name: class methods that make one, or what `presets` returns."""
    if hasattr(config, "presets"):
        return {
            name: next(part for part in made if isinstance(part, config))
            if isinstance(made, tuple)
            else made
            for name, made in config.presets().items()
        }
    return {
        name: getattr(config, name)()
        for name, thing in vars(config).items()
        if isinstance(thing, classmethod)
        and inspect.signature(getattr(config, name)).return_annotation == config.__name__
        and not inspect.signature(getattr(config, name)).parameters
    }


def command_line() -> str:
    """A section for each command: what it does, how it is called, every option, examples."""
    root = typer.main.get_command(command_line_app)
    return "\n".join(command_section(path, command) for path, command in commands(root, []))


def commands(command: Any, path: list[str]) -> Iterator[tuple[str, Any]]:
    """Every command below one, with the words it is called by."""
    words = [*path, command.name] if path else ["minidalle"]
    inner = getattr(command, "commands", {})
    if not inner:
        yield " ".join(words), command
    for name, child in inner.items():
        child.name = name
        yield from commands(child, words)


def command_section(path: str, command: Any) -> str:
    """Markdown about one command."""
    context = command.context_class(command, info_name=path)
    usage = " ".join([path, *command.collect_usage_pieces(context)])
    rows = []
    for parameter in command.get_params(context):
        record = parameter.get_help_record(context)
        if record is not None:
            names, words = record
            rows.append((code_text(names), cell(words)))
    examples = (command.epilog or "").replace("Examples:\n\n\b\n", "")
    return (
        "\n\n".join(
            part
            for part in (
                f"## {path}",
                escape(inspect.cleandoc(command.help or "")),
                f"```text\n{usage}\n```",
                table(("option", "meaning"), rows),
                examples and f"```bash\n{inspect.cleandoc(examples)}\n```",
            )
            if part
        )
        + "\n"
    )


def table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    """A Markdown table."""
    lines = [head, ("---",) * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def code(value: Any) -> str:
    """A value as code in a table cell; of a config its preset, or what is not its default."""
    if value is MISSING:
        return "must be given"
    if is_dataclass(value):
        kind = type(value)
        if not hasattr(kind, "presets"):
            for name, preset in presets_of(kind).items():
                if preset == value:
                    return code_text(f"{kind.__name__}.{name}()")
        changed = [
            f"{field.name}={getattr(value, field.name)!r}"
            for field in fields(value)
            if getattr(value, field.name) != default_of(field)
        ]
        return code_text(f"{type(value).__name__}({', '.join(changed)})")
    return code_text(repr(value))


def code_text(text: str) -> str:
    return "`" + text.replace("|", r"\|") + "`"


def cell(text: str) -> str:
    """Plain text in a table cell."""
    return escape(text).replace("|", r"\|").replace("\n", " ") or "–"


def escape(text: str) -> str:
    """Plain text as Markdown: `backticks` keep their meaning, and options are code."""
    return "".join(
        f"`{part.strip('`')}`" if i % 2 else re.sub(r"([\\*_<>\[\]$])", r"\\\1", part)
        for i, part in enumerate(CODE.split(text))
    )


def modules(package: str) -> str:
    """A section for each module of a package that says something, by name."""
    parts = [module.name for module in pkgutil.iter_modules(import_module(package).__path__)]
    names = [package, *(f"{package}.{part}" for part in parts)]
    return "\n".join(
        f"## {name}\n\n```{{eval-rst}}\n.. automodule:: {name}\n   :members:\n```\n"
        for name in names
        if import_module(name).__doc__
    )


GENERATED = {
    "model_configs": model_configs,
    "train_configs": train_configs,
    "command_line": command_line,
    "modules": modules,
}


def filled(text: str) -> str:
    """A page with what it asks for."""
    return MARK.sub(lambda match: GENERATED[match[1]](*filter(None, [match[2]])), text)


def fill_in(app: Sphinx, page: str, source: list[str]) -> None:
    source[0] = filled(source[0])


def always_read(app: Sphinx, env: BuildEnvironment, *changes: set[str]) -> list[str]:
    """The pages that ask for something: the code may have changed where they have not."""
    pages = {name: Path(env.doc2path(name)) for name in env.found_docs}
    return [
        name
        for name, path in pages.items()
        if path.suffix == ".md" and MARK.search(path.read_text())
    ]


def setup(app: Sphinx) -> dict[str, bool]:
    app.connect("source-read", fill_in)
    app.connect("env-get-outdated", always_read)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
