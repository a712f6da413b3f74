"""What every lesson must hold to: each rule says what is wrong with a notebook, or says nothing.

A rule takes a notebook (as nbformat reads it) and its name, and yields complaints. `LESSON_RULES`
are for lessons, `RULES` for solutions as well; test_notebooks.py applies them to what is there, and
shows for each a notebook that breaks it.
"""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterator

from nbformat import NotebookNode

from minidalle.lessons.exercise import NOT_ANSWERED, RIGHT

KNOWN_TAGS = {"nbval-ignore-output", "exercise", "hide-input"}
MOST_OUTPUT, MOST_FILE = 300_000, 3_000_000  # bytes
IGNORED_SHARE = 1 / 5
CARD = ["You will build", "You need", "Takes", "Leaves behind"]
HEADINGS = ["Summary", "Exercises", "Further reading"]
REPOSITORY = "minidalle/minidalle"
BADGE = "https://colab.research.google.com/assets/colab-badge.svg"
COLAB_CELL = f"""\
import sys

if "google.colab" in sys.modules:  # elsewhere, `make demo` or pip has installed it already
    %pip install -q "minidalle[lessons] @ git+https://github.com/{REPOSITORY}\""""
ABSOLUTE = re.compile(r"(?<![\w.}:/])/(?:work|tmp|home|root|Users|usr|opt|mnt)/|site-packages")
DATA_URI = re.compile(r"data:[\w/+.-]+;base64,[\w+/=]*")
CHECK = re.compile(r"\bchecks\.(\w+)\(")
CHECKS_IMPORT = re.compile(r"^from minidalle\.lessons\.checks import (\w+) as checks$", re.M)


def code_cells(notebook: NotebookNode) -> list[NotebookNode]:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def tags(cell: NotebookNode) -> set[str]:
    return set(cell.metadata.get("tags", []))


def text_of(output: NotebookNode) -> str:
    """What a reader reads of an output: no pictures."""
    if output.output_type == "stream":
        return output.text
    data = output.get("data", {})
    return "\n".join(str(value) for kind, value in data.items() if not kind.startswith("image/"))


def checkers(notebook: NotebookNode) -> list[str]:
    """Names of the checkers that are called, in order."""
    return [name for cell in code_cells(notebook) for name in CHECK.findall(cell.source)]


def asserts(cell: NotebookNode) -> bool:
    """Whether a cell asserts anything: by `assert`, or by a function such as assert_close."""
    lines = cell.source.splitlines()
    tree = ast.parse("\n".join("" if re.match(r"\s*[%!]", line) else line for line in lines))
    return any(
        isinstance(node, ast.Assert)
        or (isinstance(node, ast.Call) and "assert_" in ast.unparse(node.func))
        for node in ast.walk(tree)
    )


# For lessons and solutions.


def every_cell_was_run(notebook: NotebookNode, name: str) -> Iterator[str]:
    counts = [cell.execution_count for cell in code_cells(notebook)]
    if counts != list(range(1, len(counts) + 1)):
        yield f"cells were not run once each from the top: {counts}"


def no_error(notebook: NotebookNode, name: str) -> Iterator[str]:
    for cell in code_cells(notebook):
        for output in cell.outputs:
            if output.output_type == "error":
                yield f"an error is shown: {output.ename}: {output.evalue}"
            if output.get("name") == "stderr":
                yield f"stderr is shown: {output.text[:80]!r}"


def no_absolute_path(notebook: NotebookNode, name: str) -> Iterator[str]:
    texts = [cell.source for cell in notebook.cells]
    texts += [text_of(output) for cell in code_cells(notebook) for output in cell.outputs]
    for text in texts:
        if found := ABSOLUTE.search(DATA_URI.sub("", text)):
            around = text[max(found.start() - 20, 0) : found.end() + 20]
            yield f"an absolute path: {around!r}"


def outputs_are_small(notebook: NotebookNode, name: str) -> Iterator[str]:
    for number, cell in enumerate(code_cells(notebook), start=1):
        for output in cell.outputs:
            if (size := len(json.dumps(output))) > MOST_OUTPUT:
                yield f"an output of code cell {number} has {size:,} bytes"


def file_is_small(notebook: NotebookNode, name: str) -> Iterator[str]:
    if (size := len(json.dumps(notebook))) > MOST_FILE:
        yield f"the notebook has {size:,} bytes"


def tags_are_known(notebook: NotebookNode, name: str) -> Iterator[str]:
    for cell in notebook.cells:
        if unknown := tags(cell) - KNOWN_TAGS:
            yield f"unknown tags: {sorted(unknown)}"
        if "NBVAL_" in cell.source or "PYTEST_VALIDATE" in cell.source:
            yield "nbval is told by a comment; use a tag"


def few_outputs_are_ignored(notebook: NotebookNode, name: str) -> Iterator[str]:
    cells = code_cells(notebook)
    ignored = sum("nbval-ignore-output" in tags(cell) for cell in cells)
    if ignored > IGNORED_SHARE * len(cells):
        yield f"{ignored} of {len(cells)} code cells are nbval-ignore-output"


def what_is_ignored_is_asserted(notebook: NotebookNode, name: str) -> Iterator[str]:
    cells = code_cells(notebook)
    for number, (cell, after) in enumerate(zip(cells, [*cells[1:], None], strict=True), start=1):
        if "nbval-ignore-output" not in tags(cell) or asserts(cell):
            continue
        if after is None or not asserts(after):
            yield f"code cell {number} is nbval-ignore-output, and no assert follows"


def widgets_are_saved(notebook: NotebookNode, name: str) -> Iterator[str]:
    kinds = notebook.metadata.get("widgets", {}).values()
    saved = {model for kind in kinds for model in kind["state"]}
    for cell in code_cells(notebook):
        for output in cell.outputs:
            view = output.get("data", {}).get("application/vnd.jupyter.widget-view+json")
            if view and view["model_id"] not in saved:
                yield f"a page without Python cannot show the widget of {cell.source[:60]!r}"


def colab_cell_is_first(notebook: NotebookNode, name: str) -> Iterator[str]:
    if code_cells(notebook)[0].source != COLAB_CELL:
        yield "the first code cell is not the one that installs in Colab"


# For lessons.


def card_is_on_top(notebook: NotebookNode, name: str) -> Iterator[str]:
    top = notebook.cells[0]
    if top.cell_type != "markdown" or not re.search(rf"^# {name[:2]} · ", top.source, re.M):
        yield f"the first cell has no title '# {name[:2]} · …'"
    page = f"https://colab.research.google.com/github/{REPOSITORY}/blob/main/notebooks/{name}.ipynb"
    if f"[![Open in Colab]({BADGE})]({page})" not in top.source:
        yield f"no Colab badge that opens {page}"
    if re.findall(r"^\| *\*\*(.+?)\*\* *\|", top.source, re.M) != CARD:
        yield f"the card's rows are not {CARD}"


def headings_end_it(notebook: NotebookNode, name: str) -> Iterator[str]:
    headings = headings_of(notebook)
    if headings[-3:] != HEADINGS:
        yield f"it ends with {headings[-3:]}, not with {HEADINGS}"


def no_section_is_lost(notebook: NotebookNode, name: str) -> Iterator[str]:
    """Where sections have numbers."""
    found = [re.match(r"(\d+)\. ", heading) for heading in headings_of(notebook)]
    numbers = [int(number[1]) for number in found if number]
    if numbers != list(range(1, len(numbers) + 1)):
        yield f"its sections have the numbers {numbers}"


def headings_of(notebook: NotebookNode) -> list[str]:
    source = "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")
    return re.findall(r"^## (.+)$", source, re.M)


def exercises_are_checked(notebook: NotebookNode, name: str) -> Iterator[str]:
    cells = code_cells(notebook)
    count = 0
    for cell, after in zip(cells, [*cells[1:], None], strict=True):
        if "exercise" not in tags(cell):
            continue
        count += 1
        if "..." not in cell.source:
            yield f"an exercise without a place for the answer: {cell.source[:60]!r}"
        if after is None or not CHECK.search(after.source):
            yield f"no checker follows the exercise {cell.source[:60]!r}"
        elif NOT_ANSWERED not in "".join(map(text_of, after.outputs)):
            yield f"{after.source[:60]!r} does not show {NOT_ANSWERED!r}"
    if not 2 <= count <= 4:
        yield f"{count} exercises; expected 2 to 4"
    if count != len(checkers(notebook)):
        yield f"{count} exercises, but {len(checkers(notebook))} calls of checkers"


# For solutions.


def answers_are_right(notebook: NotebookNode, name: str) -> Iterator[str]:
    for cell in code_cells(notebook):
        called = CHECK.findall(cell.source)
        shown = "".join(map(text_of, cell.outputs)).splitlines()
        if called and shown != [RIGHT] * len(called):
            yield f"{called} show {shown}, not {RIGHT!r}"


RULES = [
    every_cell_was_run,
    no_error,
    no_absolute_path,
    outputs_are_small,
    file_is_small,
    tags_are_known,
    few_outputs_are_ignored,
    what_is_ignored_is_asserted,
    widgets_are_saved,
    colab_cell_is_first,
]
LESSON_RULES = [
    *RULES,
    card_is_on_top,
    headings_end_it,
    no_section_is_lost,
    exercises_are_checked,
]
SOLUTION_RULES = [*RULES, answers_are_right]


def solution_complaints(lesson: NotebookNode, solution: NotebookNode) -> Iterator[str]:
    """What does not fit between a lesson and its solutions."""
    topics = [
        CHECKS_IMPORT.findall("\n".join(cell.source for cell in code_cells(notebook)))
        for notebook in (lesson, solution)
    ]
    if len(topics[0]) != 1 or topics[0] != topics[1]:
        yield f"checkers come from {topics[0]} in the lesson, from {topics[1]} in its solutions"
    if checkers(lesson) != checkers(solution):
        yield f"the lesson calls {checkers(lesson)}, its solutions {checkers(solution)}"


def untested_checkers(lesson: NotebookNode, tests: dict[str, str]) -> Iterator[str]:
    """Checkers that no test mentions; `tests` is the source of test_checks_<topic>.py by topic."""
    source = "\n".join(cell.source for cell in code_cells(lesson))
    for topic in CHECKS_IMPORT.findall(source):
        for name in checkers(lesson):
            if not re.search(rf"\b{name}\b", tests.get(topic, "")):
                yield f"no test of {name} in tests/lessons/test_checks_{topic}.py"
