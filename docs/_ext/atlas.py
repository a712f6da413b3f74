"""The data behind the codebook atlas: every code of the embedded model, drawn and counted.

Written into _static/atlas of the built site, where atlas.js reads it:

    data.js         window.ATLAS = {counts, order, near, examples, pictures, styles, …}
    tiles.webp      what each code draws alone, 32 tiles in a row
    in_use.webp     what is drawn where it stands, in the mean over pictures, 32 tiles in a row
    places.webp     where in a picture each occurs: the oftener, the whiter, 32 maps in a row
    drawings.webp   the pictures in which codes are shown, 16 in a row
    redrawn.webp    the same pictures as the model draws them from their tokens

It takes a minute, so it is done again only when the weights, the drawings or this file
have changed.
"""

from __future__ import annotations

import json
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch
from sphinx.application import Sphinx
from torch import Tensor

from minidalle.checkpoints import load_vqgan
from minidalle.data.emoji import SPLITS, STYLE_NAMES, EmojiDataset, EmojiRecord, find_parquet
from minidalle.pipeline import EMBEDDED
from minidalle.viz.codebook import (
    code_tiles,
    count_codes,
    encode_all,
    order_by_likeness,
    tiles_in_use,
    where_used,
)
from minidalle.viz.html import write_sheet
from minidalle.vqgan import VQGAN

EACH = 6  # examples of a code
COLUMNS, PICTURE_COLUMNS = 32, 16
NEAR = 8  # neighbours of a code that are told
MANY = 400  # pictures that examples are shown in, at most
EVERY = 4  # of so many pictures one is drawn again, to see codes in use


def write_atlas(folder: Path) -> None:
    """Write the atlas's files, unless those that are there were made of the same things."""
    made_of = sha256()
    for path in (EMBEDDED / "vqgan.safetensors", find_parquet("emoji64.parquet"), Path(__file__)):
        made_of.update(path.read_bytes())
    mark = folder / "made-of.txt"
    if mark.is_file() and mark.read_text() == made_of.hexdigest():
        return
    folder.mkdir(parents=True, exist_ok=True)
    splits = [EmojiDataset(split) for split in SPLITS]
    images = torch.cat([split.images for split in splits])
    records = [record for split in splits for record in split.records]
    data = atlas_data(load_vqgan(EMBEDDED), images, records, folder)
    (folder / "data.js").write_text(f"window.ATLAS = {json.dumps(data, ensure_ascii=False)};\n")
    mark.write_text(made_of.hexdigest())


def atlas_data(
    vqgan: VQGAN, images: Tensor, records: list[EmojiRecord], folder: Path
) -> dict[str, Any]:
    """What is known of each code; its pictures are written into the folder.

    images: (B, 3, S, S) uint8, in which codes are counted; records: what each of them shows.
    """
    codes = vqgan.config.n_embed
    ids = encode_all(vqgan, images)  #                                    (B, N)
    tiles = code_tiles(vqgan)  #                                          (K, 3, s, s)
    chosen = choose_pictures(ids, codes)
    with torch.no_grad():
        redrawn = torch.cat([vqgan.decode(part).clamp(0, 1) for part in ids[chosen].split(64)])
    write_sheet(folder / "tiles.webp", tiles, COLUMNS, lossless=True)
    in_use = tiles_in_use(vqgan, torch.cat([ids[::EVERY], ids[chosen]]))
    write_sheet(folder / "in_use.webp", in_use, COLUMNS, lossless=True)
    write_sheet(folder / "places.webp", place_maps(ids, codes), COLUMNS, lossless=True)
    write_sheet(folder / "drawings.webp", images[chosen] / 255, PICTURE_COLUMNS, lossless=False)
    write_sheet(folder / "redrawn.webp", redrawn, PICTURE_COLUMNS, lossless=False)
    used = where_used(ids[chosen], EACH)
    return {
        "pictures_counted": len(images),
        "tokens_counted": ids.numel(),
        "columns": COLUMNS,
        "pictureColumns": PICTURE_COLUMNS,
        "side": vqgan.config.latent_side,
        "counts": count_codes(ids, codes).tolist(),
        "order": order_by_likeness(tiles).tolist(),
        "near": nearest(vqgan.quantize.embedding.weight.detach(), NEAR).tolist(),
        "examples": [used.get(code, []) for code in range(codes)],
        "pictures": [f"{records[i].label}, {STYLE_NAMES[records[i].style]}" for i in chosen],
        "styles": style_shares(ids, [STYLE_NAMES[record.style] for record in records], codes),
    }


def choose_pictures(ids: Tensor, codes: int) -> list[int]:
    """Few pictures that show each code EACH times, or as often as it occurs: (B, N) -> numbers.

    One after the other, the picture is taken that shows most codes not shown often enough yet.
    """
    present = torch.zeros(len(ids), codes, dtype=torch.bool).scatter_(1, ids, True)  # (B, K)
    missing, chosen = present.sum(0).clamp(max=EACH), []
    while len(chosen) < MANY and (missing > 0).any():
        best = int((present & (missing > 0)).sum(1).argmax())
        chosen.append(best)
        missing = (missing - present[best].int()).clamp(min=0)
        present[best] = False
    return chosen


def place_maps(ids: Tensor, codes: int) -> Tensor:
    """How often each code occurs at each place, as grey pictures: (B, N) -> (K, 3, h, w)."""
    n = ids.shape[1]
    places = torch.bincount((ids * n + torch.arange(n)).flatten(), minlength=codes * n)
    maps = places.view(codes, n).float()
    side = round(n**0.5)
    maps = (maps / maps.amax(1, keepdim=True).clamp(min=1)).sqrt()  #     rare places are seen, too
    return maps.view(codes, 1, side, side).expand(-1, 3, -1, -1)


def nearest(codebook: Tensor, count: int) -> Tensor:
    """The codes nearest to each, itself left out: (K, d) -> (K, count)."""
    far = torch.cdist(codebook, codebook).fill_diagonal_(torch.inf)
    return far.argsort(1)[:, :count]


def style_shares(ids: Tensor, styles: list[str], codes: int) -> list[list[tuple[str, int]]]:
    """The two styles in which each code occurs most, with per cent of its occurrences."""
    names = sorted(set(styles))
    number = torch.tensor([names.index(style) for style in styles])[:, None]  # (B, 1)
    table = torch.bincount((ids * len(names) + number).flatten(), minlength=codes * len(names))
    shares = table.view(codes, -1) / table.view(codes, -1).sum(1, keepdim=True).clamp(min=1) * 100
    best, which = shares.sort(dim=1, descending=True, stable=True)
    return [
        [(names[i], round(share)) for share, i in zip(row[:2], where, strict=False) if share >= 1]
        for row, where in zip(best.tolist(), which.tolist(), strict=True)
    ]


def build_finished(app: Sphinx, error: Exception | None) -> None:
    if error is None and app.builder.format == "html":
        write_atlas(Path(app.outdir) / "_static" / "atlas")


def setup(app: Sphinx) -> dict[str, bool]:
    app.connect("build-finished", build_finished)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
