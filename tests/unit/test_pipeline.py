"""MiniDalle on a tiny random model: what goes in, what comes out, what is refused."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from minidalle.bart import Bart, BartConfig
from minidalle.checkpoints import load_bart, load_tokenizer, load_vqgan
from minidalle.memory import drawn_at_once
from minidalle.pictures import GREY, image_grid, to_pil
from minidalle.pipeline import MiniDalle
from minidalle.sampling import SamplingConfig
from minidalle.tokenizer import ByteLevelBPE
from minidalle.vqgan import VQGAN, VQGANConfig


@pytest.fixture(scope="module")
def model():
    """Random weights; the VQGAN's output is made lively, so that different tokens are different
    pictures.
    """
    torch.manual_seed(0)
    tokenizer = ByteLevelBPE.train(
        ["a small red circle", "a large blue square"] * 5, vocab_size=300
    )
    bart = Bart(BartConfig.tiny()).eval()
    vqgan = VQGAN(VQGANConfig.tiny()).eval()
    with torch.no_grad():
        vqgan.decoder.conv_out.weight *= 5
        vqgan.quantize.embedding.weight *= 3
    sampling = SamplingConfig(temperature=1.2, condition_scale=2.0)
    return MiniDalle(bart=bart, vqgan=vqgan, tokenizer=tokenizer, sampling=sampling)


def same(first: Image.Image, second: Image.Image) -> bool:
    """Equal, up to one grey level: the VQGAN rounds differently in batches of different size."""
    if first.size != second.size:
        return False
    return np.abs(np.asarray(first).astype(int) - np.asarray(second)).max() <= 1


def test_generate_one_prompt(model):
    result = model.generate("a small red circle", n=4, seed=7)
    assert result.prompt == "a small red circle" and result.seeds == [7, 8, 9, 10]
    assert [image.size for image in result.images] == [(32, 32)] * 4
    assert (
        result.tokens.shape == (4, 16) and result.tokens.dtype == torch.long and result.step == 16
    )
    assert result.sampling == model.sampling
    grid = result.grid()
    assert grid.size == (64, 64)
    assert same(grid.crop((32, 0, 64, 32)), result.images[1])  # row-major
    assert same(grid.crop((0, 32, 32, 64)), result.images[2])
    assert not same(result.images[0], result.images[1])


def test_generate_several_prompts(model):
    """A list gives a list; each prompt has the same seeds, and its pictures are as if alone."""
    results = model.generate(["a small red circle", "a large blue square"], n=2, seed=3)
    assert [result.seeds for result in results] == [[3, 4], [3, 4]]
    for result in results:
        alone = model.generate(result.prompt, n=2, seed=3)
        assert torch.equal(alone.tokens, result.tokens)
        assert all(map(same, alone.images, result.images))
    assert not torch.equal(results[0].tokens, results[1].tokens)


@pytest.mark.parametrize("n", [1, 4, 9])
def test_picture_belongs_to_its_seed(model, n):
    """The picture with seed 11 is the same in grids of 1, 4 and 9."""
    first = 11 - (n - 1)
    grid = model.generate("a circle", n=n, seed=first)
    alone = model.generate("a circle", n=1, seed=11)
    assert torch.equal(grid.tokens[-1], alone.tokens[0])
    assert same(grid.images[-1], alone.images[0])


def test_knobs_replace_the_checkpoints_defaults(model):
    result = model.generate("a circle", temperature=0.0, condition_scale=1.0)
    assert result.sampling == SamplingConfig(temperature=0.0, condition_scale=1.0)
    other = model.generate("a circle", seed=99, temperature=0.0, condition_scale=1.0)
    assert torch.equal(result.tokens, other.tokens)  # greedy: the seed does not matter


def test_stream_ends_with_what_generate_returns(model):
    parts = list(model.stream("a circle", n=2, seed=5, every=4))
    assert [part.step for part in parts] == [0, 4, 8, 12, 16]
    whole = model.generate("a circle", n=2, seed=5)
    assert torch.equal(parts[-1].tokens, whole.tokens)
    assert all(map(same, parts[-1].images, whole.images))
    for part in parts:
        assert torch.equal(part.tokens, whole.tokens[:, : part.step])


def test_stream_is_grey_where_nothing_is_drawn_yet(model):
    """After 6 of 16 tokens: a row and a half of the 4×4 grid of 8×8-pixel places is drawn."""
    pictures = {part.step: np.asarray(part.images[0]) for part in model.stream("a circle", every=6)}
    assert (pictures[0] == GREY).all()
    assert (pictures[6][8:16, 16:] == GREY).all() and (pictures[6][16:] == GREY).all()
    assert not (pictures[6][:8] == GREY).all() and not (pictures[6][8:16, :16] == GREY).all()


@pytest.mark.parametrize("keep", [0.0, 0.5, 1.0])
def test_priming_keeps_the_first_tokens(model, keep):
    picture = to_pil(torch.rand(3, 32, 32, generator=torch.Generator().manual_seed(0)))
    tokens = model.encode(picture)
    result = model.generate("a circle", n=2, image_prompt=picture, keep=keep)
    kept = round(keep * 16)
    assert torch.equal(result.tokens[:, :kept], tokens[:kept].expand(2, -1))
    if keep == 0:
        assert torch.equal(result.tokens, model.generate("a circle", n=2).tokens)


def test_encode_and_decode_pictures(model):
    pictures = model.generate("a circle", n=3).images
    tokens = model.encode(pictures)
    assert tokens.shape == (3, 16)
    assert torch.equal(model.encode(pictures[1]), tokens[1])
    decoded = model.decode(tokens)
    assert len(decoded) == 3 and same(model.decode(tokens[1]), decoded[1])


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "P", "CMYK", "I;16", "1", "LA"])
def test_encode_takes_pictures_of_any_mode_and_size(model, mode):
    assert model.encode(Image.new(mode, (50, 20))).shape == (16,)


def test_transparency_is_white_and_exif_rotation_is_applied(model):
    clear = Image.new("RGBA", (32, 32), (255, 0, 0, 0))
    assert torch.equal(model.to_tensor(clear), torch.ones(3, 32, 32))
    half = Image.new("RGB", (32, 32), "white")
    half.paste("black", (0, 0, 32, 16))
    exif = half.getexif()
    exif[0x0112] = 3  # stored upside down
    half.info["exif"] = exif.tobytes()
    assert model.to_tensor(half)[:, 31].max() < 0.1


def test_save_and_load(model, tmp_path):
    """The native folder gives back the same model, from its parts and as a whole."""
    model.save_pretrained(tmp_path / "m")
    again = MiniDalle.from_pretrained(tmp_path / "m")
    assert again.sampling == model.sampling
    expected = model.generate("a red square", n=2, seed=1)
    assert torch.equal(again.generate("a red square", n=2, seed=1).tokens, expected.tokens)
    for name, value in load_bart(tmp_path / "m").state_dict().items():
        assert torch.equal(value, model.bart.state_dict()[name])
    for name, value in load_vqgan(tmp_path / "m").state_dict().items():
        assert torch.equal(value, model.vqgan.state_dict()[name])
    assert load_tokenizer(tmp_path / "m").vocab == model.tokenizer.vocab
    assert {path.name for path in (tmp_path / "m").iterdir()} == {
        "config.json", "bart.safetensors", "vqgan.safetensors", "tokenizer.json",
    }  # fmt: skip


def test_saving_in_half_precision(model, tmp_path):
    model.save_pretrained(tmp_path / "half", dtype="float16")
    model.save_pretrained(tmp_path / "full")
    half, full = (
        (tmp_path / name / "bart.safetensors").stat().st_size for name in ("half", "full")
    )
    assert half < 0.6 * full
    assert load_bart(tmp_path / "half").lm_head.weight.dtype == torch.float32


def test_text_ids_without_a_row_become_unk(model):
    """A published vocabulary has one token more than its embedding has rows."""
    config = BartConfig(**{**BartConfig.tiny().__dict__, "encoder_vocab_size": 270})
    small = MiniDalle(bart=Bart(config), vqgan=model.vqgan, tokenizer=model.tokenizer)
    ids, _ = small.text_tokens(["a small red circle"])
    assert ids.max() < 270 and (ids == ByteLevelBPE.UNK).any()
    assert model.text_tokens(["a small red circle"])[0].max() >= 270


def test_the_blank_prompt_is_not_normalized(model):
    """The unconditional row is <s></s>; the empty prompt becomes a space, one token more."""
    ids, mask = model.blank_tokens()
    assert ids[0, :3].tolist() == [0, 2, 1] and mask.sum() == 2
    assert model.text_tokens([""])[1].sum() == 3


@pytest.mark.parametrize(
    "prompt", ["", " ", "🍎" * 50, "x" * 10_000, "تفاحة حمراء", "\x00\x07", "\ud800"]
)
def test_any_text_is_a_prompt(model, prompt):
    assert model.generate(prompt).tokens.shape == (1, 16)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"n": 0}, "n is 0"),
        ({"n": -1}, "n is -1"),
        ({"seed": -1}, "seed is -1"),
        ({"seed": 2**63}, "seed is"),
        ({"temperature": float("nan")}, "temperature"),
        ({"top_k": -3}, "top_k"),
        ({"top_p": 0.0}, "top_p"),
        ({"image_prompt": Image.new("RGB", (8, 8)), "keep": 1.5}, "keep is 1.5"),
    ],
)
def test_bad_arguments_are_refused_by_name(model, arguments, message):
    with pytest.raises(ValueError, match=message):
        model.generate("a circle", **arguments)
    with pytest.raises(ValueError, match=message):
        model.stream("a circle", **arguments)


def test_other_refusals(model, tmp_path):
    with pytest.raises(TypeError, match="bytes"):
        model.generate([b"a circle"])
    with pytest.raises(ValueError, match="no prompt"):
        model.generate([])
    with pytest.raises(ValueError, match="every is 0"):
        model.stream("a circle", every=0)
    with pytest.raises(ValueError, match="N = 16"):
        model.decode(torch.zeros(15, dtype=torch.long))
    with pytest.raises(ValueError, match="no picture"):
        model.encode([])
    with pytest.raises(ValueError, match="at least one picture"):
        image_grid([])
    with pytest.raises(FileNotFoundError, match="no such folder or file"):
        MiniDalle.from_pretrained(tmp_path / "nowhere")
    with pytest.raises(ValueError, match="not a pair"):
        other = VQGAN(VQGANConfig(**{**VQGANConfig.tiny().__dict__, "n_embed": 32}))
        MiniDalle(bart=model.bart, vqgan=other, tokenizer=model.tokenizer)


@pytest.mark.parametrize("most", [1, 2, 5, 100])
def test_batches_that_fit_hold_the_same_pictures(model, most):
    whole = model.generate(["red apple", "cat"], n=3, seed=4, temperature=1.2)
    parts = model.generate(["red apple", "cat"], n=3, seed=4, temperature=1.2, max_batch=most)
    for one, other in zip(whole, parts, strict=True):
        assert torch.equal(one.tokens, other.tokens)
        assert one.seeds == other.seeds


def test_little_memory_is_foreseen(model, monkeypatch):
    """Memory for two pictures: three are drawn in two batches, a stream of three is refused."""
    each = drawn_at_once(model.bart.config, torch.float32, 2**40)  # so many in a TiB
    monkeypatch.setattr("minidalle.pipeline.free_memory", lambda device: 2 * 2**40 // each + 10)
    assert [model.most_at_once(count) for count in (1, 2, 3)] == [1, 2, 2]
    whole = model.generate("red apple", n=3, seed=4)
    assert len(whole.images) == 3
    assert torch.equal(model.generate("red apple", n=3, seed=4, max_batch=3).tokens, whole.tokens)
    with pytest.raises(
        MemoryError, match="3 pictures together do not fit in the free memory, 2 do"
    ):
        model.stream("red apple", n=3)
    monkeypatch.setattr("minidalle.pipeline.free_memory", lambda device: 1000)
    with pytest.raises(MemoryError, match="besides the weights, 0 MiB are free"):
        model.generate("red apple")


def test_published_layout_end_to_end():
    """A Bart folder and its VQGAN's folder, as DALL·E mini is published."""
    fixtures = Path(__file__).parents[1] / "fixtures"
    with pytest.raises(ValueError, match="vqgan="):
        MiniDalle.from_pretrained(fixtures / "dalle_mini")
    model = MiniDalle.from_pretrained(fixtures / "dalle_mini", vqgan=fixtures / "vqgan")
    assert model.sampling == SamplingConfig(
        temperature=1.0, top_k=50, top_p=1.0, condition_scale=10.0
    )
    arrays = np.load(fixtures / "end_to_end.npz")
    prompts = [" a small red cat riding a bicycle in the fog", " the moon"]
    results = model.generate(prompts, temperature=0.0)
    for i, result in enumerate(results):
        assert np.array_equal(result.tokens[0], arrays["mini_restricted_supercond10_tokens"][i])
        difference = (
            np.asarray(result.images[0]).astype(int)
            - arrays["mini_restricted_supercond10_uint8"][i]
        )
        assert np.abs(difference).max() <= 1
