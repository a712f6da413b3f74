"""The VQGAN's invariants, sizes, and what it refuses."""

import pytest
import torch
import torch.nn.functional as F
from torch.utils.flop_counter import FlopCounterMode

from minidalle.vqgan import VQGAN, Upsample, VQGANConfig


@pytest.fixture(scope="module")
def vqgan():
    torch.manual_seed(0)
    return VQGAN(VQGANConfig.tiny()).eval()


@pytest.mark.parametrize(
    ("config", "parameters", "factor", "length"),
    [
        (VQGANConfig.f16_16384(), 76_073_859, 16, 256),
        (VQGANConfig.emoji(), None, 8, 64),
        (VQGANConfig.tiny(), None, 8, 16),
    ],
)
def test_presets(config, parameters, factor, length):
    """f16-16384 has the published parameter count; the shapes of the others."""
    assert (config.factor, config.image_length) == (factor, length)
    if parameters:
        with torch.device("meta"):
            assert sum(p.numel() for p in VQGAN(config).parameters()) == parameters


@pytest.mark.parametrize("patch", [1, 2])
def test_shapes(patch):
    config = VQGANConfig(
        ch=32, ch_mult=(1, 2), num_res_blocks=1, attn_resolutions=(8,), resolution=16 * patch,
        z_channels=16, embed_dim=8, n_embed=20, patch=patch,
    )  # fmt: skip
    vqgan = VQGAN(config)
    images = torch.rand(2, 3, config.resolution, config.resolution)
    ids = vqgan.encode(images)
    assert ids.shape == (2, 64) and ids.max() < 20
    assert vqgan.decode(ids).shape == images.shape


def test_ids_to_codes_to_ids(vqgan):
    """Every code is its own nearest code."""
    ids = torch.arange(vqgan.config.n_embed)[None]
    assert torch.equal(vqgan.quantize.nearest(vqgan.quantize(ids)), ids)


def test_nearest_is_nearest(vqgan):
    latents = torch.randn(3, 5, vqgan.config.embed_dim, generator=torch.Generator().manual_seed(0))
    codes = vqgan.quantize.embedding.weight
    distances = torch.cdist(latents.flatten(0, 1), codes)
    assert torch.equal(vqgan.quantize.nearest(latents).flatten(), distances.argmin(1))


def test_forward_agrees_with_encode_and_decode(vqgan):
    images = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    output = vqgan(images)
    assert torch.equal(output.ids, vqgan.encode(images))
    torch.testing.assert_close(output.reconstruction, vqgan.decode(output.ids), atol=1e-5, rtol=0)
    counts = torch.bincount(output.ids.flatten()).double()
    shares = counts[counts > 0] / counts.sum()
    assert output.perplexity.item() == pytest.approx(
        torch.exp(-(shares * shares.log()).sum()).item(), rel=1e-4
    )


def test_gradient_passes_straight_through(vqgan):
    """The reconstruction teaches the encoder although the nearest-code lookup has no gradient."""
    vqgan.zero_grad()
    vqgan(torch.rand(1, 3, 32, 32)).reconstruction.sum().backward()
    assert vqgan.encoder.conv_in.weight.grad.abs().sum() > 0
    assert vqgan.quantize.embedding.weight.grad is None
    vqgan.zero_grad()


def test_refusals(vqgan):
    with pytest.raises(ValueError, match="from 49 to 64"):
        vqgan.decode(torch.arange(49, 65)[None])
    with pytest.raises(ValueError, match="square grid"):
        vqgan.decode(torch.zeros(1, 15, dtype=torch.long))
    with pytest.raises(ValueError, match="multiples of 8"):
        vqgan.encode(torch.rand(1, 3, 30, 32))
    with pytest.raises(ValueError, match=r"expected \(B, 3, S, S\)"):
        vqgan.encode(torch.rand(3, 32, 32))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"n_embed": 1}, "n_embed"),
        ({"ch": 20}, "multiples of 32"),
        ({"resolution": 36}, "resolution 36 is not divisible by 8"),
        ({"embed_dim": 0}, "embed_dim"),
    ],
)
def test_impossible_configs_are_refused_by_name(change, message):
    with pytest.raises(ValueError, match=message):
        VQGANConfig(**{**VQGANConfig.tiny().__dict__, **change})


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_upsampling_is_repeating_pixels_and_a_convolution(dtype):
    torch.manual_seed(0)
    layer = Upsample(6).to(dtype)
    x = torch.randn(2, 6, 5, 7, dtype=dtype)
    # in float64, where the order of the sums makes no difference
    exact = Upsample(6).double()
    exact.load_state_dict(layer.state_dict())
    asked = x.double().requires_grad_()
    found = exact(asked)
    wanted = exact.conv(F.interpolate(asked, scale_factor=2.0, mode="nearest"))
    torch.testing.assert_close(found, wanted, rtol=1e-9, atol=1e-9)
    inputs = (asked, *exact.parameters())
    for got, want in zip(
        torch.autograd.grad(found.square().sum(), inputs),
        torch.autograd.grad(wanted.square().sum(), inputs),
        strict=True,
    ):
        torch.testing.assert_close(got, want, rtol=1e-9, atol=1e-9)
    tolerance = 1e-6 if dtype == torch.float32 else 2e-2
    torch.testing.assert_close(layer(x).double(), wanted, rtol=tolerance, atol=tolerance)


def test_upsampling_takes_four_products_in_the_place_of_nine():
    layer, x = Upsample(32), torch.randn(1, 32, 64, 64)
    with torch.no_grad():
        with FlopCounterMode(display=False) as ours:
            layer(x)
        with FlopCounterMode(display=False) as plain:
            layer.conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))
    assert ours.get_total_flops() < 0.46 * plain.get_total_flops()
