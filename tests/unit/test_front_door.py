"""What a visitor meets first: README, citation, templates, workflow, `make help`.

What stands in two places stands there alike: the version, the address, the lessons, ruff.
"""

import re
import subprocess

import pytest
import yaml
from pages import ROOT, dead_links, environment

import minidalle

PROJECT = (ROOT / "pyproject.toml").read_text()
REPOSITORY = re.search(r'^Repository = "(\S+)"', PROJECT, re.M)[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
MAKEFILE = (ROOT / "Makefile").read_text()
TARGETS = re.findall(r"^([a-z][a-z-]*):", MAKEFILE, re.M)
TEMPLATES = sorted((ROOT / ".github" / "ISSUE_TEMPLATE").glob("*.yml"))
TEXTS = {".md", ".py", ".toml", ".yml", ".yaml", ".cff", ".cfg", ".ipynb", ".txt", ".html", ".js"}
LEFT_OUT = {".git", ".venv", "build", "dist", "runs", ".hypothesis", ".pytest_cache", ".ruff_cache"}
# Where a page names the repository: on GitHub, in Colab, as a package to install, as a badge.
ADDRESS = re.compile(
    r"(?:github\.com[/:]|github\.io/|colab\.research\.google\.com/github/|img\.shields\.io/github/\w+/)"
    r"([\w.-]+/minidalle)(?![\w-])"
)


def read_yaml(name):
    return yaml.safe_load((ROOT / name).read_text(encoding="utf-8"))


def our_texts():
    """The text files of the checkout, without what was installed, built or trained in it."""
    places = [path for path in ROOT.iterdir() if path.name not in LEFT_OUT]
    files = [path for place in places for path in (place, *place.rglob("*"))]
    return [path for path in files if path.suffix in TEXTS and path.is_file()]


def other_addresses(text):
    """Spellings of the repository's address that are not the one in pyproject.toml."""
    owner_and_name = REPOSITORY.removeprefix("https://github.com/")
    return [
        found for found in ADDRESS.findall(text) if found.removesuffix(".git") != owner_and_name
    ]


def test_the_address_is_spelled_in_one_way():
    wrong = {
        str(path.relative_to(ROOT)): other_addresses(path.read_text(encoding="utf-8"))
        for path in our_texts()
        if path.name != "test_front_door.py"
    }
    assert not {path: found for path, found in wrong.items() if found}


@pytest.mark.parametrize(
    "line",
    [
        "git clone https://github.com/someone/minidalle.git",
        "git@github.com:else/minidalle",
        "https://colab.research.google.com/github/mini-dalle/minidalle/blob/main/a.ipynb",
        'pip install "minidalle @ git+https://github.com/some.one/minidalle"',
    ],
)
def test_another_address_is_found(line):
    assert other_addresses(line)


def test_the_address_of_another_project_is_none_of_ours():
    assert not other_addresses(f"{REPOSITORY}, {REPOSITORY}.git, github.com/a/minidalle-fork")


def test_the_version_stands_in_one_place():
    """The others are held equal to it."""
    assert 'dynamic = ["version"]' in PROJECT and not re.search(r"^version = ", PROJECT, re.M)
    assert read_yaml("CITATION.cff")["version"] == minidalle.__version__
    assert f"version = {{{minidalle.__version__}}}" in README
    changelog = (ROOT / "docs" / "changelog.md").read_text(encoding="utf-8")
    assert re.search(r"^## (\d\S*?),? ", changelog, re.M)[1] == minidalle.__version__


def test_the_citation_is_complete():
    citation = read_yaml("CITATION.cff")
    assert citation["cff-version"] == "1.2.0" and citation["message"] and citation["title"]
    assert f'license = "{citation["license"]}"' in PROJECT
    assert citation["repository-code"] == REPOSITORY
    (author,) = citation["authors"]
    assert f'authors = [{{ name = "{author["name"]}" }}]' in PROJECT
    (followed,) = citation["references"]
    assert followed["doi"] == "10.5281/zenodo.5146400" and len(followed["authors"]) == 8


def test_the_readme_has_a_row_for_every_lesson():
    lessons = {path.name for path in (ROOT / "notebooks").glob("*.ipynb")}
    rows = re.findall(r"^\| \[\d\d .+?\]\(notebooks/(.+?)\) \| .+ \| \d+ \|$", README, re.M)
    assert set(rows) == lessons and len(rows) == len(lessons)


def test_the_readme_names_every_command():
    row = re.search(r"^\| `minidalle/cli/` \|(.+)\|$", README, re.M)[1]
    done = subprocess.run(
        ["minidalle", "--help"], capture_output=True, text=True, check=True, env=environment()
    )
    commands = re.findall(r"^  ([a-z]+) ", done.stdout.split("Commands:")[1], re.M)
    assert len(commands) > 5
    assert set(re.findall(r"`(\w+)`", row)) == set(commands)


def test_contributing_links_lead_somewhere():
    assert not dead_links(ROOT / "CONTRIBUTING.md")


def test_contributing_names_files_that_exist():
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    named = re.findall(r"`((?:minidalle|tests|docs|notebooks|\.ci)/[\w/.-]+)`", text)
    examples = ("11_name", "name.py", "test_checks_name")
    missing = [
        name
        for name in named
        if not (ROOT / name).exists() and not any(example in name for example in examples)
    ]
    assert len(named) > 10 and not missing


def test_make_help_tells_every_target():
    done = subprocess.run(["make", "help"], cwd=ROOT, capture_output=True, text=True, check=True)
    told = dict(re.findall(r"^([a-z-]+) - +(\S.*)$", done.stdout, re.M))
    assert set(told) == set(TARGETS) and len(told) > 8
    phony = re.search(r"^\.PHONY:(.*)$", MAKEFILE, re.M)[1].split()
    assert sorted(phony) == sorted(TARGETS)


def test_the_workflow_runs_what_must_pass():
    (job,) = read_yaml(".github/workflows/ci.yml")["jobs"].values()
    commands = [step["run"] for step in job["steps"] if "run" in step]
    assert commands[-1] == ".ci/run" and "chromium" in commands[0]
    assert job["runs-on"].startswith("ubuntu") and job["container"].startswith("python:3.11")
    assert (ROOT / ".ci" / "run").stat().st_mode & 0o111


@pytest.mark.parametrize("path", TEMPLATES, ids=lambda path: path.stem)
def test_issue_forms_are_of_githubs_format(path):
    form = read_yaml(path)
    if path.stem == "config":
        assert set(form) <= {"blank_issues_enabled", "contact_links"}
        return
    assert form["name"] and form["description"] and form["body"]
    ids = [field["id"] for field in form["body"]]
    assert len(set(ids)) == len(ids) > 1
    for field in form["body"]:
        assert field["type"] in ("textarea", "input", "dropdown", "checkboxes")
        assert field["attributes"]["label"]
    assert any(field.get("validations", {}).get("required") for field in form["body"])


def test_there_are_templates():
    assert {path.stem for path in TEMPLATES} >= {"bug", "lesson", "idea"}
    assert ".ci/run" in (ROOT / ".github" / "pull_request_template.md").read_text()


def test_pre_commit_checks_with_the_ruff_of_the_constraints():
    (repository,) = read_yaml(".pre-commit-config.yaml")["repos"]
    pinned = re.search(r"^ruff==(\S+)$", (ROOT / "constraints.txt").read_text(), re.M)[1]
    assert repository["rev"] == f"v{pinned}"
    assert [hook["id"] for hook in repository["hooks"]] == ["ruff-check", "ruff-format"]
