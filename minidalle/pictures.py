"""Picture files: reading those that others made, and writing ours with how they were made inside.

A file that is read may be damaged, enormous or hostile. Only well-known formats are tried, the size
is checked before anything is decoded, and whatever goes wrong ends in one ValueError that names the
file. A file that is written is written aside and renamed, so that it is there whole or not at all;
equal pictures with equal metadata are equal bytes. A PNG carries its metadata as JSON in the text
chunk "minidalle" (PNG specification, third edition, section 11.3.3), for `read_metadata`.
"""

from __future__ import annotations

import io
import json
import math
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np
from PIL import Image, ImageOps
from PIL.BmpImagePlugin import BmpImageFile
from PIL.GifImagePlugin import GifImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile, PngInfo
from PIL.TiffImagePlugin import TiffImageFile
from PIL.WebPImagePlugin import WebPImageFile

import minidalle

if TYPE_CHECKING:  # so that a picture's metadata can be read without waiting for torch
    from torch import Tensor

MAX_PIXELS = 64_000_000  # of a picture that is read: 8000×8000
MAX_BYTES = 2**28  # of a file that is read; 64 million pixels are 192 million bytes
MAX_SCANS = 100  # of a progressive JPEG; usual are ten, and each costs time
MAX_METADATA = 2**24  # characters of JSON
GREY = (127, 127, 127)  # of places that are not drawn yet
READERS = (PngImageFile, JpegImageFile, WebPImageFile, GifImageFile, BmpImageFile, TiffImageFile)
FORMATS = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP"}  # that we write
# What would break a text chunk, or act on a terminal: control characters and lone surrogates.
UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]")


def open_picture(path: str | Path) -> Image.Image:
    """The picture in a file: upright, 8-bit RGB, on white; of an animation the first frame.

    Raises OSError where the file cannot be opened; ValueError for one that is no PNG, JPEG, WebP,
    GIF, BMP or TIFF picture, is damaged, or has more than MAX_PIXELS pixels.
    """
    with open_bounded(path) as file:
        return to_rgb(identify(file, str(path)), str(path))


def identify(file: BinaryIO, name: str) -> Image.Image:
    """A picture of which the header is read, and nothing is decoded yet.

    The plugins are called without Image.open, whose own limit of size warns, or raises, by a
    setting that is global.
    """
    for reader in READERS:
        file.seek(0)
        try:
            picture = reader(file)
            if reader is JpegImageFile and scans_of(file) > MAX_SCANS:
                break
            return picture
        except Image.DecompressionBombError:
            raise ValueError(f"{name} has more than {MAX_PIXELS:,} pixels") from None
        except Exception:
            continue  # not in this format
    raise ValueError(
        f"{name} is no PNG, JPEG, WebP, GIF, BMP or TIFF picture, or its first bytes are damaged"
    )


def scans_of(file: BinaryIO) -> int:
    """How often a JPEG goes over its pixels: a small file may say so a hundred thousand times."""
    place = file.tell()
    file.seek(0)
    scans = file.read().count(b"\xff\xda")
    file.seek(place)
    return scans


def to_rgb(picture: Image.Image, name: str = "the picture") -> Image.Image:
    """A picture of any mode as 8-bit RGB: upright as its EXIF says, transparent parts on white.

    Grey levels of 16 bits are scaled, so is mode "I", which PIL uses for them; mode "F" must have
    values from 0 to 1. Raises ValueError, by `name`, for no pixels, too many or damaged ones.
    """
    if not isinstance(picture, Image.Image):
        raise TypeError(f"a picture is {type(picture).__name__}; it must be a PIL picture")
    width, height = picture.size
    if not 0 < width * height <= MAX_PIXELS:
        raise ValueError(
            f"{name} has {width}×{height} pixels; there must be 1 to {MAX_PIXELS:,} of them"
        )
    with unreadable(name):
        picture.load()
        with suppress(Exception):  # EXIF that cannot be read turns nothing
            picture = ImageOps.exif_transpose(picture)
        if picture.mode == "F" or picture.mode.startswith("I"):
            picture = eight_bits(picture)
        elif picture.has_transparency_data:
            picture = picture.convert("RGBA")
            picture = Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture)
        picture = picture.convert("RGB")
    picture.info = {}
    return picture


def eight_bits(picture: Image.Image) -> Image.Image:
    """Grey levels of 16 bits, or from 0 to 1 in mode "F", as 8 bits; the transparent one white."""
    top = 1 if picture.mode == "F" else 65535
    levels = np.asarray(picture).astype(np.float32)
    if not (levels.min() >= 0 and levels.max() <= top):  # NaN is refused, too
        raise ValueError(
            f"grey levels go from {levels.min()} to {levels.max()}; expected 0 to {top}"
        )
    scaled = (levels * (255 / top)).round().astype(np.uint8)
    if isinstance(clear := picture.info.get("transparency"), int):
        scaled[levels == clear] = 255
    return Image.fromarray(scaled)


def square(picture: Image.Image, side: int) -> Image.Image:
    """The middle square of a picture, as 8-bit RGB, resized to S×S."""
    return ImageOps.fit(to_rgb(picture), (side, side), Image.Resampling.LANCZOS)


def check_output(path: str | Path) -> None:
    """Raise ValueError where a picture could not be written, before any work is done."""
    path = Path(path)
    format_of(path)
    if os.path.isdir(path):  # Path.is_dir raises for a name that is too long
        raise ValueError(f"{path} cannot be written: it is a folder")
    try:
        aside(path).touch()  # trying is surer than reading permissions
        aside(path).unlink()
    except OSError as error:
        raise ValueError(
            f"{path} cannot be written ({error.strerror}); "
            f"is {path.parent} a folder that you may write to?"
        ) from None


def write_picture(
    picture: Image.Image, path: str | Path, metadata: dict[str, Any] | None = None
) -> None:
    """Write a picture file, whole or not at all; a PNG carries the metadata.

    path: ends in .png, .jpg, .jpeg or .webp.
    metadata: what JSON can hold; its "prompt" is also the "Description" that other programs show.
    Raises ValueError for another suffix or a picture too large for the format, OSError by the
    file's name where it cannot be written, for example on a full disk.
    """
    path = Path(path)
    kind, data = format_of(path), io.BytesIO()
    picture = picture.convert("RGB")
    picture.info = {}  # else PIL would write what came along with the picture, such as a profile
    options = {"pnginfo": text_chunks(metadata or {})} if kind == "PNG" else {"quality": 95}
    try:
        picture.save(data, kind, **options)
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} cannot be written as {kind}: {error}") from None
    try:
        aside(path).write_bytes(data.getvalue())
        os.replace(aside(path), path)
    except OSError as error:  # of a full disk Python does not say for which file
        raise OSError(error.errno, error.strerror, str(path)) from None
    finally:
        with suppress(OSError):
            aside(path).unlink()


def read_metadata(path: str | Path) -> dict[str, Any]:
    """The metadata that `write_picture` put into a PNG; the picture itself is not decoded.

    Raises OSError where the file cannot be opened; ValueError where it is no PNG, carries no
    metadata of ours, or damaged or oversized metadata.
    """
    with open_bounded(path) as file, unreadable(str(path)):
        text = PngImageFile(file).info.get("minidalle")  # PIL bounds what it decompresses
    if not isinstance(text, str):
        raise ValueError(f"{path} carries no metadata of minidalle")
    try:
        metadata = json.loads(text) if len(text) <= MAX_METADATA else None
    except (ValueError, RecursionError):
        metadata = None
    if not isinstance(metadata, dict):
        raise ValueError(f"{path} carries damaged metadata: {len(text)} characters, no JSON object")
    return metadata


def text_chunks(metadata: dict[str, Any]) -> PngInfo:
    """A PNG's text chunks: the metadata as JSON, and what other programs know."""
    chunks = PngInfo()
    chunks.add_itxt("minidalle", json.dumps(metadata))
    chunks.add_text("Software", f"minidalle {minidalle.__version__}")
    if metadata.get("prompt"):
        chunks.add_text("Description", printable(metadata["prompt"]))
    return chunks


def printable(text: str) -> str:
    """A text with its control characters and lone surrogates escaped."""
    return UNPRINTABLE.sub(lambda match: ascii(match[0])[1:-1], text)


def format_of(path: Path) -> str:
    """PIL's name of the format that a file name stands for."""
    if path.suffix.lower() not in FORMATS:
        raise ValueError(f"{path}: a picture's name ends in {', '.join(FORMATS)}")
    return FORMATS[path.suffix.lower()]


def aside(path: Path) -> Path:
    """Where a file is written before it is renamed: in the same folder, one per process."""
    return path.with_name(f".{path.name}.{os.getpid()}.part")


@contextmanager
def open_bounded(path: str | Path) -> Iterator[BinaryIO]:
    """The file, open for reading; ValueError for one of more than MAX_BYTES."""
    with open(path, "rb") as file:
        if (size := os.fstat(file.fileno()).st_size) > MAX_BYTES:
            raise ValueError(f"{path} has {size:,} bytes; a picture has at most {MAX_BYTES:,}")
        yield file


@contextmanager
def unreadable(name: str) -> Iterator[None]:
    """Whatever a damaged picture makes PIL raise, which is many things, as one ValueError."""
    try:
        yield
    except Exception as error:
        what = " ".join(str(error).split()) or type(error).__name__
        raise ValueError(f"{name} is no picture that can be read: {what}") from None


def to_pil(image: Tensor) -> Image.Image:
    """(3, S, S) to a picture: clipped to [0, 1], times 255, truncated, as DALL·E mini does."""
    array = (image.float().clamp(0, 1) * 255).byte().permute(1, 2, 0).cpu().numpy()
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
