"""What the browser tests share: Debian's Chromium without a window, and a folder for screenshots.

A page reaches this machine only. What it asks of another one is refused, and fails its test: the
app, the documentation and the lessons work offline.
"""

import os
import shutil
from pathlib import Path

import pytest
from jupyter_lab import WAIT, serve

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-quic",
]
BADGE = "https://colab.research.google.com/assets/colab-badge.svg"  # its text stands in for it
OWN = ("http://localhost", "http://127.0.0.1", "ws://", "file:", "data:", "blob:", "about:")


@pytest.fixture(scope="session")
def browser():
    """Chromium; skipped where it or playwright is missing."""
    playwright = pytest.importorskip("playwright.sync_api", reason="needs minidalle[browser]")
    if CHROMIUM is None:
        pytest.skip("needs Chromium: apt-get install chromium")
    with playwright.sync_playwright() as play:
        browser = play.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture
def new_page(browser):
    """A function that opens another page, each with a browser profile of its own."""
    foreign, pages = [], []

    def call(**options):
        page = browser.new_page(**{"viewport": {"width": 1200, "height": 1000}} | options)
        page.set_default_timeout(WAIT)
        page.route(lambda url: not url.startswith(OWN), lambda route: refuse(route, foreign))
        pages.append(page)
        return page

    yield call
    for page in pages:
        page.close()
    assert not foreign, f"asked of another machine: {foreign}"


def refuse(route, foreign: list[str]) -> None:
    if route.request.url != BADGE:
        foreign.append(route.request.url)
    route.abort()


@pytest.fixture
def page(new_page):
    """An empty page, 1200 × 1000."""
    return new_page()


@pytest.fixture(scope="session")
def screenshots() -> Path:
    """Where pictures of what was seen are kept: MINIDALLE_SCREENSHOTS, or build/screenshots."""
    folder = Path(os.environ.get("MINIDALLE_SCREENSHOTS") or "build/screenshots").absolute()
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@pytest.fixture(scope="session")
def lab(tmp_path_factory):
    """The address of a JupyterLab, and the folder that it shows."""
    with serve(tmp_path_factory.mktemp("lab")) as found:
        yield found
