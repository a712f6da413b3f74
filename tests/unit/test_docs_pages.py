"""The documentation's pages: their examples run, their commands are understood, their links lead
somewhere. `pages.py` says what is run and what is only parsed."""

import re
import subprocess

import pytest
from pages import (
    ROOT,
    blocks_of,
    commands_of,
    dead_links,
    run_examples,
    shell_lines,
    understand,
)

DOCS = ROOT / "docs"
PAGES = [path for path in sorted(DOCS.rglob("*.md")) if "_build" not in path.parts]
NEED_PICTURES = {"training.md", "weights.md"}  # of the reader's own, or the published weights
LOG = DOCS / "training-log.md"  # its commands leave out what went without saying
REASONS = {"needs the published weights", "needs a GPU", "needs pictures of your own"}


def name_of(path):
    return str(path.relative_to(DOCS))


def has_examples(path):
    blocks = blocks_of(path.read_text(encoding="utf-8"))
    return any(block.kind == "python" or block.mark == "run" for block in blocks)


RUNNING = [path for path in PAGES if has_examples(path) and name_of(path) not in NEED_PICTURES]


@pytest.mark.parametrize("path", RUNNING, ids=name_of)
def test_examples_run(path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run_examples(path.read_text(encoding="utf-8"))


@pytest.mark.parametrize("path", [path for path in PAGES if path != LOG], ids=name_of)
def test_commands_are_understood(path):
    for arguments in commands_of(path.read_text(encoding="utf-8")):
        understand(arguments)


@pytest.mark.parametrize("path", PAGES, ids=name_of)
def test_make_lines_name_targets(path):
    for block in blocks_of(path.read_text(encoding="utf-8")):
        for words in shell_lines(block.text) if block.kind == "bash" else []:
            if words[0] == "make":
                subprocess.run([*words, "-n"], cwd=ROOT, check=True, capture_output=True)


@pytest.mark.parametrize("path", PAGES, ids=name_of)
def test_python_blocks_compile_and_what_is_not_run_says_why(path):
    for block in blocks_of(path.read_text(encoding="utf-8")):
        if block.kind == "python":
            compile(block.text, name_of(path), "exec")
        if block.mark and block.mark != "run":
            assert block.mark.removeprefix("not run: ") in REASONS, block.mark


@pytest.mark.parametrize("path", PAGES, ids=name_of)
def test_links_lead_somewhere(path):
    assert not dead_links(path)


@pytest.mark.parametrize("path", PAGES, ids=name_of)
def test_pictures_have_a_text_for_those_who_do_not_see_them(path):
    assert not re.findall(r"!\[\s*\]\(", path.read_text(encoding="utf-8"))


# That the checks can fail.


@pytest.mark.parametrize(
    "line",
    [
        "minidalle draw apple",
        "minidalle generate apple --modle runs/mine",
        "minidalle generate apple -n nine",
        "minidalle train vqgan --run runs/a --preset emojy",
        "minidalle train bart --vqgan v --run runs/a --set step=5",
        "accelerate launch -m minidalle train vqgan --run a \\\n    --sett steps=5 > log",
    ],
)
def test_a_wrong_command_is_found(line):
    (arguments,) = commands_of(f"```bash\n{line}\n```\n")
    with pytest.raises(Exception, match=r"no command|[Nn]o such option|valid int|no preset|named"):
        understand(arguments)


@pytest.mark.parametrize(
    "page",
    [
        "```python\nprint(6 * 7)\n```\n\n```text\n43\n```\n",
        "```python\nassert False\n```\n",
        "<!-- run -->\n```bash\nminidalle info no-such-folder\n```\n",
        "<!-- run -->\n```bash\necho one\n```\n\n```text\ntwo\n```\n",
    ],
)
def test_a_wrong_example_is_found(page):
    with pytest.raises(AssertionError):
        run_examples(page)
