"""The built documentation: search, a lesson, the atlas. After `make docs`.

It is served from this machine. Opened as files it works too, but search shows no excerpts then,
since a browser lets no page fetch files.
"""

import functools
import threading
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

SITE = Path(__file__).parents[2] / "build" / "docs"


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *words):
        pass


@pytest.fixture(scope="module")
def site():
    """The address of the site."""
    if not (SITE / "index.html").is_file():
        pytest.fail("needs the built site: make docs")
    handler = functools.partial(Quiet, directory=str(SITE))
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


@pytest.fixture
def show(page, site, screenshots, request):
    """Open a page of the site; at the end a picture of it is kept."""
    errors = []
    page.on("pageerror", lambda error: errors.append(str(error)))

    def call(address: str):
        page.goto(f"{site}/{address}")
        return page

    yield call
    page.screenshot(path=screenshots / f"docs-{request.node.name}.png")
    assert not errors


def shown_code(page) -> int:
    return int(page.locator("#atlas-panel h2").inner_text().removeprefix("Code "))


def test_search_finds_pages(show):
    page = show("index.html")
    page.keyboard.press("Control+k")
    page.keyboard.type("condition_scale")
    page.keyboard.press("Enter")
    page.get_by_text("Search finished").wait_for()
    results = page.locator("#search-results li a")
    found = [link.get_attribute("href").split("#")[0].split("?")[0] for link in results.all()]
    assert any(address.endswith("reference/settings.html") for address in found)
    assert any(address.endswith("lessons/07_sampling.html") for address in found)


def test_a_lesson_shows_its_pictures_and_its_widget(show):
    page = show("lessons/00_tour.html")
    broken = page.evaluate(
        """async () => {
            const images = [...document.querySelectorAll(".bd-article img")];
            images.forEach((image) => (image.loading = "eager"));
            await Promise.allSettled(images.map((image) => image.decode()));
            return images.filter((image) => !image.naturalWidth).map((image) => image.src);
        }"""
    )
    assert broken == []
    assert page.locator(".bd-article .cell_output img").count() >= 10
    widget = page.locator(".saved-widget")
    widget.scroll_into_view_if_needed()
    assert widget.locator("img").is_visible()
    assert widget.locator("input[type=text]").input_value() == "red apple, twemoji style"
    assert widget.locator("input, button").first.is_disabled()


def test_formulas_are_drawn_without_a_script(show):
    page = show("lessons/03_vqgan.html")
    formula = page.locator(".formula math").first
    formula.scroll_into_view_if_needed()
    assert formula.bounding_box()["height"] > 10
    assert "‖" in formula.text_content() and "\\" not in formula.text_content()


def test_the_atlas_shows_the_code_that_is_pointed_at(show):
    page = show("atlas.html")
    cells = page.locator("#atlas-codes .code")
    assert cells.count() == 1024
    page.locator("[data-code='17']").hover()
    assert shown_code(page) == 17
    page.locator("[data-code='900']").click()
    page.locator("[data-code='18']").hover()
    assert shown_code(page) == 18
    page.mouse.move(2, 2)
    assert shown_code(page) == 900 and page.url.endswith("#code-900")
    examples = page.locator("#atlas-panel .examples figure")
    assert examples.count() == 6
    assert "style" in examples.first.inner_text()
    background = page.locator("#atlas-panel .drawings").first.evaluate(
        """async (element) => {
            const image = new Image();
            image.src = getComputedStyle(element).backgroundImage.slice(5, -2);
            await image.decode();
            return image.naturalWidth;
        }"""
    )
    assert background == 16 * 64


def test_the_atlas_is_searched_and_sorted(show):
    page = show("atlas.html#code-5")
    assert shown_code(page) == 5
    number = page.get_by_label("Code", exact=True)
    number.fill("1023")
    assert shown_code(page) == 1023
    number.fill("1024")
    assert "no code 1024" in page.locator("#atlas-found").inner_text()
    assert shown_code(page) == 1023

    def in_order() -> list[int]:
        codes = page.locator("#atlas-codes .code")
        return codes.evaluate_all("cells => cells.map(cell => Number(cell.dataset.code))")

    likeness = in_order()
    assert sorted(likeness) == list(range(1024)) and likeness != list(range(1024))
    page.get_by_label("by number").check()
    assert in_order() == list(range(1024))
    page.get_by_label("by use").check()
    counts = page.evaluate("window.ATLAS.counts")
    used = [counts[code] for code in in_order()]
    assert used == sorted(counts, reverse=True) and used[0] > used[-1]


def test_the_atlas_is_walked_by_keyboard(show):
    page = show("atlas.html#code-0")
    page.get_by_label("by number").check()
    page.locator("#atlas-codes").focus()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    assert shown_code(page) == 2
    page.keyboard.press("ArrowDown")
    row = shown_code(page)
    assert row > 10
    page.keyboard.press("ArrowUp")
    page.keyboard.press("ArrowLeft")
    assert shown_code(page) == 1


@pytest.mark.parametrize(
    "address",
    [
        "index", "lessons/03_vqgan", "atlas", "reference/settings", "reference/command-line",
        "reference/api/checkpoints", "genindex",
    ],
)  # fmt: skip
def test_a_narrow_screen_is_not_wider_than_it_is(new_page, site, screenshots, address):
    page = new_page(viewport={"width": 390, "height": 800}, color_scheme="dark")
    page.goto(f"{site}/{address}.html")
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    page.screenshot(path=screenshots / f"docs-narrow-{Path(address).name}.png")
