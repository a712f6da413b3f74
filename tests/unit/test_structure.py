"""The house: a file imports only what stands above it, and nothing is done at import."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[2] / "minidalle"
FLOORS = [  # top to bottom, as in the design; a folder is one floor unless its files are named
    "normalizer",
    "tokenizer_json",
    "tokenizer",
    "processor",
    "vqgan",
    "bart",
    "packed",
    "graphs",
    "sampling",
    "clip",
    "memory",
    "pictures",
    "checkpoints.hub",
    "checkpoints.parts",
    "checkpoints.native",
    "checkpoints.msgpack",
    "checkpoints.flax",
    "checkpoints.torch_file",
    "checkpoints.taming",
    "checkpoints.min_dalle",
    "checkpoints",
    "checkpoints.convert",
    "scoring",
    "result",
    "pipeline",
    "prompts",
    "picture_folder",
    "many",
    "data.shapes",
    "data.emoji",
    "data.folder",
    "data.tar",
    "data.shards",
    "data.encode",
    "data.stream",
    "data.sources",
    "data.variations",
    "data",
    "training.settings",
    "training.schedule",
    "training.muon",
    "training.average",
    "training.run_folder",
    "training.trackers",
    "training.processes",
    "training.loop",
    "training.metrics",
    "training.losses",
    "training.evaluate",
    "training.retrieval",
    "training.drawings",
    "training.vqgan",
    "training.bart",
    "training.tokenizer",
    "training.clip",
    "training",
    "viz.canvas",
    "viz.plots",
    "viz.codebook",
    "viz.html",
    "viz.widgets",
    "viz",
    "app.limits",
    "app.studio",
    "app.editor",
    "app.html",
    "app.api",
    "app.parts",
    "app.draw_tab",
    "app.edit_tab",
    "app.page",
    "app",
    "bench.common",
    "bench.table",
    "bench.memory",
    "bench.training",
    "bench.costs",
    "bench.limits",
    "bench.contestants",
    "bench.worker",
    "bench.race",
    "bench.parts",
    "bench.generation",
    "bench",
    "lessons",
    "lessons.exercise",
    "lessons.scaling",
    "lessons.train_faces",
    "lessons.train_shapes",
    "lessons.checks",
    *(f"lessons.checks.{path.stem}" for path in sorted(PACKAGE.glob("lessons/checks/[a-z]*.py"))),
    "cli.options",
    "cli.loading",
    "cli.many",
    "cli.draw",
    "cli.reconstruct",
    "cli.checkpoints",
    "cli.bench",
    "cli.train",
    "cli.encode",
    "cli.evaluate",
    "cli.web",
    "cli",
]
# So that `minidalle --help` answers at once, and only who loads their CLIP waits for transformers.
ALLOWED_INSIDE_FUNCTIONS = {"__init__", "cli", "clip"} | {
    f"cli.{path.stem}" for path in PACKAGE.glob("cli/*.py")
}
FILES = sorted(PACKAGE.rglob("*.py"))


def module_of(path: Path) -> str:
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" and len(parts) > 1 else parts)


def imports_of(tree: ast.AST) -> set[str]:
    """The package's own modules that a file imports, names without the package's."""
    modules = {module_of(path) for path in FILES}
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("minidalle"):
            base = node.module.removeprefix("minidalle").removeprefix(".")
            for alias in node.names:
                inner = f"{base}.{alias.name}".strip(".")
                found.add(inner if inner in modules else base)
    return found - {""}


@pytest.mark.parametrize("path", FILES, ids=module_of)
def test_a_file_imports_only_what_stands_above_it(path):
    module = module_of(path)
    if module in ("__init__", "__main__"):
        return
    assert module in FLOORS, f"{module} has no place in the house: add it to FLOORS"
    below = {
        name
        for name in imports_of(ast.parse(path.read_text()))
        if FLOORS.index(name) >= FLOORS.index(module)
    }
    assert not below


@pytest.mark.parametrize("path", FILES, ids=module_of)
def test_imports_stand_at_the_top(path):
    if module_of(path) in ALLOWED_INSIDE_FUNCTIONS:
        return
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.FunctionDef):
            inside = [n for n in ast.walk(node) if isinstance(n, ast.Import | ast.ImportFrom)]
            assert not inside, f"{node.name} imports inside"


@pytest.mark.parametrize("path", FILES, ids=module_of)
def test_every_file_opens_with_a_paragraph_and_public_functions_are_documented(path):
    tree = ast.parse(path.read_text())
    if not tree.body:
        return  # an empty __init__
    assert ast.get_docstring(tree)
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef) and not node.name.startswith("_"):
            length = node.end_lineno - node.lineno
            assert length <= 60, f"{node.name} has {length} lines"
            trivial = length <= 8 or node.name == "forward"
            assert trivial or ast.get_docstring(node), f"{node.name} has no docstring"


def test_import_has_no_side_effects():
    """Global seed, grad mode and thread count stay as they are, and nothing is printed."""
    code = (
        "import torch as t\n"
        "def state(): return t.initial_seed(), t.is_grad_enabled(), t.get_num_threads()\n"
        "before = state()\n"
        "import minidalle; minidalle.MiniDalle\n"
        "assert before == state()\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, ""), done.stderr


def test_help_does_not_import_torch():
    code = "import sys, minidalle.cli; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
