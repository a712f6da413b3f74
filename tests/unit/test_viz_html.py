"""Pages to point at: escaped, small, the same each time, and nothing is fetched."""

import base64
import io
import re
from html.parser import HTMLParser
from itertools import pairwise

import pytest
import torch
from PIL import Image

from minidalle.viz.codebook import Examples, choose_examples
from minidalle.viz.html import atlas_page, coloured_tokens

GENERATOR = torch.Generator().manual_seed(0)
TILES = torch.rand(20, 3, 8, 8, generator=GENERATOR)
COUNTS = torch.tensor([0, 1200, *range(1, 19)])
PICTURES = torch.rand(3, 3, 32, 32, generator=GENERATOR)
EXAMPLES = Examples(PICTURES, {1: (2, 7), 5: (0, 0)}, side=4)


class Reader(HTMLParser):
    """The elements of a page; complains of one that is not closed."""

    def __init__(self, page: str):
        super().__init__()
        self.tags, self.open, self.texts = [], [], []
        self.feed(page)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag not in ("br", "input"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.texts.append(data)

    def of(self, tag):
        return [attributes for name, attributes in self.tags if name == tag]


def test_pieces_stand_in_order_with_their_ids_and_are_escaped():
    page = coloured_tokens(["<s>", " red", "<script>alert(1)</script>", "\n", ""], [0, 5, 6, 7, 2])
    reader = Reader(page)
    assert not reader.of("script")
    expected = ["<s>", "0", "␣red", "5", "<script>alert(1)</script>", "6", "⏎", "7", "∅", "2"]
    assert reader.texts == expected


def test_neighbouring_pieces_differ_in_colour():
    colours = re.findall(r"background:(#\w+)", coloured_tokens(["a"] * 12, range(12)))
    assert len(colours) == 12
    assert all(a != b for a, b in pairwise(colours))


def test_each_piece_needs_an_id():
    with pytest.raises(ValueError, match="2 pieces for 1 ids"):
        coloured_tokens(["a", "b"], [1])


def variables(style: str) -> dict[str, int]:
    return {name: int(value) for name, value in re.findall(r"--(\w):(\d+)", style)}


def test_the_atlas_tells_of_each_code_its_tile_number_count_and_example():
    order = torch.arange(19, -1, -1)
    cells = Reader(atlas_page(TILES, COUNTS, EXAMPLES, order=order)).of("b")
    assert len(cells) == 20
    cells.reverse()
    assert cells[1]["data-t"] == "code 1: 1,200×" and cells[0]["data-t"] == "code 0: never"
    assert cells[0]["class"] == "never" and "class" not in cells[1]
    assert variables(cells[17]["style"]) == {"x": 1, "y": 1, "u": 3, "n": 17}
    assert variables(cells[1]["style"]) == {
        "x": 1, "y": 0, "u": 0, "n": 1, "e": 2, "f": 0, "p": 3, "q": 1
    }  # fmt: skip


def sprites(page: str) -> list[Image.Image]:
    urls = [re.search(rf"--{name}:url\(data:image/webp;base64,([^)]*)", page)[1] for name in "ts"]
    return [Image.open(io.BytesIO(base64.b64decode(url))).convert("RGB") for url in urls]


def test_the_sprites_hold_the_tiles_and_the_examples():
    tiles, examples = sprites(atlas_page(TILES, COUNTS, EXAMPLES))
    assert tiles.size == (16 * 8, 2 * 8) and examples.size == (8 * 32, 32)
    red = TILES[17, 0, 2, 3]  # of code 17, in column 1 and row 1
    assert tiles.getpixel((8 + 3, 8 + 2))[0] / 255 == pytest.approx(float(red), abs=0.02)


def test_the_order_is_by_likeness_unless_given():
    shades = torch.linspace(0, 1, 20)[torch.randperm(20, generator=GENERATOR)]
    tiles = shades[:, None, None, None].expand(-1, 3, 8, 8)
    cells = Reader(atlas_page(tiles, COUNTS)).of("b")
    shown = [float(shades[variables(cell["style"])["n"]]) for cell in cells]
    assert shown == sorted(shown)


def test_the_title_is_escaped():
    reader = Reader(atlas_page(TILES, COUNTS, title="<script>alert(1)</script>"))
    assert not reader.of("script") and "<script>alert(1)</script>" in reader.texts


def test_nothing_is_fetched_and_no_script_runs():
    page = atlas_page(TILES, COUNTS, EXAMPLES)
    assert "<script" not in page and "@import" not in page
    assert all(url.startswith(("data:", '"data:')) for url in re.findall(r"url\(([^)]{6})", page))
    links = set(re.findall(r"https?://[^ '\"]*", page))
    assert links == {"http://www.w3.org/2000/svg"}  # a name, not an address


def test_two_pages_in_one_document_do_not_mix():
    first, second = (re.search(r'class="([\w-]+)"', page)[1] for page in
                     (atlas_page(TILES, COUNTS), atlas_page(TILES, COUNTS, EXAMPLES)))  # fmt: skip
    assert first != second
    for rule in re.search("<style>\n(.*?)\n</style>", atlas_page(TILES, COUNTS), re.S)[1].split(
        "\n"
    ):
        assert rule.startswith(f".{first}")


def test_a_page_of_1024_codes_is_small_and_the_same_each_time():
    generator = torch.Generator().manual_seed(0)
    colours = torch.rand(1024, 3, 1, 1, generator=generator)
    tiles = (colours + 0.1 * torch.rand(1024, 3, 8, 8, generator=generator)).clamp(0, 1)
    ids = torch.randint(0, 1024, (200, 64), generator=generator)
    pictures = torch.rand(200, 3, 16, 16, generator=generator)
    pictures = torch.nn.functional.interpolate(pictures, size=64, mode="bilinear")
    counts = ids.flatten().bincount(minlength=1024)
    pages = {atlas_page(tiles, counts, choose_examples(ids, pictures)) for _ in range(2)}
    assert len(pages) == 1
    assert len(pages.pop().encode()) < 300_000


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="20 tiles"):
        atlas_page(TILES, COUNTS[:5])
    with pytest.raises(ValueError, match="20 tiles"):
        atlas_page(TILES, COUNTS, order=torch.zeros(20, dtype=torch.long))
