"""A picture as image tokens that can be changed one by one: the page's second tab.

An `Edit` is what one session has before it; each step gives a new one, so undo is a list.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import torch
from PIL import Image
from torch import Tensor

import minidalle
from minidalle.app.limits import check_tokens
from minidalle.app.studio import Drawn, Studio, chosen, finished
from minidalle.pictures import square


@dataclass(frozen=True)
class Edit:
    """Image tokens as they were and as they are, and the place that is being looked at."""

    model: str
    original: Tensor  # (N,)
    tokens: Tensor  # (N,)
    source: Image.Image  # S×S: what was encoded, or drawn
    before: Image.Image  # S×S: the original tokens decoded
    after: Image.Image  # S×S: the tokens decoded
    selected: int = 0  # among the N places
    past: tuple[tuple[int, int], ...] = ()  # (place, code before), the latest last

    @property
    def changed(self) -> int:
        """How many tokens differ from the original ones."""
        return int((self.tokens != self.original).sum())

    def metadata(self) -> dict[str, Any]:
        """What is needed to decode the picture again; JSON can hold it."""
        return {
            "tokens": self.tokens.tolist(),
            "changed": self.changed,
            "model": self.model,
            "version": minidalle.__version__,
        }


def begin(studio: Studio, model: str | None, picture: Image.Image) -> Edit:
    """Encode a picture of any size: its middle square, resized to S×S."""
    pipeline = studio.model(model)
    picture = square(picture, pipeline.vqgan.config.resolution)
    return of_tokens(studio, model, pipeline.encode(picture), picture)


def begin_with_drawn(studio: Studio, drawn: Drawn, picture: int) -> Edit:
    """Take a drawn picture's own tokens."""
    result = finished(drawn).result
    chosen(drawn, picture)
    return of_tokens(studio, drawn.model, result.tokens[picture], result.images[picture])


def of_tokens(studio: Studio, model: str | None, tokens: Tensor, source: Image.Image) -> Edit:
    """An edit in which nothing is changed yet."""
    before = studio.model(model).decode(tokens)
    side = math.isqrt(len(tokens))
    middle = side // 2 * side + side // 2
    return Edit(studio.name(model), tokens, tokens, source, before, before, selected=middle)


def select(edit: Edit, place: Any) -> Edit:
    """Look at another place, from 0 to N - 1."""
    if not isinstance(place, int) or not 0 <= place < len(edit.tokens):
        raise ValueError(f"there is no place {place!r}; there are 0 to {len(edit.tokens) - 1}")
    return replace(edit, selected=place)


def paint(studio: Studio, edit: Edit, code: Any) -> Edit:
    """Give the selected place another code, and decode."""
    codes = studio.model(edit.model).vqgan.config.n_embed
    (code,) = check_tokens([code], 1, codes, "the code")
    before = int(edit.tokens[edit.selected])
    if code == before:
        return edit
    return changed(studio, edit, edit.selected, code, (*edit.past, (edit.selected, before)))


def undo(studio: Studio, edit: Edit) -> Edit:
    """Take the last change back, and go to its place."""
    if not edit.past:
        return edit
    *past, (place, code) = edit.past
    return changed(studio, replace(edit, selected=place), place, code, tuple(past))


def reset(edit: Edit) -> Edit:
    """Take all changes back."""
    return replace(edit, tokens=edit.original, after=edit.before, past=())


def changed(
    studio: Studio, edit: Edit, place: int, code: int, past: tuple[tuple[int, int], ...]
) -> Edit:
    """The edit with one token set, decoded."""
    tokens = torch.where(torch.arange(len(edit.tokens)) == place, code, edit.tokens)
    after = studio.model(edit.model).decode(tokens)
    return replace(edit, tokens=tokens, after=after, past=past)
