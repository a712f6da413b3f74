"""What the page does, without the page: draw and show frames, re-rank, take a picture's tokens.

`Studio` holds the loaded checkpoints and nothing of anybody's session. What a session has drawn is
a `Drawn`, which goes in and comes out; so every step can be tested without a browser.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from minidalle.app.limits import check_count, check_prompt, check_seed, check_tokens
from minidalle.pictures import to_pil
from minidalle.pipeline import MiniDalle
from minidalle.result import Result
from minidalle.vqgan import VQGAN

FRAME = 0.25  # seconds, at least, between two frames of pictures that are forming
KEEP = 0.5  # share of a picture's tokens that "more like this" keeps


@dataclass(frozen=True)
class Drawn:
    """The pictures of one press of the button, forming or finished."""

    result: Result
    model: str  # its name in the Studio
    how: dict[str, Any] = field(default_factory=dict)  # metadata besides the result's own
    seconds: float = 0.0  # since the drawing began

    @property
    def finished(self) -> bool:
        return self.result.step == self.result.length

    def metadata(self, picture: int | None = None) -> dict[str, Any]:
        """What `minidalle generate` writes into its PNGs, of the grid or of one picture."""
        return {**self.result.metadata(picture), **self.how}


class Studio:
    """The loaded checkpoints by name, and what the page asks of them.

    models: at least one; of equal names the later ones get a number.
    """

    def __init__(self, models: Sequence[MiniDalle]):
        if not models:
            raise ValueError("there is no model to show: give at least one")
        self.models: dict[str, MiniDalle] = {}
        for model in models:
            alike = sum(other.name == model.name for other in self.models.values())
            self.models[f"{model.name} ({alike + 1})" if alike else model.name] = model
        self.tiles = {name: Tiles(model.vqgan) for name, model in self.models.items()}

    @property
    def names(self) -> list[str]:
        return list(self.models)

    def model(self, name: str | None = None) -> MiniDalle:
        """A checkpoint by its name; None for the first."""
        return self.models[self.name(name)]

    def name(self, name: str | None = None) -> str:
        """The name of a loaded checkpoint; None for the first, ValueError for an unknown one."""
        name = self.names[0] if name is None else name
        if name not in self.models:
            raise ValueError(f"there is no model {name!r}; loaded are {', '.join(self.models)}")
        return name

    def defaults(self, name: str | None = None) -> list[float]:
        """A checkpoint's own temperature, top-k, top-p and condition scale."""
        own = self.model(name).sampling
        return [own.temperature, own.top_k, own.top_p, own.condition_scale]

    def draw(
        self,
        prompt: str,
        n: int = 9,
        seed: int = 0,
        *,
        kept: Sequence[int] | None = None,
        how: dict[str, Any] | None = None,
        model: str | None = None,
        **knobs: float | int | None,
    ) -> Iterator[Drawn]:
        """Draw n pictures; yield frames while they form, last the finished ones.

        kept: image tokens that every picture begins with. how: more metadata. knobs: of
            SamplingConfig; None takes the checkpoint's default.
        What cannot be drawn is said by a ValueError, at the first frame.
        """
        pipeline, start = self.model(model), time.monotonic()
        prompt, n, seed = check_prompt(prompt), check_count(n), check_seed(seed)
        sampling, prefix = pipeline.sampling_with(**knobs), None
        if kept:
            config = pipeline.bart.config
            ids = check_tokens(kept, config.image_length, config.codebook_size, "the kept tokens")
            prefix = torch.tensor([ids])
        shown = -FRAME
        for tokens in pipeline.stream_batch([prompt], n, seed, sampling, prefix):
            now = time.monotonic()
            if now - shown < FRAME and tokens.shape[1] < pipeline.bart.config.image_length:
                continue
            (result,) = pipeline.results([prompt], tokens, n, seed, sampling)
            yield Drawn(result, self.name(model), how or {}, time.monotonic() - start)
            shown = time.monotonic()

    def more(self, drawn: Drawn, picture: int) -> Iterator[Drawn]:
        """Draw as many pictures again, all with the first half of the chosen one.

        They count on from its seed, so that the first is the chosen one itself.
        """
        result = finished(drawn).result
        tokens = result.tokens[chosen(drawn, picture)].tolist()
        seed = result.seeds[picture]
        how = {"image_prompt": f"{result.prompt}, seed {seed}", "keep": KEEP}
        kept = tokens[: round(KEEP * len(tokens))]
        yield from self.draw(
            result.prompt,
            len(result.seeds),
            seed,
            kept=kept,
            how=how,
            model=drawn.model,
            **asdict(result.sampling),
        )

    def rerank(self, drawn: Drawn) -> Drawn:
        """The pictures sorted by the model's CLIP, best first; ValueError where it has none."""
        return replace(finished(drawn), result=self.model(drawn.model).rerank(drawn.result))


def finished(drawn: Drawn | None) -> Drawn:
    """What was drawn; ValueError where nothing is, or it is still forming."""
    if drawn is None or not drawn.finished:
        raise ValueError("the pictures are not drawn yet")
    return drawn


def chosen(drawn: Drawn, picture: Any) -> int:
    """The number of a picture, if there is one with it."""
    count = len(drawn.result.images)
    if not isinstance(picture, int) or not 0 <= picture < count:
        raise ValueError(f"there is no picture {picture!r}; there are 0 to {count - 1}")
    return picture


class Tiles:
    """What codes look like among their like: drawn when first asked for, then kept."""

    SIDE = 3  # tokens along the side of the grid that is decoded; its middle is the tile

    def __init__(self, vqgan: VQGAN):
        self.vqgan, self.known = vqgan, {}

    def __call__(self, codes: Sequence[int]) -> dict[int, Image.Image]:
        """A small picture, s×s, for each of the codes."""
        missing = sorted(set(codes) - self.known.keys())
        if missing:
            self.known |= dict(zip(missing, self.draw(torch.tensor(missing)), strict=True))
        return {code: self.known[code] for code in codes}

    @torch.no_grad()
    def draw(self, codes: Tensor) -> list[Image.Image]:
        """Decode a little grid of each code (M,), and cut out its middle."""
        s, place = self.vqgan.config.factor, self.vqgan.quantize.embedding.weight.device
        ids = codes[:, None].expand(-1, self.SIDE**2).to(place)  #        (M, 9)
        images = self.vqgan.decode(ids)  #                                (M, 3, 3s, 3s)
        return [to_pil(image) for image in images[:, :, s : 2 * s, s : 2 * s]]


@torch.no_grad()
def codes_like(vqgan: VQGAN, code: int, count: int) -> list[int]:
    """The codes nearest to one in the codebook, itself first."""
    codebook = vqgan.quantize.embedding.weight.float()  #                 (K, d)
    distance = torch.cdist(codebook[code : code + 1], codebook)[0]  #     (K,)
    distance[code] = -1.0
    return distance.topk(min(count, len(codebook)), largest=False).indices.tolist()
