"""Shards: every sample once, in the seed's order; damage is counted; writing goes on."""

import gzip
import io
import itertools
import json
import multiprocessing
import os
import random
import signal
import tarfile
import threading
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
import torch
import webdataset
from braceexpand import braceexpand
from PIL import Image
from torch.utils.data import DataLoader

from minidalle.data import tar
from minidalle.data.encode import encode_to_shards, fingerprint, read_index, write_shards
from minidalle.data.shards import ShardReader
from minidalle.data.tar import RawSample, expand_braces, find_shards, read_shard, write_tar
from minidalle.vqgan import VQGAN, VQGANConfig

SIZES = (5, 1, 7, 3, 2)  # samples in each shard: unequal, and one of a single sample
ALL = list(range(sum(SIZES)))
ABOUT = {"format": "minidalle-tokens", "version": 1}


def npy(values, kind="<u2"):
    data = io.BytesIO()
    np.save(data, np.asarray(values, kind))
    return data.getvalue()


def png(colour, side=8):
    data = io.BytesIO()
    Image.new("RGB", (side, side), colour).save(data, "PNG")
    return data.getvalue()


def token_sample(number, **files):
    """A sample whose caption and four tokens are its number."""
    content = {"tokens.npy": npy([number] * 4), "txt": str(number).encode()}
    return RawSample(f"{number:03d}", content | {k.replace("_", "."): v for k, v in files.items()})


def write_numbered(folder, sizes=SIZES):
    """Shards of token samples, numbered through."""
    folder.mkdir(exist_ok=True)
    numbers = itertools.count()
    for shard, size in enumerate(sizes):
        samples = [token_sample(n) for n in itertools.islice(numbers, size)]
        write_tar(folder / f"{shard:03d}.tar", samples)
    return folder


def write_entries(path, entries):
    """A tar with these names and contents, whatever they are."""
    with tarfile.open(path, "w") as archive:
        for name, data in entries:
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))


def numbers_of(samples):
    return [int(sample.caption) for sample in samples]


@pytest.fixture
def shards(tmp_path):
    return write_numbered(tmp_path / "shards")


@pytest.mark.parametrize("workers", [0, 1, 2])
@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_every_sample_of_an_epoch_is_seen_once(world_size, workers, shards):
    """Over all processes and workers, in both of two epochs, at any buffer."""
    seen = []
    for rank in range(world_size):
        reader = ShardReader(shards, epochs=2, rank=rank, world_size=world_size, buffer=3)
        seen += list(DataLoader(reader, batch_size=None, num_workers=workers))
    for epoch in (0, 1):
        part = [s for s in seen if s.position // len(SIZES) == epoch]
        assert sorted(numbers_of(part)) == ALL
    assert all(sample.content.tolist() == [int(sample.caption)] * 4 for sample in seen)


def test_an_endless_stream_never_runs_dry(shards):
    """With one shard for three processes, each reads every third epoch of it."""
    for rank in range(3):
        reader = ShardReader(shards / "000.tar", rank=rank, world_size=3)
        samples = list(itertools.islice(reader, 15))
        assert [s.position for s in samples] == [
            p for p in (rank, rank + 3, rank + 6) for _ in "12345"
        ]
        assert sorted(numbers_of(samples[5:10])) == [0, 1, 2, 3, 4]


def test_batches_collate(shards):
    reader = ShardReader(shards, epochs=1)
    batches = list(DataLoader(reader, batch_size=4))
    assert batches[0].content.shape == (4, 4) and batches[0].content.dtype == torch.int64
    assert len(batches[0].caption) == 4 and sum(len(b.caption) for b in batches) == len(ALL)


def test_the_order_is_a_function_of_the_seed(shards):
    def order(seed, buffer=1000, epochs=1):
        return numbers_of(ShardReader(shards, seed=seed, epochs=epochs, buffer=buffer))

    assert order(1) == order(1) != order(2)
    assert order(1, buffer=2) == order(1, buffer=2) != order(1)
    assert sorted(order(1, buffer=2)) == ALL == sorted(order(2))
    both = order(1, epochs=2)
    assert both[: len(ALL)] == order(1) != both[len(ALL) :]
    assert order(2**63 - 1) != order(2**63 - 2)
    assert len({order(seed)[0] for seed in range(40)}) > 8  # shards and samples both move
    single = write_numbered(shards / "single", sizes=[1] * 8)  # only the order of shards is left
    both = numbers_of(ShardReader(single, seed=1, epochs=2))
    assert sorted(both[:8]) == sorted(both[8:]) == list(range(8)) and both[:8] != both[8:]


def test_reading_goes_on_at_any_shard_as_if_never_stopped(shards):
    for rank, world_size in [(0, 1), (0, 2), (1, 2), (2, 3)]:
        where = {"rank": rank, "world_size": world_size, "epochs": 3, "buffer": 3, "seed": 5}
        whole = list(ShardReader(shards, **where))
        for position in range(3 * len(SIZES) + 2):
            rest = numbers_of(ShardReader(shards, skip_shards=position, **where))
            assert rest == numbers_of(s for s in whole if s.position >= position), position


def test_every_caption_can_be_drawn(tmp_path):
    write_tar(tmp_path / "a.tar", [token_sample(i, txt=b"one\ntwo\n\nthree\n") for i in range(60)])
    drawn = [sample.caption for sample in ShardReader(tmp_path, epochs=1)]
    assert set(drawn) == {"one", "two", "three"}
    assert drawn != [sample.caption for sample in ShardReader(tmp_path, epochs=1, seed=1)]


def test_pictures_are_read(tmp_path):
    samples = [
        RawSample("a", {"png": png("red"), "txt": b"red"}),
        RawSample("b", {"jpg": png("blue"), "txt": b"blue"}),  # what it is, its bytes say
        RawSample("c", {"png": b"no picture", "txt": b"damaged"}),
        RawSample("d", {"txt": b"no picture at all"}),
    ]
    write_tar(tmp_path / "a.tar", samples)
    reader = ShardReader(tmp_path, side=4, epochs=1)
    found = {sample.caption: sample.content for sample in reader}
    assert set(found) == {"red", "blue"}
    assert found["red"].shape == (3, 4, 4) and found["red"][:, 0, 0].tolist() == [1, 0, 0]
    assert reader.skipped == {"shards": 0, "samples": 2}


def broken(kind, path):
    """Break a shard of seven samples (512 bytes of header, 512 of content, twice each)."""
    data = path.read_bytes()
    end = 7 * 4 * 512
    if kind == "vanished":
        path.unlink()
        return
    path.write_bytes(
        {
            "empty": b"",
            "text": b"<html>404</html>" * 100,
            "gzip": gzip.compress(data),
            "cut in a file": data[: 3 * 2048 + 1600],
            "cut in a header": data[: 3 * 2048 + 100],
            "cut between samples": data[: 3 * 2048],
            "without its end": data[:end],
            "damaged header": data[: 3 * 2048 + 10] + b"\xff" * 100 + data[3 * 2048 + 110 :],
        }[kind]
    )


@pytest.mark.parametrize(
    ("kind", "given"),
    [
        ("vanished", 0),
        ("empty", 0),
        ("text", 0),
        ("gzip", 0),
        ("cut in a file", 3),
        ("cut in a header", 2),
        ("cut between samples", 2),
        ("without its end", 6),
        ("damaged header", 2),
    ],
)
def test_an_unreadable_shard_is_counted_and_named_once(kind, given, shards, caplog):
    """What stands before the damage is given, without the last, which may not be whole."""
    reader = ShardReader(shards, epochs=2)
    broken(kind, shards / "002.tar")
    seen = numbers_of(reader)
    assert reader.skipped == {"shards": 2, "samples": 0}
    assert len(caplog.messages) == 1 and str(shards / "002.tar") in caplog.messages[0]
    assert sorted(seen) == sorted(2 * (ALL[: 6 + given] + ALL[13:]))


def test_only_if_no_shard_can_be_read_it_is_an_error(shards):
    for kind, name in [("empty", "000"), ("text", "001"), ("vanished", "002"), ("gzip", "003")]:
        broken(kind, shards / f"{name}.tar")
    names = [shards / f"{i:03d}.tar" for i in range(5)]
    for rank in range(5):  # four of five processes have nothing of this epoch, and that is no error
        reader = ShardReader(names, epochs=1, rank=rank, world_size=5)
        assert len(list(reader)) in (0, 2)
    broken("empty", shards / "004.tar")
    for settings in ({"epochs": 1}, {}, {"epochs": 1, "rank": 1, "world_size": 2}):
        with pytest.raises(ValueError, match=r"no sample of 5 shards can be read.*004\.tar"):
            list(ShardReader(names, **settings))


def test_the_wrong_kind_of_shard_is_an_error(shards, tmp_path):
    with pytest.raises(ValueError, match=r"no picture \(\.jpg.* it has \['tokens.npy', 'txt'\]"):
        list(ShardReader(shards, side=8, epochs=1))
    write_tar(tmp_path / "a.tar", [RawSample("a", {"png": png("red"), "txt": b"red"})])
    with pytest.raises(ValueError, match=r"no image tokens \(\.tokens\.npy\)"):
        list(ShardReader(tmp_path / "a.tar"))
    write_tar(tmp_path / "empty.tar", [])
    with pytest.raises(ValueError, match="they are empty"):
        list(ShardReader(tmp_path / "empty.tar"))


def pickled():
    data = io.BytesIO()
    np.save(data, np.array([os.system, 1], dtype=object), allow_pickle=True)
    return data.getvalue()


@pytest.mark.parametrize(
    ("files", "reason"),
    [
        ({"txt": b"  \n"}, "the caption is empty"),
        ({"txt": b"K\xe4se"}, "utf-8"),
        ({"txt": b"x" * 70_000}, "65,536"),
        ({"tokens_npy": b""}, "no row of uint16"),
        ({"tokens_npy": npy([1.5] * 4, "<f4")}, "no row of uint16"),
        ({"tokens_npy": npy([[1, 2], [3, 4]])}, "no row of uint16"),
        ({"tokens_npy": npy([])}, "are not 0 tokens"),
        ({"tokens_npy": npy([1] * 4)[:-1]}, "are not 4 tokens"),
        ({"tokens_npy": npy([1] * 4).replace(b"(4,), ", b"(10000000,), ")}, "not 10000000 tokens"),
        ({"tokens_npy": pickled()}, "no row of uint16"),
        ({"tokens_npy": npy([1] * 5)}, "5 image tokens; expected 4"),
        ({"tokens_npy": npy([1, 2, 3, 64])}, "not from 0 to below 64"),
        ({"tokens_npy": npy([1, 2, 3, -1], "<i4")}, "not from 0 to below 64"),
    ],
)
def test_a_damaged_sample_is_counted_and_named(files, reason, tmp_path, caplog):
    write_tar(tmp_path / "a.tar", [token_sample(1), token_sample(2, **files), token_sample(3)])
    reader = ShardReader(tmp_path, epochs=1, image_length=4, codebook_size=64)
    assert sorted(numbers_of(reader)) == [1, 3]
    assert reader.skipped == {"shards": 0, "samples": 1}
    assert reason in caplog.text and "'002'" in caplog.text


def test_samples_without_their_files(tmp_path):
    good = token_sample(1)
    write_entries(
        tmp_path / "a.tar",
        [
            ("no_text.tokens.npy", good.files["tokens.npy"]),
            ("no_tokens.txt", b"5"),
            ("other.json", b"{}"),
            ("twice.txt", b"6"),
            ("twice.tokens.npy", good.files["tokens.npy"]),
            ("twice.txt", b"7"),
            ("README", b"no sample"),
            (".hidden", b"no sample"),
            ("__meta__", b"no sample"),
            ("a.b/../../etc/1.TXT", b"1"),
            ("a.b/../../etc/1.json", b"{}"),
            ("a.b/../../etc/1.tokens.npy", good.files["tokens.npy"]),
            ("another_folder/1.txt", b"2"),
            ("another_folder/1.tokens.npy", good.files["tokens.npy"]),
        ],
    )
    reader = ShardReader(tmp_path, epochs=1)
    assert sorted(numbers_of(reader)) == [1, 2]
    assert reader.skipped == {"shards": 0, "samples": 4}
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["a.tar"]


def test_counts_come_from_the_workers_too(shards):
    write_tar(shards / "005.tar", [token_sample(100), token_sample(101, txt=b"")])
    reader = ShardReader(shards, epochs=3)
    broken("text", shards / "002.tar")
    list(DataLoader(reader, batch_size=None, num_workers=2))
    assert reader.skipped == {"shards": 3, "samples": 3}


def test_sizes_are_bounded(tmp_path, monkeypatch):
    """A sample that is too large is left out; a header that is too large ends the shard."""
    monkeypatch.setattr(tar, "MAX_SAMPLE_BYTES", 20_000)
    big = b"x" * 60_000
    samples = [token_sample(1), RawSample("big", {"png": big, "txt": b"2"}), token_sample(3)]
    write_tar(tmp_path / "a.tar", samples)
    reader = ShardReader(tmp_path, epochs=1)
    assert sorted(numbers_of(reader)) == [1, 3]
    assert reader.skipped == {"shards": 0, "samples": 1}
    parts = RawSample("parts", dict.fromkeys(("png", "jpg", "webp"), big[:9_000]))
    write_tar(tmp_path / "a.tar", [token_sample(1), parts])
    assert [bool(raw.damage) for raw in read_shard(str(tmp_path / "a.tar"))] == [False, True]

    with tarfile.open(tmp_path / "a.tar", "w", format=tarfile.PAX_FORMAT) as archive:
        entry = tarfile.TarInfo("1.txt")
        archive.addfile(entry)
        entry.pax_headers = {"comment": "x" * 60_000}
        archive.addfile(entry)
    with pytest.raises(ValueError, match="headers of more than 20,000 bytes"):
        list(read_shard(str(tmp_path / "a.tar")))


def test_a_size_that_is_not_there_ends_at_once(shards):
    """tarfile would ask for 2**87 bytes in pieces of 10,240."""
    data = bytearray((shards / "000.tar").read_bytes())
    data[124:136] = b"\x80" + b"\xff" * 11
    data[148:156] = b"%06o\0 " % (8 * 32 + sum(data[:148]) + sum(data[156:512]))
    (shards / "000.tar").write_bytes(data)
    with pytest.raises(ValueError, match="it ends before the tar's end mark"):
        list(read_shard(str(shards / "000.tar")))


def test_no_damage_gets_out_as_anything_but_valueerror(shards):
    """200 shards with a few bytes changed, most of them in headers."""
    rng = random.Random(0)
    good = (shards / "002.tar").read_bytes()
    path = shards / "fuzzed.tar"
    for _ in range(200):
        data = bytearray(good[: rng.choice([len(good), rng.randrange(len(good))])])
        for _ in range(rng.randrange(1, 6)):
            if data:
                place = rng.randrange(len(data)) // 512 * 512 + rng.choice([124, 156, 257, 0])
                data[min(place + rng.randrange(12), len(data) - 1)] = rng.choice(
                    b"\0\x80\xff7xLgSK"
                )
        path.write_bytes(data)
        try:
            for raw in read_shard(str(path)):
                assert isinstance(raw, RawSample)
        except ValueError as error:
            assert str(path) in str(error) and "\n" not in str(error)


def test_shards_are_found(shards, tmp_path):
    names = [str(shards / f"{i:03d}.tar") for i in range(5)]
    assert find_shards(shards) == find_shards(f"{shards}/*.tar") == names
    assert find_shards(str(shards / "{000..002}.tar")) == names[:3]
    assert find_shards([names[1], names[0], names[1]]) == [names[1], names[0]]
    assert find_shards("https://host/a-{9..10}.tar?x=*") == [
        "https://host/a-9.tar?x=*",
        "https://host/a-10.tar?x=*",
    ]
    (tmp_path / "[1]").mkdir()
    write_tar(tmp_path / "[1]" / "a.tar", [])
    assert find_shards(tmp_path / "[1]") == [str(tmp_path / "[1]" / "a.tar")]
    (tmp_path / "none").mkdir()
    for urls, message in [
        (tmp_path / "none", "no such shard"),
        (f"{tmp_path}/x*.tar", "no such shard"),
        ([], "no shard is named"),
        ("pipe:touch /tmp/owned", "http"),
        ("file:///etc/passwd", "http"),
        (["s3://bucket/a.tar"], "http"),
        ("{9..0}.tar", "counts down"),
    ]:
        with pytest.raises(ValueError, match=message):
            ShardReader(urls)


@pytest.mark.parametrize(
    "pattern",
    [
        "a.tar",
        "{00..12}.tar",
        "{8..11}",
        "x{a,b}-{1..2}.tar",
        "{0..0}",
        "{a,}b",
        "{097..103}/{x,y}",
    ],
)
def test_braces_are_expanded_as_the_library_does(pattern):
    assert expand_braces(pattern) == list(braceexpand(pattern))


def test_settings_out_of_range(shards):
    for setting in ({"rank": 2, "world_size": 2}, {"rank": -1}, {"skip_shards": -1}, {"buffer": 0}):
        with pytest.raises(ValueError, match="expected 0 <= rank"):
            ShardReader(shards, **setting)


class Server(BaseHTTPRequestHandler):
    """Serves a folder; the first `breaks` times it hangs up after 3,000 bytes."""

    def do_GET(self):
        self.server.asked.append(self.path)
        path = self.server.folder / self.path[1:]
        if not path.is_file():
            self.send_error(404)
            return
        data = path.read_bytes()
        self.send_response(200)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.server.breaks > 0:
            self.server.breaks -= 1
            data = data[:3_000]
        self.wfile.write(data)

    def log_message(self, *args):
        pass


@pytest.fixture
def server(shards, monkeypatch):
    monkeypatch.setattr(tar, "PAUSES", (0.0, 0.0))
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with ThreadingHTTPServer(("127.0.0.1", 0), Server) as server:
        server.folder, server.breaks, server.asked = shards, 0, []
        server.url = f"http://127.0.0.1:{server.server_port}"
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        yield server
        server.shutdown()


def test_shards_by_address(server, shards):
    remote = ShardReader(server.url + "/{000..004}.tar", epochs=1)
    assert numbers_of(remote) == numbers_of(ShardReader(shards, epochs=1))
    assert remote.skipped == {"shards": 0, "samples": 0}


def test_a_broken_download_is_taken_up_where_it_broke(server, caplog):
    server.breaks = 2
    assert [raw.key for raw in read_shard(f"{server.url}/000.tar")] == [
        f"{i:03d}" for i in range(5)
    ]
    assert caplog.text.count("trying again") == 2
    server.breaks = 3
    reader = ShardReader(f"{server.url}/000.tar", epochs=1)
    assert numbers_of(reader) == [0]  # 3,000 bytes hold one sample and a half
    assert reader.skipped == {"shards": 1, "samples": 0}


def test_an_address_that_is_not_there_is_counted(server, caplog):
    reader = ShardReader(server.url + "/{000..005}.tar", epochs=1)
    assert sorted(numbers_of(reader)) == ALL
    assert reader.skipped["shards"] == 1 and "/005.tar: HTTPError" in caplog.text
    assert server.asked.count("/005.tar") == 1  # asking again would not help


def test_the_library_reads_ours_and_we_read_its(shards, tmp_path):
    theirs = webdataset.WebDataset(str(shards / "000.tar"), shardshuffle=False)
    keys = [(s["__key__"], s["txt"], s["tokens.npy"]) for s in theirs]
    samples = [token_sample(i) for i in range(5)]
    assert keys == [(s.key, s.files["txt"], s.files["tokens.npy"]) for s in samples]
    with webdataset.TarWriter(str(tmp_path / "theirs.tar")) as writer:
        for number in (7, 8):
            writer.write({"__key__": f"long/{'k' * 150}/{number}", "txt": str(number),
                          "tokens.npy": npy([number] * 4)})  # fmt: skip
    assert sorted(numbers_of(ShardReader(tmp_path / "theirs.tar", epochs=1))) == [7, 8]


# Writing.


def bytes_of(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def three_parts(called, dying_at=None):
    """Three parts of four samples; `called` notes which were made, one of them may be killed."""

    def part(shard):
        called.append(shard)
        for i in range(4):
            if (shard, i) == dying_at:
                os.kill(os.getpid(), signal.SIGKILL)
            yield token_sample(4 * shard + i)

    return [lambda shard=shard: part(shard) for shard in range(3)]


@pytest.mark.parametrize("dying_at", [(0, 0), (1, 2), (2, 3)])
def test_writing_goes_on_after_kill_9_with_the_same_bytes(dying_at, tmp_path):
    written = []
    whole = write_shards(three_parts([]), tmp_path / "whole", ABOUT, written.append)
    assert whole == read_index(tmp_path / "whole")
    assert whole["count"] == 12 and written == [4, 4, 4]
    killed = tmp_path / "killed"
    process = multiprocessing.get_context("fork").Process(
        target=write_shards, args=(three_parts([], dying_at), killed, ABOUT)
    )
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    with pytest.raises(ValueError, match="has not finished"):
        read_index(killed)
    called = []
    write_shards(three_parts(called), killed, ABOUT)
    assert called == list(range(dying_at[0], 3))  # whole shards are not made again
    assert bytes_of(killed) == bytes_of(tmp_path / "whole")
    assert sorted(bytes_of(killed)) == [*whole["shards"], "shards.json"]
    with tarfile.open(killed / "000000.tar") as archive:
        assert {(entry.mtime, entry.uid, entry.uname) for entry in archive} == {(0, 0, "")}


def test_a_shard_that_is_no_longer_whole_is_written_again(tmp_path):
    write_shards(three_parts([]), tmp_path, ABOUT)
    before = bytes_of(tmp_path)
    os.truncate(tmp_path / "000001.tar", 2048)
    called = []
    write_shards(three_parts(called), tmp_path, ABOUT)
    assert called == [1] and bytes_of(tmp_path) == before


def test_a_folder_with_other_shards_is_refused(tmp_path):
    write_shards(three_parts([]), tmp_path, ABOUT)
    before = bytes_of(tmp_path)
    with pytest.raises(
        ValueError, match=r"shards\.json: these shards have another version, shards"
    ):
        write_shards(three_parts([])[:2], tmp_path, ABOUT | {"version": 2})
    assert bytes_of(tmp_path) == before
    (tmp_path / "shards.json").rename(tmp_path / ".plan.json")  # as if killed before the end
    with pytest.raises(ValueError, match="another format"):
        write_shards(three_parts([]), tmp_path, ABOUT | {"format": "other"})


def test_a_full_disk_leaves_nothing_half_written(tmp_path, monkeypatch):
    def full(self, *args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(tarfile.TarFile, "addfile", full)
    with pytest.raises(OSError, match=r"No space left on device: .*000000\.tar"):
        write_shards(three_parts([]), tmp_path, ABOUT)
    assert [path.name for path in tmp_path.iterdir()] == [".plan.json"]


def test_an_index_that_is_not_ours(tmp_path):
    with pytest.raises(FileNotFoundError):
        read_index(tmp_path)
    (tmp_path / "shards.json").write_text(json.dumps({"format": "other", "version": 1}))
    with pytest.raises(ValueError, match="'other', 1; expected 'minidalle-tokens', 1"):
        read_index(tmp_path)


class FewPictures:
    """Eleven noisy pictures, the fourth damaged."""

    captions = tuple((f"grey {i}", f"{i}\nwith a line") for i in range(11))

    def __len__(self):
        return 11

    def __getitem__(self, index):
        if index == 3:
            raise ValueError("3.png is damaged")
        generator = torch.Generator().manual_seed(index)
        return torch.rand(3, 32, 32, generator=generator), None


@pytest.fixture(scope="module")
def vqgan():
    torch.manual_seed(0)
    return VQGAN(VQGANConfig.tiny()).eval()


def test_a_dataset_becomes_token_shards(vqgan, tmp_path, caplog):
    done = []
    index = encode_to_shards(
        FewPictures(), vqgan, tmp_path, batch_size=3, per_shard=4, progress=done.append
    )
    assert index == read_index(tmp_path)
    assert (index["count"], index["image_length"], index["codebook_size"]) == (10, 16, 64)
    assert index["vqgan"] == fingerprint(vqgan)
    assert index["shards"] == ["000000.tar", "000001.tar", "000002.tar"]
    assert sum(done) == 10 and "3.png is damaged" in caplog.text
    raws = [raw for name in index["shards"] for raw in read_shard(str(tmp_path / name))]
    numbers = [int(raw.key) for raw in raws]
    assert sorted(numbers) == [n for n in range(11) if n != 3] != numbers  # in random order
    expected = {n: vqgan.encode(FewPictures()[n][0][None])[0] for n in numbers}
    reader = ShardReader(tmp_path, epochs=30, image_length=16, codebook_size=64)
    captions = set()
    for sample in reader:
        number = int(sample.caption.removeprefix("grey ").split()[0])
        same = (sample.content == expected[number]).float().mean()
        assert same > 0.9, number  # alone and in a batch, rounding may differ
        captions.add(sample.caption)
    assert captions == {c for n in numbers for c in (f"grey {n}", f"{n} with a line")}


def test_encoding_is_reproducible(vqgan, tmp_path):
    for name in "ab":
        encode_to_shards(FewPictures(), vqgan, tmp_path / name, per_shard=4)
    assert bytes_of(tmp_path / "a") == bytes_of(tmp_path / "b")


def test_encoding_again_encodes_nothing(vqgan, tmp_path):
    class Untouched(FewPictures):
        def __getitem__(self, index):
            raise AssertionError("encoded again")

    first = encode_to_shards(FewPictures(), vqgan, tmp_path, per_shard=4)
    assert encode_to_shards(Untouched(), vqgan, tmp_path, per_shard=4) == first
    other = VQGAN(replace(vqgan.config, n_embed=128))
    with pytest.raises(ValueError, match="another vqgan, codebook_size"):
        encode_to_shards(FewPictures(), other, tmp_path, per_shard=4)
    with pytest.raises(ValueError, match="another origin"):
        encode_to_shards(FewPictures(), vqgan, tmp_path, per_shard=4, seed=1)


def test_shards_of_pictures_become_shards_of_tokens(vqgan, tmp_path):
    (tmp_path / "pictures").mkdir()
    colours = ["red", "lime", "blue", "white"]
    samples = [RawSample(f"../{c}", {"png": png(c, 40), "txt": c.encode()}) for c in colours]
    samples[1].files["png"] = b"damaged"
    write_tar(tmp_path / "pictures" / "a.tar", samples[:3])
    write_tar(tmp_path / "pictures" / "b.tar", samples[3:])
    index = encode_to_shards(tmp_path / "pictures", vqgan, tmp_path / "tokens")
    assert index["count"] == 3 and len(index["shards"]) == 2
    found = {s.caption: s.content for s in ShardReader(tmp_path / "tokens", epochs=1)}
    pictures = {s.caption: s.content for s in ShardReader(tmp_path / "pictures", 32, epochs=1)}
    assert set(found) == {"red", "blue", "white"} == set(pictures)
    for caption, picture in pictures.items():
        assert torch.equal(found[caption], vqgan.encode(picture[None])[0])
    (tmp_path / "pictures" / "b.tar").write_bytes(b"damaged")
    with pytest.raises(ValueError, match=r"pictures/b\.tar: ValueError: it ends before"):
        encode_to_shards(tmp_path / "pictures", vqgan, tmp_path / "again")


def test_nothing_to_encode(vqgan, tmp_path):
    empty = torch.utils.data.Subset(FewPictures(), [])
    with pytest.raises(ValueError, match="0 pictures"):
        encode_to_shards(empty, vqgan, tmp_path, captions=[])
    with pytest.raises(ValueError, match="11 pictures and captions of 2"):
        encode_to_shards(FewPictures(), vqgan, tmp_path, captions=[["a"], ["b"]])
    with pytest.raises(ValueError, match="batch_size=0"):
        encode_to_shards(FewPictures(), vqgan, tmp_path, batch_size=0)
    assert not list(tmp_path.iterdir())


def test_a_fingerprint_knows_a_model_stored_in_half_precision(vqgan):
    other = VQGAN(vqgan.config)
    other.load_state_dict({n: v.half().float() for n, v in vqgan.state_dict().items()})
    assert fingerprint(other) == fingerprint(vqgan)
    with torch.no_grad():
        other.quantize.embedding.weight[0, 0] += 1
    assert fingerprint(other) != fingerprint(vqgan)
