"""Losses and the measures they rest on: equal to references, and pulling where they should."""

import importlib.util
from functools import cache

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
import torch.nn.functional as F
from torch import nn

from minidalle.data.emoji import EmojiDataset
from minidalle.training.losses import (
    LossConfig,
    PatchDiscriminator,
    VQGANLoss,
    adaptive_weight,
    discriminator_loss,
    discriminator_step,
    generator_loss,
)
from minidalle.training.metrics import PerceptualDistance, ssim
from minidalle.training.processes import mean_over_processes
from minidalle.vqgan import VQGAN, VQGANConfig


@cache
def emoji(split="train"):
    return EmojiDataset(split)


def pictures():
    return emoji("validation").images[[0, 50, 100]] / 255


@pytest.fixture(scope="module")
def perceptual():
    return PerceptualDistance()


def blurred(images, sigma):
    steps = torch.arange(-6, 7)
    window = torch.softmax(-(steps**2) / (2 * sigma**2), dim=0).expand(3, 1, 1, -1)
    padded = F.pad(images, [6] * 4, mode="replicate")
    return F.conv2d(F.conv2d(padded, window, groups=3), window.mT, groups=3)


def noise_like(images):
    return torch.randn(images.shape, generator=torch.Generator().manual_seed(0))


# --- SSIM


def test_ssim_equals_scikit_image():
    """Numbers of scikit-image 0.26.0, `gaussian_weights=True, use_sample_covariance=False`."""
    random = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    real = pictures()
    images = torch.cat([random[:1], real, real[:1]])
    others = torch.cat(
        [
            (random[:1] + 0.1 * (random[1:] - 0.5)).clamp(0, 1),
            F.avg_pool2d(real, 3, stride=1, padding=1),
            real[1:2],
        ]
    )
    expected = [0.9949431, 0.8549866, 0.9450818, 0.8843349, 0.3223092]
    torch.testing.assert_close(ssim(images, others), torch.tensor(expected), atol=5e-5, rtol=0)


def test_ssim_at_the_edges():
    real = pictures()
    torch.testing.assert_close(ssim(real, real), torch.ones(3))
    torch.testing.assert_close(ssim(real, real + (real == 1)), torch.ones(3))  # as clipped
    assert ssim(real, real.flip(1)).max() < 0.95  # colours count
    with pytest.raises(ValueError, match="10×64"):
        ssim(real[:, :, :10], real[:, :, :10])


# --- EfficientNet-Lite0 and the perceptual distance


def test_lite0_equals_the_reference(perceptual):
    """Logits by efficientnet_lite_pytorch 0.1.0 on (255·x − 127) / 128."""
    logits = perceptual.network(emoji().images[:1] / 255)
    expected = [[-2.7258196, 3.1326294, -1.7443183, -3.0141842, 6.8772535, -6.9013953]]
    torch.testing.assert_close(logits[:, :6], torch.tensor(expected), atol=1e-3, rtol=0)


def test_lite0_names_what_it_sees(perceptual):
    """ImageNet's class is among the five most likely of 1,000."""
    classes = {
        ("zebra", "noto"): 340,
        ("lady beetle", "noto"): 301,
        ("tangerine", "noto"): 950,
        ("teapot", "twemoji"): 849,
        ("strawberry", "twemoji"): 949,
        ("pineapple", "noto_v1"): 953,
        ("ear of corn", "fluent_3d"): 987,
        ("umbrella", "fluent_flat"): 879,
    }
    data = emoji()
    places = {(record.label, record.style): i for i, record in enumerate(data.records)}
    images = data.images[[places[key] for key in classes]] / 255
    enlarged = F.interpolate(images, (128, 128), mode="bilinear")
    best = perceptual.network(enlarged).topk(5).indices.tolist()
    missed = [key for key, top in zip(classes, best, strict=True) if classes[key] not in top]
    assert not missed


def test_perceptual_distance_orders_pictures(perceptual):
    """Zero for equal pictures, symmetric, growing with blur and with noise."""
    real = pictures()
    noise = noise_like(real)
    assert perceptual(real, real).tolist() == [0, 0, 0]
    other = real.roll(1, 0)
    torch.testing.assert_close(perceptual(real, other), perceptual(other, real))
    for worse in (
        [blurred(real, sigma) for sigma in (0.5, 1.0, 2.0)],
        [real + sigma * noise for sigma in (0.02, 0.05, 0.2)],
    ):
        distances = torch.stack([perceptual(real, picture) for picture in worse])
        assert (distances.diff(dim=0) > 0.01).all() and (distances[0] > 0.005).all()


def test_perceptual_distance_minds_blur_more_than_faint_noise(perceptual):
    """The ratio is 1.5; with features scaled place by place, as in LPIPS, it would be 1.1."""
    real = emoji("validation").images[[0, 20, 50, 70, 100, 105]] / 255
    blur = perceptual(real, blurred(real, 1.0)).mean()
    noise = perceptual(real, real + 0.01 * noise_like(real)).mean()
    assert blur > 1.3 * noise


def test_gradients_reach_pictures_and_not_the_network(perceptual):
    real = pictures()
    for start in (blurred(real, 1.0), torch.ones_like(real), real.clone()):
        drawn = start.requires_grad_()
        perceptual(drawn, real).sum().backward()
        assert drawn.grad.isfinite().all()
    assert drawn.grad.abs().max() == 0  # equal pictures: nothing to improve
    step = blurred(real, 1.0).requires_grad_()
    (gradient,) = torch.autograd.grad(perceptual(step, real).sum(), step)
    assert (perceptual(step - 0.05 * gradient, real) < perceptual(step, real)).all()
    assert all(p.grad is None and not p.requires_grad for p in perceptual.parameters())


def test_perceptual_distance_stays_in_eval_mode(perceptual):
    """Else a training step would move the batch norms' statistics."""
    nn.ModuleList([perceptual]).train()
    assert not any(module.training for module in perceptual.modules())


@pytest.mark.parametrize(("side", "seen_at"), [(32, 32), (48, 64), (100, 128)])
def test_perceptual_distance_takes_any_side(perceptual, side, seen_at):
    real = F.interpolate(pictures(), (side, side), mode="bilinear", antialias=True)
    assert perceptual.resized(real).shape == (3, 3, seen_at, seen_at)
    assert (perceptual(real, blurred(real, 2.0)) > 0.05).all()


def test_perceptual_distance_at_a_chosen_side():
    assert PerceptualDistance(side=96).resized(pictures()).shape == (3, 3, 96, 96)
    with pytest.raises(ValueError, match="side is 65"):
        PerceptualDistance(side=65)


def test_features_find_the_same_picture(perceptual):
    images = emoji("validation").images[:40] / 255
    gallery, asked = perceptual.features(images), perceptual.features(blurred(images, 0.7))
    assert gallery.shape == (40, 1280)
    assert not perceptual.features(images[:1].clone().requires_grad_()).requires_grad
    torch.testing.assert_close(gallery.norm(dim=1), torch.ones(40))
    right = (asked @ gallery.T).argmax(1) == torch.arange(40)
    assert right.float().mean() > 0.9


def test_without_the_extra(monkeypatch):
    """What to install is said; a loss that does not need it does without."""
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"pip install minidalle\[perceptual\]"):
        VQGANLoss(LossConfig(perceptual_weight=0.1))
    assert VQGANLoss(LossConfig()).perceptual is None


# --- The discriminator


def test_hinge_losses_by_hand():
    real, fake = torch.tensor([2.0, 0.5, -1.0]), torch.tensor([-3.0, 0.0, 1.0])
    # 1 − real, where positive: 0, 0.5, 2; 1 + fake, where positive: 0, 1, 2
    assert discriminator_loss(real, fake).item() == pytest.approx(0.5 * (2.5 / 3 + 3 / 3))
    assert generator_loss(fake).item() == pytest.approx(2 / 3)


@pytest.mark.parametrize(("layers", "sees"), [(1, 16), (2, 34), (3, 70)])
def test_a_logit_sees_a_patch(layers, sees):
    """By the gradient of one logit, with the norms, which see the whole picture, taken out."""
    discriminator = PatchDiscriminator(32, layers)
    for i, part in enumerate(discriminator):
        if isinstance(part, nn.GroupNorm):
            discriminator[i] = nn.Identity()
    images = torch.rand(1, 3, 128, 128, requires_grad=True)
    logits = discriminator(images)
    middle = logits.shape[2] // 2
    logits[0, 0, middle, middle].backward()
    touched = images.grad[0].abs().sum(0).nonzero()
    assert (touched.max(0).values - touched.min(0).values + 1).tolist() == [sees, sees]


def test_a_picture_is_judged_by_itself():
    torch.manual_seed(0)
    discriminator, images = PatchDiscriminator(32, 2), pictures()
    together, alone = discriminator(images), discriminator(images[1:2])
    torch.testing.assert_close(together[1:2], alone, atol=1e-5, rtol=1e-4)


def test_the_discriminator_learns():
    torch.manual_seed(0)
    losses = VQGANLoss(LossConfig(adversarial_weight=1.0))
    optimizer = losses.discriminator_optimizer()
    real = emoji("validation").images[:8] / 255
    history = []
    for step in range(9):
        loss, terms = losses.discriminator_terms(real, blurred(real, 1.5), step)
        history.append(loss.item())
        discriminator_step(losses.discriminator, optimizer, loss, rate=2e-4)
    assert history[1] < history[0] and history[-1] < 0.85 * history[0]
    assert terms["real_logits"] > terms["fake_logits"]


def test_discriminator_step_by_hand():
    """The rate is the one asked for, nothing is left of the last gradient, a large one is cut."""
    judge = nn.Linear(1, 1, bias=False)
    nn.init.constant_(judge.weight, 2.0)
    optimizer = torch.optim.SGD(judge.parameters(), lr=1.0)
    for slope, expected in [(0.1, 1.95), (0.1, 1.9), (10.0, 1.4)]:
        discriminator_step(judge, optimizer, slope * judge.weight.sum(), rate=0.5)
        assert judge.weight.item() == pytest.approx(expected, abs=1e-5)


def test_adaptive_weight_by_hand():
    """The gradients are 2·(3, 4), of length 10, and (0, 0.5): the ratio is 20."""
    last_layer = torch.tensor([1.0, -2.0], requires_grad=True)
    reconstruction = 2 * (last_layer * torch.tensor([3.0, 4.0])).sum()
    adversarial = (last_layer * torch.tensor([0.0, 0.5])).sum()
    factor = adaptive_weight(reconstruction, adversarial, last_layer, at_most=1e3)
    assert factor.item() == pytest.approx(20, rel=1e-4) and not factor.requires_grad
    assert adaptive_weight(reconstruction, adversarial, last_layer, at_most=7).item() == 7
    assert adaptive_weight(reconstruction, 0 * adversarial, last_layer, at_most=7).item() == 7
    reconstruction.backward()  # the graph is still there


def half_of_the_work(rank, folder):
    """One of two processes: what it finds on its half of a batch."""
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    torch.save(numbers_of(slice(rank, None, 2)), f"{folder}/{rank}.pt")
    dist.destroy_process_group()


def numbers_of(part):
    """The adaptive weight, a mean, and a discriminator after one step."""
    inputs = torch.randn(8, 3, generator=torch.Generator().manual_seed(0))[part]
    last_layer = torch.ones(3, requires_grad=True)
    drawn = inputs @ last_layer
    factor = adaptive_weight(drawn.square().mean(), drawn.mean(), last_layer, at_most=1e3)
    discriminator = nn.Linear(3, 1)
    for parameter in discriminator.parameters():
        nn.init.ones_(parameter)
    optimizer = torch.optim.SGD(discriminator.parameters(), lr=1.0)
    discriminator_step(discriminator, optimizer, discriminator(inputs).square().mean(), rate=0.1)
    weight = discriminator.weight.detach()[0]
    return torch.cat([factor.view(1), mean_over_processes(inputs.mean()).view(1), weight])


def test_nothing_depends_on_the_number_of_processes(tmp_path):
    mp.spawn(half_of_the_work, args=(str(tmp_path),), nprocs=2)
    first, second = (torch.load(tmp_path / f"{rank}.pt") for rank in range(2))
    assert torch.equal(first, second)
    torch.testing.assert_close(first, numbers_of(slice(None)))


# --- The whole


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("l1_weight", -0.1),
        ("perceptual_weight", float("nan")),
        ("adversarial_weight", float("inf")),
        ("adversarial_start", -1),
        ("adaptive_at_most", 0.0),
        ("discriminator_lr", 0.0),
        ("discriminator_layers", 0),
        ("discriminator_width", 40),
        ("discriminator_width", 0),
    ],
)
def test_impossible_settings_are_refused_by_name(field, value):
    with pytest.raises(ValueError, match=f"{field} is {value}"):
        LossConfig(**{field: value})


def test_a_loss_without_pixels_is_refused():
    with pytest.raises(ValueError, match="l1_weight and l2_weight are both 0"):
        LossConfig(l1_weight=0, l2_weight=0, perceptual_weight=1)


def test_the_discriminator_starts_late_and_softly():
    config = LossConfig(adversarial_weight=0.8, adversarial_start=100, adversarial_ramp=50)
    weights = [config.adversarial_weight_at(step) for step in (0, 100, 125, 150, 10_000)]
    assert weights == pytest.approx([0, 0, 0.4, 0.8, 0.8])
    at_once = LossConfig(adversarial_weight=0.8, adversarial_ramp=0)
    assert [at_once.adversarial_weight_at(step) for step in (0, 1)] == [0, 0.8]
    losses = VQGANLoss(config)
    assert losses.discriminator_terms(pictures(), pictures(), 99) == (None, {})
    assert losses.discriminator_terms(pictures(), pictures(), 100)[0] is not None


@pytest.fixture(scope="module")
def scene():
    """A VQGAN and the pass of a batch through it, and the losses with every part."""
    torch.manual_seed(0)
    vqgan = VQGAN(VQGANConfig.tiny())
    config = LossConfig(
        perceptual_weight=0.1, adversarial_weight=0.5, adversarial_start=2, adversarial_ramp=4,
        codebook_weight=0.7,
    )  # fmt: skip
    return vqgan, VQGANLoss(config), F.avg_pool2d(pictures(), 2)


def test_the_generator_s_loss_is_the_sum_of_its_parts(scene):
    vqgan, losses, images = scene
    output = vqgan(images)
    last_layer = vqgan.decoder.conv_out.weight
    early, terms = losses.generator_terms(images, output, 2, last_layer)
    assert set(terms) == {"l1", "psnr", "perceptual", "commitment", "perplexity"}
    difference = output.reconstruction - images
    reconstruction = (
        difference.abs().mean() + 2 * difference.square().mean() + 0.1 * terms["perceptual"]
    )
    by_hand = reconstruction + 0.25 * output.commitment_loss + 0.7 * output.codebook_loss
    torch.testing.assert_close(early, by_hand)

    late, terms = losses.generator_terms(images, output, 3, last_layer)
    judged = -losses.discriminator(output.reconstruction.clamp(0, 1)).mean()
    factor = adaptive_weight(
        reconstruction, judged, last_layer, at_most=losses.config.adaptive_at_most
    )
    torch.testing.assert_close(terms["adaptive_weight"], factor)
    torch.testing.assert_close(late, by_hand + 0.5 / 4 * factor * judged)


def test_each_optimizer_gets_its_own_gradients(scene):
    """The generator's loss leaves the discriminator alone, and the other way round."""
    vqgan, losses, images = scene
    output = vqgan(images)
    total, _ = losses.generator_terms(images, output, 6, vqgan.decoder.conv_out.weight)
    total.backward()
    assert all(p.grad is None for p in losses.parameters())
    assert all(p.grad.isfinite().all() for p in vqgan.parameters())
    vqgan.zero_grad()
    loss, _ = losses.discriminator_terms(images, output.reconstruction, 6)
    loss.backward()
    assert all(p.grad is not None for p in losses.discriminator.parameters())
    assert all(p.grad is None for p in vqgan.parameters())
