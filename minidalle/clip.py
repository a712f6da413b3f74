"""CLIP: does a picture show what a text says?

Two networks, one for texts and one for pictures, that point the same way in one space where text
and picture belong together (Radford et al., "Learning Transferable Visual Models From Natural
Language Supervision", 2021, section 2). `MiniDalle.rerank` sorts drawn pictures by it.

Ours is small. Texts pass blocks like those of Bart's encoder, and the mean over the text is taken.
Pictures pass a convolutional network: a few thousand of them are too few for a vision transformer,
which must first learn that neighbouring pixels have to do with each other.

    text ids (B, T)  ->  features (B, d)  <- cosine similarity ->  features (B, d)  <-  pictures

`TransformersCLIP` gives a CLIP of the transformers library the same three methods.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from minidalle.bart import Embedding, EncoderBlock, LayerNorm
from minidalle.vqgan import Downsample, ResnetBlock, conv3x3, group_norm

# The paper's section 2.5: what similarities are multiplied with, at first and at most.
FIRST_SCALE, MAX_SCALE = 1 / 0.07, 100.0


@dataclass(frozen=True)
class CLIPConfig:
    """The shape of a CLIP."""

    projection_dim: int = 128  # d: width of the space that texts and pictures share
    text_width: int = 128  # D: width of every position
    text_layers: int = 2  # blocks that read the text
    text_heads: int = 4  # H: attention heads, each D/H wide
    text_ffn_dim: int = 256  # F: width inside the gated feed-forward layers
    vocab_size: int = 4096  # V: as many rows as the tokenizer has tokens
    max_text_length: int = 32  # T: text tokens read, at most
    resolution: int = 64  # S: picture side in pixels
    patch: int = 4  # pixels per side that become one place, before the first convolution
    channels: tuple[int, ...] = (64, 128, 192)  # of each level; the side halves between levels
    dropout: float = 0.1  # in the text tower and before both projections, in training only
    normalize_text: bool = True  # whether captions passed the TextNormalizer in training

    def __post_init__(self) -> None:
        sizes = {name: value for name, value in vars(self).items() if type(value) is int}
        for name, value in sizes.items():
            # The upper bounds only keep a damaged config from building for hours.
            most = 1024 if name in ("text_layers", "patch") else 2**20
            if not 1 <= value <= most:
                raise ValueError(f"CLIPConfig.{name} is {value}; it must be from 1 to {most}")
        if self.text_width % self.text_heads:
            what = f"CLIPConfig.text_heads is {self.text_heads}"
            raise ValueError(f"{what}; it must divide text_width {self.text_width}")
        if not self.channels or any(c % 32 or not 32 <= c <= 2**20 for c in self.channels):
            what = f"CLIPConfig.channels is {self.channels}"
            raise ValueError(f"{what}; expected a multiple of 32 for each level")
        factor = self.patch * 2 ** (len(self.channels) - 1)
        if self.resolution % factor:
            what = f"CLIPConfig.resolution is {self.resolution}"
            raise ValueError(f"{what}; patch and channels need a multiple of {factor}")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"CLIPConfig.dropout is {self.dropout}; it must be in [0, 1)")

    @classmethod
    def emoji(cls) -> CLIPConfig:
        """The embedded model's: 64×64 pictures, prompts of up to 32 text tokens."""
        return cls(vocab_size=3072)

    @classmethod
    def tiny(cls) -> CLIPConfig:
        """For lessons and tests: 32×32 pictures, a vocabulary of 320; trains in seconds."""
        return cls(
            projection_dim=32, text_width=48, text_layers=1, text_ffn_dim=96, vocab_size=320,
            max_text_length=24, resolution=32, channels=(32, 64), dropout=0.0,
        )  # fmt: skip


class TextTower(Embedding):
    """A text as one vector: the mean over its tokens, of which each has seen all others."""

    def __init__(self, config: CLIPConfig):
        width, dropout = config.text_width, config.dropout
        super().__init__(config.vocab_size, config.max_text_length, width, dropout)
        self.layers = nn.ModuleList(
            EncoderBlock(width, config.text_heads, config.text_ffn_dim, dropout)
            for _ in range(config.text_layers)
        )
        self.final_ln = LayerNorm(width, scale=False)
        self.projection = nn.Linear(width, config.projection_dim, bias=False)
        for module in self.modules():  # larger than Bart's: with its 0.02 the first steps are wild
            if isinstance(module, nn.Linear | nn.Embedding):
                nn.init.normal_(module.weight, std=module.weight.shape[1] ** -0.5)

    def forward(self, text_ids: Tensor, text_mask: Tensor) -> Tensor:
        visible = text_mask[:, None, None, :].bool()  #  (B, 1, 1, T) no query sees padding
        x = self.embed(text_ids)  #                      (B, T, D)
        for layer in self.layers:
            x = layer(x, visible)  #                     (B, T, D)
        x = self.final_ln(x) * text_mask[:, :, None]  #  (B, T, D)
        x = x.sum(1) / text_mask.sum(1, keepdim=True)  # (B, D)
        return self.projection(self.dropout(x))  #       (B, d)


class ImageTower(nn.Module):
    """A picture as one vector: residual blocks at ever smaller sides, then the mean over places."""

    def __init__(self, config: CLIPConfig):
        super().__init__()
        widths, self.patch = config.channels, config.patch
        self.conv_in = conv3x3(3 * config.patch**2, widths[0])
        self.levels = nn.ModuleList([ResnetBlock(widths[0], widths[0])])
        for c_in, c_out in pairwise(widths):
            self.levels.append(nn.Sequential(Downsample(c_in), ResnetBlock(c_in, c_out)))
        self.norm_out = group_norm(widths[-1])
        self.dropout = nn.Dropout(config.dropout)
        self.projection = nn.Linear(widths[-1], config.projection_dim, bias=False)

    def forward(self, images: Tensor) -> Tensor:
        x = F.pixel_unshuffle(2 * images - 1, self.patch)  #  (B, 3·patch², S/patch, S/patch)
        x = x.contiguous(memory_format=torch.channels_last)  # faster on a CPU
        x = self.conv_in(x)  #                                (B, channels[0], S/patch, S/patch)
        for level in self.levels:
            x = level(x)  #                                   (B, channels[i], h, w)
        x = F.silu(self.norm_out(x)).mean((2, 3))  #          (B, channels[-1])
        return self.projection(self.dropout(x))  #            (B, d)


class CLIPOutput(NamedTuple):
    """What the contrastive loss compares."""

    image_features: Tensor  # (B, d), of unit length
    text_features: Tensor  # (B, d), of unit length
    scale: Tensor  # one over the temperature


class CLIP(nn.Module):
    """Both towers, and the temperature of the softmax over their similarities."""

    def __init__(self, config: CLIPConfig):
        super().__init__()
        self.config = config
        self.text = TextTower(config)
        self.image = ImageTower(config).to(memory_format=torch.channels_last)
        self.log_scale = nn.Parameter(torch.tensor(math.log(FIRST_SCALE)))

    def encode_text(self, text_ids: Tensor, text_mask: Tensor) -> Tensor:
        """Features of texts, float32 of unit length: ids (B, T), mask (B, T), 1 on text -> (B, d).

        Raises ValueError for ids that the embedding has no row for, or more than max_text_length.
        """
        rows, longest = self.config.vocab_size, self.config.max_text_length
        if text_ids.shape[1] > longest:
            raise ValueError(f"{text_ids.shape[1]} text tokens; this CLIP reads at most {longest}")
        if text_ids.numel() and not 0 <= int(text_ids.min()) <= int(text_ids.max()) < rows:
            raise ValueError(f"text ids up to {int(text_ids.max())}; expected 0 to {rows - 1}")
        return F.normalize(self.text(text_ids, text_mask).float(), dim=1)

    def encode_images(self, images: Tensor) -> Tensor:
        """Features of pictures, float32 of unit length: (B, 3, S, S) in [0, 1] -> (B, d)."""
        shape, side = tuple(images.shape), self.config.resolution
        if shape[1:] != (3, side, side):
            raise ValueError(f"pictures have shape {shape}; expected (B, 3, {side}, {side})")
        return F.normalize(self.image(images).float(), dim=1)

    def scores(self, images: Tensor, text_ids: Tensor, text_mask: Tensor) -> Tensor:
        """Cosine similarity of every picture (B, 3, S, S) with every text (C, T) -> (B, C)."""
        return self.encode_images(images) @ self.encode_text(text_ids, text_mask).T

    def forward(self, images: Tensor, text_ids: Tensor, text_mask: Tensor) -> CLIPOutput:
        """Training: features of B pictures and of their B captions."""
        image_features = self.encode_images(images)  #            (B, d)
        text_features = self.encode_text(text_ids, text_mask)  #  (B, d)
        return CLIPOutput(image_features, text_features, self.log_scale.exp())

    @torch.no_grad()
    def limit_scale(self) -> None:
        """Keep the scale at 100 or less: for after each step, so that training stays steady."""
        self.log_scale.clamp_(max=math.log(MAX_SCALE))


def contrastive_loss(
    image_features: Tensor, text_features: Tensor, scale: Tensor | float, same: Tensor | None = None
) -> Tensor:
    """Symmetric cross-entropy: which text belongs to a picture, which picture to a text?

    image_features, text_features: (B, d) of unit length, row i of both a pair.
    scale: what similarities are multiplied with before the softmax.
    same: (B,) whole numbers; where two pairs have equal ones, either text is as right for either
        picture. None: all are different.
    """
    logits = scale * image_features @ text_features.T  #  (B, B)
    same = torch.arange(len(logits), device=logits.device) if same is None else same
    right = (same[:, None] == same).to(logits.dtype)  #   (B, B)
    right = right / right.sum(1, keepdim=True)
    return (F.cross_entropy(logits, right) + F.cross_entropy(logits.T, right)) / 2


class TransformersCLIP:
    """A CLIPModel of the transformers library, such as OpenAI's: texts and pictures as they are."""

    def __init__(self, model: Any, processor: Any):
        self.model, self.processor = model.eval(), processor

    @classmethod
    def load(cls, folder: str | Path, *, device: str | torch.device = "cpu") -> TransformersCLIP:
        """From a folder as `save_pretrained` writes it, without network; pickles are never read.

        Raises FileNotFoundError where config.json or model.safetensors is missing.
        """
        from transformers import CLIPModel, CLIPProcessor  # importing them takes seconds

        for name in ("config.json", "model.safetensors"):
            if not (Path(folder) / name).is_file():
                raise FileNotFoundError(f"{folder}: a CLIP of transformers needs {name}")
        model = CLIPModel.from_pretrained(folder, local_files_only=True, use_safetensors=True)
        return cls(model.to(device), CLIPProcessor.from_pretrained(folder, local_files_only=True))

    @torch.no_grad()
    def encode_text(self, texts: Sequence[str]) -> Tensor:
        """Features of texts, of unit length; what is too long is cut: B texts -> (B, d)."""
        length = self.model.config.text_config.max_position_embeddings
        how = {"padding": True, "truncation": True, "max_length": length, "return_tensors": "pt"}
        inputs = self.processor(text=list(texts), **how).to(self.model.device)
        return F.normalize(self.model.get_text_features(**inputs).pooler_output.float(), dim=1)

    @torch.no_grad()
    def encode_images(self, pictures: Sequence[Image.Image]) -> Tensor:
        """Features of pictures, of unit length: B pictures -> (B, d)."""
        inputs = self.processor(images=list(pictures), return_tensors="pt").to(self.model.device)
        return F.normalize(self.model.get_image_features(**inputs).pooler_output.float(), dim=1)

    def scores(self, pictures: Sequence[Image.Image], texts: Sequence[str]) -> Tensor:
        """Cosine similarity of every picture with every text: B and C of them -> (B, C)."""
        return self.encode_images(pictures) @ self.encode_text(texts).T
