"""The notebooks hold to the rules of rules.py, and each rule is seen to find what breaks it."""

import ast
from collections.abc import Callable
from pathlib import Path

import nbformat
import pytest
import rules
from nbformat import NotebookNode
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

ROOT = Path(__file__).parents[2]
NOTEBOOKS = ROOT / "notebooks"
LESSONS = [
    "00_tour",
    "01_text_tokens",
    "02_why_not_pixels",
    "03_vqgan",
    "04_what_the_codebook_cannot_say",
    "05_bart",
    "06_text_to_image",
    "07_sampling",
    "08_clip",
    "09_scaling_up",
    "10_full_weights",
]
TESTS = {
    path.stem.removeprefix("test_checks_"): path.read_text()
    for path in Path(__file__).parent.glob("test_checks_*.py")
}


def read(path: Path) -> NotebookNode:
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    return notebook


def found(folder: Path) -> list[str]:
    return sorted(path.stem for path in folder.glob("*.ipynb"))


def test_every_lesson_is_there_with_its_solutions():
    assert found(NOTEBOOKS) == found(NOTEBOOKS / "solutions") == LESSONS


@pytest.mark.parametrize("rule", rules.LESSON_RULES, ids=lambda rule: rule.__name__)
@pytest.mark.parametrize("name", found(NOTEBOOKS))
def test_lesson(name, rule):
    assert list(rule(read(NOTEBOOKS / f"{name}.ipynb"), name)) == []


@pytest.mark.parametrize("rule", rules.SOLUTION_RULES, ids=lambda rule: rule.__name__)
@pytest.mark.parametrize("name", found(NOTEBOOKS / "solutions"))
def test_solutions(name, rule):
    assert list(rule(read(NOTEBOOKS / "solutions" / f"{name}.ipynb"), name)) == []


@pytest.mark.parametrize("name", found(NOTEBOOKS))
def test_every_exercise_has_a_solution_and_a_tested_checker(name):
    lesson = read(NOTEBOOKS / f"{name}.ipynb")
    solution = read(NOTEBOOKS / "solutions" / f"{name}.ipynb")
    assert list(rules.solution_complaints(lesson, solution)) == []
    assert list(rules.untested_checkers(lesson, TESTS)) == []


@pytest.mark.parametrize("path", sorted(NOTEBOOKS.rglob("*.ipynb")), ids=lambda path: path.stem)
def test_files_are_of_this_format(path):
    """Small on disk, every code cell parses, and the kernel is the one of any Python."""
    assert path.stat().st_size < rules.MOST_FILE
    notebook = read(path)
    assert notebook.metadata.kernelspec.name == "python3"
    for cell in rules.code_cells(notebook):
        if "%" not in cell.source:
            ast.parse(cell.source)


# A small lesson that holds to every rule, and what breaks each.

NAME = "05_good"
CARD = f"""\
# 05 · Good

[![Open in Colab]({rules.BADGE})](https://colab.research.google.com/github/minidalle/minidalle/blob/main/notebooks/{NAME}.ipynb)

| | |
|---|---|
| **You will build** | a lesson |
| **You need** | Python |
| **Takes** | 1 minute |
| **Leaves behind** | nothing |
"""
IMPORT = "from minidalle.lessons.checks import good as checks"


def ran(source: str, printed: str = "", tags: tuple[str, ...] = ()) -> NotebookNode:
    outputs = [new_output("stream", name="stdout", text=printed)] if printed else []
    return new_code_cell(source, outputs=outputs, metadata={"tags": list(tags)} if tags else {})


def numbered(cells: list[NotebookNode]) -> NotebookNode:
    for number, cell in enumerate((c for c in cells if c.cell_type == "code"), start=1):
        cell.execution_count = number
    return new_notebook(cells=cells)


def good_lesson() -> NotebookNode:
    cells = [new_markdown_cell(CARD), ran(rules.COLAB_CELL), ran(IMPORT)]
    cells += [ran("time()", "0.3", ("nbval-ignore-output",)), ran("assert time() >= 0")]
    cells += [ran("torch.testing.assert_close(a, b)"), ran("1 + 1")]
    cells += [new_markdown_cell("## Summary"), new_markdown_cell("## Exercises")]
    for name in ("first", "second"):
        cells.append(ran("answer = ...", tags=("exercise",)))
        cells.append(ran(f"checks.{name}(answer)", f"{rules.NOT_ANSWERED}\n"))
    return numbered([*cells, new_markdown_cell("## Further reading\n\nA book.")])


def good_solution() -> NotebookNode:
    answers = [ran(f"checks.{name}(1)", f"{rules.RIGHT}\n") for name in ("first", "second")]
    start = [new_markdown_cell("# Solutions"), ran(rules.COLAB_CELL), ran(IMPORT)]
    return numbered([*start, *answers])


COLAB, IGNORED, ASSERTED, PLAIN, EXERCISE, CHECKED = 0, 2, 3, 5, 6, 7  # code cells of good_lesson


def code(notebook: NotebookNode, number: int) -> NotebookNode:
    return rules.code_cells(notebook)[number]


def never_run(notebook):
    code(notebook, PLAIN).execution_count = None


def run_out_of_order(notebook):
    code(notebook, PLAIN).execution_count = 17


def with_error(notebook):
    error = new_output("error", ename="ValueError", evalue="no", traceback=[])
    code(notebook, PLAIN).outputs = [error]


def with_warning(notebook):
    code(notebook, PLAIN).outputs = [new_output("stream", name="stderr", text="UserWarning")]


def path_in_source(notebook):
    code(notebook, PLAIN).source = 'open("/home/me/picture.png")'


def path_in_output(notebook):
    code(notebook, PLAIN).outputs = [new_output("display_data", {"text/html": "in /tmp/x.png"})]


def large_output(notebook):
    code(notebook, PLAIN).outputs = [new_output("display_data", {"image/png": "a" * 300_001})]


def large_file(notebook):
    notebook.cells[0].source += "a" * 3_000_000


def unknown_tag(notebook):
    code(notebook, PLAIN).metadata["tags"] = ["nbval-skip"]


def comment_for_nbval(notebook):
    code(notebook, PLAIN).source = "# NBVAL_SKIP\ntime()"


def many_ignored(notebook):
    for number in (IGNORED, PLAIN, EXERCISE):
        code(notebook, number).metadata["tags"] = ["nbval-ignore-output"]


def ignored_without_assert(notebook):
    code(notebook, ASSERTED).source = "print(time())  # assert"


def widget_without_state(notebook):
    view = {"application/vnd.jupyter.widget-view+json": {"model_id": "widget-000"}}
    code(notebook, PLAIN).outputs = [new_output("display_data", view)]


def no_title(notebook):
    notebook.cells[0].source = CARD.replace("# 05", "# 06")


def no_badge(notebook):
    notebook.cells[0].source = CARD.replace(f"{NAME}.ipynb", "other.ipynb")


def card_lacks_a_row(notebook):
    notebook.cells[0].source = CARD.replace("| **Takes** | 1 minute |\n", "")


def no_colab_cell(notebook):
    code(notebook, COLAB).source = "import sys"


def no_summary(notebook):
    notebook.cells = [cell for cell in notebook.cells if cell.source != "## Summary"]


def section_lost(notebook):
    notebook.cells[0].source += "\n## 1. A question\n\n## 3. An answer\n"


def unchecked_exercise(notebook):
    code(notebook, CHECKED).source = "print(answer)"


def answered_exercise(notebook):
    code(notebook, EXERCISE).source = "answer = 42"


def checker_that_says_something_else(notebook):
    code(notebook, CHECKED).outputs[0].text = rules.RIGHT


def single_exercise(notebook):
    code(notebook, EXERCISE).metadata["tags"] = []


BROKEN = {
    never_run: rules.every_cell_was_run,
    run_out_of_order: rules.every_cell_was_run,
    with_error: rules.no_error,
    with_warning: rules.no_error,
    path_in_source: rules.no_absolute_path,
    path_in_output: rules.no_absolute_path,
    large_output: rules.outputs_are_small,
    large_file: rules.file_is_small,
    unknown_tag: rules.tags_are_known,
    comment_for_nbval: rules.tags_are_known,
    many_ignored: rules.few_outputs_are_ignored,
    ignored_without_assert: rules.what_is_ignored_is_asserted,
    widget_without_state: rules.widgets_are_saved,
    no_title: rules.card_is_on_top,
    no_badge: rules.card_is_on_top,
    card_lacks_a_row: rules.card_is_on_top,
    no_colab_cell: rules.colab_cell_is_first,
    no_summary: rules.headings_end_it,
    section_lost: rules.no_section_is_lost,
    unchecked_exercise: rules.exercises_are_checked,
    answered_exercise: rules.exercises_are_checked,
    checker_that_says_something_else: rules.exercises_are_checked,
    single_exercise: rules.exercises_are_checked,
}


@pytest.mark.parametrize("rule", rules.LESSON_RULES, ids=lambda rule: rule.__name__)
def test_a_good_lesson_passes(rule):
    assert list(rule(good_lesson(), NAME)) == []


@pytest.mark.parametrize("rule", rules.SOLUTION_RULES, ids=lambda rule: rule.__name__)
def test_good_solutions_pass(rule):
    assert list(rule(good_solution(), NAME)) == []


@pytest.mark.parametrize("harm", BROKEN, ids=lambda harm: harm.__name__)
def test_a_broken_lesson_is_found(harm: Callable[[NotebookNode], None]):
    notebook = good_lesson()
    harm(notebook)
    assert list(BROKEN[harm](notebook, NAME)) != []


def test_every_rule_is_seen_to_fail():
    assert set(rules.LESSON_RULES) == set(BROKEN.values())


def test_a_wrong_solution_is_found():
    notebook = good_solution()
    code(notebook, 3).outputs[0].text = "✗ not yet: it is half of that\n"
    assert list(rules.answers_are_right(notebook, NAME)) != []


def test_solutions_that_do_not_fit_are_found():
    lesson, solution = good_lesson(), good_solution()
    assert list(rules.solution_complaints(lesson, solution)) == []
    del solution.cells[-1]
    assert list(rules.solution_complaints(lesson, solution)) != []
    solution = good_solution()
    code(solution, 1).source = IMPORT.replace("good", "bad")
    assert list(rules.solution_complaints(lesson, solution)) != []


def test_an_untested_checker_is_found():
    tests = {"good": "checks.first.verdict(1)\nchecks.second.verdict(1)"}
    assert list(rules.untested_checkers(good_lesson(), tests)) == []
    assert list(rules.untested_checkers(good_lesson(), {"good": "checks.first"})) != []
    assert list(rules.untested_checkers(good_lesson(), {"bad": "first second"})) != []
