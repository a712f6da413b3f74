"""The shipped fixture is the one that the parity tests hold to the reference, byte for byte."""

import json
from pathlib import Path

import numpy as np
import pytest

from minidalle import MiniDalle
from minidalle.lessons import shipped

FIXTURES = Path(__file__).parents[1] / "fixtures"
FOLDER = shipped("fixture")


@pytest.mark.parametrize("name", sorted(p.name for p in FOLDER.iterdir() if p.is_file()))
def test_bart_files(name):
    if name not in ("MODEL_CARD.md", "expected.npz"):
        assert (FOLDER / name).read_bytes() == (FIXTURES / "dalle_mini" / name).read_bytes()


@pytest.mark.parametrize("name", ["config.json", "flax_model.msgpack"])
def test_vqgan_files(name):
    assert (FOLDER / "vqgan" / name).read_bytes() == (FIXTURES / "vqgan" / name).read_bytes()


def test_expected_numbers():
    expected = dict(np.load(FOLDER / "expected.npz"))
    prompts = json.loads((FIXTURES / "dalle_mini" / "expected.json").read_text())["prompts"]
    whole = np.load(FIXTURES / "end_to_end.npz")
    assert expected.pop("prompts").tolist() == prompts
    for ours, theirs in {"tokens": "tokens", "pictures": "uint8"}.items():
        array = whole[f"mini_restricted_supercond10_{theirs}"]
        assert np.array_equal(expected.pop(ours), array)
    reference = np.load(FIXTURES / "dalle_mini" / "expected.npz")
    assert len(expected) == 5
    assert all(np.array_equal(array, reference[name]) for name, array in expected.items())


def test_prompts_to_pictures():
    """The whole road at once: text, tokens and pictures are the reference's."""
    expected = np.load(FOLDER / "expected.npz")
    model = MiniDalle.from_pretrained(FOLDER, vqgan=FOLDER / "vqgan")
    ids, mask = model.text_tokens(expected["prompts"].tolist())
    assert np.array_equal(ids, expected["input_ids"])
    assert np.array_equal(mask, expected["attention_mask"])
    for i, result in enumerate(model.generate(expected["prompts"].tolist(), temperature=0)):
        assert np.array_equal(result.tokens[0], expected["tokens"][i])
        levels = np.array(result.images[0]).astype(int) - expected["pictures"][i]
        assert np.abs(levels).max() <= 1


def test_each_file_is_small():
    assert all(path.stat().st_size <= 3_000_000 for path in FOLDER.rglob("*"))
