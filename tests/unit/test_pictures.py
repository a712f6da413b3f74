"""Picture files: whatever a user's folder holds is read right or refused in one line."""

import io
import json
import os
import struct
import subprocess
import sys
import warnings
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, PngImagePlugin, features

import minidalle
from minidalle.pictures import (
    MAX_BYTES,
    MAX_PIXELS,
    check_output,
    open_picture,
    printable,
    read_metadata,
    to_rgb,
    write_picture,
)

METADATA = {"prompt": "a cat", "seeds": [7], "sampling": {"temperature": 0.7, "top_k": 0}}


def chunk(kind: bytes, data: bytes) -> bytes:
    checked = kind + data
    return struct.pack(">I", len(data)) + checked + struct.pack(">I", zlib.crc32(checked))


def png(width, height, depth, colour, rows=b"", more=b"") -> bytes:
    """A PNG made by hand; `rows` begin with their filter byte, `more` are chunks before them."""
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    chunks = chunk(b"IHDR", header) + more + chunk(b"IDAT", zlib.compress(rows))
    return b"\x89PNG\r\n\x1a\n" + chunks + chunk(b"IEND", b"")


def saved(picture: Image.Image, kind: str, **options) -> bytes:
    data = io.BytesIO()
    picture.save(data, kind, **options)
    return data.getvalue()


def noise(side: int = 24) -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (side, side, 3), np.uint8))


def grey(mode: str, levels, kind: str) -> bytes:
    """Pixels in one row; the dtype of `levels` must be the mode's."""
    picture = Image.frombytes(mode, (len(levels), 1), levels.tobytes())
    return saved(picture, kind)


RED, BLUE, WHITE = (255, 0, 0), (0, 0, 255), (255, 255, 255)
PALETTE = chunk(b"PLTE", bytes(RED + BLUE)) + chunk(b"tRNS", b"\0")  # red is transparent
READ = {  # name: file, the pixels of its first row
    "one pixel": (png(1, 1, 8, 2, b"\0" + bytes(RED)), [RED]),
    "1 bit": (png(2, 1, 1, 0, b"\0\x40"), [(0,) * 3, WHITE]),
    "16-bit grey": (
        png(3, 1, 16, 0, b"\0" + struct.pack(">3H", 0, 32768, 65535)),
        [(0,) * 3, (128,) * 3, WHITE],
    ),
    "16-bit grey, transparent": (
        png(2, 1, 16, 0, b"\0" + struct.pack(">2H", 5, 257), chunk(b"tRNS", b"\0\x05")),
        [WHITE, (1,) * 3],
    ),
    "16-bit RGB": (png(1, 1, 16, 2, b"\0" + struct.pack(">3H", 65535, 32768, 0)), [(255, 128, 0)]),
    "palette, transparent": (png(2, 1, 8, 3, b"\0\0\1", PALETTE), [WHITE, BLUE]),
    "grey and alpha": (png(2, 1, 8, 4, b"\0\0\0\0\xff"), [WHITE, (0,) * 3]),
    "half transparent": (png(1, 1, 8, 6, b"\0\xff\0\0\x80"), [(255, 127, 127)]),
    "I": (grey("I", np.array([0, 32768, 65535], np.int32), "TIFF"), [(0,) * 3, (128,) * 3, WHITE]),
    "I;16B": (grey("I;16B", np.array([32768], ">u2"), "TIFF"), [(128,) * 3]),
    "F": (grey("F", np.array([0, 0.5, 1], np.float32), "TIFF"), [(0,) * 3, (128,) * 3, WHITE]),
    "CMYK TIFF": (saved(Image.new("CMYK", (1, 1), (0, 255, 255, 0)), "TIFF"), [RED]),
    "bitmap": (saved(Image.new("RGB", (1, 1), RED), "BMP"), [RED]),
    "animated GIF": (
        saved(
            Image.new("RGB", (1, 1), RED),
            "GIF",
            save_all=True,
            append_images=[Image.new("RGB", (1, 1), BLUE)],
        ),
        [RED],
    ),
}


@pytest.mark.parametrize("name", READ)
def test_every_kind_of_pixel_becomes_8_bit_rgb(tmp_path, name):
    data, expected = READ[name]
    (tmp_path / "p").write_bytes(data)
    picture = open_picture(tmp_path / "p")
    assert picture.mode == "RGB" and picture.info == {}
    assert [tuple(pixel) for pixel in np.asarray(picture)[0]] == expected


@pytest.mark.parametrize("kind", ["JPEG", "WEBP"])
def test_lossy_formats_are_read(tmp_path, kind):
    """A JPEG as printers use it, and an animation whose first frame is red."""
    red = Image.new("CMYK", (16, 16), (0, 255, 255, 0))
    blue = Image.new("RGB", (16, 16), BLUE)
    more = {"save_all": True, "append_images": [blue]} if kind == "WEBP" else {}
    (tmp_path / "p").write_bytes(saved(red.convert("RGB") if more else red, kind, **more))
    assert np.abs(np.asarray(open_picture(tmp_path / "p")).astype(int) - RED).max() <= 4


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(tmp_path, orientation):
    """Each orientation's file, made by the opposite transposition, gives back the same picture."""
    upright = noise(8).crop((0, 0, 8, 5))
    move = Image.Transpose
    stored = {
        2: move.FLIP_LEFT_RIGHT, 3: move.ROTATE_180, 4: move.FLIP_TOP_BOTTOM, 5: move.TRANSPOSE,
        6: move.ROTATE_90, 7: move.TRANSVERSE, 8: move.ROTATE_270,
    }  # fmt: skip
    exif = Image.Exif()
    exif[0x0112] = orientation
    turned = upright.transpose(stored[orientation]) if orientation > 1 else upright
    turned.save(tmp_path / "p.png", exif=exif)
    assert np.array_equal(open_picture(tmp_path / "p.png"), upright)


def test_damaged_exif_turns_nothing(tmp_path):
    noise().save(tmp_path / "p.png", exif=b"Exif\0\0II*\0\xff\xff\xff")
    assert np.array_equal(open_picture(tmp_path / "p.png"), noise())


REFUSED = {
    "empty": b"",
    "text": b"this is not a picture",
    "zero wide": png(0, 1, 8, 0),
    "zero high": png(1, 0, 8, 0),
    "no pixels in it": b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIxxxxx", 5, 5)),
    "a wrong checksum": READ["one pixel"][0].replace(b"IHDR", b"IHDr"),
    "postscript": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n",
    "another format": b"P6 1 1 255\n\0\0\0",
    "F above 1": grey("F", np.array([0, 255], np.float32), "TIFF"),
    "F, not a number": grey("F", np.array([np.nan], np.float32), "TIFF"),
    "I below 0": grey("I", np.array([-1], np.int32), "TIFF"),
    "20,000×20,000": png(20_000, 20_000, 1, 0),
    "two milliards square": png(2**31 - 1, 2**31 - 1, 8, 2),
    "one pixel too many": png(MAX_PIXELS + 1, 1, 8, 0),
    "enormous WebP": b"RIFF\x20\0\0\0WEBPVP8X\x0a\0\0\0\0\0\0\0\x1f\x4e\0\x1f\x4e\0" + bytes(8),
    "a text bomb": png(
        1, 1, 8, 0, b"\0\0", chunk(b"zTXt", b"x\0\0" + zlib.compress(bytes(5_000_000)))
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_no_picture_is_refused_by_name(tmp_path, name):
    """One line, a ValueError, and no warning of PIL's beside it."""
    path = tmp_path / "holiday.png"
    path.write_bytes(REFUSED[name])
    with warnings.catch_warnings(), pytest.raises(ValueError) as caught:
        warnings.simplefilter("error")
        open_picture(path)
    assert str(caught.value).startswith(f"{path} ") and "\n" not in str(caught.value)


FORMATS = {
    "PNG": saved(noise(), "PNG"),
    "JPEG": saved(noise(), "JPEG"),
    "WEBP": saved(noise(), "WEBP"),
    "GIF": saved(noise(), "GIF"),
    "BMP": saved(noise(), "BMP"),
    "TIFF": saved(noise(), "TIFF"),
}


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("tenth", range(10))
def test_a_truncated_file_is_refused(tmp_path, kind, tenth):
    data = FORMATS[kind]
    (tmp_path / "p").write_bytes(data[: len(data) * tenth // 10])
    with pytest.raises(ValueError, match="picture"):
        open_picture(tmp_path / "p")


@settings(max_examples=200, deadline=5000)
@given(
    kind=st.sampled_from(sorted(FORMATS)),
    edits=st.lists(st.tuples(st.integers(0, 2**16), st.integers(0, 255)), max_size=8),
    end=st.integers(0, 2**16),
)
def test_damage_of_any_kind_is_a_value_error(tmp_path_factory, kind, edits, end):
    """Any bytes changed, most in the header, and any length cut: a picture or a ValueError."""
    data = bytearray(FORMATS[kind])
    for place, value in edits:
        data[place % (64 if place % 2 else len(data))] = value
    path = tmp_path_factory.getbasetemp() / "damaged"
    path.write_bytes(data[: end % len(data)] if end % 2 else data)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            assert open_picture(path).mode == "RGB"
        except ValueError as error:
            assert str(error).startswith(str(path))


def test_an_enormous_picture_is_refused_before_it_is_decoded(tmp_path):
    """20,000×20,000 pixels in 50 kB: decoded they are 400 MB, or 1.2 GB in RGB."""
    path = tmp_path / "huge.png"
    path.write_bytes(png(20_000, 20_000, 1, 0, bytes(20_000 * 2501)))
    assert path.stat().st_size < 100_000
    code = (
        "import resource, sys\n"
        "from minidalle.pictures import open_picture\n"
        "def peak(): return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "before = peak()\n"
        "try: open_picture(sys.argv[1])\n"
        "except ValueError as error: print(error)\n"
        "print((peak() - before) // 1024)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, path], capture_output=True, text=True)
    message, mebibytes = done.stdout.splitlines()
    assert "20000×20000" in message and str(path) in message and done.stderr == ""
    assert int(mebibytes) < 20


def test_an_enormous_file_is_refused_before_it_is_read(tmp_path):
    with (tmp_path / "p.webp").open("wb") as file:
        file.write(FORMATS["WEBP"][:16])
        file.truncate(MAX_BYTES + 1)  # sparse: takes no room
    with pytest.raises(ValueError, match="at most"):
        open_picture(tmp_path / "p.webp")


def test_a_file_that_is_not_there_is_the_systems_error(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nowhere\.png"):
        open_picture(tmp_path / "nowhere.png")
    with pytest.raises(IsADirectoryError):
        open_picture(tmp_path)


def test_pictures_at_hand_have_the_same_limits():
    with pytest.raises(ValueError, match="8001×8000"):
        to_rgb(Image.new("1", (8001, 8000)))
    with pytest.raises(ValueError, match="0×5"):
        to_rgb(Image.new("RGB", (0, 5)))
    with pytest.raises(TypeError, match="str"):
        to_rgb("apple.png")
    lazy = Image.open(io.BytesIO(FORMATS["JPEG"][:-200]))
    with pytest.raises(ValueError, match="truncated"):
        to_rgb(lazy)


def test_reading_leaves_pils_settings_alone(tmp_path):
    before = Image.MAX_IMAGE_PIXELS, PngImagePlugin.MAX_TEXT_CHUNK, list(warnings.filters)
    for name in ("20,000×20,000", "a text bomb"):
        (tmp_path / "p").write_bytes(REFUSED[name])
        with pytest.raises(ValueError):
            open_picture(tmp_path / "p")
    after = Image.MAX_IMAGE_PIXELS, PngImagePlugin.MAX_TEXT_CHUNK, list(warnings.filters)
    assert before == after


@pytest.mark.parametrize("name", ["a.png", "a.PNG", "a.jpg", "a.jpeg", "a.webp"])
def test_written_pictures_are_whole_and_reproducible(tmp_path, name):
    picture = noise()
    picture.info = {"icc_profile": b"profile", "transparency": (0, 0, 0), "dpi": (1, 1)}
    for folder in ("first", "second"):
        (tmp_path / folder).mkdir()
        write_picture(picture, tmp_path / folder / name, METADATA)
    first, second = ((tmp_path / folder / name) for folder in ("first", "second"))
    assert first.read_bytes() == second.read_bytes()
    assert [path.name for path in first.parent.iterdir()] == [name]
    written = Image.open(first)
    assert written.size == (24, 24) and not {"icc_profile", "transparency"} & set(written.info)
    if name.lower().endswith("png"):
        assert np.array_equal(written, noise())
        assert read_metadata(first) == METADATA


def test_other_programs_find_the_prompt(tmp_path):
    write_picture(noise(), tmp_path / "a.png", METADATA)
    info = Image.open(tmp_path / "a.png").info
    assert info["Description"] == "a cat"
    assert info["Software"] == f"minidalle {minidalle.__version__}"


@pytest.mark.parametrize(
    "prompt", ["", "تفاحة حمراء", "👩‍🚀", "\x1b[31m\x00", "\udcff\ud800", "x" * 10_000, "a\nb"]
)
def test_any_prompt_survives_in_the_metadata(tmp_path, prompt):
    write_picture(noise(), tmp_path / "a.png", {"prompt": prompt})
    assert read_metadata(tmp_path / "a.png") == {"prompt": prompt}
    description = Image.open(tmp_path / "a.png").info.get("Description", "")
    assert description == printable(prompt)
    assert "\x1b" not in description
    description.encode()  # UTF-8 can say it


def with_text(text: str, compressed: bool = False) -> bytes:
    chunks = PngImagePlugin.PngInfo()
    chunks.add_itxt("minidalle", text, zip=compressed)
    return saved(noise(), "PNG", pnginfo=chunks)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (FORMATS["PNG"], "no metadata"),
        (FORMATS["JPEG"], "not a PNG"),
        (b"", "PNG"),
        (with_text('{"prompt": '), "damaged"),
        (with_text("[1, 2]"), "damaged"),
        (with_text("[" * 100_000), "damaged"),
        (with_text("9" * 10_000), "damaged"),
        (with_text(json.dumps({"prompt": "x" * 2**24})), "damaged"),
        (with_text(" " * 50_000_000, compressed=True), "too large"),
        (with_text("{}")[:60], "no picture"),
    ],
    ids=["none", "JPEG", "empty", "cut", "list", "deep", "number", "long", "bomb", "truncated"],
)
def test_metadata_that_is_none_is_refused(tmp_path, data, words):
    path = tmp_path / "a.png"
    path.write_bytes(data)
    with pytest.raises(ValueError, match=words) as caught:
        read_metadata(path)
    assert str(caught.value).startswith(f"{path} ") and "\n" not in str(caught.value)


def test_metadata_is_read_without_decoding(tmp_path):
    """The pixels of this file are missing, and too many."""
    text = chunk(b"iTXt", b"minidalle\0\0\0\0\0" + json.dumps(METADATA).encode())
    (tmp_path / "a.png").write_bytes(png(20_000, 20_000, 8, 2, more=text))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert read_metadata(tmp_path / "a.png") == METADATA


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("a.txt", ".png"),
        ("a", ".png"),
        ("nowhere/a.png", "nowhere"),
        ("taken.png", "folder"),
        ("file/a.png", "file"),
        ("x" * 300 + ".png", "too long"),
    ],
)
def test_a_place_that_cannot_be_written_is_found_out_beforehand(tmp_path, name, words):
    (tmp_path / "taken.png").mkdir()
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match=words):
        check_output(tmp_path / name)
    with pytest.raises((ValueError, OSError)):
        write_picture(noise(), tmp_path / name)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "taken.png"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_without_permission_is_found_out_beforehand(tmp_path):
    tmp_path.chmod(0o555)
    with pytest.raises(ValueError, match="cannot be written"):
        check_output(tmp_path / "a.png")


def test_checking_leaves_what_is_there(tmp_path):
    (tmp_path / "a.png").write_bytes(b"mine")
    check_output(tmp_path / "a.png")
    check_output(tmp_path / "b.png")
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]
    assert (tmp_path / "a.png").read_bytes() == b"mine"


def test_a_failed_write_leaves_the_old_picture(tmp_path, monkeypatch):
    """The disk is full at the end, then the picture is too large for its format."""
    path = tmp_path / "a.webp"
    write_picture(noise(), path)
    before = path.read_bytes()

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(OSError, match=r"No space left on device: .*a\.webp") as caught:
        write_picture(noise(8), path)
    assert caught.value.errno == 28
    monkeypatch.undo()
    if features.check("webp"):
        with pytest.raises(ValueError, match=r"a\.webp cannot be written as WEBP"):
            write_picture(Image.new("RGB", (16_384, 1)), path)
    assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path]


def test_a_jpeg_of_a_thousand_scans_is_refused(tmp_path):
    """Each scan costs the time of a whole picture; a usual progressive picture is read."""
    path = tmp_path / "scans.jpg"
    Image.new("RGB", (64, 64), "red").save(path, progressive=True)
    assert open_picture(path).size == (64, 64)
    data = path.read_bytes()
    start = data.index(b"\xff\xda")
    path.write_bytes(data[:start] + data[start:-2] * 1000 + data[-2:])
    with pytest.raises(ValueError, match=r"scans\.jpg is no PNG"):
        open_picture(path)
