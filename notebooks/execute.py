"""Run lessons from top to bottom and store their outputs: `make notebooks`.

    python notebooks/execute.py notebooks/00_tour.ipynb …      # all, where none is named

A notebook is written only when every cell ran. What would differ each time for no reason is left
out: times, the names of widgets, the version of Python.
"""

import asyncio
import os
import sys
import time
from pathlib import Path

import nbformat
from nbclient import NotebookClient

FOLDER = Path(__file__).parent
CELL_TIMEOUT = 300  # seconds
ENVIRONMENT = {  # what the kernels of lessons run under, here and in nbval
    "HF_HUB_CACHE": str(FOLDER / "no-cache"),  # lesson 10 finds no weights, whatever is there
    "HF_HUB_OFFLINE": "1",
    "OMP_NUM_THREADS": "1",  # two kernels run side by side
    "PYTHONWARNINGS": "ignore",
    "TQDM_DISABLE": "1",
}


def execute(path: Path) -> None:
    """Run one notebook and store its outputs; raises where a cell does."""
    notebook = nbformat.read(path, as_version=4)
    resources = {"metadata": {"path": str(path.parent)}}
    NotebookClient(notebook, timeout=CELL_TIMEOUT, resources=resources).execute()
    temporary = path.with_suffix(".part")
    temporary.write_text(tidy(notebook), encoding="utf-8")
    os.replace(temporary, path)


def tidy(notebook: nbformat.NotebookNode) -> str:
    """The notebook as text, without what differs from run to run."""
    notebook.metadata.language_info = {"name": "python"}
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)
    widgets = notebook.metadata.get("widgets", {})  # as saved, for pages without Python
    text = nbformat.writes(notebook)
    for number, name in enumerate(name for kind in widgets.values() for name in kind["state"]):
        text = text.replace(name, f"widget-{number:03}")
    return nbformat.writes(nbformat.reads(text, as_version=4)) + "\n"  # sorted by the new names


def main() -> None:
    os.environ.update(ENVIRONMENT)
    os.environ.pop("MPLBACKEND", None)
    if sys.platform == "win32":  # the messages of kernels need this loop
        asyncio.set_event_loop_policy(asyncio.WindowsSelectorEventLoopPolicy())
    for path in map(Path, sys.argv[1:] or sorted(FOLDER.rglob("*.ipynb"))):
        start = time.perf_counter()
        execute(path)
        print(f"{path.name}: {time.perf_counter() - start:.0f} s", flush=True)


if __name__ == "__main__":
    main()
