"""How well pictures show a text: a CLIP of ours, with what it reads texts by.

    Scorer(clip, tokenizer, normalizer).scores(pictures, texts)     ->  (B, C), from -1 to 1

`TransformersCLIP` has the same method.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from minidalle.clip import CLIP
from minidalle.normalizer import TextNormalizer
from minidalle.pictures import square
from minidalle.tokenizer import ByteLevelBPE

CLIP_BATCH = 64  # pictures that are scored at once


class Scorer:
    """A CLIP with its tokenizer.

    normalizer: for a CLIP that was trained on normalized texts; None for one without a word list.
    Raises ValueError where the tokenizer is not the CLIP's.
    """

    def __init__(
        self, clip: CLIP, tokenizer: ByteLevelBPE, normalizer: TextNormalizer | None = None
    ):
        check_clip(clip, tokenizer)
        self.clip, self.tokenizer = clip, tokenizer
        self.normalizer = normalizer or TextNormalizer() if clip.config.normalize_text else None

    @torch.no_grad()
    def scores(self, pictures: Sequence[Image.Image], texts: Sequence[str]) -> Tensor:
        """Cosine similarity of every picture with every text: B and C of them -> (B, C)."""
        config, place = self.clip.config, self.clip.log_scale  # which is where the CLIP is
        if self.normalizer:
            texts = [self.normalizer(text) for text in texts]
        ids, mask = self.tokenizer.encode_batch(texts, config.max_text_length)
        images = torch.stack([to_tensor(square(p, config.resolution)) for p in pictures])
        parts = [
            self.clip.scores(part.to(place), ids.to(place.device), mask.to(place.device))
            for part in images.split(CLIP_BATCH)
        ]
        return torch.cat(parts).cpu()


def check_clip(clip: CLIP, tokenizer: ByteLevelBPE) -> None:
    """Raise ValueError where a CLIP was trained with another tokenizer than this one."""
    if clip.config.vocab_size != tokenizer.vocab_size:
        raise ValueError(
            f"the CLIP reads {clip.config.vocab_size} text tokens, the tokenizer has "
            f"{tokenizer.vocab_size}: the tokenizer is not this CLIP's"
        )


def to_tensor(picture: Image.Image) -> Tensor:
    """An RGB picture as (3, S, S) in [0, 1]."""
    return torch.from_numpy(np.array(picture)).permute(2, 0, 1) / 255
