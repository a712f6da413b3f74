"""The command `reconstruct`: pictures beside what the VQGAN makes of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

import minidalle
from minidalle.cli import options
from minidalle.cli.loading import choose_dtype, given, load_model

RECONSTRUCT_EXAMPLES = options.examples(
    "reconstruct photo.jpg",
    "reconstruct *.png -o side-by-side.png --vqgan runs/vqgan",
)


def reconstruct(
    pictures: Annotated[list[Path], typer.Argument(metavar="PICTURE", help="Picture files.")],
    out: options.Out = Path("reconstruction.png"),
    model: options.Model = None,
    vqgan: options.Vqgan = None,
    revision: options.Revision = None,
    variant: options.Variant = None,
    device: options.Device = "cpu",
    dtype: options.Dtype = "auto",
    as_json: options.Json = False,
) -> None:
    """Show pictures beside what the VQGAN makes of them.

    Writes one file: a row per picture, on the left the middle square as the network sees it, on the
    right its reconstruction. Prints each one's PSNR, in dB: the higher, the more alike.
    """
    from minidalle.checkpoints import load_vqgan, locate
    from minidalle.pictures import (
        check_output,
        image_grid,
        open_picture,
        square,
        to_pil,
        write_picture,
    )
    from minidalle.scoring import to_tensor
    from minidalle.training.evaluate import psnr

    check_output(out)
    for path in pictures:
        open_picture(path)  # what cannot be read is said before anything is loaded
    if vqgan is not None and model is None:
        source = locate(vqgan, revision=revision, variant=variant)
        precision = choose_dtype(dtype, device)
        network = load_vqgan(source, variant=variant, device=device, dtype=precision)
    else:
        network = load_model(model, vqgan, revision, variant, device, dtype).vqgan
    weight = network.quantize.embedding.weight
    rows, scores = [], []
    for path in pictures:
        original = square(open_picture(path), network.config.resolution)
        images = to_tensor(original)[None]
        again = network.decode(network.encode(images.to(weight))).float().cpu()
        rows += [original, to_pil(again[0])]
        scores.append({"picture": str(path), "psnr": round(float(psnr(images, again)), 3)})
    made_by = {**given(model=model, vqgan=vqgan), "version": minidalle.__version__}
    write_picture(image_grid(rows, columns=2), out, {"reconstructed": scores, **made_by})
    if as_json:
        options.say(json.dumps({"file": str(out), "pictures": scores}, indent=2))
    else:
        options.say(*(f"{score['picture']}  {score['psnr']:.2f} dB" for score in scores), out)
