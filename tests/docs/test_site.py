"""The built site: every link leads somewhere, nothing comes from elsewhere, everything is there."""

from functools import cache
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

ROOT = Path(__file__).parents[2]
LESSONS = sorted(path.stem for path in (ROOT / "notebooks").glob("[0-9]*.ipynb"))
# What a browser fetches by itself, unlike an <a>.
FETCHED = {"script": "src", "img": "src", "link": "href", "iframe": "src", "source": "src"}


class Page(HTMLParser):
    """The links, the names that can be linked to, and what is fetched, of one HTML file."""

    def __init__(self, path: Path):
        super().__init__()
        self.links, self.names, self.fetched, self.alone = [], set(), [], []
        self.feed(path.read_text())

    def handle_starttag(self, tag, attributes):
        given = dict(attributes)
        self.names |= {given[name] for name in ("id", "name") if given.get(name)}
        if tag == "a" and given.get("href"):
            self.links.append(given["href"])
        if tag == "img" and "alt" not in given:
            self.alone.append(given["src"])
        if given.get(FETCHED.get(tag)) and given.get("rel") not in ("canonical",):
            self.fetched.append(given[FETCHED[tag]])


@cache
def page_at(path: Path) -> Page:
    return Page(path)


def pages(site: Path) -> list[Path]:
    return sorted(path for path in site.rglob("*.html") if "_static" not in path.parts)


def test_every_link_to_this_site_leads_to_a_file_and_a_place_in_it(site):
    dead = []
    for path in pages(site):
        for link in {*page_at(path).links, *page_at(path).fetched}:
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                continue
            there = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            place = unquote(parts.fragment)
            if not there.is_file() or (
                there.suffix == ".html" and place and place not in page_at(there).names
            ):
                dead.append((path.name, link))
    assert not dead


def test_nothing_is_fetched_from_elsewhere(site):
    foreign = [
        (path.name, address)
        for path in pages(site)
        for address in page_at(path).fetched
        if urlsplit(address).scheme in ("http", "https") or urlsplit(address).netloc
    ]
    assert not foreign
    for path in site.rglob("*.css"):
        text = path.read_text().replace(" ", "")
        assert "url(http" not in text and "url(//" not in text, path


def test_no_script_waits_for_a_widget_manager_or_mathjax(site):
    for path in pages(site):
        text = path.read_text()
        for name in ("widget-view+json", "require.min.js", "mathjax@", "html-manager"):
            assert name not in text.lower(), f"{path}: {name}"


@pytest.mark.parametrize("lesson", LESSONS)
def test_a_lesson_has_its_links_its_pictures_and_its_notebook_as_it_is(site, lesson):
    page = page_at(site / "lessons" / f"{lesson}.html")
    colab = [link for link in page.links if link.startswith("https://colab.research.google.com/")]
    assert [link.rsplit("/", 1)[1] for link in colab] == [f"{lesson}.ipynb"]
    (download,) = (link for link in page.links if "_downloads" in link)
    notebook = ROOT / "notebooks" / f"{lesson}.ipynb"
    downloaded = site / "lessons" / unquote(download)
    assert downloaded.read_bytes() == notebook.read_bytes(), "stale: make docs"
    assert sum(address.endswith(".png") for address in page.fetched) >= 3
    assert f"solutions/{lesson}.html" in page.links


def test_every_picture_has_an_alternative_text(site):
    assert not [(path.name, page_at(path).alone) for path in pages(site) if page_at(path).alone]


def test_the_site_holds_every_page_and_says_what_it_should(site):
    for name in (
        "start", "atlas", "training", "weights", "lessons/index", "reference/command-line",
        "reference/settings", "reference/formats", "reference/cards", "search",
    ):  # fmt: skip
        assert (site / f"{name}.html").is_file(), name
    assert "condition-scale" in (site / "reference/command-line.html").read_text()
    assert "label_spread" in (site / "reference/settings.html").read_text()
    assert (
        'id="minidalle.pipeline.MiniDalle.generate"'
        in (site / "reference/api/whole.html").read_text()
    )


def test_formulas_are_mathml(site):
    text = (site / "lessons/03_vqgan.html").read_text()
    assert "<math " in text and "\\lVert" not in text
