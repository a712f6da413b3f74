"""data/emoji/build.py without the network: integrity, names, pictures, selection, comparison.

The rebuild as a whole needs npm and the extra `[data]`; what it reported is in DATA_CARD.md.
"""

import importlib.util
import io
import json
import tarfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

FOLDER = Path(__file__).parents[2] / "data" / "emoji"
spec = importlib.util.spec_from_file_location("emoji_build", FOLDER / "build.py")
build = importlib.util.module_from_spec(spec)
spec.loader.exec_module(build)

EMPTY_SHA512 = (  # of no bytes at all, base64: a published constant
    "z4PhNX7vuL3xVChQ1m2AB9Yg5AULVxXcg/SpIdNs6c5H0NE8XYXysP+DGNKHfuwvY7kxvUdBeoGlODJ6+SfaPg=="
)


def row(label: str, style: str = "noto", **changes) -> dict:
    """A row of the table, with made-up but valid values."""
    plain = {"hexcode": label.upper(), "style": style, "label": label, "concept": label}
    plain |= {"group": "objects", "subgroup": "tool", "gender": None, "version": 1.0, "tone": 0}
    return plain | {"tags": ["made", "up"], "image": webp(0)} | changes


def webp(grey: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (64, 64), (grey, grey, grey)).save(buffer, "WEBP", lossless=True)
    return buffer.getvalue()


def tarball(folder: Path, package: str, files: dict[str, bytes]) -> Path:
    """Write a package as npm would have cached it."""
    name, _, version = package.rpartition("@")
    path = folder / f"{name.removeprefix('@').replace('/', '-')}-{version}.tgz"
    with tarfile.open(path, "w:gz") as archive:
        for inside, data in files.items():
            member = tarfile.TarInfo(f"package/{inside}")
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return path


# packages


def test_integrity_accepts_the_pinned_bytes(tmp_path):
    path = tmp_path / "empty.tgz"
    path.write_bytes(b"")
    build.check_integrity(path, EMPTY_SHA512)


def test_integrity_refuses_a_changed_tarball(tmp_path):
    path = tmp_path / "changed.tgz"
    path.write_bytes(b"x")
    with pytest.raises(ValueError, match=r"changed\.tgz: sha512 is .* expected z4PhNX7v"):
        build.check_integrity(path, EMPTY_SHA512)


def test_fetch_refuses_a_cached_tarball_that_is_not_the_pinned_one(tmp_path):
    package = "@iconify-json/noto@1.2.9"
    path = tarball(tmp_path, package, {"icons.json": b"{}"})
    with pytest.raises(ValueError, match=path.name):
        build.fetch(package, tmp_path)


def test_fetch_reads_a_cached_tarball_without_npm(tmp_path, monkeypatch):
    package = "@scope/name@1.0.0"
    path = tarball(tmp_path, package, {"en/data.json": b"[1]"})
    digest = build.base64.b64encode(build.hashlib.sha512(path.read_bytes()).digest()).decode()
    monkeypatch.setitem(build.INTEGRITY, package, digest)
    monkeypatch.setattr(build.shutil, "which", lambda name: None)
    assert build.fetch(package, tmp_path) == {"en/data.json": b"[1]"}


def test_fetch_says_that_npm_is_missing(tmp_path, monkeypatch):
    monkeypatch.setattr(build.shutil, "which", lambda name: None)
    with pytest.raises(FileNotFoundError, match="npm is not installed"):
        build.fetch("emojibase-data@17.0.0", tmp_path)


def test_every_style_has_a_pinned_package():
    assert {package for package, _ in build.STYLES.values()} <= set(build.INTEGRITY)
    assert all(len(build.base64.b64decode(digest)) == 64 for digest in build.INTEGRITY.values())


# rows and names


def test_emoji_rows_keep_what_can_be_drawn_and_no_country():
    groups = {"groups": {"1": "people-body", "2": "component", "9": "flags"}}
    groups["subgroups"] = {"0": "person", "1": "skin-tone", "2": "flag", "3": "country-flag"}
    entry = {"hexcode": "1F9D4", "label": "woman: beard", "version": 4, "tags": ["beard"]}
    data = [
        entry | {"group": 1, "subgroup": 0, "gender": 0, "skins": [entry | {"tone": 1}]},
        entry | {"label": "man: beard", "group": 1, "subgroup": 0, "gender": 1},
        entry | {"label": "light skin tone", "group": 2, "subgroup": 1},
        entry | {"label": "pirate flag", "group": 9, "subgroup": 2},
        entry | {"label": "flag: Aruba", "group": 9, "subgroup": 3},
        entry | {"label": "regional indicator A"},
    ]
    files = {"meta/groups.json": json.dumps(groups), "en/data.json": json.dumps(data)}
    rows = build.emoji_rows(files)
    labels = [(row["label"], row["concept"], row["gender"], row["tone"]) for row in rows]
    assert labels == [
        ("woman: beard", "woman: beard", "female", 0),
        ("man: beard", "man: beard", "male", 0),
        ("pirate flag", "pirate flag", None, 0),
    ]
    assert rows[0]["group"] == "people-body" and rows[0]["subgroup"] == "person"
    assert rows[0]["version"] == 4.0 and rows[0]["tags"] == ["beard"]


@pytest.mark.parametrize(
    ("label", "name"),
    [
        ("twelve o’clock", "twelve-oclock"),
        ("piñata", "pinata"),
        ("Japanese “bargain” button", "japanese-bargain-button"),
        ("UP! button", "up-button"),
    ],
)
def test_slug(label, name):
    assert build.slug(label) == name


def test_icons_are_found_by_code_point_or_else_by_label(monkeypatch):
    monkeypatch.setattr(build, "rasterise", lambda icons, name: name)
    icons = {"icons": {"axe": {}, "red-heart": {}, "left": {}}}
    icons["aliases"] = {
        "heart": {"parent": "red-heart"},
        "right": {"parent": "left", "hFlip": True},
    }
    rows = [row("axe", hexcode="1FA93"), row("heart", hexcode="2764-FE0F")]
    rows += [row("right", hexcode="1F449"), row("unknown", hexcode="1F000")]

    def drawn(chars: dict[str, str]) -> dict[str, str]:
        files = {"icons.json": json.dumps(icons), "chars.json": json.dumps(chars)}
        return {code: draw() for code, draw in build.icon_drawings(files, rows).items()}

    assert drawn({"1fa93": "axe", "2764": "heart"}) == {"1FA93": "axe", "2764-FE0F": "red-heart"}
    assert drawn({"2764": "heart", "1f449": "right"}) == {"2764-FE0F": "red-heart"}
    assert drawn({}) == {"1FA93": "axe", "2764-FE0F": "red-heart"}


def test_files_are_found_with_and_without_fe0f():
    files = {"assets/26a7.webp": webp(1), "assets/26a7-fe0f.webp": webp(2), "README.md": b""}
    files["assets/1f6e9-fe0f.webp"] = webp(3)
    rows = [row("sign", hexcode="26A7"), row("plane", hexcode="1F6E9"), row("no", hexcode="1F000")]
    drawings = build.file_drawings(files, rows)
    greys = {code: draw().convert("RGB").getpixel((0, 0))[0] for code, draw in drawings.items()}
    assert greys == {"26A7": 2, "1F6E9": 3}


# pictures


def test_place_centres_the_drawing_on_white():
    picture = np.asarray(build.place(Image.new("RGBA", (256, 256), (255, 0, 0, 255)), inner=58))
    assert picture.shape == (64, 64, 3)
    red = (picture == [255, 0, 0]).all(axis=2)
    assert red[3:61, 3:61].all() and red.sum() == 58 * 58
    assert (picture[~red] == 255).all()


def test_place_puts_transparency_on_white():
    half = Image.new("RGBA", (256, 256), (0, 0, 0, 128))
    assert build.place(half, inner=64).getpixel((32, 32)) == (127, 127, 127)


def test_place_crops_a_tall_file_to_its_middle_and_stretches_a_flat_one():
    tall = Image.new("RGBA", (256, 264), (255, 0, 0, 255))
    tall.paste((0, 0, 255, 255), (0, 4, 256, 260))
    assert build.place(tall, inner=64).getcolors() == [(64 * 64, (0, 0, 255))]
    flat = Image.new("RGBA", (256, 178), (0, 0, 255, 255))
    assert build.place(flat, inner=64).getcolors() == [(64 * 64, (0, 0, 255))]


def test_encode_keeps_256_colours_exactly_and_reduces_more():
    few = Image.fromarray(np.repeat(np.arange(256, dtype=np.uint8), 48).reshape(64, 64, 3))
    assert len(few.getcolors(4096)) <= 256
    decoded = Image.open(io.BytesIO(build.encode(few))).convert("RGB")
    assert decoded.tobytes() == few.tobytes()
    x, y = np.meshgrid(np.arange(64), np.arange(64))
    many = Image.fromarray(np.stack([4 * x, 4 * y, 2 * (x + y)], axis=2).astype(np.uint8))
    decoded = Image.open(io.BytesIO(build.encode(many))).convert("RGB")
    assert len(many.getcolors(4096)) == 4096
    assert len(decoded.getcolors(4096)) <= 256
    assert np.abs(np.asarray(decoded, float) - np.asarray(many, float)).mean() < 8


# selection


def square(side: int, colour: str = "black") -> Image.Image:
    picture = Image.new("RGB", (64, 64), "white")
    picture.paste(colour, (0, 0, side, side))
    return picture


def test_select_keeps_the_shortest_label_of_equal_pictures_in_the_old_order():
    rows = [row("person running"), row("man running"), row("axe"), row("old"), row("new")]
    pictures = {"PERSON RUNNING": square(20), "MAN RUNNING": square(20), "AXE": square(30)}
    pictures |= {"OLD": square(40), "NEW": square(40)}
    kept = [row["label"] for row in build.select(rows, pictures)]
    assert kept == ["man running", "axe", "old"]  # equal lengths: the first one


def test_select_drops_near_blank_pictures():
    rows = [row("dot"), row("pale"), row("square")]
    pictures = {"DOT": square(12), "PALE": square(60, "#fafafa"), "SQUARE": square(13)}
    assert [row["label"] for row in build.select(rows, pictures)] == [
        "square"
    ]  # 144 < 163.84 < 169


def test_fluent_3d_needs_the_flat_drawing_and_has_no_flags():
    rows = [row("axe"), row("kiss"), row("pirate flag", group="flags")]
    flat = [row("axe"), row("pirate flag", group="flags")]
    assert [row["label"] for row in build.established(rows, flat)] == ["axe"]


# comparison


def table(*rows: dict) -> pa.Table:
    return pa.Table.from_pylist(list(rows), schema=build.SCHEMA)


def test_compare_of_equal_tables():
    assert build.compare(table(row("axe"), row("bee")), table(row("bee"), row("axe"))) == (
        "rows: 2 built, 2 shipped, 2 in both\nonly in built: 0\nonly in shipped: 0\n"
        "PSNR: min inf dB, median inf dB; equal pictures 100.00%"
    )


def test_compare_names_every_kind_of_difference():
    built = table(row("axe", image=webp(10)), row("bee", tags=["buzz"]), row("cat"))
    shipped = table(row("axe"), row("bee"), row("cat", style="twemoji"))
    report = build.compare(built, shipped)
    assert "rows: 3 built, 3 shipped, 2 in both" in report
    assert "only in built: 1\n  noto 'cat'" in report
    assert "only in shipped: 1\n  twemoji 'cat'" in report
    assert "tags differs in 1 rows, first ('noto', 'BEE'): ['buzz'] built" in report
    assert "label differs" not in report
    assert "PSNR: min 28.1 dB, median inf dB; equal pictures 50.00%" in report


def test_psnr():
    assert build.psnr(webp(7), webp(7)) == float("inf")
    assert build.psnr(webp(0), webp(255)) == pytest.approx(0.0)
    assert build.psnr(webp(0), webp(10)) == pytest.approx(28.1308, abs=1e-3)


# the command and the shipped file


def test_main_does_not_replace_a_file_unless_asked(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(build, "build", lambda cache: table(row("new")))
    out, shipped = tmp_path / "out.parquet", tmp_path / "shipped.parquet"
    pq.write_table(table(row("old")), shipped)
    out.write_bytes(b"precious")
    arguments = ["--cache", str(tmp_path), "--out", str(out), "--compare", str(shipped)]
    with pytest.raises(SystemExit):
        build.main(arguments)
    assert out.read_bytes() == b"precious"
    assert "--overwrite" in capsys.readouterr().err
    build.main([*arguments, "--overwrite"])
    assert pq.read_table(out).column("label").to_pylist() == ["new"]
    assert "only in shipped: 1\n  noto 'old'" in capsys.readouterr().out
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.parquet", "shipped.parquet"]


def test_main_refuses_a_missing_folder_before_the_work(tmp_path, monkeypatch):
    monkeypatch.setattr(build, "build", lambda cache: pytest.fail("it began to build"))
    with pytest.raises(SystemExit):
        build.main(["--cache", str(tmp_path), "--out", str(tmp_path / "no" / "out.parquet")])


def test_shipped_file_is_what_build_would_write():
    shipped = pq.read_table(FOLDER / "emoji64.parquet")
    assert shipped.schema.equals(build.SCHEMA)
    assert shipped.num_rows == 7601
    order = list(dict.fromkeys(shipped.column("style").to_pylist()))
    assert order == list(build.STYLES)
    assert shipped.column("label") == shipped.column("concept")
    picture = Image.open(io.BytesIO(shipped.column("image")[0].as_py()))
    assert picture.size == (64, 64)
