"""What the tabs of the page share: in which line a press waits, how mistakes are told, boards.

Everything of the page that needs gradio comes by here (`pip install minidalle[app]`).
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from minidalle.app.limits import Gate

try:
    import gradio as gr
    from starlette.middleware import Middleware
except ImportError as error:
    raise ImportError(
        "the web page needs gradio; install it by: pip install minidalle[app]"
    ) from error

FILES = Path(__file__).parent
SCRIPT = (FILES / "page.js").read_text(encoding="utf-8")
STYLE = (FILES / "style.css").read_text(encoding="utf-8")
ICON = FILES / "icon.svg"
FONT, MONO = ["system-ui", "sans-serif"], ["ui-monospace", "monospace"]  # the reader's own
MODEL = {"concurrency_id": "model", "concurrency_limit": 1}  # the line in which people wait
TOUCH = {"concurrency_id": "touch", "concurrency_limit": 4}  # what does not wait for a drawing
HIDDEN = {"show_progress": "hidden", "api_visibility": "private"}


def board(value: str, elem_id: str) -> gr.HTML:
    """HTML whose buttons, arrow keys and drops `page.js` turns into events."""
    return gr.HTML(value, elem_id=elem_id, js_on_load=SCRIPT)


def spoken(function: Callable) -> Callable:
    """What a person did wrong becomes a message on the page instead of a traceback."""
    if inspect.isgeneratorfunction(function):

        @functools.wraps(function)
        def steps(*args: Any, **kwargs: Any) -> Iterator[Any]:
            try:
                yield from function(*args, **kwargs)
            except (ValueError, TypeError) as error:
                raise message(error) from error

        return steps

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        try:
            return function(*args, **kwargs)
        except (ValueError, TypeError) as error:
            raise message(error) from error

    return call


def message(error: Exception) -> gr.Error:
    """An error as the page shows it."""
    text = str(error)
    return gr.Error(text[:1].upper() + text[1:], print_exception=False, title="Not possible")


def theme() -> gr.themes.Base:
    """Quiet colours, and the fonts that the reader's system has."""
    base = gr.themes.Base(
        primary_hue="sky", neutral_hue="stone", font=FONT, font_mono=MONO, radius_size="lg"
    )
    return base.set(  # darker than the theme's own, so that small letters can be read
        body_text_color_subdued="*neutral_500",
        block_info_text_color="*neutral_500",
        button_primary_background_fill="*primary_700",
        button_primary_background_fill_hover="*primary_600",
        button_primary_background_fill_dark="*primary_700",
        button_primary_background_fill_hover_dark="*primary_600",
        color_accent="*primary_600",
        border_color_accent="*primary_400",
    )


def guards() -> list[Middleware]:
    """What stands before the server."""
    return [Middleware(Gate)]
