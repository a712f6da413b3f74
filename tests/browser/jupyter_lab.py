"""A real JupyterLab on this machine, without network, and what a reader does in it."""

import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from playwright.sync_api import TimeoutError

WAIT = 300_000  # milliseconds, for everything: the machine may be busy
FORGOTTEN = 60  # seconds that an idle kernel leaves cells waiting, before they are sent again
QUESTION = ".jp-Dialog .jp-mod-accept"  # the button that answers what JupyterLab asks
NOTIFICATIONS = "@jupyterlab/apputils-extension/notification.jupyterlab-settings"


@contextmanager
def serve(folder: Path) -> Iterator[tuple[str, Path]]:
    """Start a JupyterLab of its own; gives its address, and the folder that it shows."""
    (folder / "notebooks").mkdir()
    settings = folder / "jupyter_config_dir/lab/user-settings" / NOTIFICATIONS
    settings.parent.mkdir(parents=True, exist_ok=True)
    settings.write_text('{"fetchNews": "false", "checkForUpdates": false}')
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


def run_first_cell(page) -> None:
    """Run it, and again where JupyterLab forgot it, which it does while the kernel starts.

    Rarely it asks something meanwhile, and lets nobody click before it has an answer.
    """
    prompt = page.locator(".jp-Notebook .jp-CodeCell .jp-InputPrompt").first
    cell = page.locator(".jp-Notebook .jp-CodeCell .cm-content").first
    question = page.locator(QUESTION)
    prompt.wait_for()
    end = time.monotonic() + WAIT / 1000
    while not re.search(r"\d", shown := prompt.inner_text()):
        assert time.monotonic() < end, f"the cell was not run: {shown}"
        if question.count():
            question.click()
        elif "*" not in shown:
            cell.press("Shift+Enter")  # no click, which would wait behind a question
        page.wait_for_timeout(1000)


def restart_and_run_all(page, timeout: int = 2 * WAIT) -> None:
    """The toolbar's ⏭, its question answered, and the wait until every cell has run.

    The first cell is run before: restarting a kernel that has just been connected can leave
    JupyterLab and its server in different protocols, and then no cell is ever answered.
    """
    run_first_cell(page)
    status = page.locator(".jp-Notebook-ExecutionIndicator")
    prompts = page.locator(".jp-Notebook .jp-InputPrompt")
    page.locator(".jp-Notebook-ExecutionIndicator[data-status=idle]").wait_for()
    last_busy = time.monotonic()

    def some_wait() -> bool:
        return "*" in "".join(prompts.all_inner_texts())

    def is_busy() -> bool:
        return status.get_attribute("data-status") != "idle"

    def ask_until_it_runs() -> bool:  # JupyterLab forgets it while the kernel starts
        question = page.locator(QUESTION)
        if not question.count():  # else it asked something of its own: that is answered first
            with suppress(TimeoutError):  # a question came in the way just now
                page.locator('[data-command="notebook:restart-run-all"]').first.click(timeout=5000)
        question.click()
        page.wait_for_timeout(5000)
        return some_wait() or is_busy()

    def have_run() -> bool:
        nonlocal last_busy
        if is_busy():
            last_busy = time.monotonic()
        elif not some_wait():
            return True
        elif time.monotonic() > last_busy + FORGOTTEN:
            ask_until_it_runs()
            last_busy = time.monotonic()
        return False

    wait_until(status, ask_until_it_runs)
    wait_until(status, have_run, timeout)


def picture(widget):
    """The widget's picture, once there is one."""
    image = widget.locator("img.widget-image")
    image.wait_for()
    wait_until(image, lambda: (image.get_attribute("src") or "").startswith("blob:"))
    return image


def changes(image, act: Callable[[], object]) -> None:
    """Do something, and wait until another picture is shown."""
    before = image.get_attribute("src")
    act()
    wait_until(image, lambda: image.get_attribute("src") != before)
    assert image.evaluate("async image => (await image.decode(), image.naturalWidth)") > 0


def wait_until(place, holds: Callable[[], bool], timeout: int = WAIT) -> None:
    """Wait until something holds, at most `timeout` milliseconds; place: a locator, to name it."""
    end = time.monotonic() + timeout / 1000
    while not holds():
        assert time.monotonic() < end, f"waited in vain, at {place}"
        place.page.wait_for_timeout(100)


def slide(widget, number: int) -> None:
    """Move a slider one step to the right, by its handle."""
    handle = widget.locator(".widget-slider .noUi-handle").nth(number)
    handle.focus()
    handle.press("ArrowRight")
