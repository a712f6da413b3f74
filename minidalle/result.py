"""What drawing gives: pictures, and what is needed to draw them again."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from PIL import Image
from torch import Tensor

import minidalle
from minidalle.pictures import image_grid, write_picture
from minidalle.sampling import SamplingConfig


@dataclass(frozen=True)
class Result:
    """The pictures of one prompt."""

    prompt: str
    images: list[Image.Image]  # n pictures, S×S
    tokens: Tensor  # (n, N) image tokens; while streaming, (n, step)
    seeds: list[int]  # one per picture
    sampling: SamplingConfig  # how they were drawn
    step: int  # image tokens drawn so far
    length: int  # N, image tokens of a finished picture
    model: str  # name of the model
    dtype: str  # that it computed in
    scores: list[float] | None = None  # likeness to the prompt, one per picture, once re-ranked

    def grid(self, columns: int | None = None) -> Image.Image:
        """All pictures as one, row by row; as square as can be unless `columns` is given."""
        return image_grid(self.images, columns)

    def save(self, path: str | Path) -> None:
        """Write the grid as .png, .jpg or .webp, whole or not at all; a PNG carries `metadata`.

        Raises ValueError for another suffix, OSError where it cannot be written.
        """
        write_picture(self.grid(), path, self.metadata())

    def metadata(self, picture: int | None = None) -> dict[str, Any]:
        """What is needed to draw all the pictures again, or one of them; JSON can hold it."""
        chosen = slice(None) if picture is None else slice(picture, picture + 1)
        partial = {"step": self.step} if self.step < self.length else {}
        ranked = {} if self.scores is None else {"scores": self.scores[chosen]}
        return {
            "prompt": self.prompt,
            "seeds": self.seeds[chosen],
            "model": self.model,
            "dtype": self.dtype,
            "sampling": asdict(self.sampling),
            **partial,
            **ranked,
            "version": minidalle.__version__,
        }
