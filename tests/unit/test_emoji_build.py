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

from minidalle.data.emoji import EmojiDataset

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
    styles = build.STYLES | build.MORE_STYLES
    assert {package for package, _ in styles.values()} | {build.EMOJIBASE} == set(build.INTEGRITY)
    assert len(styles) == len(build.STYLES) + len(build.MORE_STYLES)
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


def test_icons_are_found_by_given_names_where_the_package_has_none(monkeypatch):
    monkeypatch.setattr(build, "rasterise", lambda icons, name: name)
    icons = {"icons": {"cricket": {}, "cricket-game": {}, "heartred": {}}}  # and no aliases
    rows = [row("cricket", hexcode="1F997"), row("cricket game", hexcode="1F3CF")]
    rows += [row("red heart", hexcode="2764-FE0F")]
    names = {"1f3cf": "cricket-game", "2764": "heartred"}

    def drawn(chars: dict[str, str]) -> dict[str, str]:
        files = {"icons.json": json.dumps(icons), "chars.json": json.dumps(chars)}
        return {code: draw() for code, draw in build.icon_drawings(files, rows, names).items()}

    assert drawn({}) == {"1F3CF": "cricket-game", "2764-FE0F": "heartred"}
    assert drawn({"1f997": "cricket"}) == {"1F997": "cricket"}  # the package's own come first


def test_names_of_more_styles_are_keys_that_can_be_found():
    names = json.loads(build.MORE_NAMES.read_text())
    assert list(names) == list(build.MORE_STYLES)
    for codes in names.values():
        assert [build.code_key(code) for code in codes] == list(codes)
        assert len(set(codes.values())) == len(codes)
    assert "1f997" not in names["emojione"]  # the insect, of which it has no drawing
    assert names["emojione"]["1f199"] == "up-text-button"
    assert not [name for name in names["fxemoji"].values() if name.startswith("fox")]  # for cats


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


def shape(left: int, top: int, side: int, corner: str = "blue") -> Image.Image:
    """A red square with a corner of another colour, somewhere on white."""
    picture = Image.new("RGB", (64, 64), "white")
    picture.paste("red", (left, top, left + side, top + side))
    picture.paste(corner, (left, top, left + side // 2, top + side // 2))
    return picture


def test_aligned_ignores_place_and_size():
    first = build.aligned(shape(0, 0, 32))
    assert first.shape == (32 * 32 * 3,)
    assert (first == build.aligned(shape(20, 7, 32))).all()
    assert (first == build.aligned(shape(0, 0, 64))).all()
    assert (first != build.aligned(shape(0, 0, 32, "green"))).any()


def test_without_copies_drops_what_nearly_repeats_a_known_picture():
    known = np.stack([build.aligned(shape(0, 0, 32)), build.aligned(square(40))])
    pictures = {"MOVED": shape(8, 8, 48), "PALER": shape(0, 0, 32, "#3030ff")}
    pictures |= {"GREEN": shape(0, 0, 32, "green"), "RED": square(40, "red")}
    # "paler": a quarter of it is off by 48 in two channels of three, 8 on average; "almost": 2.7
    pictures |= {"ALMOST": shape(0, 0, 32, "#1010ff")}
    rows = [row(label.lower()) for label in pictures]
    kept = [row["label"] for row in build.without_copies(rows, pictures, known)]
    assert kept == ["paler", "green", "red"]


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


def test_main_builds_the_other_file_on_request(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(build, "build", lambda cache: pytest.fail("it built emoji64"))
    monkeypatch.setattr(build, "build_more", lambda cache: table(row("new", "fxemoji")))
    monkeypatch.setattr(build, "MORE_SHIPPED", tmp_path / "shipped.parquet")
    pq.write_table(table(row("old", "fxemoji")), build.MORE_SHIPPED)
    out = tmp_path / "out.parquet"
    build.main(["--cache", str(tmp_path), "--out", str(out), "--file", "more64"])
    assert pq.read_table(out).column("style").to_pylist() == ["fxemoji"]
    assert "only in shipped: 1\n  fxemoji 'old'" in capsys.readouterr().out


def test_build_more_draws_known_concepts_only_and_no_copies(tmp_path, monkeypatch):
    """The whole way with made-up packages: order, selection, near copies, styles."""
    axes = [build.encode(build.place(square(50), inner)) for inner in (58, 60)]
    first = [row("axe", image=axes[0]), row("axe", "twemoji", image=axes[1])]
    first += [row("bee"), row("cat"), row("dog")]
    monkeypatch.setattr(build, "SHIPPED", tmp_path / "emoji64.parquet")
    pq.write_table(table(*first), build.SHIPPED)
    names = {style: {x: x for x in ("axe", "bee", "cat", "elk")} for style in build.MORE_STYLES}
    monkeypatch.setattr(build, "MORE_NAMES", tmp_path / "names.json")
    build.MORE_NAMES.write_text(json.dumps(names))
    icons = {"icons": {name: {} for name in ("axe", "bee", "cat", "elk")}}
    files = {"icons.json": json.dumps(icons), "chars.json": "{}"}
    monkeypatch.setattr(build, "fetch", lambda package, cache: files)
    rows = [row(label) for label in ("elk", "cat", "bee", "axe")]
    monkeypatch.setattr(build, "emoji_rows", lambda files: [dict(r) for r in rows])
    pictures = {"axe": square(50), "bee": shape(0, 0, 40), "cat": shape(0, 0, 40, "green")}
    monkeypatch.setattr(build, "rasterise", lambda icons, name: pictures[name])
    made = build.build_more(tmp_path).to_pylist()
    assert [(r["style"], r["label"]) for r in made] == [
        ("emojione", "cat"), ("emojione", "bee"), ("fxemoji", "cat"), ("fxemoji", "bee"),
    ]  # fmt: skip


def test_more_file_fits_the_first():
    """Same columns and concepts, other styles; what is known of an emoji is the same in both."""
    first, more = (pq.read_table(FOLDER / f"{name}64.parquet") for name in ("emoji", "more"))
    assert more.schema.equals(build.SCHEMA) and more.num_rows == 1900
    order = list(dict.fromkeys(more.column("style").to_pylist()))
    assert order == list(build.MORE_STYLES)
    columns = [name for name in more.column_names if name not in ("image", "style")]
    known = {r["hexcode"]: r for r in first.select(columns).to_pylist()}
    rows = more.select(columns).to_pylist()
    assert all(r == known[r["hexcode"]] for r in rows)
    names = json.loads(build.MORE_NAMES.read_text())
    pairs = [tuple(r.values()) for r in more.select(["style", "hexcode"]).to_pylist()]
    assert len(set(pairs)) == len(pairs)
    assert all(build.code_key(code) in names[style] for style, code in pairs)
    pictures = [build.open_picture(data) for data in more.column("image").to_pylist()]
    assert {picture.size for picture in pictures} == {(64, 64)}
    assert max(len(picture.getcolors(4096)) for picture in pictures) <= 256
    assert min(build.ink(picture) for picture in pictures) >= build.LEAST_INK


def test_more_file_repeats_no_held_out_picture():
    held_out = [
        build.aligned(Image.fromarray(image.permute(1, 2, 0).numpy()))
        for split in ("validation", "test")
        for image in EmojiDataset(split, FOLDER / "emoji64.parquet").images
    ]
    known = np.stack(held_out)
    assert len(known) == 438
    more = pq.read_table(FOLDER / "more64.parquet", columns=["image"]).column(0).to_pylist()
    rows = [row(str(i)) for i in range(len(more))]
    pictures = {str(i): build.open_picture(data) for i, data in enumerate(more)}
    kept = build.without_copies(rows, pictures, known)
    assert len(kept) == len(rows)


def test_shipped_file_is_what_build_would_write():
    shipped = pq.read_table(FOLDER / "emoji64.parquet")
    assert shipped.schema.equals(build.SCHEMA)
    assert shipped.num_rows == 7601
    order = list(dict.fromkeys(shipped.column("style").to_pylist()))
    assert order == list(build.STYLES)
    assert shipped.column("label") == shipped.column("concept")
    picture = Image.open(io.BytesIO(shipped.column("image")[0].as_py()))
    assert picture.size == (64, 64)
