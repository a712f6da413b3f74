"""The VQGAN's losses: what makes a reconstruction good.

Pixels alone ask for the mean of all plausible pictures, which is blurred. So the reconstruction is
also compared by a network's features (`PerceptualDistance`), and judged patch by patch by a
discriminator that learns to tell it from a real picture (Isola et al., "Image-to-Image Translation
with Conditional Adversarial Networks", 2017, section 3.2.2), in the proportions of Esser, Rombach
and Ommer, "Taming Transformers for High-Resolution Image Synthesis", 2021, section 3.1.

What goes wrong: a discriminator that comes too early or too loud ruins what was learned before it.
So it starts late (`adversarial_start`), is heard little by little (`adversarial_ramp`), and can not
outweigh the other losses by more than a bound (`adaptive_at_most`).

    images (B, 3, S, S) in [0, 1], VQGANOutput  ->  one number for the generator's optimizer
    images, reconstruction (B, 3, S, S)         ->  one number for the discriminator's optimizer
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from minidalle.training.metrics import PerceptualDistance
from minidalle.training.processes import mean_over_processes
from minidalle.training.settings import refuse
from minidalle.vqgan import NORM_GROUPS, VQGANOutput, group_norm


@dataclass(frozen=True)
class LossConfig:
    """How much each part of the loss counts. A weight of 0 leaves the part out, and its cost."""

    l1_weight: float = 1.0  # mean absolute difference of pixels: keeps edges
    l2_weight: float = 2.0  # mean squared difference of pixels: what PSNR measures
    commitment_weight: float = 0.25  # how strongly latents are pulled to their codes
    codebook_weight: float = 0.0  # how strongly codes are pulled to latents; 0 with moving averages
    perceptual_weight: float = 0.0  # distance of features; above 0 it needs minidalle[perceptual]
    adversarial_weight: float = 0.0  # the discriminator's, relative to the reconstruction's pull
    adversarial_start: int = 0  # step from which on the discriminator learns
    adversarial_ramp: int = 500  # steps from there until it is heard at full weight
    adaptive_at_most: float = 1.0  # bound of the factor that makes both pulls equal
    discriminator_lr: float = 2e-4  # its peak learning rate
    discriminator_width: int = 32  # its channels after the first layer; a multiple of 32
    discriminator_layers: int = 2  # halvings: a logit sees 16, 34, 70 pixels for 1, 2, 3

    def __post_init__(self) -> None:
        wrong = [
            f"{name} is {value}; it must be a number from 0 up"
            for name, value in vars(self).items()
            if not 0 <= value < float("inf")
        ]
        if self.l1_weight == 0 and self.l2_weight == 0:
            wrong.append("l1_weight and l2_weight are both 0; colours need one of them")
        if self.discriminator_width < 1 or self.discriminator_width % NORM_GROUPS:
            wrong.append(
                f"discriminator_width is {self.discriminator_width}; it must be a multiple of "
                f"{NORM_GROUPS}, for the {NORM_GROUPS} groups of the group norms"
            )
        wrong += [
            f"{name} is {getattr(self, name)}; it must be above 0"
            for name in ("adaptive_at_most", "discriminator_lr", "discriminator_layers")
            if getattr(self, name) == 0
        ]
        refuse(wrong)

    def adversarial_weight_at(self, step: int) -> float:
        """The discriminator's weight for the generator: 0, then rising along a line."""
        heard = (step - self.adversarial_start) / max(1, self.adversarial_ramp)
        return self.adversarial_weight * min(1.0, max(0.0, heard))


class PatchDiscriminator(nn.Sequential):
    """Real or drawn, place by place: (B, 3, S, S) in [0, 1] -> logits (B, 1, about S/2^layers, …).

    Group norm where the papers have batch norm: what the discriminator says of a picture then does
    not depend on its batch, on real and drawn pictures being apart, or on the number of processes.
    """

    def __init__(self, width: int, layers: int):
        parts = [nn.Conv2d(3, width, 4, stride=2, padding=1), nn.LeakyReLU(0.2)]
        for i in range(layers):
            stride = 2 if i < layers - 1 else 1  # the first layer has halved the side already
            c_in, c_out = (width * min(2**n, 8) for n in (i, i + 1))
            parts += [
                nn.Conv2d(c_in, c_out, 4, stride=stride, padding=1, bias=False),
                group_norm(c_out),
                nn.LeakyReLU(0.2),
            ]
        super().__init__(*parts, nn.Conv2d(c_out, 1, 4, padding=1))

    def forward(self, images: Tensor) -> Tensor:
        return super().forward(2 * images - 1)


def discriminator_loss(real_logits: Tensor, fake_logits: Tensor) -> Tensor:
    """The hinge loss: real pictures above 1, drawn ones below −1, and no pull beyond."""
    return 0.5 * (F.relu(1 - real_logits).mean() + F.relu(1 + fake_logits).mean())


def generator_loss(fake_logits: Tensor) -> Tensor:
    """What the generator makes small: drawn pictures should look real."""
    return -fake_logits.mean()


def adaptive_weight(
    reconstruction_loss: Tensor, generator_loss: Tensor, last_layer: Tensor, *, at_most: float
) -> Tensor:
    """The factor that makes the adversarial pull as strong as the reconstruction's; no gradient.

    It is the ratio of the two losses' gradients at the decoder's last layer, by their norms
    (taming, equation 7), of the gradients averaged over processes, so that it does not depend on
    their number.
    """
    norms = [
        mean_over_processes(torch.autograd.grad(loss, last_layer, retain_graph=True)[0]).norm()
        for loss in (reconstruction_loss, generator_loss)
    ]
    # Where the discriminator has no opinion the ratio is enormous, and would amplify its noise.
    return (norms[0] / (norms[1] + 1e-6)).clamp(max=at_most)


def discriminator_step(
    discriminator: nn.Module, optimizer: torch.optim.Optimizer, loss: Tensor, rate: float
) -> None:
    """One step down the discriminator's loss, along the mean gradient of all processes."""
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    for parameter in discriminator.parameters():
        parameter.grad = mean_over_processes(parameter.grad)
    nn.utils.clip_grad_norm_(discriminator.parameters(), 1.0)
    for group in optimizer.param_groups:
        group["lr"] = rate
    optimizer.step()


class VQGANLoss(nn.Module):
    """The loss of a VQGAN, part by part, with the discriminator that learns beside it."""

    def __init__(self, config: LossConfig):
        super().__init__()
        self.config = config
        self.perceptual = PerceptualDistance() if config.perceptual_weight else None
        self.discriminator = (
            PatchDiscriminator(config.discriminator_width, config.discriminator_layers)
            if config.adversarial_weight
            else None
        )

    def discriminator_optimizer(self) -> torch.optim.Optimizer | None:
        """Adam with taming's little momentum: the discriminator's opponent never stands still."""
        if self.discriminator is None:
            return None
        rate = self.config.discriminator_lr
        return torch.optim.Adam(self.discriminator.parameters(), lr=rate, betas=(0.5, 0.9))

    def generator_terms(
        self, images: Tensor, output: VQGANOutput, step: int, last_layer: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss of the VQGAN in this step, and its parts by name.

        images: (B, 3, S, S) in [0, 1]. last_layer: the decoder's last weight, as in
        `vqgan.decoder.conv_out.weight`, where the pulls are compared.
        """
        config = self.config
        difference = output.reconstruction.float() - images
        l1, l2 = difference.abs().mean(), difference.square().mean()
        terms = {"l1": l1, "psnr": -10 * torch.log10(l2.detach())}
        reconstruction_loss = config.l1_weight * l1 + config.l2_weight * l2
        shown = output.reconstruction.float().clamp(0, 1)  # networks judge what people will see
        if self.perceptual is not None:
            terms["perceptual"] = self.perceptual(shown, images).mean()
            reconstruction_loss = (
                reconstruction_loss + config.perceptual_weight * terms["perceptual"]
            )
        total = (
            reconstruction_loss
            + config.commitment_weight * output.commitment_loss
            + config.codebook_weight * output.codebook_loss
        )
        terms |= {"commitment": output.commitment_loss, "perplexity": output.perplexity}
        weight = config.adversarial_weight_at(step)
        if self.discriminator is not None and weight > 0:
            # Its parameters detached: this loss is not for the discriminator to learn from.
            frozen = {name: p.detach() for name, p in self.discriminator.named_parameters()}
            adversarial = generator_loss(
                torch.func.functional_call(self.discriminator, frozen, shown)
            )
            factor = adaptive_weight(
                reconstruction_loss, adversarial, last_layer, at_most=config.adaptive_at_most
            )
            total = total + weight * factor * adversarial
            terms |= {"adversarial": adversarial, "adaptive_weight": factor}
        return total, terms

    def discriminator_terms(
        self, images: Tensor, reconstruction: Tensor, step: int
    ) -> tuple[Tensor | None, dict[str, Tensor]]:
        """The loss of the discriminator in this step, and what it says; None before its start."""
        if self.discriminator is None or step < self.config.adversarial_start:
            return None, {}
        real_logits = self.discriminator(images)
        fake_logits = self.discriminator(reconstruction.detach().float().clamp(0, 1))
        loss = discriminator_loss(real_logits, fake_logits)
        return loss, {
            "discriminator": loss.detach(),
            "real_logits": real_logits.detach().mean(),
            "fake_logits": fake_logits.detach().mean(),
        }
