"""The emoji dataset: its split follows the written rule, its captions are true."""

import hashlib
from collections import Counter, defaultdict

import pyarrow.parquet
import pytest
import torch

from minidalle.data.emoji import (
    MORE,
    NEAR_STYLES,
    SPLITS,
    STYLE_NAMES,
    EmojiDataset,
    EmojiRecord,
    find_parquet,
    stand_ins,
)


@pytest.fixture(scope="module")
def splits():
    return {split: EmojiDataset(split) for split in SPLITS}


def test_counts(splits):
    """7,601 pictures of 1,648 concepts; the counts that the data card states."""
    assert {name: len(data) for name, data in splits.items()} == {
        "train": 7163,
        "validation": 109,
        "test": 329,
    }
    records = [record for data in splits.values() for record in data.records]
    assert len({record.concept for record in records}) == 1648
    assert Counter(record.style for record in records) == {
        "noto": 1645, "noto_v1": 1178, "twemoji": 1626, "fluent_3d": 1560, "fluent_flat": 1592,
    }  # fmt: skip


def test_split_follows_the_rule(splits):
    """The design's formula, written out again from its text on the raw table."""

    def h(text):
        return int(hashlib.sha256(text.encode()).hexdigest()[:8], 16) / 2**32

    rows = pyarrow.parquet.read_table(find_parquet(), columns=["concept", "style"]).to_pylist()
    styles = defaultdict(set)
    for row in rows:
        styles[row["concept"]].add(row["style"])
    expected = Counter()
    for row in rows:
        concept, drawn = row["concept"], sorted(styles[row["concept"]])
        name = "train"
        if len(drawn) >= 4 and h("concept|" + concept) < 0.20:
            chosen = drawn[int(h("style|" + concept) * len(drawn))]
            if row["style"] == chosen or {row["style"], chosen} == {"fluent_3d", "fluent_flat"}:
                name = "validation" if h("concept|" + concept) < 0.05 else "test"
        expected[name, concept, row["style"]] += 1
    found = Counter(
        (name, record.concept, record.style)
        for name, data in splits.items()
        for record in data.records
    )
    assert found == expected


def test_held_out_pictures_are_of_known_concepts(splits):
    trained = {record.concept for record in splits["train"].records}
    for split in ("validation", "test"):
        assert {record.concept for record in splits[split].records} <= trained


def test_pictures(splits):
    image, record = splits["validation"][0]
    assert image.shape == (3, 64, 64) and image.dtype == torch.float32
    assert image.min() >= 0 and image.max() == 1
    assert splits["train"].images.shape == (7163, 3, 64, 64)
    assert record.caption == f"{record.label}, {STYLE_NAMES[record.style]}"


def test_captions_are_true():
    record = EmojiRecord(
        "1F34E", "twemoji", "red apple", "red apple", "food-drink", "fruit", ("fruit", "red")
    )
    assert record.caption == "red apple, twemoji style"
    captions = {record.draw_caption(torch.Generator().manual_seed(i)) for i in range(200)}
    assert captions == {
        "red apple, twemoji style",
        "twemoji style emoji of red apple",
        "red apple (fruit, red), twemoji style",
        "red apple (red, fruit), twemoji style",
        "red apple",
        "fruit, red, twemoji style",
        "red, fruit, twemoji style",
    }
    words = {
        word for caption in captions for word in caption.replace("(", "").replace(")", "").split()
    }
    assert words <= {
        word
        for caption in record.all_captions()
        for word in caption.replace("(", "").replace(")", "").split()
    } | {"fruit,", "red,"}


def record_of(concept, style):
    return EmojiRecord("", style, concept, concept, "", "", ())


def test_what_is_missing_is_filled_by_the_nearest_style():
    apple = [record_of("apple", style) for style in ("fluent_flat", "emojione", "noto_v1")]
    pear = [record_of("pear", style) for style in NEAR_STYLES]
    assert stand_ins([*pear, *apple]) == {5: ["fluent_3d"], 6: ["twemoji"], 7: ["noto"]}


def test_every_concept_is_known_in_every_style_once_filled(splits):
    records = splits["train"].records + EmojiDataset(MORE).records
    filled = stand_ins(records)
    shown = Counter((record.concept, record.style) for record in records)
    shown.update((records[i].concept, style) for i, styles in filled.items() for style in styles)
    concepts = {record.concept for record in records}
    assert {pair: n for pair, n in shown.items() if n != 1} == {}
    assert {(c, style) for c in concepts for style in NEAR_STYLES} <= set(shown)
    assert all(sorted([style, *near]) == sorted(STYLE_NAMES) for style, near in NEAR_STYLES.items())


def test_unknown_split_and_missing_file(tmp_path):
    with pytest.raises(ValueError, match="'holdout'"):
        EmojiDataset("holdout")
    with pytest.raises(FileNotFoundError):
        EmojiDataset("train", tmp_path / "nothing.parquet")
