"""The web page, used as people use it: `make browser`.

The page is served in this process, so that the tests can slow its model down and see whether it is
still drawing; one test runs the real command. Nothing may be asked of another machine: the fixture
`new_page` sees to that.
"""

import base64
import io
import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import replace
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("gradio", reason="needs minidalle[app]")
playwright = pytest.importorskip("playwright.sync_api", reason="needs minidalle[browser]")

from minidalle import MiniDalle  # noqa: E402
from minidalle.app.limits import MAX_UPLOAD  # noqa: E402
from minidalle.app.page import launch  # noqa: E402
from minidalle.clip import CLIP, CLIPConfig  # noqa: E402
from minidalle.pictures import read_metadata  # noqa: E402
from minidalle.pipeline import EMBEDDED  # noqa: E402

GIVE = """([kind, file]) => {
    const bytes = Uint8Array.from(atob(file), char => char.charCodeAt(0));
    const given = new DataTransfer();
    given.items.add(new File([bytes], "a.png", {type: "image/png"}));
    const events = {
        drop: () => new DragEvent("drop", {dataTransfer: given, bubbles: true, cancelable: true}),
        paste: () => new ClipboardEvent("paste", {clipboardData: given, bubbles: true}),
    };
    document.querySelector("#drop .drop").dispatchEvent(events[kind]());
}"""  # a picture, dropped onto its place or pasted
WAIT = 240_000  # milliseconds, for everything: the machine may be busy
PROMPT = "rocket, noto style"


class Slow(MiniDalle):
    """A model that can be told to take its time for each token, and counts those drawn."""

    drawn, pause = 0, 0.0

    def stream_batch(self, *args):
        for tokens in super().stream_batch(*args):
            self.drawn += 1
            time.sleep(self.pause)
            yield tokens


@pytest.fixture(scope="module")
def emoji():
    """A page for the embedded model alone, which is the one to look at."""
    yield from serve(Slow.from_pretrained())


@pytest.fixture(scope="module")
def shapes():
    """A page for two small models; the first has a CLIP, which has learned nothing."""
    first, second = (Slow.from_pretrained(EMBEDDED.parent / "shapes") for _ in range(2))
    vocabulary = first.tokenizer.vocab_size
    first.clip = CLIP(replace(CLIPConfig.tiny(), vocab_size=vocabulary)).eval()
    first.name, second.name = "shapes", "more shapes"
    yield from serve(first, second)


def serve(*models):
    """Where a page is served, and its first model."""
    page = launch(models)
    yield SimpleNamespace(url=page.local_url, model=models[0])
    page.close(verbose=False)


@pytest.fixture
def visit(new_page):
    """Open a page in another tab of another person."""

    def call(served, **options):
        served.model.pause = 0.0
        page = new_page(**options)
        page.set_default_timeout(WAIT)
        page.goto(served.url)
        page.get_by_label("Prompt").wait_for()
        return page

    return call


def expect(locator):
    return playwright.expect(locator)


def press(page, name: str) -> None:
    page.get_by_role("button", name=name, exact=True).click()


def draw(page, prompt: str = PROMPT) -> None:
    """Ask for pictures, and wait until they are drawn."""
    page.get_by_label("Prompt").fill(prompt)
    press(page, "Draw")
    wait_for_pictures(page)


def wait_for_pictures(page) -> None:
    page.locator("[data-picture='8']").wait_for()
    page.get_by_role("button", name="Draw", exact=True).wait_for()


def choose(page, picture: int) -> None:
    page.locator(f"[data-picture='{picture}']").click()
    page.locator("#tokens img").wait_for()


def has_no_blank(page) -> bool:
    """Whether every picture that is seen has been loaded and has a text for those who cannot."""
    return page.evaluate(
        "[...document.querySelectorAll('.grid img, .detail img, .tokens img')]"
        ".every(image => image.complete && image.naturalWidth > 0 && image.alt)"
    )


def test_a_prompt_becomes_nine_pictures_and_one_of_them_a_file(visit, emoji, screenshots, tmp_path):
    page, model = visit(emoji), emoji.model
    page.screenshot(path=screenshots / "app-start.png")
    model.pause = 0.1
    page.get_by_label("Prompt").fill(PROMPT)
    press(page, "Draw")
    expect(page.locator("#status")).to_contain_text(
        re.compile(r"Drawing: [2-5]\d of 64"), timeout=WAIT
    )
    page.get_by_role("button", name="Stop", exact=True).wait_for()
    assert page.locator(".grid li img").count() == 9 and page.locator(".grid button").count() == 0
    page.screenshot(path=screenshots / "app-forming.png")
    model.pause = 0.0
    wait_for_pictures(page)
    expect(page.locator("#status")).to_contain_text("9 pictures, seeds 0 to 8")
    choose(page, 2)
    assert has_no_blank(page)
    expect(page.locator("#detail")).to_contain_text("Seed 2")
    page.screenshot(path=screenshots / "app-chosen.png", full_page=True)
    with page.expect_download() as saved:
        page.locator("#detail").get_by_role("link", name="Download").click()
    assert saved.value.suggested_filename == "rocket-noto-style-2.png"
    saved.value.save_as(tmp_path / "saved.png")
    expected = model.generate(PROMPT, n=9, seed=0)
    assert read_metadata(tmp_path / "saved.png") == expected.metadata(2)
    assert np.array_equal(Image.open(tmp_path / "saved.png"), expected.images[2])
    with page.expect_download() as saved:
        page.get_by_role("link", name="Download all").click()
    saved.value.save_as(tmp_path / "all.png")
    assert read_metadata(tmp_path / "all.png")["seeds"] == list(range(9))


def test_more_like_this_best_first_and_another_model(visit, shapes):
    page = visit(shapes)
    draw(page)
    choose(page, 4)
    press(page, "More like this")
    expect(page.locator("#status")).to_contain_text("each with the first half", timeout=WAIT)
    wait_for_pictures(page)
    expect(page.locator(".grid small").first).to_have_text("seed 4")
    press(page, "Best first")
    expect(page.locator("#status")).to_contain_text("best first", timeout=WAIT)
    page.locator("#settings button").first.click()
    scale = page.get_by_label("number input for Condition scale")
    scale.fill("7.5")
    page.get_by_role("radio", name="more shapes").check()
    expect(scale).not_to_have_value("7.5", timeout=WAIT)  # the other's own
    draw(page, "a small red circle")
    expect(page.get_by_role("button", name="Best first")).to_have_count(0)  # it has no CLIP


def test_two_tabs_at_once_wait_for_each_other(visit, shapes, screenshots):
    first, second, model = visit(shapes), visit(shapes), shapes.model
    model.pause = 1.0
    press(first, "Draw")
    expect(first.locator("#status")).to_contain_text("Drawing", timeout=WAIT)
    second.get_by_label("Prompt").fill("pizza, 3d fluent style")
    press(second, "Draw")
    expect(second.get_by_text("queue: 1/1")).to_be_in_viewport(timeout=WAIT)
    second.screenshot(path=screenshots / "app-waiting.png")
    model.pause = 0.0
    for page, said in ((first, "red apple"), (second, "pizza")):
        wait_for_pictures(page)
        assert said in page.locator(".grid img").first.get_attribute("alt")


def test_closing_a_tab_frees_the_worker(visit, shapes):
    leaving, staying, model = visit(shapes), visit(shapes), shapes.model
    length = model.bart.config.image_length
    model.drawn, model.pause = 0, 3.0
    press(leaving, "Draw")
    expect(leaving.locator("#status")).to_contain_text("Drawing", timeout=WAIT)
    leaving.close()
    time.sleep(8)  # the server sees that nobody listens, and the step under way ends
    model.pause = 0.0
    draw(staying)
    assert model.drawn < 2 * length, "the abandoned pictures were drawn to the end"


def test_stop_stops(visit, shapes):
    page, model = visit(shapes), shapes.model
    model.pause = 1.0
    press(page, "Draw")
    expect(page.locator("#status")).to_contain_text("Drawing", timeout=WAIT)
    press(page, "Stop")
    expect(page.locator("#status")).to_contain_text("Stopped.", timeout=WAIT)
    page.wait_for_timeout(3000)  # the step under way ends
    drawn = model.drawn
    page.wait_for_timeout(3000)
    assert model.drawn == drawn
    model.pause = 0.0
    draw(page)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_narrow_screen(visit, emoji, screenshots, scheme):
    page = visit(emoji, viewport={"width": 390, "height": 844}, color_scheme=scheme)
    draw(page)
    choose(page, 0)
    expect(page.locator("#detail img")).to_be_in_viewport()
    page.locator("#settings button").first.click()
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    page.screenshot(path=screenshots / f"app-narrow-{scheme}.png", full_page=True)
    press(page, "Edit its tokens")
    page.locator("#editor .mosaic").wait_for()
    page.wait_for_timeout(500)  # until the tab has come
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    page.screenshot(path=screenshots / f"app-narrow-edit-{scheme}.png", full_page=True)


def test_dark_as_the_reader_likes_it(visit, emoji, screenshots):
    page = visit(emoji, color_scheme="dark")
    draw(page)
    choose(page, 8)
    red, green, blue = page.evaluate(
        "getComputedStyle(document.body).backgroundColor.match(/\\d+/g).map(Number)"
    )
    assert max(red, green, blue) < 60
    page.screenshot(path=screenshots / "app-dark.png", full_page=True)


def go_to(page, target) -> None:
    """Press Tab until something has the keyboard."""
    target.wait_for()
    for _ in range(80):
        if target.evaluate("element => element === document.activeElement"):
            return
        page.keyboard.press("Tab")
    raise AssertionError(f"the Tab key does not reach {target}")


def test_with_the_keyboard_alone(visit, shapes, screenshots):
    page = visit(shapes)
    go_to(page, page.get_by_label("Prompt"))
    page.keyboard.press("Control+A")
    page.keyboard.type("a small red circle")
    page.keyboard.press("Enter")
    wait_for_pictures(page)
    go_to(page, page.locator("[data-picture='1']"))
    page.keyboard.press("Enter")
    page.locator("#tokens img").wait_for()
    page.screenshot(path=screenshots / "app-keyboard.png")
    go_to(page, page.locator("#detail a"))
    with page.expect_download() as saved:
        page.keyboard.press("Enter")
    assert saved.value.suggested_filename == "a-small-red-circle-1.png"
    go_to(page, page.get_by_role("button", name="Edit its tokens"))
    page.keyboard.press("Enter")
    page.locator("#editor .mosaic").wait_for()
    go_to(page, page.locator("#editor button[aria-pressed='true']"))
    for key in ("ArrowUp", "ArrowLeft", "Enter"):
        page.keyboard.press(key)
    expect(page.locator("#edit-status")).to_contain_text("Row 4, column 4", timeout=WAIT)
    go_to(page, page.locator("#palette [data-code]").nth(3))
    page.keyboard.press("Enter")
    expect(page.locator("#edit-status")).to_contain_text("1 of 64 tokens changed", timeout=WAIT)


def test_a_picture_to_tokens_and_back(visit, emoji, screenshots, tmp_path):
    page = visit(emoji)
    page.get_by_role("tab", name="Picture and tokens").click()
    source = tmp_path / "photo.png"
    emoji.model.generate("pizza, twemoji style").images[0].resize((300, 200)).save(source)
    field = page.locator("#drop input")
    field.set_input_files(source)
    expect(page.locator("#editor [data-place]")).to_have_count(64, timeout=WAIT)
    before = page.locator(".after figure").last.locator("img").get_attribute("src")
    page.locator("[data-place='27']").click()
    expect(page.locator("#edit-status")).to_contain_text("Row 4, column 4", timeout=WAIT)
    page.locator("#palette [data-code]").nth(5).click()
    expect(page.locator("#edit-status")).to_contain_text("1 of 64 tokens changed", timeout=WAIT)
    assert page.locator(".after figure").last.locator("img").get_attribute("src") != before
    code = page.locator("#edit-knobs input")
    code.fill("777")
    code.press("Enter")
    expect(page.locator("#edit-status")).to_contain_text("code 777 (was", timeout=WAIT)
    page.screenshot(path=screenshots / "app-editor.png", full_page=True)
    with page.expect_download() as saved:
        page.locator("#edit-status a").click()
    saved.value.save_as(tmp_path / "edited.png")
    assert read_metadata(tmp_path / "edited.png")["tokens"][27] == 777
    press(page, "Undo")
    expect(page.locator("#edit-status")).not_to_contain_text("code 777", timeout=WAIT)
    press(page, "Undo")
    expect(page.locator("#edit-status")).to_contain_text("0 of 64 tokens changed", timeout=WAIT)


def test_a_picture_is_dropped_then_another_pasted(visit, shapes, tmp_path):
    page, seen = visit(shapes), []
    page.get_by_role("tab", name="Picture and tokens").click()
    page.locator("#drop .drop").wait_for()
    came = page.locator(".after img").first
    for kind, colour in (("drop", "red"), ("paste", "blue")):
        Image.new("RGB", (50, 40), colour).save(tmp_path / "a.png")
        page.evaluate(GIVE, [kind, base64.b64encode((tmp_path / "a.png").read_bytes()).decode()])
        came.wait_for()
        expect(came).not_to_have_attribute("src", seen[-1] if seen else "", timeout=WAIT)
        seen.append(came.get_attribute("src"))
    shown = [Image.open(io.BytesIO(base64.b64decode(url.split(",")[1]))) for url in seen]
    assert [picture.getpixel((0, 0)) for picture in shown] == [(255, 0, 0), (0, 0, 255)]


def test_files_that_are_no_pictures_or_too_large_are_refused(visit, shapes, tmp_path):
    page = visit(shapes)
    page.get_by_role("tab", name="Picture and tokens").click()
    (tmp_path / "text.png").write_text("no picture")
    page.locator("#drop input").set_input_files(tmp_path / "text.png")
    expect(page.get_by_text("The file is no PNG, JPEG")).to_be_visible(timeout=WAIT)
    (tmp_path / "large.png").write_bytes(b"x" * 3 * MAX_UPLOAD)
    page.locator("#drop input").set_input_files(tmp_path / "large.png")
    expect(
        page.get_by_text("The picture has 30.0 MB; this page takes at most 10 MB")
    ).to_be_visible(timeout=WAIT)


def test_the_command_serves_the_page_until_it_is_told_to_stop(new_page):
    command = [sys.executable, "-m", "minidalle", "app"]
    environment = {k: v for k, v in os.environ.items() if not k.startswith("GRADIO")}
    options = {"stdout": subprocess.PIPE, "text": True, "env": environment}
    # Ctrl-C means something to the page even where whoever runs the tests does not listen to it.
    listens = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    with subprocess.Popen(command, preexec_fn=listens, **options) as app:
        try:
            url = app.stdout.readline().strip()
            assert re.fullmatch(r"http://127\.0\.0\.1:\d+/", url)
            page = new_page()
            page.set_default_timeout(WAIT)
            page.goto(url)
            page.get_by_label("Prompt").wait_for()
            assert page.get_by_role("radio").count() == 0  # there is one only
            page.goto("about:blank")
            app.send_signal(signal.SIGINT)
            assert app.wait(timeout=60) == 130
        finally:
            app.kill()
