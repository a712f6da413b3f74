"""Each widget of minidalle.viz.widgets, clicked once in a real JupyterLab: `make browser`.

JupyterLab runs on this machine, without network, and Debian's Chromium opens it without a window.
Skipped where Chromium or playwright is missing. MINIDALLE_SCREENSHOTS names a folder to keep
pictures of what was seen.
"""

import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import nbformat
import pytest

playwright = pytest.importorskip("playwright.sync_api", reason="needs minidalle[browser]")
CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
if CHROMIUM is None:
    pytest.skip("needs Chromium: apt-get install chromium", allow_module_level=True)

WAIT = 120_000  # milliseconds, for everything: the machine may be busy
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-quic",
]
SETUP = """\
import torch
from minidalle import MiniDalle
from minidalle.data.emoji import EmojiDataset
from minidalle.viz import widgets
model = MiniDalle.from_pretrained()
images = EmojiDataset("validation").images[:8] / 255
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """The address of a JupyterLab of its own, and the folder it shows."""
    folder = tmp_path_factory.mktemp("lab")
    (folder / "notebooks").mkdir()
    own = {
        name: str(folder / name.lower())
        for name in ("JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR", "IPYTHONDIR")
    }
    command = [sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root", "--port=0"]
    command += ["--IdentityProvider.token=", f"--ServerApp.root_dir={folder / 'notebooks'}"]
    command += ["--LabApp.extension_manager=readonly", "--ServerApp.disable_check_xsrf=True"]
    log = folder / "log"
    with open(log, "w") as file:
        lab = subprocess.Popen(command, stderr=file, env=os.environ | own)
    try:
        yield address(lab, log), folder / "notebooks"
    finally:
        lab.terminate()
        lab.wait()


def address(lab: subprocess.Popen, log: Path) -> str:
    """Where the server listens, once it says so."""
    end = time.monotonic() + WAIT / 1000
    while lab.poll() is None and time.monotonic() < end:
        if found := re.search(r"http://(?:localhost|127\.0\.0\.1):\d+/", log.read_text()):
            return found[0]
        time.sleep(0.2)
    raise RuntimeError(f"JupyterLab does not start:\n{log.read_text()}")


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as play:
        browser = play.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture
def show(server, browser, request):
    """Open a notebook that shows a widget, run it, and give the place where the widget is."""
    url, folder = server
    page = browser.new_page(viewport={"width": 1200, "height": 1000})
    page.set_default_timeout(WAIT)

    def call(code: str):
        notebook = nbformat.v4.new_notebook(
            cells=[nbformat.v4.new_code_cell(SETUP + code)],
            metadata={"kernelspec": {"name": "python3", "display_name": "Python 3"}},
        )
        name = f"{request.node.name}.ipynb"
        nbformat.write(notebook, folder / name)
        page.goto(f"{url}lab/tree/{name}?reset")
        run_first_cell(page)
        widget = page.locator(".jp-OutputArea-output .jupyter-widgets").first
        widget.wait_for()
        return widget

    yield call
    if kept := os.environ.get("MINIDALLE_SCREENSHOTS"):
        page.screenshot(path=Path(kept) / f"{request.node.name}.png")
    page.close()


def run_first_cell(page) -> None:
    """Run it, and again where JupyterLab forgot it, which it does while the kernel starts."""
    prompt = page.locator(".jp-Notebook .jp-InputPrompt").first
    prompt.wait_for()
    end = time.monotonic() + WAIT / 1000
    while not re.search(r"\d", shown := prompt.inner_text()):
        assert time.monotonic() < end, f"the cell was not run: {shown}"
        if "*" not in shown:
            page.locator(".jp-Notebook .jp-Cell .cm-content").first.click()
            page.keyboard.press("Shift+Enter")
        page.wait_for_timeout(1000)


def picture(widget):
    """The widget's picture, once there is one."""
    image = widget.locator("img.widget-image")
    playwright.expect(image).to_have_attribute("src", re.compile("^blob:"), timeout=WAIT)
    return image


def changes(image, act) -> None:
    """Do something, and wait until another picture is shown."""
    before = image.get_attribute("src")
    act()
    playwright.expect(image).not_to_have_attribute("src", before, timeout=WAIT)
    assert image.evaluate("async image => (await image.decode(), image.naturalWidth)") > 0


def slide(widget, number: int) -> None:
    """Move a slider one step to the right, by its handle."""
    handle = widget.locator(".widget-slider .noUi-handle").nth(number)
    handle.focus()
    handle.press("ArrowRight")


def test_prompt_studio(show):
    widget = show("widgets.prompt_studio(model)")
    image = picture(widget)
    prompt = widget.locator("input[type=text]").first
    prompt.fill("rocket, noto style")
    prompt.press("Tab")
    changes(image, lambda: widget.get_by_role("button", name="Draw").click())
    playwright.expect(widget).to_contain_text("rocket, noto style, seeds 0 1 2 3", timeout=WAIT)


def test_codebook_explorer(show):
    widget = show("widgets.codebook_explorer(model.vqgan, images)")
    image = picture(widget)
    changes(image, lambda: widget.locator("select").select_option("by use"))
    changes(image, lambda: slide(widget, 0))
    playwright.expect(widget).to_contain_text("tokens of 8 pictures")


def test_token_editor(show):
    widget = show("widgets.token_editor(model.vqgan, images[0])")
    image = picture(widget)
    cells = widget.locator(".widget-gridbox button")
    playwright.expect(cells).to_have_count(64)
    changes(image, lambda: cells.nth(27).click())
    playwright.expect(widget).to_contain_text("row 3, column 3; 0 of 64 tokens changed")
    changes(image, lambda: slide(widget, 0))
    playwright.expect(widget).to_contain_text("1 of 64 tokens changed")
    changes(image, lambda: widget.get_by_role("button", name="Undo").click())
    playwright.expect(widget).to_contain_text("0 of 64 tokens changed")


def test_sampling_explorer(show):
    widget = show("widgets.sampling_explorer(torch.linspace(4, -4, 64))")
    image = picture(widget)
    for number in range(2):
        changes(image, lambda number=number: slide(widget, number))
