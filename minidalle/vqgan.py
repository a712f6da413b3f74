"""The VQGAN: pictures to image tokens and back.

A convolutional encoder shrinks a picture to a small grid of latent vectors; the quantizer replaces
each by the nearest row ("code") of a learned codebook, so that the picture becomes N numbers below
K; a convolutional decoder draws a picture from the codes. The network is taming-transformers'
VQModel (Esser, Rombach and Ommer, "Taming Transformers for High-Resolution Image Synthesis", 2021,
section 3.1) in the variant that DALL·E mini uses, and the modules carry taming's names, so that its
published weights fit.

    images (B, 3, S, S) in [0, 1]  ->  ids (B, N)  ->  images (B, 3, S, S)          N = h·w,  h = w
    = S / factor
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn


@dataclass(frozen=True)
class VQGANConfig:
    """The shape of a VQGAN.

    Field names are those of the published configs; `patch` and `encoder` are our additions.
    """

    ch: int = 128  # channels at the first level
    ch_mult: tuple[int, ...] = (1, 1, 2, 2, 4)  # level i has ch·ch_mult[i] channels, half the side
    num_res_blocks: int = 2  # residual blocks per encoder level (the decoder has one more)
    attn_resolutions: tuple[int, ...] = (16,)  # sides, in network pixels, with self-attention
    resolution: int = 256  # S: picture side in pixels
    in_channels: int = 3  # colours read
    out_ch: int = 3  # colours written
    z_channels: int = 256  # channels between encoder and quantizer convolution
    embed_dim: int = 256  # d: length of a code
    n_embed: int = 16384  # K: number of codes
    patch: int = 1  # the network sees patch×patch pixels as one; 1 = as published
    encoder: bool = True  # False: only the half that draws, as min-dalle publishes it

    def __post_init__(self) -> None:
        sizes = {name: value for name, value in vars(self).items() if type(value) is int}
        for name, value in sizes.items():
            # The upper bounds only keep a damaged config from building for hours.
            most = 64 if name == "num_res_blocks" else 2**20
            if not 1 <= value <= most:
                raise ValueError(f"VQGANConfig.{name} is {value}; it must be from 1 to {most}")
        if len(self.ch_mult) > 16:
            raise ValueError(f"VQGANConfig.ch_mult has {len(self.ch_mult)} levels; 16 are most")
        if self.n_embed < 2:
            raise ValueError(
                f"VQGANConfig.n_embed is {self.n_embed}; a codebook needs at least 2 codes"
            )
        if self.ch * max(self.ch_mult, default=0) > 2**20:
            raise ValueError(
                f"VQGANConfig.ch {self.ch} times ch_mult {self.ch_mult} is more than 2**20 channels"
            )
        if not self.ch_mult or any((self.ch * m) % NORM_GROUPS or m < 1 for m in self.ch_mult):
            raise ValueError(
                f"VQGANConfig.ch {self.ch} times ch_mult {self.ch_mult} must give multiples of "
                f"{NORM_GROUPS} channels, for the {NORM_GROUPS} groups of the group norms"
            )
        if self.resolution % self.factor:
            raise ValueError(
                f"VQGANConfig.resolution {self.resolution} is not divisible by {self.factor}, "
                f"patch {self.patch} times 2 for each of the {len(self.ch_mult) - 1} halvings"
            )

    @property
    def factor(self) -> int:
        """Picture pixels per latent position, along one side."""
        return self.patch * 2 ** (len(self.ch_mult) - 1)

    @property
    def latent_side(self) -> int:
        """h = w: latent positions along one side."""
        return self.resolution // self.factor

    @property
    def image_length(self) -> int:
        """N: image tokens per picture."""
        return self.latent_side**2

    def has_attention(self, level: int) -> bool:
        """Whether this level has attention: fixed by the config, not by the actual input."""
        return (self.resolution // self.patch) >> level in self.attn_resolutions

    @classmethod
    def f16_16384(cls) -> VQGANConfig:
        """The published VQGAN: 256×256 pictures, 256 tokens of 16,384 codes, 76 M parameters."""
        return cls()

    @classmethod
    def emoji(cls) -> VQGANConfig:
        """The embedded model: 64×64 pictures, 64 tokens out of 1,024 codes with prices."""
        return cls(
            ch=32, ch_mult=(1, 2, 4), num_res_blocks=1, attn_resolutions=(8,), resolution=64,
            z_channels=128, embed_dim=33, n_embed=1024, patch=2,
        )  # fmt: skip

    @classmethod
    def tiny(cls) -> VQGANConfig:
        """For lessons and tests: 32×32 pictures, 16 tokens out of 64 codes; trains in seconds."""
        return cls(
            ch=32, ch_mult=(1, 1, 2), num_res_blocks=1, attn_resolutions=(), resolution=32,
            z_channels=32, embed_dim=16, n_embed=64, patch=2,
        )  # fmt: skip


NORM_GROUPS = 32


def group_norm(channels: int) -> nn.GroupNorm:
    return nn.GroupNorm(NORM_GROUPS, channels, eps=1e-6)


def conv3x3(c_in: int, c_out: int) -> nn.Conv2d:
    return nn.Conv2d(c_in, c_out, kernel_size=3, padding=1)


def conv1x1(c_in: int, c_out: int) -> nn.Conv2d:
    return nn.Conv2d(c_in, c_out, kernel_size=1)


def swish(x: Tensor) -> Tensor:
    """x · sigmoid(x), in place where no gradient will ask for x: writing elsewhere takes longer."""
    return F.silu(x, inplace=not torch.is_grad_enabled())


class ResnetBlock(nn.Module):
    """Two convolutions beside a shortcut: (B, c_in, h, w) -> (B, c_out, h, w)."""

    def __init__(self, c_in: int, c_out: int):
        super().__init__()
        self.norm1 = group_norm(c_in)
        self.conv1 = conv3x3(c_in, c_out)
        self.norm2 = group_norm(c_out)
        self.conv2 = conv3x3(c_out, c_out)
        if c_in != c_out:
            self.nin_shortcut = conv1x1(c_in, c_out)

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv1(swish(self.norm1(x)))
        h = self.conv2(swish(self.norm2(h)))
        shortcut = self.nin_shortcut(x) if hasattr(self, "nin_shortcut") else x
        return shortcut + h


class AttnBlock(nn.Module):
    """One head of self-attention over all positions: (B, C, h, w) -> (B, C, h, w)."""

    def __init__(self, channels: int):
        super().__init__()
        self.norm = group_norm(channels)
        self.q = conv1x1(channels, channels)
        self.k = conv1x1(channels, channels)
        self.v = conv1x1(channels, channels)
        self.proj_out = conv1x1(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        b, c, h, w = x.shape
        normed = self.norm(x)
        parts = (self.q(normed), self.k(normed), self.v(normed))  #        (B, C, h, w) each
        q, k, v = (part.flatten(2).transpose(1, 2) for part in parts)  #   (B, h·w, C) each
        attended = F.scaled_dot_product_attention(q, k, v)  #              (B, h·w, C)
        attended = attended.transpose(1, 2).reshape(b, c, h, w)  #         (B, C, h, w)
        return x + self.proj_out(attended)


class Downsample(nn.Module):
    """Halve the side.

    The zero column and row go to the right and the bottom only, as in the published weights.
    """

    def __init__(self, channels: int):
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, kernel_size=3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.pad(x, (0, 1, 0, 1)))


class Upsample(nn.Module):
    """Double the side by repeating pixels, then smooth by a convolution.

    Both happen at once, in one transposed convolution: a pixel that is repeated 2×2, and then
    smoothed by a kernel of 3×3, leaves a print of 4×4. That takes less than half the products,
    since nothing is multiplied by each of four equal pixels.
    """

    # Along one side: which of the kernel's three weights meet in each of the print's four places.
    MEETING = ((0.0, 0.0, 1.0), (0.0, 1.0, 1.0), (1.0, 1.0, 0.0), (1.0, 0.0, 0.0))

    def __init__(self, channels: int):
        super().__init__()
        self.conv = conv3x3(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, h, w) -> (B, C_out, 2h, 2w), where C_out = C."""
        kernel = self.conv.weight  #                                (C_out, C, 3, 3)
        side = kernel.new_tensor(self.MEETING)  #                   (4, 3)
        prints = kernel.flatten(2) @ torch.kron(side, side).T  #    (C_out, C, 16)
        prints = prints.unflatten(-1, (4, 4)).transpose(0, 1)  #    (C, C_out, 4, 4)
        return F.conv_transpose2d(x, prints, self.conv.bias, stride=2, padding=1)


class Level(nn.Module):
    """The blocks that work at one side length, and the step to the next level."""

    def __init__(self, c_in: int, c_out: int, blocks: int, attention: bool):
        super().__init__()
        self.block = nn.ModuleList(
            ResnetBlock(c_in if j == 0 else c_out, c_out) for j in range(blocks)
        )
        self.attn = nn.ModuleList(AttnBlock(c_out) for _ in range(blocks if attention else 0))
        self.downsample: nn.Module | None = None  # the Encoder's, on all levels but the last
        self.upsample: nn.Module | None = None  # the Decoder's, on all levels but the full-size one

    def forward(self, x: Tensor) -> Tensor:
        """(B, c_in, h, w) -> (B, c_out, h, w), or half or twice that side where it resamples."""
        for j, block in enumerate(self.block):
            x = block(x)
            if self.attn:
                x = self.attn[j](x)
        for resample in (self.downsample, self.upsample):
            if resample is not None:
                x = resample(x)
        return x


class Middle(nn.Module):
    """Residual block, attention, residual block, at the smallest side."""

    def __init__(self, channels: int):
        super().__init__()
        self.block_1 = ResnetBlock(channels, channels)
        self.attn_1 = AttnBlock(channels)
        self.block_2 = ResnetBlock(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.block_2(self.attn_1(self.block_1(x)))


class Encoder(nn.Module):
    """Pictures to latents: (B, 3, S, S) -> (B, z_channels, h, w)."""

    def __init__(self, config: VQGANConfig):
        super().__init__()
        widths = [config.ch * m for m in config.ch_mult]
        last = len(widths) - 1
        self.patch = config.patch
        self.conv_in = conv3x3(config.in_channels * config.patch**2, config.ch)
        self.down = nn.ModuleList()
        for i, width in enumerate(widths):
            c_in = config.ch if i == 0 else widths[i - 1]
            level = Level(c_in, width, config.num_res_blocks, config.has_attention(i))
            if i < last:
                level.downsample = Downsample(width)
            self.down.append(level)
        self.mid = Middle(widths[last])
        self.norm_out = group_norm(widths[last])
        self.conv_out = conv3x3(widths[last], config.z_channels)

    def forward(self, images: Tensor) -> Tensor:
        x = F.pixel_unshuffle(images, self.patch)  #      (B, 3·patch², S/patch, S/patch)
        x = self.conv_in(x)  #                            (B, ch, S/patch, S/patch)
        for level in self.down:
            x = level(x)  # (B, ch·ch_mult[i], half the side, half the side)
        x = self.mid(x)  #                                (B, C, h, w)
        return self.conv_out(swish(self.norm_out(x)))  # (B, z_channels, h, w)


class Decoder(nn.Module):
    """Latents to pictures: (B, z_channels, h, w) -> (B, 3, S, S), not clipped."""

    def __init__(self, config: VQGANConfig):
        super().__init__()
        widths = [config.ch * m for m in config.ch_mult]
        last = len(widths) - 1
        self.patch = config.patch
        self.conv_in = conv3x3(config.z_channels, widths[last])
        self.mid = Middle(widths[last])
        levels = []
        for i, width in enumerate(widths):
            c_in = widths[min(i + 1, last)]
            level = Level(c_in, width, config.num_res_blocks + 1, config.has_attention(i))
            if i > 0:
                level.upsample = Upsample(width)
            levels.append(level)
        self.up = nn.ModuleList(levels)  # up[0] is the full-size level and runs last
        self.norm_out = group_norm(widths[0])
        self.conv_out = conv3x3(widths[0], config.out_ch * config.patch**2)

    def forward(self, latents: Tensor) -> Tensor:
        x = self.mid(self.conv_in(latents))  #             (B, C, h, w)
        for level in reversed(self.up):
            x = level(x)  # (B, ch·ch_mult[i], twice the side, twice the side)
        x = self.conv_out(swish(self.norm_out(x)))  #     (B, 3·patch², S/patch, S/patch)
        return F.pixel_shuffle(x, self.patch)  #           (B, 3, S, S)


class VectorQuantizer(nn.Module):
    """The codebook: K codes of length d, and the search for the nearest one."""

    def __init__(self, n_embed: int, embed_dim: int):
        super().__init__()
        self.embedding = nn.Embedding(n_embed, embed_dim)

    def nearest(self, latents: Tensor) -> Tensor:
        """Ids of the codes nearest to the latents: (..., d) -> (...). The lowest id wins a tie."""
        codes = self.embedding.weight.float()  #                     (K, d)
        flat = latents.reshape(-1, codes.shape[1]).float()  #        (M, d)
        distances = codes.square().sum(1) - 2 * flat @ codes.T  # (M, K) less ‖z‖², the same for all
        return distances.argmin(1).view(latents.shape[:-1])

    def forward(self, ids: Tensor) -> Tensor:
        """The codes with these ids: (...) -> (..., d)."""
        return self.embedding(ids)


class VQGANOutput(NamedTuple):
    """What a training step needs to know of a forward pass."""

    reconstruction: Tensor  # (B, 3, S, S), not clipped
    ids: Tensor  # (B, N) image tokens
    latents: Tensor  # (B, N, d) before quantization, detached, for the codebook's moving average
    commitment_loss: Tensor  # mean ‖z − sg(e)‖²: pulls the encoder towards the codes
    codebook_loss: Tensor  # mean ‖sg(z) − e‖²: pulls the codes, where no moving average does
    perplexity: Tensor  # exp(entropy) of this batch's ids: codes in use, as if equally often


class VQGAN(nn.Module):
    """Encoder, codebook and decoder, with the two 1×1 convolutions around the codebook."""

    def __init__(self, config: VQGANConfig):
        super().__init__()
        self.config = config
        self.encoder = Encoder(config) if config.encoder else None
        self.quant_conv = conv1x1(config.z_channels, config.embed_dim) if config.encoder else None
        self.quantize = VectorQuantizer(config.n_embed, config.embed_dim)
        self.post_quant_conv = conv1x1(config.embed_dim, config.z_channels)
        self.decoder = Decoder(config)

    def encode_latents(self, images: Tensor) -> Tensor:
        """Pictures to latents, not quantized: (B, 3, S, S) in [0, 1] -> (B, N, d), row-major."""
        if self.encoder is None or self.quant_conv is None:
            raise ValueError(
                "this VQGAN has no encoder (min-dalle publishes only the half that draws): "
                "it turns image tokens into pictures, not pictures into image tokens"
            )
        multiple = self.config.factor
        if images.ndim != 4 or images.shape[1] != self.config.in_channels:
            raise ValueError(
                f"images have shape {tuple(images.shape)}; "
                f"expected (B, {self.config.in_channels}, S, S)"
            )
        if images.shape[2] % multiple or images.shape[3] % multiple:
            raise ValueError(
                f"pictures of {images.shape[2]}×{images.shape[3]}: "
                f"sides must be multiples of {multiple}"
            )
        return self.quant_conv(self.encoder(images)).flatten(2).transpose(1, 2)

    def decode_latents(self, latents: Tensor) -> Tensor:
        """Latents, or codes, to pictures: (B, N, d) -> (B, 3, S, S), not clipped.

        N must be a square number.
        """
        b, n, d = latents.shape
        side = math.isqrt(n)
        if side * side != n:
            raise ValueError(f"{n} image tokens do not fill a square grid")
        # (B, d, h, w) with the channels last in memory, which convolutions prefer.
        grid = latents.reshape(b, side, side, d).permute(0, 3, 1, 2)
        return self.decoder(self.post_quant_conv(grid))

    @torch.no_grad()
    def encode(self, images: Tensor) -> Tensor:
        """Pictures to image tokens: (B, 3, S, S) in [0, 1] -> (B, N), row-major ids below K."""
        return self.quantize.nearest(self.encode_latents(images))

    @torch.no_grad()
    def decode(self, ids: Tensor) -> Tensor:
        """Image tokens to pictures: (B, N) ids below K -> (B, 3, S, S), not clipped.

        Raises ValueError for an id outside the codebook, and where N is not a square number.
        """
        if ids.numel() and not 0 <= int(ids.min()) <= int(ids.max()) < self.config.n_embed:
            raise ValueError(
                f"image tokens range from {int(ids.min())} to {int(ids.max())}; "
                f"the codebook has ids 0 to {self.config.n_embed - 1}"
            )
        return self.decode_latents(self.quantize(ids))

    def forward(self, images: Tensor) -> VQGANOutput:
        """One training pass: (B, 3, S, S) in [0, 1] -> VQGANOutput."""
        latents = self.encode_latents(images)  #                                   (B, N, d)
        ids = self.quantize.nearest(latents)  #                                    (B, N)
        codes = self.quantize(ids)  #                                              (B, N, d)
        # Straight-through: the decoder sees the codes, the gradient passes to the latents as if
        # they were the same.
        quantized = latents + (codes - latents).detach()  #                        (B, N, d)
        share = torch.bincount(ids.flatten(), minlength=self.config.n_embed) / ids.numel()
        return VQGANOutput(
            reconstruction=self.decode_latents(quantized),
            ids=ids,
            latents=latents.detach(),
            commitment_loss=F.mse_loss(latents.float(), codes.detach().float()),
            codebook_loss=F.mse_loss(codes.float(), latents.detach().float()),
            perplexity=torch.special.entr(share).sum().exp(),
        )
