"""A notebook's saved widgets as plain HTML: what they showed, without a script.

The usual way to show them loads ipywidgets' own scripts from another server, and without a running
Python the controls would still move nothing. So they are drawn as they stood, and disabled.
"""

from __future__ import annotations

from collections.abc import Callable
from html import escape
from typing import Any

NOTE = "As it stood when the lesson was run. In JupyterLab or Colab, where Python runs, it moves."
LAYOUT = ("grid_template_columns", "grid_gap", "width", "height", "margin")
State = dict[
    str, Any
]  # a notebook's widgets by id: {"model_name": …, "state": {…}, "buffers": […]}


def saved_widget(id: str, widgets: State) -> str:
    """The HTML of one widget with all that is inside it.

    id: of the widget. widgets: "state" in the notebook's widget metadata. Raises ValueError for a
    widget that was not saved, or of a kind that is not known here.
    """
    return f'<div class="saved-widget">{element(id, widgets)}<p class="note">{NOTE}</p></div>'


def element(id: str, widgets: State) -> str:
    """The HTML of one widget, by its kind."""
    if id not in widgets:
        raise ValueError(f"widget {id} is shown, but its state was not saved: run the notebook")
    kind, state = widgets[id]["model_name"].removesuffix("Model"), widgets[id]["state"]
    if kind not in KINDS:
        known = ", ".join(KINDS)
        raise ValueError(f"a widget of kind {kind}: docs/_ext/saved_widgets.py knows {known}")
    return KINDS[kind](widgets[id], state, widgets)


def box(widget: State, state: State, widgets: State) -> str:
    kind = widget["model_name"].removesuffix("Model").lower()
    inside = "".join(element(own_id(child), widgets) for child in state["children"])
    return f'<div class="{kind}"{style(state, widgets)}>{inside}</div>'


def image(widget: State, state: State, widgets: State) -> str:
    (data,) = (buffer["data"] for buffer in widget["buffers"] if buffer["path"] == ["value"])
    url = f"data:image/{state['format']};base64,{''.join(data.split())}"
    return f'<img src="{url}" alt="the widget\'s picture"{style(state, widgets)}>'


def html(widget: State, state: State, widgets: State) -> str:
    return f"<div>{state['value']}</div>"


def label(widget: State, state: State, widgets: State) -> str:
    return f"<div>{escape(state['value'])}</div>"


def button(widget: State, state: State, widgets: State) -> str:
    colour = widgets[own_id(state["style"])]["state"].get("button_color")
    main = ' class="primary"' if state["button_style"] == "primary" else ""
    more = f"background:{escape(colour)};color:#000" if colour else ""
    own = style(state, widgets, more)
    return f"<button disabled{main}{own}>{escape(state['description'])}</button>"


def slider(widget: State, state: State, widgets: State) -> str:
    if "_options_labels" in state:
        most, least, step, value = len(state["_options_labels"]) - 1, 0, 1, state["index"]
        shown = state["_options_labels"][value]
    else:
        most, least, step, value = (state[name] for name in ("max", "min", "step", "value"))
        shown = f"{value:.2f}" if isinstance(value, float) else value
    bounds = f'min="{least}" max="{most}" step="{step}" value="{value}"'
    return row(state, f'<input type="range" disabled {bounds}><span>{escape(str(shown))}</span>')


def entry(widget: State, state: State, widgets: State) -> str:
    kind = "text" if isinstance(state["value"], str) else "number"
    value = escape(str(state["value"]))
    size = f' size="{max(8, len(value))}"' if kind == "text" else ""
    return row(state, f'<input type="{kind}" disabled value="{value}"{size}>')


def choice(widget: State, state: State, widgets: State) -> str:
    chosen = escape(str(state["_options_labels"][state["index"]]))
    return row(state, f"<select disabled><option>{chosen}</option></select>")


def row(state: State, control: str) -> str:
    """A control behind its name."""
    return f"<label><span>{escape(state['description'])}</span>{control}</label>"


def style(state: State, widgets: State, more: str = "") -> str:
    """The style attribute of a widget's layout."""
    layout = widgets[own_id(state["layout"])]["state"]
    rules = [f"{name.replace('_', '-')}:{layout[name]}" for name in LAYOUT if layout.get(name)]
    rules += [more] if more else []
    return f' style="{escape(";".join(rules))}"' if rules else ""


def own_id(reference: str) -> str:
    return reference.removeprefix("IPY_MODEL_")


KINDS: dict[str, Callable[[State, State, State], str]] = {
    **dict.fromkeys(("VBox", "HBox", "GridBox", "Box"), box),
    **dict.fromkeys(("IntSlider", "FloatSlider", "SelectionSlider"), slider),
    **dict.fromkeys(("Text", "IntText", "FloatText", "BoundedIntText", "BoundedFloatText"), entry),
    "Dropdown": choice,
    "Button": button,
    "HTML": html,
    "Label": label,
    "Image": image,
}
