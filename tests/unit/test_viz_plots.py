"""Plots: each draws what it was given, shows once in a notebook and leaves matplotlib alone."""

import io
import subprocess
import sys
import warnings

import matplotlib
import nbformat
import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from nbclient import NotebookClient
from PIL import Image

from minidalle.sampling import SamplingConfig, filter_logits
from minidalle.viz import plots
from minidalle.viz.canvas import DPI, GROUND, WIDTH, png_bytes, snapped, token_colour

GENERATOR = torch.Generator().manual_seed(0)
PICTURES = torch.rand(5, 3, 16, 16, generator=GENERATOR)
LOGITS = torch.randn(100, generator=GENERATOR)
LONG = "a caption that says much more than there is room for above so small a picture, twice over"

FIGURES = {
    "images": lambda: plots.show_images(PICTURES, titles=["a $5 apple and $6", LONG, 1, "🍎", ""]),
    "one image": lambda: plots.show_images(PICTURES[0], title=LONG),
    "many images": lambda: plots.show_images(PICTURES.repeat(20, 1, 1, 1)),
    "large images": lambda: plots.show_images(torch.zeros(2, 3, 256, 256), size=2),
    "tokens": lambda: plots.token_grid(torch.arange(16), picture=PICTURES[0], title="tokens"),
    "many tokens": lambda: plots.token_grid(torch.arange(256) * 64, title=LONG * 2),
    "tokens in two rows": lambda: plots.token_grid(torch.arange(6).view(2, 3), numbers=False),
    "atlas": lambda: plots.codebook_atlas(PICTURES, counts=torch.tensor([0, 3, 1, 0, 9])),
    "atlas without counts": lambda: plots.codebook_atlas(PICTURES, columns=2, title=LONG),
    "attention": lambda: plots.attention_map(
        torch.rand(2, 6), rows=["<s>", "🍎"], columns=["Ġtwemoji"] * 6, title=LONG
    ),
    "much attention": lambda: plots.attention_map(torch.rand(64, 64)),
    "attention over": lambda: plots.attention_over_picture(
        torch.rand(2, 4, 4), PICTURES[0], ["red", LONG]
    ),
    "curves": lambda: plots.curves(
        {"a $x$": [3, 2, 1], LONG: ([1, 10], [2, 3])},
        xlabel="step", ylabel="loss", title=LONG, log_x=True, log_y=True, lines={"ln K": 2.0},
    ),
    "histogram": lambda: plots.logit_histogram(LOGITS, title=LONG),
    "bars": lambda: plots.bars({"a": 1, LONG: [2.0, 4.0]}, ylabel="PSNR (dB)", title=LONG),
    "grouped bars": lambda: plots.bars(
        {"a": [1, 2], "b": [3, 4]}, ylabel="dB", groups=["seen", "unseen"]
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", FIGURES)
def test_a_figure_fits_a_notebook_and_nothing_is_cut_off(name):
    before = dict(matplotlib.rcParams)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # such as those of a sign that the font has not
        figure = FIGURES[name]()
        data = png_bytes(figure)
    assert dict(matplotlib.rcParams) == before
    picture = Image.open(io.BytesIO(data)).convert("RGB")
    assert picture.width <= round(WIDTH * DPI) + 1
    assert len(data) < 225_000  # 300 kB in base64
    wide, high = figure.canvas.get_width_height()
    for axes in figure.axes:
        for text in [axes.title, axes._left_title, axes.xaxis.label, axes.yaxis.label, *axes.texts]:
            if text.get_text():
                box = text.get_window_extent()
                assert box.x0 > -1 and box.y0 > -1, text
                assert box.x1 < wide + 1 and box.y1 < high + 1, text


@pytest.mark.parametrize("name", ["curves", "bars", "tokens", "images"])
def test_the_ground_is_opaque_and_light_whatever_the_users_style(name):
    settings = {"text.color": "white", "image.origin": "lower", "font.size": 20, "axes.grid": True}
    with matplotlib.rc_context({**settings, "savefig.transparent": True}):
        figure = FIGURES[name]()
    assert figure._repr_png_() == FIGURES[name]()._repr_png_()
    with matplotlib.rc_context({"savefig.transparent": True}):
        picture = Image.open(io.BytesIO(figure._repr_png_()))
    assert matplotlib.colors.to_hex(figure.get_facecolor()).upper() == GROUND
    assert picture.convert("RGBA").getextrema()[3] == (255, 255)
    texts = [text for axes in figure.axes for text in axes.texts]
    assert not any(matplotlib.colors.to_hex(text.get_color()) == "#ffffff" for text in texts)


@pytest.mark.parametrize("pyplot", ["", "import matplotlib.pyplot as plt\n"])
def test_it_shows_exactly_once_in_a_notebook(pyplot):
    code = f"{pyplot}from minidalle.viz import plots\nplots.bars({{'a': 1}}, ylabel='dB')"
    notebook = nbformat.v4.new_notebook(
        cells=[nbformat.v4.new_code_cell(code), nbformat.v4.new_code_cell("None")]
    )
    NotebookClient(notebook, timeout=120, kernel_name="python3").execute()
    shown, after = (cell.outputs for cell in notebook.cells)
    assert [output.output_type for output in shown] == ["execute_result"]
    assert "image/png" in shown[0].data
    assert after == []


def test_importing_it_does_not_start_pyplot():
    code = "import sys, minidalle.viz.plots; sys.exit('matplotlib.pyplot' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def drawn_images(figure: Figure) -> list[np.ndarray]:
    return [np.asarray(image.get_array()) for image in figure.axes[0].get_images()]


def test_show_images_takes_bytes_floats_and_pil():
    bytes_ = (PICTURES * 255).round().byte()
    pil = [Image.fromarray(p.permute(1, 2, 0).numpy()) for p in bytes_]
    for images in (bytes_, pil, bytes_ / 255, list(bytes_)):
        arrays = drawn_images(plots.show_images(images))
        expected = bytes_.permute(0, 2, 3, 1).numpy() / 255
        np.testing.assert_allclose(np.stack(arrays), expected, atol=1e-6)


def test_show_images_places_them_row_by_row():
    figure = plots.show_images(PICTURES, columns=2)
    corners = [image.get_extent()[::2] for image in figure.axes[0].get_images()]
    assert len({x for x, _ in corners}) == 2
    assert [y for _, y in corners] == sorted((y for _, y in corners), reverse=True)


def test_only_rows_with_titles_take_room_for_them():
    def height(titles):
        return plots.show_images(PICTURES[:4], titles=titles, columns=2).get_size_inches()[1]

    none, first, both = height(None), height(["a", "", "", ""]), height(["a", "", "", "b"])
    assert height([""] * 4) == none < first < both
    assert both - first == pytest.approx(first - none)


def test_show_images_refuses_what_it_cannot_show():
    with pytest.raises(ValueError, match="2 titles for 5"):
        plots.show_images(PICTURES, titles=["a", "b"])
    with pytest.raises(ValueError, match=r"\(5, 16\)"):
        plots.show_images(PICTURES[:, 0, 0])
    with pytest.raises(ValueError, match="no picture"):
        plots.show_images([])


@pytest.mark.parametrize("side", [8, 16, 32, 64])
def test_small_pictures_are_shown_at_whole_multiples(side):
    shown = (snapped(1.2, side) - 0.04) * DPI
    assert shown / side == pytest.approx(round(shown / side)) and 96 <= shown <= 144


def test_token_grid_writes_each_id_where_it_stands():
    figure = plots.token_grid(torch.tensor([7, 8, 9, 7]))
    texts = {text.get_text(): text.get_position() for text in figure.axes[0].texts}
    assert set(texts) == {"7", "8", "9"}
    assert texts["8"][0] > texts["9"][0] and texts["8"][1] > texts["9"][1]
    cells = drawn_images(figure)[0]
    assert (cells[0, 0] == cells[1, 1]).all() and (cells[0, 0] != cells[0, 1]).any()
    assert not plots.token_grid(torch.tensor([7, 8, 9, 7]), numbers=False).axes[0].texts
    with pytest.raises(ValueError, match=r"\(5,\)"):
        plots.token_grid(torch.arange(5))


def test_black_numbers_can_be_read_on_every_tokens_colour():
    for token in range(2000):
        red, green, blue = token_colour(token)
        assert 0.2126 * red**2.2 + 0.7152 * green**2.2 + 0.0722 * blue**2.2 > 0.28  # 6.6 : 1


def test_codebook_atlas_puts_tiles_in_order_and_crosses_out_the_unused():
    tiles = torch.linspace(0, 1, 5)[:, None, None, None].expand(-1, 3, 8, 8)
    figure = plots.codebook_atlas(tiles, counts=torch.tensor([0, 3, 1, 0, 9]), columns=3)
    sheet = drawn_images(figure)[0]
    assert sheet[4, 4].tolist() == [0, 0, 0] and sheet[4, 13].tolist() == [0.25] * 3
    assert sheet[13, 4].tolist() == [0.75] * 3
    (crosses,) = figure.axes[0].collections
    assert len(crosses.get_segments()) == 2
    assert "2 of 5 never occur" in figure.axes[1].get_xlabel()


def test_attention_map_shows_the_weights_from_zero():
    weights = torch.tensor([[0.5, 0.5], [0.9, 0.1]])
    figure = plots.attention_map(weights, rows=["a", "b"], columns=["c", "d"])
    (image,) = figure.axes[0].get_images()
    np.testing.assert_allclose(image.get_array(), weights)
    assert image.get_clim()[0] == 0
    assert [t.get_text() for t in figure.axes[0].get_yticklabels()] == ["a", "b"]
    figure = plots.attention_map(weights, xlabel="next", ylabel="letter", label="share")
    axes, bar = figure.axes
    assert (axes.get_xlabel(), axes.get_ylabel(), bar.get_ylabel()) == ("next", "letter", "share")


def test_attention_over_picture_colours_the_place_that_is_looked_at():
    weights = torch.zeros(1, 4, 4)
    weights[0, 1, 2] = 0.3
    picture, over = drawn_images(plots.attention_over_picture(weights, PICTURES[0]))
    np.testing.assert_allclose(picture, PICTURES[0].permute(1, 2, 0), atol=1e-6)
    coloured = np.abs(over - over.mean(-1, keepdims=True)).max(-1) > 0.1
    expected = np.zeros((16, 16), bool)
    expected[4:8, 8:12] = True
    assert (coloured == expected).all()


def test_curves_take_ys_and_pairs_and_tensors():
    series = {"ys": [5, 6], "pair": ([1, 2, 3], torch.tensor([1.0, 2, 4])), "two": (7, 8)}
    lines = plots.curves(series, xlabel="x", ylabel="y").axes[0].get_lines()
    assert [line.get_xydata().tolist() for line in lines] == [
        [[0, 5], [1, 6]], [[1, 1], [2, 2], [3, 4]], [[0, 7], [1, 8]]
    ]  # fmt: skip


def test_whole_numbers_have_whole_ticks():
    def ticks(xs):
        axes = plots.curves({"a": (xs, xs)}, xlabel="x", ylabel="y").axes[0]
        return axes.get_xticks()

    assert all(tick == round(tick) for tick in ticks(np.arange(20)))
    assert any(tick != round(tick) for tick in ticks(np.linspace(0, 1, 5)))


def test_logarithmic_axes_within_a_decade_have_plain_numbers():
    def texts(ys):
        axes = plots.curves({"a": ys}, xlabel="x", ylabel="y", log_y=True).axes[0]
        axes.figure.draw_without_rendering()
        return [label.get_text() for label in axes.get_yticklabels(which="both")]

    assert {"0.5", "0.6", "0.7"} <= set(texts([0.5, 0.74]))
    assert not {"0.5", "5", "50"} & set(texts([0.5, 50]))


def test_logit_histogram_shows_what_is_drawn_from():
    kept = filter_logits(LOGITS[None], SamplingConfig(temperature=0.5, top_k=3))[0]
    before, after = plots.logit_histogram(LOGITS, kept=kept, top=10).axes[0].containers
    probabilities = LOGITS.softmax(0).sort(descending=True).values
    np.testing.assert_allclose([bar.get_height() for bar in before], probabilities[:10], atol=1e-6)
    heights = [bar.get_height() for bar in after]
    assert sum(heights) == pytest.approx(1) and heights[3:] == [0] * 7
    assert heights[0] / heights[1] == pytest.approx(
        (probabilities[0] / probabilities[1]).item() ** 2
    )
    mask = kept > -torch.inf
    _, masked = plots.logit_histogram(LOGITS, kept=mask, top=10).axes[0].containers
    expected = probabilities[:3] / probabilities[:3].sum()
    np.testing.assert_allclose([bar.get_height() for bar in masked][:3], expected, atol=1e-6)


def test_logit_histogram_without_a_filter_has_one_colour():
    axes = plots.logit_histogram(LOGITS, top=10).axes[0]
    (bars,) = axes.containers
    probabilities = LOGITS.softmax(0).sort(descending=True).values
    np.testing.assert_allclose([bar.get_height() for bar in bars], probabilities[:10], atol=1e-6)
    assert axes.get_legend() is None


def test_bars_too_low_to_be_seen_are_labelled_in_short():
    figure = plots.bars({"a": [0.5, 7.5e-07], "b": [0.0, 0.25]}, ylabel="p", groups=["x", "y"])
    assert [text.get_text() for text in figure.axes[0].texts] == ["0.5", "≈0", "0", "0.25"]
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == ["x", "y"]
    colours = [bar[0].get_facecolor() for bar in figure.axes[0].containers]
    assert [key.get_facecolor() for key in legend.get_patches()] == colours[:2]


def test_bars_are_labelled_as_finely_as_the_tallest_allows():
    figure = plots.bars({"a": [1.311, 1.0], "b": [0.9214, 0.092]}, ylabel="d", groups=["x", "y"])
    assert [text.get_text() for text in figure.axes[0].texts] == ["1.31", "1", "0.92", "0.09"]
    figure = plots.bars({"a": 0.0, "b": 0.0}, ylabel="d")
    assert [text.get_text() for text in figure.axes[0].texts] == ["0", "0"]


def test_bars_show_means_with_their_values():
    figure = plots.bars({"a": 1, "b": [2.0, 4.0]}, ylabel="dB")
    heights = [bar.get_height() for container in figure.axes[0].containers for bar in container]
    assert heights == [1, 3]
    assert [text.get_text() for text in figure.axes[0].texts] == ["1", "3"]
    assert figure.axes[0].get_lines()[0].get_ydata().tolist() == [2, 4]


def test_the_palette_is_okabe_and_itos():
    assert set(plots.PALETTE) == {
        "#000000", "#E69F00", "#56B4E9", "#009E73", "#F0E442", "#0072B2", "#D55E00", "#CC79A7"
    }  # fmt: skip
