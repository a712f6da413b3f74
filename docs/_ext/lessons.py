"""The lessons as pages: ../notebooks, with their stored outputs, into docs/lessons.

The copies are not in git. In each the badge at the top becomes links that need no picture from
elsewhere, and saved widgets become plain HTML. A copy is written only where it changed, so that the
next build reads only that.
"""

from __future__ import annotations

import re
from pathlib import Path

import nbformat
from nbformat import NotebookNode
from saved_widgets import saved_widget
from sphinx.application import Sphinx

DOCS = Path(__file__).parents[1]
NOTEBOOKS, LESSONS = DOCS.parent / "notebooks", DOCS / "lessons"
BADGE = re.compile(r"\[!\[Open in Colab\]\([^)]*\)\]\(([^)]*)\)\n*")
TITLE = re.compile(r"^# .*$", re.MULTILINE)
WIDGET, STATE = (
    "application/vnd.jupyter.widget-view+json",
    "application/vnd.jupyter.widget-state+json",
)


def write_lessons(app: Sphinx | None = None) -> None:
    """Write every lesson and its solutions, and remove those whose notebook is gone."""
    sources = sorted([*NOTEBOOKS.glob("*.ipynb"), *NOTEBOOKS.glob("solutions/*.ipynb")])
    written = set()
    for source in sources:
        path = LESSONS / source.relative_to(NOTEBOOKS)
        path.parent.mkdir(exist_ok=True)
        text = nbformat.writes(lesson(nbformat.read(source, as_version=4), source))
        if not path.is_file() or path.read_text() != text:
            path.write_text(text)
        written.add(path)
    for path in {*LESSONS.glob("*.ipynb"), *LESSONS.glob("solutions/*.ipynb")} - written:
        path.unlink()


def lesson(notebook: NotebookNode, source: Path) -> NotebookNode:
    """A notebook as a page: links at its top, widgets as they stood.

    source: the notebook's file, which the download link gives out unchanged.
    """
    first = notebook.cells[0]
    first.source = with_links(first.source, source)
    notebook.metadata["orphan"] = source.parent != NOTEBOOKS  # solutions are in no list of pages
    widgets = notebook.metadata.pop("widgets", {}).get(STATE, {}).get("state", {})
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            if WIDGET in output.get("data", {}):
                id = output.data[WIDGET]["model_id"]
                output.data = NotebookNode({"text/html": saved_widget(id, widgets)})
    return notebook


def with_links(text: str, source: Path) -> str:
    """The first cell's text with its badge as plain links, below the title."""
    colab = BADGE.search(text)
    text = BADGE.sub("", text)
    title = TITLE.search(text)
    if title is None:
        raise ValueError(f"{source}: the first cell has no title '# …'")
    page = LESSONS / source.relative_to(NOTEBOOKS)
    links = [f"[Open in Colab]({colab[1]})"] if colab else []
    here = source.relative_to(DOCS.parent)
    up = "/".join([".."] * len(page.parent.relative_to(DOCS.parent).parts))
    links.append(f"{{download}}`Download <{up}/{here}>`")
    if source.parent == NOTEBOOKS and (NOTEBOOKS / "solutions" / source.name).is_file():
        links.append(f"[Solutions](solutions/{source.name})")
    row = "\n\n```{container} lesson-links\n" + "\n".join(links) + "\n```\n"
    return text[: title.end()] + row + text[title.end() :]


def setup(app: Sphinx) -> dict[str, bool]:
    app.connect("builder-inited", write_lessons)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
