"""The command line's `evaluate`: figures as a table, or as one JSON object."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from minidalle.cli import options
from minidalle.cli.loading import given, load_model

if TYPE_CHECKING:
    from minidalle.pipeline import MiniDalle
    from minidalle.training.retrieval import Progress

EVALUATE_EXAMPLES = options.examples(
    "evaluate --model runs/emoji --split test",
    "evaluate --retrieval --captions 60 --seeds 2 --scales 1,2,3,4",
    "evaluate --model runs/shapes --data shapes --temperature 0.5 --condition-scale 2 --json",
)
NO_EXTRA = "retrieval is left out: it needs pip install minidalle[perceptual]"


def evaluate(
    model: options.Model = None,
    data: Annotated[str, typer.Option(help="Pictures to measure on: emoji, shapes.")] = "emoji",
    split: Annotated[
        str | None, typer.Option(help="Of the emoji: train, validation, test.  [default: test]")
    ] = None,
    retrieval: Annotated[
        bool,
        typer.Option(
            "--retrieval", help="Draw emoji and look for the real ones; this takes minutes."
        ),
    ] = False,
    captions: Annotated[
        int | None,
        typer.Option(help="Captions to draw.  [default: all of the split; of shapes 100]"),
    ] = None,
    seeds: Annotated[
        int | None,
        typer.Option(help="Retrieval: pictures per caption.  [default: 4, with --rerank 1]"),
    ] = None,
    rerank: Annotated[
        int | None, typer.Option(help="Retrieval: draw so many, judge the one that CLIP chooses.")
    ] = None,
    scales: Annotated[
        str | None,
        typer.Option(metavar="1,2,…", help="Retrieval: these condition scales as well."),
    ] = None,
    temperature: options.Temperature = None,
    top_k: options.TopK = None,
    top_p: options.TopP = None,
    condition_scale: options.Scale = None,
    device: options.Device = "cpu",
    dtype: options.Dtype = "float32",
    as_json: options.Json = False,
) -> None:
    """Measure a model: reconstruction, token loss, and whether pictures show what they should."""
    knobs = given(
        temperature=temperature, top_k=top_k, top_p=top_p, condition_scale=condition_scale
    )
    only_retrieval = given(seeds=seeds, rerank=rerank, scales=scales)
    check_options(data, split, retrieval, captions, only_retrieval, knobs)
    plan = {"seeds": seeds, "rerank": rerank or 0, "limit": captions}
    values = numbers_in(scales or "")
    check(split or "test", plan, knobs)
    loaded = load_model(model, None, None, None, device, dtype)
    loaded.sampling = loaded.sampling_with(**knobs)
    if data == "shapes":
        figures = shapes_figures(loaded, 100 if captions is None else captions)
    else:
        figures = emoji_figures(
            loaded, split or "test", {**plan, "scales": values} if retrieval else None
        )
    figures = rounded(figures)
    options.say(json.dumps(figures, indent=2) if as_json else "\n".join(table(figures)))


def check_options(
    data: str,
    split: str | None,
    retrieval: bool,
    captions: int | None,
    only_retrieval: dict[str, Any],
    knobs: dict[str, Any],
) -> None:
    """Raise ValueError for options that do not go together."""
    if data not in ("emoji", "shapes"):
        raise ValueError(f"there is no data {data!r}; there are: emoji, shapes")
    if data == "shapes" and (retrieval or split is not None):
        raise ValueError("--data shapes knows neither --retrieval nor --split: those are for emoji")
    if not retrieval and (only_retrieval or (captions is not None and data == "emoji")):
        name = next(iter(only_retrieval), "captions")
        raise ValueError(f"--{name} is about retrieval; add --retrieval")
    if knobs and not retrieval and data == "emoji":
        name = next(iter(knobs)).replace("_", "-")
        raise ValueError(f"--{name} is about drawing; add --retrieval, or take --data shapes")


def numbers_in(text: str) -> list[float]:
    """The numbers of a list with commas between."""
    try:
        return [float(word) for word in text.split(",")] if text else []
    except ValueError:
        raise ValueError(f"--scales is {text!r}; expected numbers, as in 1,2,3") from None


def check(split: str, plan: dict[str, Any], knobs: dict[str, Any]) -> None:
    """Raise ValueError for what makes no sense, before anything is loaded."""
    from minidalle.sampling import SamplingConfig
    from minidalle.training.drawings import check_plan

    check_plan(split, **plan)
    SamplingConfig(**knobs)


def emoji_figures(model: MiniDalle, split: str, plan: dict[str, Any] | None) -> dict[str, Any]:
    """Figures on one split of the emoji, with retrieval by this plan, if there is one."""
    from minidalle.data.emoji import EmojiDataset
    from minidalle.training.drawings import evaluate_retrieval
    from minidalle.training.evaluate import evaluate_model
    from minidalle.training.retrieval import can_retrieve

    figures: dict[str, Any] = {}
    if plan is not None and can_retrieve():  # first, so that what it refuses is refused at once
        with_bar = progress_bar()
        figures["retrieval"] = evaluate_retrieval(model, split, progress=with_bar, **plan)
    elif plan is not None:
        print(f"minidalle: {NO_EXTRA}", file=sys.stderr)
    return {**evaluate_model(model, EmojiDataset(split)), **figures}


def shapes_figures(model: MiniDalle, count: int) -> dict[str, Any]:
    """Figures on shapes, with the oracle's."""
    from minidalle.training.drawings import evaluate_shapes

    return evaluate_shapes(model, count, progress=progress_bar())


def progress_bar() -> Progress:
    """Show on a terminal how far each task is."""
    from tqdm import tqdm

    bars: dict[str, tqdm] = {}

    def show(what: str, done: int, total: int) -> None:
        if what not in bars:
            bars[what] = tqdm(total=total, desc=what, disable=not sys.stderr.isatty())
        bars[what].update(done - bars[what].n)
        if done == total:
            bars.pop(what).close()

    return show


def rounded(figures: Any) -> Any:
    """The figures with four decimals."""
    if isinstance(figures, dict):
        return {name: rounded(value) for name, value in figures.items()}
    return round(figures, 4) if isinstance(figures, float) else figures


def table(figures: dict[str, Any]) -> list[str]:
    """The figures as lines: a heading per part, a line per figure, a row per group."""
    lines = []
    for part, values in figures.items():
        single = {name: value for name, value in values.items() if not isinstance(value, dict)}
        lines += [part, *(f"  {name:<32}{text(value):>15}" for name, value in single.items())]
        for title, rows in values.items():
            if title in single:
                continue
            columns = list(next(iter(rows.values())))
            lines.append(f"  {title:<32}" + "".join(f"{name:>15}" for name in columns))
            for name, row in rows.items():
                lines.append(f"    {name:<30}" + "".join(f"{text(row[c]):>15}" for c in columns))
    return lines


def text(value: float) -> str:
    """A count, or a figure with four decimals."""
    return f"{value:,.4f}" if isinstance(value, float) else f"{value:,}"
