"""Each widget of minidalle.viz.widgets, and lesson 03's atlas, clicked once in a real JupyterLab.

Run by `make browser`.
"""

import nbformat
import pytest
from jupyter_lab import changes, picture, run_first_cell, slide, wait_until

SETUP = """\
import torch
from minidalle import MiniDalle
from minidalle.data.emoji import EmojiDataset
from minidalle.viz import codebook, html, widgets
model = MiniDalle.from_pretrained()
images = EmojiDataset("validation").images[:8] / 255
"""


@pytest.fixture
def show(lab, page, screenshots, request):
    """Open a notebook that shows a widget, run it, and give the place where the widget is."""
    url, folder = lab

    def call(code: str, what: str = ".jupyter-widgets"):
        notebook = nbformat.v4.new_notebook(
            cells=[nbformat.v4.new_code_cell(SETUP + code)],
            metadata={"kernelspec": {"name": "python3", "display_name": "Python 3"}},
        )
        name = f"{request.node.name}.ipynb"
        nbformat.write(notebook, folder / name)
        page.goto(f"{url}lab/tree/{name}?reset")
        run_first_cell(page)
        widget = page.locator(f".jp-OutputArea-output {what}").first
        widget.wait_for()
        return widget

    yield call
    page.screenshot(path=screenshots / f"{request.node.name}.png")


def says(widget, text: str) -> None:
    """Wait until a text is among those of the widget."""
    wait_until(widget, lambda: text in widget.inner_text())


def test_prompt_studio(show):
    widget = show("widgets.prompt_studio(model)")
    image = picture(widget)
    prompt = widget.locator("input[type=text]").first
    prompt.fill("rocket, noto style")
    prompt.press("Tab")
    changes(image, lambda: widget.get_by_role("button", name="Draw").click())
    says(widget, "rocket, noto style, seeds 0 1 2 3")


def test_codebook_explorer(show):
    widget = show("widgets.codebook_explorer(model.vqgan, images)")
    image = picture(widget)
    changes(image, lambda: widget.locator("select").select_option("by use"))
    changes(image, lambda: slide(widget, 0))
    says(widget, "tokens of 8 pictures")


def test_token_editor(show):
    widget = show("widgets.token_editor(model.vqgan, images[0])")
    image = picture(widget)
    cells = widget.locator(".widget-gridbox button")
    wait_until(cells, lambda: cells.count() == 64)
    changes(image, lambda: cells.nth(27).click())
    says(widget, "row 3, column 3; 0 of 64 tokens changed")
    changes(image, lambda: slide(widget, 0))
    says(widget, "1 of 64 tokens changed")
    changes(image, lambda: widget.get_by_role("button", name="Undo").click())
    says(widget, "0 of 64 tokens changed")


def test_sampling_explorer(show):
    widget = show("widgets.sampling_explorer(torch.linspace(4, -4, 64))")
    image = picture(widget)
    for number in range(2):
        changes(image, lambda number=number: slide(widget, number))


ATLAS = """\
from IPython.display import HTML
ids = codebook.encode_all(model.vqgan, images)
tiles, counts = codebook.code_tiles(model.vqgan), codebook.count_codes(ids, 1024)
HTML(html.atlas_page(tiles, counts, codebook.choose_examples(ids, images)))
"""


def test_atlas_of_a_lesson(show):
    atlas = show(ATLAS, "div[class^=atlas-]")
    cells = atlas.locator("b")
    assert cells.count() == 1024

    def style(cell, part: str, name: str) -> str:
        return cell.evaluate(f"element => getComputedStyle(element, '{part}').{name}")

    cell = atlas.locator("b:not(.never)").nth(40)
    assert style(cell, "::after", "content") == "none"  # until it is pointed at
    cell.hover()
    words = cell.get_attribute("data-t")
    assert words.startswith("code ") and style(cell, "::after", "content") == f'"{words}"'
    assert style(cell, "::before", "backgroundImage").count("url(") == 2  # a picture, and a mark
    most_used = atlas.locator("b[style*='--u:0;']")
    first = cells.first.bounding_box()
    atlas.get_by_label("by use").check()
    assert most_used.bounding_box() == first
    most_used.hover()  # for the screenshot
