"""Widgets without a browser: each callback is called, by a value set or a button clicked."""

import io
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image

from minidalle.bart import Bart, BartConfig
from minidalle.pipeline import MiniDalle
from minidalle.tokenizer import ByteLevelBPE
from minidalle.vqgan import VQGAN, VQGANConfig

ipywidgets = pytest.importorskip("ipywidgets")
from minidalle.viz import widgets  # noqa: E402  (without ipywidgets there is nothing to test)


@pytest.fixture(scope="module")
def model() -> MiniDalle:
    torch.manual_seed(0)
    vqgan = VQGAN(VQGANConfig.tiny()).eval()
    tokenizer = ByteLevelBPE.train(["a red apple"], 270)
    config = BartConfig.tiny()
    return MiniDalle(bart=Bart(config).eval(), vqgan=vqgan, tokenizer=tokenizer)


@pytest.fixture
def images() -> torch.Tensor:
    return torch.rand(7, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def pixels(image: "ipywidgets.Image") -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(image.value)).convert("RGB")).astype(int)


def test_the_studio_draws_what_its_knobs_say(model):
    studio = widgets.prompt_studio(model, "a red apple")
    first = studio.picture.value
    studio.number.value, studio.seed.value = 1, 5
    studio.temperature.value, studio.condition_scale.value = 0.5, 2.0
    assert studio.picture.value == first  # until the button is clicked
    studio.button.click()
    wanted = model.generate("a red apple", n=1, seed=5, temperature=0.5, condition_scale=2.0)
    assert studio.result.tokens.equal(wanted.tokens)
    shown = pixels(studio.picture)
    assert shown.shape == (128, 128, 3)
    assert (shown[::4, ::4] == np.asarray(wanted.images[0])).all()
    assert "seeds 5" in studio.message.value and not studio.button.disabled


def test_the_studio_says_what_was_wrong_and_goes_on(model):
    studio = widgets.prompt_studio(model, "<script>")
    before = studio.picture.value
    assert "&lt;script&gt;" in studio.message.value
    studio.seed.value = -1
    studio.button.click()
    assert "seed is -1" in studio.message.value and not studio.button.disabled
    assert studio.picture.value == before
    studio.seed.value = 0
    studio.button.click()
    assert "does not work" not in studio.message.value


def test_the_explorer_goes_through_the_codes_in_each_order(model, images):
    ids = model.vqgan.encode(images)
    tiles = torch.linspace(0, 1, 64)[:, None, None, None].expand(-1, 3, 8, 8)
    explorer = widgets.codebook_explorer(model.vqgan, images, tiles=tiles)
    assert explorer.code in (0, 63)
    explorer.order.value = "by number"
    for code in (3, int(ids[0, 0])):
        explorer.slider.value = code
        assert explorer.code == code
        count = int((ids == code).sum())
        assert f"code {code}</b>: {count} of the {ids.numel()} tokens" in explorer.message.value
        shown = pixels(explorer.picture)
        assert np.abs(shown[:128, :128] - 255 * code / 63).max() <= 2
        where = min(6, int((ids == code).any(1).sum()))
        assert shown.shape == (128, 128 * (1 + where), 3)
    explorer.order.value, explorer.slider.value = "by use", 0
    assert int((ids == explorer.code).sum()) == ids.flatten().bincount().max()


def test_the_explorer_shows_a_code_that_never_occurs(model, images):
    explorer = widgets.codebook_explorer(model.vqgan, images[:1], tiles=torch.zeros(64, 3, 8, 8))
    explorer.order.value, explorer.slider.value = "by use", 63
    assert ": 0 of the 16 tokens" in explorer.message.value
    assert pixels(explorer.picture).shape == (128, 128, 3)


def test_the_editor_changes_one_token_and_takes_it_back(model, images):
    editor = widgets.token_editor(model.vqgan, images[0])
    ids = model.vqgan.encode(images[:1])[0]
    assert [cell.description for cell in editor.cells[1:]] == [str(id) for id in ids[1:].tolist()]
    before = editor.picture.value
    editor.cells[5].click()
    assert editor.code.value == ids[5] and editor.tokens.equal(ids)  # to go there changes nothing
    selected, other = editor.picture.value, (int(ids[5]) + 1) % 64
    assert selected != before
    editor.code.value = other
    wanted = ids.clone()
    wanted[5] = other
    assert editor.tokens.equal(wanted)
    assert editor.cells[5].description == f"[{other}]"
    assert "1 of 16 tokens changed" in editor.message.value
    picture = model.vqgan.decode(wanted[None])[0].clamp(0, 1).permute(1, 2, 0)
    right = pixels(editor.picture)[:, 256:][::8, ::8]
    assert np.abs(right[24:] - 255 * picture[24:].numpy()).max() <= 1  # below the mark
    editor.cells[0].click()
    editor.undo_button.click()
    assert editor.tokens.equal(ids) and editor.selected == 5
    assert editor.picture.value == selected and editor.undo_button.disabled


def test_the_editor_chooses_by_likeness_and_resets(model, images):
    editor = widgets.token_editor(model.vqgan, images[0])
    original = editor.tokens.clone()
    for place in (2, 9):
        editor.cells[place].click()
        editor.slider.value = (editor.slider.value + 7) % 64
        assert editor.tokens[place] == editor.order[editor.slider.value] == editor.code.value
    assert (editor.tokens != original).nonzero()[:, 0].tolist() == [2, 9]
    editor.reset_button.click()
    assert editor.tokens.equal(original)
    editor.undo_button.click()  # nothing is left to take back
    assert editor.tokens.equal(original)


def test_the_editor_takes_a_picture_of_any_size(model):
    editor = widgets.token_editor(model.vqgan, Image.new("RGB", (50, 40), "red"))
    assert editor.tokens.shape == (16,)


def test_the_sampling_explorer_follows_each_slider():
    explorer = widgets.sampling_explorer(
        torch.randn(100, generator=torch.Generator().manual_seed(0))
    )
    shown = [explorer.picture.value]
    for knob, value in (("temperature", 0.0), ("temperature", 0.5), ("top_k", 5), ("top_p", 0.8)):
        getattr(explorer, knob).value = value
        shown.append(explorer.picture.value)
    assert len(set(shown)) == 5
    assert all(bytes(data).startswith(b"\x89PNG") for data in shown)


def test_saved_state_holds_the_pictures(model, images):
    for widget in (
        widgets.prompt_studio(model),
        widgets.token_editor(model.vqgan, images[0]),
        widgets.sampling_explorer(torch.randn(10)),
    ):
        state = widget.picture.get_state()
        assert bytes(state["value"]).startswith(b"\x89PNG") and state["format"] == "png"
        assert len(state["value"]) < 225_000


def test_without_ipywidgets_it_says_what_to_install():
    code = "import sys; sys.modules['ipywidgets'] = None; import minidalle.viz.widgets"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "ImportError: " in done.stderr and "pip install minidalle[lessons]" in done.stderr
