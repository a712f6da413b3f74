"""The VQGAN equals vqgan-jax on its stored numbers, and the whole road equals the reference's
pictures.

Tolerance: 1e-4 absolute on activations and pictures, one grey level on 8-bit pictures; ids are
equal.
"""

from pathlib import Path

import numpy as np
import pytest
import torch

from minidalle.checkpoints import load_bart, load_vqgan
from minidalle.sampling import SamplingConfig, generate_tokens

FIXTURES = Path(__file__).parents[1] / "fixtures"


@pytest.fixture(scope="module")
def vqgan():
    return load_vqgan(FIXTURES / "vqgan")


@pytest.fixture(scope="module")
def expected():
    return {
        name: torch.from_numpy(array)
        for name, array in np.load(FIXTURES / "vqgan/expected.npz").items()
    }


def nchw(array: torch.Tensor) -> torch.Tensor:
    return array.permute(0, 3, 1, 2)


def close(actual: torch.Tensor, expected: torch.Tensor) -> None:
    torch.testing.assert_close(actual, expected, atol=1e-4, rtol=0)


@torch.no_grad()
def test_encoder_output_prequant_indices_and_quantized(vqgan, expected):
    images = nchw(expected["images"])
    close(vqgan.encoder(images), nchw(expected["encoder_output"]))
    latents = vqgan.encode_latents(images)
    close(latents, expected["prequant"].flatten(1, 2))
    ids = vqgan.encode(images)
    assert torch.equal(ids, expected["indices"].long())
    close(vqgan.quantize(ids), expected["quantized"].flatten(1, 2))


@torch.no_grad()
def test_reconstruction(vqgan, expected):
    close(vqgan(nchw(expected["images"])).reconstruction, nchw(expected["reconstruction"]))


def test_decoded_codes(vqgan, expected):
    close(vqgan.decode(expected["codes"].long()), nchw(expected["decoded_codes"]))


def test_no_array_of_the_fixture_is_left_out(expected):
    names = "images encoder_output prequant quantized indices reconstruction codes decoded_codes"
    assert set(expected) == set(names.split())


@pytest.mark.parametrize("name", ["mini", "mega"])
def test_end_to_end(vqgan, name):
    """Prompt ids to 8-bit pictures: every array of end_to_end.npz."""
    arrays = np.load(FIXTURES / "end_to_end.npz")
    text = np.load(FIXTURES / f"dalle_{name}" / "expected.npz")
    ids, mask, uncond_ids, uncond_mask = (
        torch.from_numpy(text[key]).long()
        for key in ("input_ids", "attention_mask", "uncond_input_ids", "uncond_attention_mask")
    )
    for kind, scale in (("restricted_greedy", 1.0), ("restricted_supercond10", 10.0)):
        tokens = generate_tokens(
            load_bart(FIXTURES / f"dalle_{name}"),
            ids,
            mask,
            SamplingConfig(temperature=0, condition_scale=scale),
            seeds=[0] * len(ids),
            uncond_ids=uncond_ids[:1],
            uncond_mask=uncond_mask[:1],
        )
        assert np.array_equal(tokens, arrays[f"{name}_{kind}_tokens"])
        images = vqgan.decode(tokens).clamp(0, 1).permute(0, 2, 3, 1).numpy()
        grey_levels = (images * 255).astype(np.uint8).astype(int) - arrays[f"{name}_{kind}_uint8"]
        assert np.abs(grey_levels).max() <= 1
        if kind == "restricted_supercond10":
            np.testing.assert_allclose(images, arrays[f"{name}_{kind}_images"], atol=1e-4)
