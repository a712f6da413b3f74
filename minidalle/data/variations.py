"""Variations of pictures whose captions stay true: more to learn from than was drawn.

A picture moved by a pixel or two and scaled a little shows the same thing, yet most of its image
tokens are others. A picture whose main colour is turned into another one shows a thing that nobody
drew, and its caption can name the colour: a purple apple. Nothing is mirrored, since that would
make false what a caption says of left, right or writing.

    Variations(source, each=3)  ->  a source four times as large
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from minidalle.data.sources import Source

HUES = {  # names of colours, and where they lie on the circle of hues, which is 1 around
    "red": 0.0, "orange": 0.08, "yellow": 0.14, "green": 0.35,
    "blue": 0.6, "purple": 0.77, "pink": 0.9,
}  # fmt: skip
REACH = 0.09  # on the circle of hues, to both sides: what is taken for one colour
HUE_BINS = 60
LEAST_SATURATION, LEAST_VALUE = 0.25, 0.2  # of a pixel that has a hue to speak of
LEAST_COLOURED = 0.12  # share of a picture's pixels that must have one
LEAST_OF_MAIN = 0.6  # share of those that must be of one colour for it to be the picture's
RECOLOURED_SHARE = 0.4  # of the variations, where a picture has a main colour
MAX_SHIFT, MAX_ZOOM = 2.0, 0.06  # pixels and share that variations are moved and scaled by


class Variations(Source):
    """A source, and after each of its pictures `each` variations of it.

    Sample i is variation i mod (each + 1) of picture i div (each + 1); variation 0 is the picture
    as it is. What is random about a variation is drawn from `seed` and i, so that it is the same
    whenever it is asked for.
    """

    def __init__(self, source: Source, each: int, *, seed: int = 0):
        if each < 0:
            raise ValueError(f"variations is {each}; it must be at least 0")
        self.source, self.each, self.seed = source, each, seed
        self.hues = torch.full((len(source),), torch.nan)  # nan: keeps its colours
        if each:
            nameable = [i for i in range(len(source)) if source.caption_in_colour(i, "red")]
            for start in range(0, len(nameable), 256):
                part = nameable[start : start + 256]
                self.hues[part] = main_hue(source.pictures(part))

    @property
    def captions(self) -> Sequence[Sequence[str]]:
        return self.source.captions

    def __len__(self) -> int:
        return len(self.source) * (self.each + 1)

    def pictures(self, indices: Iterable[int]) -> Tensor:
        indices = [int(i) for i in indices]
        images = self.source.pictures([i // (self.each + 1) for i in indices])
        return torch.stack([self.vary(i, image) for i, image in zip(indices, images, strict=True)])

    def caption(self, index: int, generator: torch.Generator | None = None) -> str:
        picture, colour = index // (self.each + 1), self.new_colour(index)
        if colour:
            return self.source.caption_in_colour(picture, colour, generator)
        return self.source.caption(picture, generator)

    def names(self, indices: Iterable[int]) -> list[str]:
        return self.source.names([int(i) // (self.each + 1) for i in indices])

    def figures(self) -> dict[str, Tensor]:
        return self.source.figures()

    def vary(self, index: int, image: Tensor) -> Tensor:
        """Sample `index`, made of its picture (3, S, S)."""
        if index % (self.each + 1) == 0:
            return image
        colour = self.new_colour(index)
        if colour:
            old = float(self.hues[index // (self.each + 1)])
            image = turn_hue(image, old, HUES[colour] - old)
        return move_and_zoom(image[None], MAX_SHIFT, MAX_ZOOM, [self.generator(index)])[0]

    def new_colour(self, index: int) -> str:
        """The colour that sample `index` is given; empty where it keeps its own."""
        picture = index // (self.each + 1)
        hue = float(self.hues[picture])
        generator = self.generator(-index)
        keeps = float(torch.rand((), generator=generator)) >= RECOLOURED_SHARE
        if index % (self.each + 1) == 0 or hue != hue or keeps:
            return ""
        others = [name for name, other in HUES.items() if hue_distance(other, hue) > REACH]
        return others[int(torch.randint(len(others), (), generator=generator))]

    def generator(self, index: int) -> torch.Generator:
        return torch.Generator().manual_seed((self.seed * 1_000_003 + index) % 2**63)


def move_and_zoom(
    images: Tensor, max_shift: float, max_zoom: float, generators: Sequence[torch.Generator]
) -> Tensor:
    """Pictures (B, 3, S, S), moved by up to `max_shift` pixels, scaled by up to 1 ± `max_zoom`."""
    drawn = torch.stack([2 * torch.rand(3, generator=g) - 1 for g in generators])  # (B, 3) in ±1
    shifts = drawn[:, :2] * max_shift * 2 / images.shape[-1]  # a picture spans -1 … 1
    zooms = 1 + drawn[:, 2] * max_zoom
    transforms = torch.cat([torch.diag_embed(zooms[:, None].expand(-1, 2)), shifts[:, :, None]], 2)
    grid = F.affine_grid(transforms, list(images.shape), align_corners=False)  # (B, S, S, 2)
    return F.grid_sample(images, grid, padding_mode="border", align_corners=False)


def main_hue(images: Tensor) -> Tensor:
    """The hue most of a picture's coloured pixels are near, in [0, 1); nan where there is none.

    images: (B, 3, S, S) in [0, 1] -> (B,).
    """
    hue, saturation, value = (part.flatten(1) for part in rgb_to_hsv(images).unbind(1))
    coloured = ((saturation > LEAST_SATURATION) & (value > LEAST_VALUE)).float()  # (B, S·S)
    bins = (hue * HUE_BINS).long().clamp(max=HUE_BINS - 1)
    histogram = torch.zeros(len(images), HUE_BINS).scatter_add_(1, bins, coloured)
    reach = round(REACH * HUE_BINS)
    shifted = {shift: histogram.roll(shift, 1) for shift in range(-reach, reach + 1)}  # (B, bins)
    centred = sum((reach + 1 - abs(shift)) * bins for shift, bins in shifted.items())
    where = centred.argmax(1)
    most = sum(shifted.values()).gather(1, where[:, None])[:, 0]
    of_all = coloured.sum(1)
    has_one = (of_all > LEAST_COLOURED * hue.shape[1]) & (most > LEAST_OF_MAIN * of_all)
    return torch.where(has_one, (where + 0.5) / HUE_BINS, torch.nan)


def turn_hue(image: Tensor, near: float, by: float) -> Tensor:
    """A picture (3, S, S) whose hues near one hue are turned by a part of the circle."""
    hue, saturation, value = rgb_to_hsv(image[None])[0]
    turned = torch.where(hue_distance(hue, near) <= 2 * REACH, (hue + by) % 1, hue)
    return hsv_to_rgb(torch.stack([turned, saturation, value])[None])[0]


def hue_distance(one: Tensor | float, other: float) -> Tensor | float:
    """How far two hues are apart on the circle: 0 to 1/2."""
    return abs((one - other + 0.5) % 1 - 0.5)


def rgb_to_hsv(images: Tensor) -> Tensor:
    """(B, 3, S, S) in [0, 1] -> hue, saturation and value in the channels, in [0, 1]."""
    value, largest = images.max(1)
    spread = value - images.min(1).values
    red, green, blue = images.unbind(1)
    safe = spread.clamp(min=1e-8)
    sixths = torch.stack(  # where red, green or blue is the largest
        [(green - blue) / safe % 6, (blue - red) / safe + 2, (red - green) / safe + 4]
    )
    hue = sixths.gather(0, largest[None])[0] / 6
    return torch.stack([hue % 1, spread / value.clamp(min=1e-8), value], dim=1)


def hsv_to_rgb(images: Tensor) -> Tensor:
    """What `rgb_to_hsv` takes apart, together again: (B, 3, S, S)."""
    hue, saturation, value = images.unbind(1)
    phases = torch.stack([(n + hue * 6) % 6 for n in (5, 3, 1)], dim=1)  # of red, green, blue
    dips = torch.minimum(phases, 4 - phases).clamp(0, 1)
    return value[:, None] * (1 - saturation[:, None] * dips)
