"""A folder of one's own pictures: what is taken, what is skipped and why, and who is held out."""

import json
import os

import numpy as np
import pytest
import torch
from PIL import Image

from minidalle.data import folder as module
from minidalle.data.folder import FolderDataset, leads_outside, split


def write_picture(path, colour="red", size=(8, 8)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, colour).save(path)


def write_pair(path, caption, colour="red"):
    write_picture(path, colour)
    path.with_suffix(".txt").write_text(caption, encoding="utf-8")


def reasons(dataset):
    return dict(dataset.skipped)


def test_both_conventions_in_the_folder_and_below(tmp_path):
    write_pair(tmp_path / "b.PNG", "beside\nsecond line\n\n")
    write_picture(tmp_path / "csv" / "x.png")
    (tmp_path / "csv" / "metadata.csv").write_text(
        'file_name,text,other\nx.png,"one, with a comma",7\nx.png,two,7\nin/y.JPG,below,\n'
    )
    write_picture(tmp_path / "csv" / "in" / "y.JPG")
    write_picture(tmp_path / "json" / "z.webp")
    (tmp_path / "json" / "metadata.jsonl").write_text(
        '{"file_name": "z.webp", "text": "Käse"}\n', encoding="utf-8-sig"
    )
    dataset = FolderDataset(tmp_path, side=8)
    assert dict(zip(dataset.paths, dataset.captions, strict=True)) == {
        "b.PNG": ["beside", "second line"],
        "csv/in/y.JPG": ["below"],
        "csv/x.png": ["one, with a comma", "two"],
        "json/z.webp": ["Käse"],
    }
    assert dataset.paths == sorted(dataset.paths)
    assert dataset.skipped == []


def test_what_is_listed_is_not_looked_for_beside(tmp_path):
    write_pair(tmp_path / "x.png", "beside")
    (tmp_path / "metadata.csv").write_text("file_name,text\nx.png,listed\n")
    assert FolderDataset(tmp_path, 8).captions == [["listed"]]


def test_an_item_is_the_middle_square(tmp_path):
    """A wide picture, red in the middle square and blue on both sides: only red is left."""
    pixels = np.zeros((16, 40, 3), np.uint8)
    pixels[:, :12, 2] = pixels[:, 28:, 2] = 255
    pixels[:, 12:28, 0] = 255
    Image.fromarray(pixels).save(tmp_path / "wide.png")
    (tmp_path / "wide.txt").write_text("a red square\nanother caption")
    image, caption = FolderDataset(tmp_path, side=4)[0]
    assert image.shape == (3, 4, 4) and image.dtype == torch.float32
    red = torch.tensor([1.0, 0, 0])[:, None, None].expand(3, 4, 4)
    torch.testing.assert_close(image, red, atol=0.1, rtol=0)  # resizing looks beyond the edge
    assert caption == "a red square"


def test_drawn_captions_are_all_and_follow_the_generator(tmp_path):
    write_pair(tmp_path / "x.png", "one\ntwo\nthree")
    dataset = FolderDataset(tmp_path, 8)
    drawn = [
        [dataset.draw_caption(0, generator) for _ in range(50)]
        for generator in (torch.Generator().manual_seed(seed) for seed in (1, 1, 2))
    ]
    assert set(drawn[0]) == {"one", "two", "three"}
    assert drawn[0] == drawn[1] != drawn[2]


def test_what_cannot_be_used_is_skipped_with_its_reason(tmp_path, caplog):
    write_pair(tmp_path / "good.png", "a good one")
    write_picture(tmp_path / "alone.png")
    write_pair(tmp_path / "empty.png", " \n\n")
    write_pair(tmp_path / "long.png", "x" * (module.MAX_TEXT + 1))
    write_pair(tmp_path / "latin.png", "")
    (tmp_path / "latin.txt").write_bytes(b"K\xe4se")
    write_pair(tmp_path / "text.png", "no picture")
    (tmp_path / "text.png").write_text("<html>not found</html>")
    write_pair(tmp_path / "nothing.jpg", "no bytes")
    (tmp_path / "nothing.jpg").write_bytes(b"")
    write_pair(tmp_path / "folder.png", "no file")
    (tmp_path / "folder.png").unlink()
    (tmp_path / "folder.png").mkdir()
    write_pair(tmp_path / ".hidden.png", "left alone")
    write_pair(tmp_path / ".folder" / "inside.png", "left alone")
    os.mkfifo(tmp_path / "pipe.png")  # opening it would wait for ever
    (tmp_path / "pipe.txt").write_text("a pipe")
    dataset = FolderDataset(tmp_path, 8)
    assert dataset.paths == ["good.png"]
    found = reasons(dataset)
    for name, words in {
        "alone.png": "no alone.txt",
        "empty.png": "the caption is empty",
        "long.png": "65,536",
        "latin.png": "utf-8",
        "text.png": "no PNG",
        "nothing.jpg": "no PNG",
        "pipe.png": "no such file",
    }.items():
        assert words in found.pop(name), name
    assert not found
    assert "7 files skipped" in caplog.text


@pytest.mark.parametrize(
    "file_name", ["../secret.png", "/etc/secret.png", "a/../../secret.png", "C:\\secret.png"]
)
def test_metadata_cannot_reach_out_of_the_folder(file_name, tmp_path):
    write_picture(tmp_path / "secret.png")
    write_pair(tmp_path / "mine" / "good.png", "good")
    rows = [{"file_name": file_name, "text": "mine now"}, {"file_name": "gone.png", "text": "x"}]
    (tmp_path / "mine" / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    dataset = FolderDataset(tmp_path / "mine", 8)
    assert dataset.paths == ["good.png"]
    assert "leads out" in reasons(dataset)["metadata.jsonl, row 1"]
    assert "no such file" in reasons(dataset)["gone.png"]
    assert str(tmp_path / "secret.png") not in map(str, dataset.paths)


def test_names_that_stay_inside_are_taken():
    for name in ("a/b.png", "a b.png", "..a.png", "a..png", "ä.png", "a.b/c.png"):
        assert not leads_outside(name), name
    for name in ("a\\..\\b.png", "\\\\host\\a.png", "a\0.png"):
        assert leads_outside(name), name


@pytest.mark.parametrize(
    ("name", "content", "where", "words"),
    [
        (
            "metadata.csv",
            "name,caption\nx.png,good\n",
            "metadata.csv, row 1",
            "['name', 'caption']",
        ),
        ("metadata.csv", "file_name,text\nx.png\n", "metadata.csv, row 1", "expected file_name"),
        ("metadata.csv", b"file_name,text\nx.png,K\xe4se\n", "metadata.csv", "utf-8"),
        ("metadata.jsonl", '{"file_name": "x.png"}\n', "metadata.jsonl, row 1", "['file_name']"),
        ("metadata.jsonl", "{broken\n", "metadata.jsonl, row 1", "found []"),
        ("metadata.jsonl", "[" * 100_000, "metadata.jsonl, row 1", "found []"),
        ("metadata.jsonl", '{"file_name": 3, "text": 4}', "metadata.jsonl, row 1", "expected"),
        ("metadata.jsonl", '{"file_name": "x.png", "text": "\\ud83d"}', "x.png", "surrogates"),
    ],
)
def test_damaged_metadata_is_skipped_with_its_row(name, content, where, words, tmp_path):
    write_pair(tmp_path / "good.png", "good")
    write_picture(tmp_path / "x.png")
    (tmp_path / name).write_bytes(content.encode() if isinstance(content, str) else content)
    dataset = FolderDataset(tmp_path, 8)
    assert dataset.paths == ["good.png"]
    assert words in reasons(dataset)[where]


def test_a_name_that_is_not_unicode_is_skipped(tmp_path):
    write_pair(tmp_path / "good.png", "good")
    try:
        write_pair(tmp_path / "b\udcff.png", "bad name")
    except OSError:
        pytest.skip("this file system has no such names")
    dataset = FolderDataset(tmp_path, 8)
    assert dataset.paths == ["good.png"] and len(dataset.skipped) == 1
    assert len(split(dataset, 0.0)[0]) == 1


def test_only_headers_are_read_at_first(tmp_path, monkeypatch):
    """A picture without its second half is found out when it is read, not before."""
    rng = np.random.default_rng(0)
    for i in range(4):
        Image.fromarray(rng.integers(0, 255, (64, 64, 3), np.uint8)).save(tmp_path / f"{i}.png")
        (tmp_path / f"{i}.txt").write_text(f"picture {i}")
    whole = (tmp_path / "1.png").read_bytes()
    (tmp_path / "1.png").write_bytes(whole[: len(whole) // 2])
    dataset = FolderDataset(tmp_path, 8)
    assert len(dataset) == 4
    with pytest.raises(ValueError, match=r"1\.png"):
        dataset[1]


def test_too_many_pixels_are_refused_by_the_header(tmp_path, monkeypatch):
    write_pair(tmp_path / "good.png", "good")
    write_picture(tmp_path / "big.png", size=(30, 30))
    (tmp_path / "big.txt").write_text("big")
    monkeypatch.setattr(module, "MAX_PIXELS", 899)
    assert "30×30 pixels" in reasons(FolderDataset(tmp_path, 8))["big.png"]


def test_a_batch_has_the_next_whole_picture_in_a_damaged_ones_place(tmp_path, caplog):
    for i, colour in enumerate(["red", "lime", "blue", "white"]):
        write_pair(tmp_path / f"{i}.png", colour, colour)
    dataset = FolderDataset(tmp_path, 4)
    (tmp_path / "1.png").write_bytes(b"now damaged")
    (tmp_path / "3.png").unlink()
    images, used = dataset.read_batch(torch.tensor([0, 1, 2, 3]))
    assert used == [0, 2, 2, 0]
    assert images.shape == (4, 3, 4, 4)
    assert torch.equal(images[1], images[2]) and torch.equal(images[0], images[3])
    assert images[0, :, 0, 0].tolist() == [1, 0, 0] and images[1, :, 0, 0].tolist() == [0, 0, 1]
    assert set(dataset.damaged) == {"1.png", "3.png"}
    assert dataset.read_batch([1])[1] == [2]
    assert len(caplog.messages) == 2  # each is told once
    for name in ("0.png", "2.png"):
        (tmp_path / name).unlink()
    with pytest.raises(ValueError, match=r"none of 4 pictures can be read any more"):
        dataset.read_batch([1])


def test_nothing_to_learn_from(tmp_path):
    with pytest.raises(NotADirectoryError, match="no such folder"):
        FolderDataset(tmp_path / "gone", 8)
    with pytest.raises(ValueError, match=r"no captioned picture among 0 files.*Skipped: nothing"):
        FolderDataset(tmp_path, 8)
    for i in range(5):
        write_picture(tmp_path / f"{i}.png")
    with pytest.raises(ValueError, match=r"5 files; expected metadata\.csv .* no 2\.txt$"):
        FolderDataset(tmp_path, 8)
    with pytest.raises(ValueError, match="side is 0"):
        FolderDataset(tmp_path, 0)


def test_one_picture(tmp_path):
    write_pair(tmp_path / "only.png", "the only one")
    dataset = FolderDataset(tmp_path, 8)
    train, validation = split(dataset, 0.0)
    assert (len(dataset), len(train), len(validation)) == (1, 1, 0)
    assert dataset.read_batch([0, 0])[0].shape == (2, 3, 8, 8)
    with pytest.raises(ValueError, match="no picture of 1 is left for training"):
        split(dataset, 0.999999)


def test_split_is_disjoint_whole_and_stable_when_files_come(tmp_path):
    for i in range(60):
        write_pair(tmp_path / f"{i:03d}.png", f"picture {i}")
    before = split(FolderDataset(tmp_path, 8), 0.3)
    for i in range(60, 90):
        write_pair(tmp_path / "more" / f"{i:03d}.png", f"picture {i}")
    dataset = FolderDataset(tmp_path, 8)
    after = split(dataset, 0.3)
    assert sorted(after[0].paths + after[1].paths) == dataset.paths
    assert not set(after[0].paths) & set(after[1].paths)
    assert all(set(old.paths) < set(new.paths) for old, new in zip(before, after, strict=True))
    assert 0.15 < len(after[1]) / len(dataset) < 0.45
    part = after[1]
    assert [part[i][1] for i in range(len(part))] == [
        f"picture {int(path[-7:-4])}" for path in part.paths
    ]
    for share in (-0.1, 1.0):
        with pytest.raises(ValueError, match="validation_share"):
            split(dataset, share)
