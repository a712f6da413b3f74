"""From a notebook to a page: links at the top, widgets as they stood, all else as it was."""

import base64
import copy
from pathlib import Path

import lessons
import nbformat
import pytest
from saved_widgets import saved_widget

NOTEBOOKS = Path(__file__).parents[2] / "notebooks"
PNG = base64.b64encode(b"not read").decode()


def widget(kind: str, *, buffers=(), **state) -> dict:
    return {
        "model_name": f"{kind}Model",
        "state": {"layout": "IPY_MODEL_layout", "style": "IPY_MODEL_style", **state},
        "buffers": list(buffers),
    }


WIDGETS = {
    "layout": {"model_name": "LayoutModel", "state": {"width": "30px", "height": None}},
    "style": {"model_name": "ButtonStyleModel", "state": {"button_color": "#ABCDEF"}},
    "box": widget("VBox", children=["IPY_MODEL_slider", "IPY_MODEL_button", "IPY_MODEL_image"]),
    "slider": widget("FloatSlider", description="a<b", min=0.0, max=2.0, step=0.5, value=1.5),
    "choice": widget("SelectionSlider", description="K", _options_labels=["4", "64"], index=1),
    "button": widget("Button", description="Draw", button_style="primary"),
    "image": widget(
        "Image", format="png", buffers=[{"path": ["value"], "encoding": "base64", "data": PNG}]
    ),
    "strange": widget("Video"),
}


def test_a_widget_is_shown_as_it_stood_and_nothing_can_be_moved():
    html = saved_widget("box", WIDGETS)
    assert '<input type="range" disabled min="0.0" max="2.0" step="0.5" value="1.5">' in html
    assert "a&lt;b" in html and "1.50" in html
    assert '<button disabled class="primary"' in html and "background:#ABCDEF" in html
    assert f"data:image/png;base64,{PNG}" in html and "width:30px" in html
    assert "<script" not in html


def test_a_slider_over_choices_shows_the_choice():
    html = saved_widget("choice", WIDGETS)
    assert 'max="1" step="1" value="1"' in html and "<span>64</span>" in html


@pytest.mark.parametrize(("id", "message"), [("gone", "not saved"), ("strange", "kind Video")])
def test_what_cannot_be_shown_stops_the_build(id, message):
    with pytest.raises(ValueError, match=message):
        saved_widget(id, WIDGETS)


@pytest.mark.parametrize("path", sorted(NOTEBOOKS.rglob("*.ipynb")), ids=lambda path: path.stem)
def test_a_page_is_its_notebook(path):
    before = nbformat.read(path, as_version=4)
    page = lessons.lesson(copy.deepcopy(before), path)
    assert [cell.source for cell in page.cells[1:]] == [cell.source for cell in before.cells[1:]]
    top = page.cells[0].source
    assert top.lstrip().startswith("# ") and "colab-badge.svg" not in top
    assert ("colab.research.google.com" in top) == (path.parent == NOTEBOOKS)
    assert page.metadata["orphan"] == (path.parent != NOTEBOOKS)
    text = nbformat.writes(page)
    assert "widget-view+json" not in text and "widget-state+json" not in text
    shown = [o for cell in page.cells for o in cell.get("outputs", [])]
    assert len(shown) == len([o for cell in before.cells for o in cell.get("outputs", [])])


def test_a_page_without_a_title_is_refused():
    with pytest.raises(ValueError, match="no title"):
        lessons.with_links("## not a title", NOTEBOOKS / "00_tour.ipynb")
