"""What the codes of a VQGAN look like, how often they occur, and where.

tiles = code_tiles(vqgan)                   (K, 3, s, s), s = pixels of one token: each code alone
tiles = tiles_in_use(vqgan, ids)            (K, 3, s, s): each as it is drawn in pictures
counts = code_counts(vqgan, images)         (K,)
order = order_by_likeness(tiles)            (K,) so that neighbours are alike
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor

from minidalle.vqgan import VQGAN

BATCH = 64  # pictures at once


class Examples(NamedTuple):
    """A few pictures in which many codes occur."""

    pictures: Tensor  # (M, 3, S, S) in [0, 1]
    places: dict[int, tuple[int, int]]  # code -> number of the picture, place among its N tokens
    side: int  # h = w: tokens along one side of a picture


@torch.no_grad()
def code_tiles(vqgan: VQGAN, *, side: int | None = None, batch: int = BATCH) -> Tensor:
    """How each code is drawn among its like: (K, 3, s, s) in [0, 1].

    A latent grid is filled with the code and decoded; the patch in its middle is the tile.
    side: of that grid; None for h, but at most 8, which a large model takes long enough for.
    """
    config, s = vqgan.config, vqgan.config.factor
    side = min(config.latent_side, 8) if side is None else side
    weight = vqgan.quantize.embedding.weight
    tiles, start = [], side // 2 * s
    for codes in torch.arange(config.n_embed, device=weight.device).split(batch):
        images = vqgan.decode(codes[:, None].expand(-1, side * side))  #   (B, 3, side·s, side·s)
        tiles.append(images[:, :, start : start + s, start : start + s].float().cpu())
    return torch.cat(tiles).clamp(0, 1)


@torch.no_grad()
def tiles_in_use(vqgan: VQGAN, ids: Tensor, *, batch: int = BATCH) -> Tensor:
    """What is drawn where each code stands, in the mean over pictures: (K, 3, s, s) in [0, 1].

    ids: (B, N) image tokens of the pictures, such as `encode_all` makes. A code that is not among
    them is black.
    """
    side, s = vqgan.config.latent_side, vqgan.config.factor
    weight = vqgan.quantize.embedding.weight
    sums = torch.zeros(vqgan.config.n_embed, 3, s, s)
    for part in ids.split(batch):
        images = vqgan.decode(part.to(weight.device)).float().clamp(0, 1).cpu()  # (B, 3, S, S)
        cells = images.view(-1, 3, side, s, side, s)  #                       (B, 3, h, s, w, s)
        patches = cells.permute(0, 2, 4, 1, 3, 5).reshape(-1, 3, s, s)  #     (B·N, 3, s, s)
        sums.index_add_(0, part.flatten().cpu(), patches)
    return sums / count_codes(ids.cpu(), len(sums)).clamp(min=1)[:, None, None, None]


def encode_all(vqgan: VQGAN, images: Tensor, *, batch: int = BATCH) -> Tensor:
    """Image tokens of many pictures, in batches: (B, 3, S, S) in [0, 1] or uint8 -> (B, N)."""
    weight = vqgan.quantize.embedding.weight
    parts = []
    for part in images.split(batch):
        part = part / 255 if part.dtype == torch.uint8 else part
        parts.append(vqgan.encode(part.to(weight)).cpu())
    return torch.cat(parts)


def code_counts(vqgan: VQGAN, images: Tensor, *, batch: int = BATCH) -> Tensor:
    """How often each code occurs in pictures: (B, 3, S, S) in [0, 1] or uint8 -> (K,)."""
    return count_codes(encode_all(vqgan, images, batch=batch), vqgan.config.n_embed)


def count_codes(ids: Tensor, codes: int) -> Tensor:
    """How often each of K codes occurs among ids of any shape: (K,)."""
    return torch.bincount(ids.flatten(), minlength=codes)


def order_by_likeness(codes: Tensor) -> Tensor:
    """An order of K things in which neighbours are alike: (K, …) -> (K,) a permutation.

    codes: the codebook's rows (K, d), or what they look like, (K, 3, s, s). The order starts at one
    end of the first principal component and goes on with the nearest one that is left; those that
    such a walk leaves behind are put between the two neighbours that they lengthen the way least.
    """
    flat = codes.detach().flatten(1).float().cpu()  #                     (K, d)
    order = nearest_chain(flat)
    cut = len(order) * 4 // 5  # the walk's end is where the jumps are
    way = order[:cut].tolist()
    for code in order[cut:].tolist():
        there = torch.cdist(flat[code : code + 1], flat[way])[0]  #       (path so far,)
        steps = (flat[way[1:]] - flat[way[:-1]]).norm(dim=1)
        detour = torch.cat([there[:1], there[:-1] + there[1:] - steps, there[-1:]])
        way.insert(int(detour.argmin()), code)
    return torch.tensor(way, dtype=torch.long)


def nearest_chain(flat: Tensor) -> Tensor:
    """From one end of the first principal component always to the nearest left: (K, d) -> (K,)."""
    centred = flat - flat.mean(0)
    _, vectors = torch.linalg.eigh((centred.T @ centred).double())  #     ascending
    axis = vectors[:, -1] * vectors[:, -1].sum().sign()  # else its sign is the library's choice
    here = int((centred.double() @ axis).argmin())
    squares = flat.square().sum(1)  #                                     (K,)
    left = torch.zeros(len(flat))  # infinite once visited                (K,)
    order = []
    for _ in range(len(flat)):
        order.append(here)
        left[here] = torch.inf
        here = int((squares - 2 * flat @ flat[here] + left).argmin())
    return torch.tensor(order, dtype=torch.long)


def where_used(ids: Tensor, count: int = 1) -> dict[int, list[tuple[int, int]]]:
    """For each code that occurs in ids (B, N), the first places where it does.

    Returns {code: [(picture, place among its N tokens), …]}: at most `count` places, all of them in
    different pictures.

    >>> where_used(torch.tensor([[5, 7], [7, 7]]), 2)
    {5: [(0, 0)], 7: [(0, 1), (1, 0)]}
    """
    places: dict[int, list[tuple[int, int]]] = {}
    for picture, row in enumerate(ids.tolist()):
        for place, code in enumerate(row):
            known = places.setdefault(code, [])
            if len(known) < count and (not known or known[-1][0] != picture):
                known.append((picture, place))
    return dict(sorted(places.items()))


def choose_examples(ids: Tensor, images: Tensor, most: int = 80) -> Examples:
    """The fewest pictures, about, that show as many codes as can be: for a page of small size.

    ids: (B, N) image tokens of the images (B, 3, S, S) in [0, 1] or uint8. most: pictures chosen.
    One after the other, the picture is taken that shows most codes not shown yet.
    """
    present = torch.zeros(len(ids), int(ids.max()) + 1, dtype=torch.bool)  # (B, K)
    present.scatter_(1, ids, True)
    missing, chosen = present.any(0), []
    while len(chosen) < most and missing.any():
        best = int((present & missing).sum(1).argmax())
        chosen.append(best)
        missing &= ~present[best]
    pictures = images[chosen] / 255 if images.dtype == torch.uint8 else images[chosen]
    places = {code: at[0] for code, at in where_used(ids[chosen]).items()}
    return Examples(pictures.float().clamp(0, 1), places, math.isqrt(ids.shape[1]))


def mark_places(image: Tensor, places: list[int], side: int, *, size: int = 160) -> Image.Image:
    """A picture about `size` pixels wide, with the outlines of some of its token cells.

    image: (3, S, S) in [0, 1] or uint8. places: among N = side² tokens, row by row.
    """
    image = image / 255 if image.dtype == torch.uint8 else image
    array = (image.detach().float().clamp(0, 1) * 255).round().byte().permute(1, 2, 0).cpu()
    factor = max(1, round(size / array.shape[0]))
    picture = Image.fromarray(np.ascontiguousarray(array.numpy()))
    picture = picture.resize([factor * array.shape[0]] * 2, Image.Resampling.NEAREST)
    draw, cell = ImageDraw.Draw(picture), picture.width / side
    for place in places:
        x, y = place % side * cell, place // side * cell
        box = (round(x), round(y), round(x + cell) - 1, round(y + cell) - 1)
        for out, colour in ((1, "white"), (2, "black"), (3, "white")):  # seen on any ground
            outline = (box[0] - out, box[1] - out, box[2] + out, box[3] + out)
            draw.rectangle(outline, outline=colour)
    return picture
