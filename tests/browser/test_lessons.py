"""A lesson as a learner meets it: opened in JupyterLab, run from the top, its widget moved."""

import re
import shutil
from pathlib import Path

from jupyter_lab import changes, picture, restart_and_run_all, slide, wait_until

NOTEBOOKS = Path(__file__).parents[2] / "notebooks"
OUTPUT = ".jp-OutputArea-output[data-mime-type$='{}']"
ERRORS = ", ".join(map(OUTPUT.format, ("error", "stderr")))


def test_the_tour_runs_and_its_widget_draws(lab, page, screenshots):
    url, folder = lab
    shutil.copy(NOTEBOOKS / "00_tour.ipynb", folder)
    page.goto(f"{url}lab/tree/00_tour.ipynb?reset")
    restart_and_run_all(page)

    widget = page.locator(".jp-OutputArea-output .jupyter-widgets:has(input[type=text])").first
    widget.scroll_into_view_if_needed()
    image = picture(widget)
    page.screenshot(path=screenshots / "tour-as-it-runs.png")
    draw = widget.get_by_role("button", name="Draw")
    temperature, scale, number = 0, 1, 2
    for slider in (temperature, scale, number):
        slide(widget, slider)
        changes(image, draw.click)
    prompt = widget.locator("input[type=text]").first
    prompt.fill("green frog, noto style")
    prompt.press("Tab")
    changes(image, draw.click)
    wait_until(widget, lambda: "green frog, noto style, seeds 0 1 2 3 4" in widget.inner_text())
    widget.scroll_into_view_if_needed()
    page.screenshot(path=screenshots / "tour-after-playing.png")

    answers = page.get_by_text(re.compile("not answered yet"))
    answers.last.scroll_into_view_if_needed()
    assert answers.count() == 3  # the exercises
    assert page.locator(ERRORS).all_inner_texts() == []
