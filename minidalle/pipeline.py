"""MiniDalle: a prompt becomes pictures.

    model = MiniDalle.from_pretrained()
    result = model.generate("red apple, twemoji style", n=9, seed=7)
    result.grid().save("apples.png")

The parts are public (`model.tokenizer`, `model.bart`, `model.vqgan`); this file only leads a prompt
through them.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from minidalle.bart import Bart, BartConfig
from minidalle.checkpoints import (
    existing_folder,
    load_bart,
    load_tokenizer,
    load_vqgan,
    native,
    to_dtype,
)
from minidalle.normalizer import TextNormalizer
from minidalle.sampling import SamplingConfig, stream_tokens
from minidalle.tokenizer import ByteLevelBPE
from minidalle.vqgan import VQGAN, VQGANConfig

EMBEDDED = Path(__file__).parent / "pretrained" / "emoji"
PUBLISHED_SAMPLING = SamplingConfig(temperature=1.0, top_k=50, top_p=1.0, condition_scale=10.0)
MAX_SEED = 2**63 - 1
GREY = (127, 127, 127)  # of places that are not drawn yet


@dataclass(frozen=True)
class Result:
    """The pictures of one prompt."""

    prompt: str
    images: list[Image.Image]  # n pictures, S×S
    tokens: Tensor  # (n, N) image tokens; while streaming, (n, step)
    seeds: list[int]  # one per picture
    sampling: SamplingConfig  # how they were drawn
    step: int  # image tokens drawn so far, of N

    def grid(self, columns: int | None = None) -> Image.Image:
        """All pictures as one, row by row; as square as can be unless `columns` is given."""
        return image_grid(self.images, columns)


class MiniDalle:
    """Tokenizer, Bart and VQGAN together. Make one by `from_pretrained`, or from parts."""

    def __init__(
        self,
        *,
        bart: Bart,
        vqgan: VQGAN,
        tokenizer: ByteLevelBPE,
        sampling: SamplingConfig = PUBLISHED_SAMPLING,
    ):
        check_fit(bart.config, vqgan.config)
        self.bart, self.vqgan, self.tokenizer, self.sampling = bart, vqgan, tokenizer, sampling
        self.normalizer = TextNormalizer() if bart.config.normalize_text else None

    @classmethod
    def from_pretrained(
        cls,
        path: str | Path | None = None,
        *,
        vqgan: str | Path | None = None,
        device: str = "cpu",
        dtype: str | torch.dtype = "float32",
    ) -> MiniDalle:
        """Load a model: the embedded one, or a folder in any known layout.

        path: a folder; None for the embedded emoji model.
        vqgan: folder of the VQGAN, for one that holds only a Bart, as DALL·E mini is published.
        device, dtype: where and in what precision to compute.
        Raises FileNotFoundError and ValueError with what was looked for.
        """
        folder = existing_folder(EMBEDDED if path is None else path)
        dtype = to_dtype(dtype)
        ours = native.is_native(folder)
        if vqgan is None and not ours:
            raise ValueError(
                f"{folder} holds a Bart without its VQGAN; say where that is, by vqgan="
            )
        return cls(
            bart=load_bart(folder, device=device, dtype=dtype),
            vqgan=load_vqgan(folder if vqgan is None else vqgan, device=device, dtype=dtype),
            tokenizer=load_tokenizer(folder),
            sampling=native.load_sampling(folder) if ours else PUBLISHED_SAMPLING,
        )

    def save_pretrained(self, folder: str | Path, *, dtype: str | torch.dtype = "float32") -> None:
        """Write a native folder that `from_pretrained` loads; weights are stored in `dtype`."""
        native.save(
            folder,
            bart=self.bart,
            vqgan=self.vqgan,
            tokenizer=self.tokenizer,
            sampling=self.sampling,
            dtype=to_dtype(dtype),
        )

    @property
    def device(self) -> torch.device:
        return self.bart.lm_head.weight.device

    def generate(
        self,
        prompt: str | Sequence[str],
        n: int = 1,
        seed: int = 0,
        *,
        temperature: float | None = None,
        top_k: int | None = None,
        top_p: float | None = None,
        condition_scale: float | None = None,
        image_prompt: Image.Image | None = None,
        keep: float = 0.5,
    ) -> Result | list[Result]:
        """Draw n pictures of a prompt, or of each of several.

        prompt: a text, which may be empty, or a list of texts; a list gives a list of results.
        n: pictures per prompt, at least 1.
        seed: of the first picture, at least 0; the others have seed+1, ….
        temperature, top_k, top_p, condition_scale: as in SamplingConfig; None takes the
            checkpoint's own default.
        image_prompt: a picture whose first image tokens, in reading order, are kept: the share
            `keep` of them, from 0 to 1.
        Raises ValueError for values out of range, TypeError for a prompt that is no text.
        """
        prompts = [prompt] if isinstance(prompt, str) else list(prompt)
        sampling = self.sampling_with(
            temperature=temperature, top_k=top_k, top_p=top_p, condition_scale=condition_scale
        )
        steps = self.stream_batch(prompts, n, seed, sampling, self.prefix_of(image_prompt, keep))
        *_, tokens = steps
        results = self.results(prompts, tokens, n, seed, sampling)
        return results[0] if isinstance(prompt, str) else results

    def stream(
        self,
        prompt: str,
        n: int = 1,
        seed: int = 0,
        *,
        every: int = 8,
        temperature: float | None = None,
        top_k: int | None = None,
        top_p: float | None = None,
        condition_scale: float | None = None,
        image_prompt: Image.Image | None = None,
        keep: float = 0.5,
    ) -> Iterator[Result]:
        """Like `generate` for one prompt, but yield a result after each `every` image tokens.

        Places that are not drawn yet are grey. The last result is what `generate` would return.
        """
        if every < 1:
            raise ValueError(f"every is {every}; it must be at least 1")
        sampling = self.sampling_with(
            temperature=temperature, top_k=top_k, top_p=top_p, condition_scale=condition_scale
        )
        steps = self.stream_batch([prompt], n, seed, sampling, self.prefix_of(image_prompt, keep))
        length = self.bart.config.image_length

        def partial_results() -> Iterator[Result]:
            for tokens in steps:
                if tokens.shape[1] % every == 0 or tokens.shape[1] == length:
                    yield self.results([prompt], tokens, n, seed, sampling)[0]

        return partial_results()

    def encode(self, picture: Image.Image | Sequence[Image.Image]) -> Tensor:
        """Image tokens of a picture, (N,), or of a list of pictures, (B, N).

        Of a picture of any size the middle square is taken, and resized.
        """
        pictures = [picture] if isinstance(picture, Image.Image) else list(picture)
        if not pictures:
            raise ValueError("there is no picture to encode")
        images = torch.stack([self.to_tensor(p) for p in pictures])
        ids = self.vqgan.encode(images.to(self.bart.lm_head.weight)).cpu()
        return ids[0] if isinstance(picture, Image.Image) else ids

    def decode(self, tokens: Tensor) -> Image.Image | list[Image.Image]:
        """The picture of N image tokens, (N,), or a list of pictures, (B, N)."""
        if tokens.ndim not in (1, 2) or tokens.shape[-1] != self.bart.config.image_length:
            raise ValueError(
                f"tokens have shape {tuple(tokens.shape)}; "
                f"expected (N,) or (B, N) with N = {self.bart.config.image_length}"
            )
        images = self.vqgan.decode(torch.atleast_2d(tokens).to(self.device))
        pictures = [to_pil(image) for image in images]
        return pictures[0] if tokens.ndim == 1 else pictures

    # The steps of the road, one method each.

    def sampling_with(self, **knobs: float | int | None) -> SamplingConfig:
        """The checkpoint's sampling defaults with the given knobs; None leaves a default."""
        return replace(
            self.sampling, **{name: value for name, value in knobs.items() if value is not None}
        )

    def text_tokens(self, prompts: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Ids and mask of prompts as the model reads them: (B, T) each."""
        texts = [self.normalizer(text) if self.normalizer else text for text in prompts]
        ids, mask = self.tokenizer.encode_batch(texts, self.bart.config.max_text_length)
        # A published vocabulary has one token more than its embedding has rows.
        ids = ids.masked_fill(ids >= self.bart.config.encoder_vocab_size, ByteLevelBPE.UNK)
        return ids.to(self.device), mask.to(self.device)

    def blank_tokens(self) -> tuple[Tensor, Tensor]:
        """Ids and mask of the empty string, as it is, for the unconditional branch: (1, T) each."""
        ids, mask = self.tokenizer.encode_batch([""], self.bart.config.max_text_length)
        return ids.to(self.device), mask.to(self.device)

    def prefix_of(self, image_prompt: Image.Image | None, keep: float) -> Tensor | None:
        """The first image tokens of a picture, the share `keep` of them: (1, n)."""
        if image_prompt is None:
            return None
        if not 0 <= keep <= 1:
            raise ValueError(f"keep is {keep}; it must be from 0 to 1")
        tokens = self.encode(image_prompt)
        return tokens[None, : round(keep * len(tokens))]

    def stream_batch(
        self,
        prompts: Sequence[str],
        n: int,
        seed: int,
        sampling: SamplingConfig,
        prefix: Tensor | None,
    ) -> Iterator[Tensor]:
        """Image tokens so far of n pictures of each prompt, for t up to N: (prompts·n, t)."""
        for text in prompts:
            if not isinstance(text, str):
                raise TypeError(f"a prompt is {type(text).__name__}; it must be a str")
        if not prompts:
            raise ValueError("there is no prompt; the empty prompt is ''")
        if n < 1:
            raise ValueError(f"n is {n}; it must be at least 1")
        if not 0 <= seed <= MAX_SEED - n:
            raise ValueError(f"seed is {seed}; it must be from 0 to 2**63 - 1 - n")
        ids, mask = self.text_tokens(prompts)
        uncond_ids, uncond_mask = self.blank_tokens()
        return stream_tokens(
            self.bart,
            ids.repeat_interleave(n, dim=0),
            mask.repeat_interleave(n, dim=0),
            sampling,
            seeds=[seed + i for _ in prompts for i in range(n)],
            uncond_ids=uncond_ids,
            uncond_mask=uncond_mask,
            prefix=None if prefix is None else prefix.expand(len(prompts) * n, -1),
        )

    def results(
        self, prompts: Sequence[str], tokens: Tensor, n: int, seed: int, sampling: SamplingConfig
    ) -> list[Result]:
        """One result per prompt from image tokens (prompts·n, t); places from t on are grey."""
        length, step = self.bart.config.image_length, tokens.shape[1]
        filled = torch.cat([tokens, tokens.new_zeros(len(tokens), length - step)], dim=1)
        images = [grey_after(to_pil(image), step, length) for image in self.vqgan.decode(filled)]
        tokens, seeds = tokens.cpu().clone(), list(range(seed, seed + n))
        rows = [slice(i * n, (i + 1) * n) for i in range(len(prompts))]
        return [
            Result(text, images[part], tokens[part], list(seeds), sampling, step)
            for text, part in zip(prompts, rows, strict=True)
        ]

    def to_tensor(self, picture: Image.Image) -> Tensor:
        """A picture as (3, S, S) in [0, 1]: upright, on white, its middle square resized."""
        side = self.vqgan.config.resolution
        picture = ImageOps.exif_transpose(picture)
        if picture.has_transparency_data:
            picture = picture.convert("RGBA")
            picture = Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture)
        picture = ImageOps.fit(picture.convert("RGB"), (side, side), Image.Resampling.LANCZOS)
        return torch.from_numpy(np.asarray(picture).copy()).permute(2, 0, 1) / 255


def check_fit(bart: BartConfig, vqgan: VQGANConfig) -> None:
    """Raise ValueError where a Bart and a VQGAN do not speak of the same image tokens."""
    if (bart.codebook_size, bart.image_length) != (vqgan.n_embed, vqgan.image_length):
        raise ValueError(
            f"Bart writes {bart.image_length} image tokens below {bart.codebook_size}, "
            f"the VQGAN reads {vqgan.image_length} below {vqgan.n_embed}: not a pair"
        )


def to_pil(image: Tensor) -> Image.Image:
    """(3, S, S) to a picture: clipped to [0, 1], times 255, truncated, as DALL·E mini does."""
    array = (image.float().clamp(0, 1) * 255).to(torch.uint8).permute(1, 2, 0).cpu().numpy()
    return Image.fromarray(array)


def image_grid(pictures: Sequence[Image.Image], columns: int | None = None) -> Image.Image:
    """Pictures of one size, row by row; as square as can be unless `columns` is given."""
    if not pictures:
        raise ValueError("a grid needs at least one picture")
    columns = columns or math.ceil(math.sqrt(len(pictures)))
    rows = math.ceil(len(pictures) / columns)
    width, height = pictures[0].size
    grid = Image.new("RGB", (columns * width, rows * height), "white")
    for i, picture in enumerate(pictures):
        grid.paste(picture, (i % columns * width, i // columns * height))
    return grid


def grey_after(picture: Image.Image, step: int, length: int) -> Image.Image:
    """The picture with the places of all but the first `step` of `length` image tokens in grey."""
    side = math.isqrt(length)
    width, height = picture.size[0] // side, picture.size[1] // side
    for token in range(step, length):
        x, y = token % side * width, token // side * height
        picture.paste(GREY, (x, y, x + width, y + height))
    return picture
