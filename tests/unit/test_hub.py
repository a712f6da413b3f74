"""Files by hub id, against a small hub on this machine: what is asked, kept and refused."""

import contextlib
import errno
import hashlib
import json
import logging
import os
import random
import socket
import struct
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

import huggingface_hub
import pytest
from huggingface_hub import constants

from minidalle import MiniDalle
from minidalle.checkpoints import hub, native

REPO = "owner/model"
WEIGHTS = random.Random(1).randbytes(300_000)
FILES = {
    "config.json": b'{"d_model": 64}',
    "flax_model.msgpack": WEIGHTS,
    "deep/er/vocab.json": b"{}",
    "README.md": b"not wanted\n",
}
WANTED = ["config.json", "deep/er/vocab.json", "flax_model.msgpack"]


def git_sha1(data: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


class Hub:
    """The hub's routes for repositories held in memory, with the faults a network has."""

    def __init__(self):
        self.commits = {}  # (repo, commit) -> {name: bytes}
        self.revisions = {}  # (repo, revision) -> commit
        self.requests = []  # (method, path, headers)
        self.served = {}  # name -> bytes sent instead of those listed
        self.refuse = {}  # "api" or "file" -> (status, X-Error-Code)
        self.answer = None  # a function on the listing before it is sent
        self.wall, self.drops, self.reset = 0, 0, False  # breaks at byte `wall`, `drops` times
        self.stride = 0  # breaks after so many bytes of every answer
        self.sent = 0  # bytes of contents
        self.ranges = True
        self.pause = 0.0  # seconds between pieces of a file
        self.meeting = None  # a barrier at the listing
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), self.handler())
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, args=(0.01,), daemon=True).start()

    def stop(self) -> None:
        self.server.shutdown()
        self.server.server_close()

    def push(self, files: dict[str, bytes], revision: str = "main", repo: str = REPO) -> str:
        """A new commit, which the revision then stands for."""
        commit = hashlib.sha1(repr((repo, sorted(files.items()))).encode()).hexdigest()
        self.commits[repo, commit] = dict(files)
        self.revisions[repo, revision] = self.revisions[repo, commit] = commit
        return commit

    def paths(self, part: str = "") -> list[str]:
        """The paths asked for since the last call that contain `part`."""
        paths = [path for method, path, headers in self.requests if part in path]
        self.requests.clear()
        return paths

    def sent_ranges(self) -> list[str | None]:
        """The Range of every request for contents since the last call."""
        ranges = [headers.get("Range") for _, path, headers in self.requests if "/cdn/" in path]
        self.requests.clear()
        return ranges

    def listing(self, repo: str, commit: str) -> dict:
        """As the hub gives it for ?blobs=true."""
        siblings = []
        for name, data in self.commits[repo, commit].items():
            entry = {"rfilename": name, "size": len(data), "blobId": git_sha1(data)}
            if name.endswith(".msgpack"):  # in LFS, where blobId is that of the pointer
                entry["blobId"] = git_sha1(b"pointer")
                sha256 = hashlib.sha256(data).hexdigest()
                entry["lfs"] = {"sha256": sha256, "size": len(data), "pointerSize": 134}
            siblings.append(entry)
        return {"id": repo, "sha": commit, "siblings": siblings}

    def handler(hub):
        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                hub.requests.append((self.command, self.path, dict(self.headers)))
                parts = [unquote(part) for part in urlsplit(self.path).path.split("/")[1:]]
                if parts[:2] == ["api", "models"] and parts[4] == "revision":
                    self.listing(f"{parts[2]}/{parts[3]}", parts[5])
                elif parts[2] == "resolve":
                    self.file(f"{parts[0]}/{parts[1]}", parts[3], "/".join(parts[4:]))
                elif parts[0] == "cdn":
                    self.contents(f"{parts[1]}/{parts[2]}", parts[3], "/".join(parts[4:]))
                else:
                    self.reply(404)

            def listing(self, repo, revision):
                if hub.meeting:
                    hub.meeting.wait(60)
                if "api" in hub.refuse:
                    return self.reply(*hub.refuse["api"])
                if repo not in {known for known, _ in hub.revisions}:
                    return self.reply(404, "RepoNotFound")
                if (repo, revision) not in hub.revisions:
                    return self.reply(404, "RevisionNotFound")
                listing = hub.listing(repo, hub.revisions[repo, revision])
                if hub.answer:
                    listing = hub.answer(listing)
                self.reply(200, body=json.dumps(listing).encode())

            def file(self, repo, commit, name):
                if "file" in hub.refuse:
                    return self.reply(*hub.refuse["file"])
                if name not in hub.commits[repo, commit]:
                    return self.reply(404, "EntryNotFound")
                self.reply(302, location=f"{hub.url}/cdn/{repo}/{commit}/{name}")

            def contents(self, repo, commit, name):
                data = hub.served.get(name, hub.commits[repo, commit][name])
                start, status, extra = 0, 200, {}
                if hub.ranges and "Range" in self.headers:
                    start = int(self.headers["Range"].removeprefix("bytes=").removesuffix("-"))
                    status = 206
                    extra = {"Content-Range": f"bytes {start}-{len(data) - 1}/{len(data)}"}
                    if start >= len(data):
                        return self.reply(416)
                self.reply(status, length=len(data) - start, **extra)
                stop = len(data)
                if hub.drops > 0 and start <= hub.wall < stop:
                    hub.drops, stop = hub.drops - 1, hub.wall
                if hub.stride:
                    stop = min(start + hub.stride, stop)
                with contextlib.suppress(OSError):  # the other side may have left
                    for place in range(start, stop, 50_000):
                        hub.sent += self.wfile.write(data[place : min(place + 50_000, stop)])
                        time.sleep(hub.pause)
                if stop < len(data) and hub.reset:
                    time.sleep(0.2)  # so that what was sent is read first
                    linger = struct.pack("ii", 1, 0)
                    self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)

            def reply(self, status, code=None, *, body=b"", length=None, location=None, **extra):
                self.send_response(status)
                self.send_header("Content-Length", str(len(body) if length is None else length))
                self.send_header("X-HF-Warning", "login; please log in")
                for name, value in extra.items():
                    self.send_header(name, value)
                if code:
                    self.send_header("X-Error-Code", code)
                if location:
                    self.send_header("Location", location)
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *args):
                pass

        return Handler


@pytest.fixture
def server(tmp_path, monkeypatch):
    """A hub with one repository, which huggingface_hub believes to be the hub."""
    server = Hub()
    server.push(FILES)
    monkeypatch.setattr(constants, "ENDPOINT", server.url)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(hub, "WAIT", 0)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    huggingface_hub.close_session()
    yield server
    server.stop()


@pytest.fixture
def offline(monkeypatch):
    return lambda: monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)


def fetch(revision: str | None = None, names: list[str] = WANTED) -> Path:
    return hub.fetch(
        REPO, lambda found: [name for name in found if name in names], revision=revision
    )


def holds(folder: Path, files: dict[str, bytes] = FILES, names: list[str] = WANTED) -> bool:
    return all((folder / name).read_bytes() == files[name] for name in names)


def cached(tmp_path: Path, pattern: str = "*") -> list[str]:
    """The names of the files under the cache's folder of the repository."""
    found = (tmp_path / "cache" / "models--owner--model").rglob(pattern)
    return sorted(path.name for path in found if path.is_symlink() or path.is_file())


@contextlib.contextmanager
def refused(kind: type, match: str):
    with pytest.raises(kind, match=match) as caught:
        yield
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("dalle-mini/dalle-mini", True),
        ("dalle-mini/vqgan_imagenet_f16_16384", True),
        ("a/b.c", True),
        ("model", False),
        ("a/b/c", False),
        ("./model", False),
        ("../model", False),
        ("~/model", False),
        ("/model", False),
        ("a/", False),
        ("a/.b", False),
        ("a/b..c", False),
        ("a/b--c", False),
        ("a/b.git", False),
        ("a/b c", False),
        ("a\\b", False),
        ("a/é", False),
        ("", False),
        (None, False),
        (Path("a/b"), False),
    ],
)
def test_what_is_a_hub_id(text, expected):
    assert hub.is_repo_id(text) is expected


def test_a_path_that_exists_is_no_hub_id(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert hub.is_repo_id(REPO)
    (tmp_path / REPO).mkdir(parents=True)
    assert not hub.is_repo_id(REPO)


def test_only_what_is_wanted_is_fetched_and_nothing_else_is_asked_or_told(server, caplog):
    folder = fetch()
    assert holds(folder) and not (folder / "README.md").exists()
    commit = server.revisions[REPO, "main"]
    assert folder.name == commit
    assert not any("authorization" in map(str.lower, headers) for *_, headers in server.requests)
    assert {headers["User-Agent"] for *_, headers in server.requests} == {"minidalle"}
    assert server.paths() == [
        f"/api/models/{REPO}/revision/main?blobs=true",
        *(f"/{kind}{name}" for name in WANTED for kind in (
            f"{REPO}/resolve/{commit}/", f"cdn/{REPO}/{commit}/"
        )),
    ]  # fmt: skip
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


def test_what_wanted_refuses_passes_through_before_any_download(server):
    def wanted(names):
        raise ValueError(f"not a checkpoint: {names[0]}")

    with refused(ValueError, r"not a checkpoint: README\.md"):
        hub.fetch(REPO, wanted)
    assert not server.paths("resolve")


def test_the_statement_of_the_hub_lies_beside_the_cache(server, tmp_path):
    commit = fetch().name
    notes = tmp_path / "cache" / "models--owner--model" / "minidalle"
    assert json.loads((notes / "@main.json").read_text()) == {"commit": commit}
    listing = json.loads((notes / f"{commit}.json").read_text())
    assert listing["files"] == {
        "config.json": [15, git_sha1(FILES["config.json"])],
        "flax_model.msgpack": [300_000, hashlib.sha256(WEIGHTS).hexdigest()],
        "deep/er/vocab.json": [2, git_sha1(b"{}")],
        "README.md": [11, git_sha1(FILES["README.md"])],
    }
    assert sorted(listing["verified"]) == WANTED
    assert len(list(notes.iterdir())) == 2


def test_a_second_call_downloads_and_reads_nothing(server, monkeypatch):
    first = fetch()
    server.paths()
    monkeypatch.setattr(hub, "check", None)
    assert fetch() == first
    assert server.paths() == [f"/api/models/{REPO}/revision/main?blobs=true"]


def test_a_commit_that_was_fetched_needs_no_hub(server):
    commit = server.push(FILES)
    first = fetch(commit)
    server.paths()
    assert fetch(commit) == first and not server.paths()
    fetch(commit, ["README.md"])  # a file more: its checksum is known, so it is all that is asked
    assert server.paths() == [f"/{REPO}/resolve/{commit}/README.md", *[
        f"/cdn/{REPO}/{commit}/README.md"
    ]]  # fmt: skip


def test_a_revision_that_moved_gives_the_new_files_and_loads_only_those(server, offline):
    old = fetch("v1/beta") if server.push(FILES, "v1/beta") else None
    server.paths()
    files = FILES | {"config.json": b'{"d_model": 65}'}
    server.push(files, "v1/beta")
    new = fetch("v1/beta")
    assert holds(new, files) and holds(old) and new != old
    assert [path.split("/")[-1] for path in server.paths("/cdn/")] == ["config.json"]
    offline()
    assert fetch("v1/beta") == new


def test_the_program_of_the_hub_finds_the_files(server, tmp_path):
    commit = fetch().name
    cache = tmp_path / "cache"
    found = huggingface_hub.try_to_load_from_cache(REPO, "config.json", cache, revision=commit)
    assert Path(found).read_bytes() == FILES["config.json"]
    scan = huggingface_hub.scan_cache_dir(cache)
    assert not scan.warnings and scan.size_on_disk == sum(len(FILES[name]) for name in WANTED)


def test_contents_that_the_program_of_the_hub_left_are_taken_after_a_check(server, tmp_path):
    blobs = tmp_path / "cache" / "models--owner--model" / "blobs"
    blobs.mkdir(parents=True)
    blob = blobs / hashlib.sha256(WEIGHTS).hexdigest()
    blob.write_bytes(WEIGHTS[::-1])
    with refused(ValueError, r"flax_model\.msgpack has"):
        fetch()
    assert not blob.exists()
    blob.write_bytes(WEIGHTS)
    server.paths()
    assert holds(fetch()) and not server.paths("flax_model")


def test_without_links_the_files_themselves_lie_in_the_folder(server, monkeypatch):
    def refuse(*args):
        raise OSError("a required privilege is not held by the client")

    monkeypatch.setattr(Path, "symlink_to", refuse)
    folder = fetch()
    assert holds(folder) and not any((folder / name).is_symlink() for name in WANTED)
    server.paths()
    assert holds(fetch())
    hub.obtain(hub.find_listing(REPO, "main")[0], "config.json")  # as if it had come meanwhile
    assert holds(fetch()) and not server.paths("/cdn/")


def test_a_link_that_leads_nowhere_is_made_again(server):
    folder = fetch()
    (folder / "config.json").resolve().unlink()
    assert holds(fetch()) and (folder / "config.json").is_symlink()


@pytest.mark.parametrize("way", ["offline", "stopped", "500", "429"])
def test_without_the_hub_what_was_seen_last_is_used(server, offline, way):
    commit = server.push(FILES, "v1")
    first = fetch("v1")

    def cut():
        if way == "offline":
            offline()
        elif way == "stopped":
            server.stop()
        else:
            server.refuse = {"api": (int(way), None), "file": (int(way), None)}

    cut()
    server.paths()
    assert fetch("v1") == first and holds(first)
    assert fetch(commit) == first
    reason = {"offline": "HF_HUB_OFFLINE is set", "stopped": "the hub cannot be reached"}
    reason = reason.get(way, f"the hub answers with status {way}")
    with refused(FileNotFoundError, rf"owner/model at v1: README\.md is not in .*{reason}.*folder"):
        fetch("v1", ["README.md"])
    with refused(FileNotFoundError, rf"owner/model at v2 is not in the cache.*{reason}.*folder"):
        fetch("v2")
    assert way != "offline" or not server.paths()


def test_a_file_of_a_known_commit_while_the_hub_is_away(server):
    commit = server.push(FILES)
    fetch(commit)
    server.stop()
    with refused(OSError, r"README\.md stops at 0 of 11 bytes: the hub cannot be reached"):
        fetch(commit, ["README.md"])


@pytest.mark.parametrize("reset", [False, True])
def test_a_broken_download_goes_on_where_it_broke(server, reset):
    server.wall, server.drops, server.reset = 123_456, 1, reset
    assert holds(fetch(names=["flax_model.msgpack"]), names=["flax_model.msgpack"])
    ranges = server.sent_ranges()
    assert len(ranges) == 2 and (reset or ranges == [None, "bytes=123456-"])


def test_a_download_that_keeps_breaking_goes_on_at_the_next_call(server, tmp_path):
    server.wall, server.drops = 123_456, 1000
    with refused(OSError, r"flax_model\.msgpack stops at 123456 of 300000 bytes.*run it again"):
        fetch()
    assert server.sent_ranges()[2:] == [None] + ["bytes=123456-"] * (hub.TRIES - 1)
    assert "flax_model.msgpack" not in cached(tmp_path)
    server.drops = 0
    assert holds(fetch())
    assert server.sent_ranges() == ["bytes=123456-"]
    assert not cached(tmp_path, "*.incomplete")


def test_a_download_that_breaks_often_but_comes_forward_comes_to_its_end(server):
    server.stride = len(WEIGHTS) // (2 * hub.TRIES)
    assert holds(fetch())
    assert len(server.paths("/cdn/")) > 2 * hub.TRIES


def test_a_hub_that_comes_back_is_asked_again(server, monkeypatch):
    commit = fetch(names=["config.json"]).name
    server.refuse["file"] = (503, None)
    monkeypatch.setattr(hub.time, "sleep", lambda seconds: server.refuse.clear())
    assert holds(fetch(commit))


def test_a_server_without_ranges_sends_all_of_it_again(server):
    server.wall, server.drops, server.ranges = 123_456, 2, False
    assert holds(fetch())
    assert server.sent_ranges()[2:] == [None, "bytes=123456-", "bytes=123456-"]


def test_a_partial_file_that_is_too_long_is_begun_anew(server, tmp_path):
    fetch(names=["config.json"])
    blobs = tmp_path / "cache" / "models--owner--model" / "blobs"
    (blobs / f"{hashlib.sha256(WEIGHTS).hexdigest()}.incomplete").write_bytes(bytes(300_001))
    assert holds(fetch())


def test_a_slow_hub_is_waited_for(server):
    server.pause = 0.05
    assert holds(fetch())


@pytest.mark.parametrize("name", ["flax_model.msgpack", "config.json"])
@pytest.mark.parametrize("change", ["other", "longer", "shorter"])
def test_a_file_that_is_not_what_the_hub_states_is_refused_and_not_kept(
    server, tmp_path, name, change
):
    data = FILES[name]
    wrong = {"other": data[:-1] + b"!", "longer": data + b"!", "shorter": data[:-1]}[change]
    server.served[name] = wrong
    large = name.endswith(".msgpack")
    found = hashlib.sha256(wrong).hexdigest() if large else git_sha1(wrong)
    stated = hashlib.sha256(data).hexdigest() if large else git_sha1(data)
    pattern = rf"^owner/model at [0-9a-f]{{40}}: {name} has {len(wrong)} bytes.* {found}.* {stated}"
    with refused(ValueError, rf"{pattern}.*deleted: try again"):
        fetch(names=[name])
    assert [file for file in cached(tmp_path) if not file.endswith(".json")] == []
    server.served.clear()
    assert holds(fetch(names=[name]), names=[name])


def test_a_file_without_end_is_not_read_to_its_end(server):
    server.served["config.json"] = bytes(1 << 26)
    with refused(ValueError, r"config\.json has"):
        fetch()
    assert server.sent < 1 << 25


@pytest.mark.parametrize("name", ["flax_model.msgpack", "config.json"])
def test_a_file_that_changes_in_the_cache_is_noticed(server, offline, name):
    folder = fetch()
    data = FILES[name]
    stat = (folder / name).stat()
    (folder / name).write_bytes(data[:-1] + b"!")
    os.utime(folder / name, ns=(stat.st_atime_ns, stat.st_mtime_ns + 1))
    with refused(ValueError, f"{name} has {len(data)} bytes"):
        fetch()
    assert not (folder / name).exists()
    assert holds(fetch())
    stat = (folder / name).stat()
    (folder / name).write_bytes(data[:-1])
    os.utime(folder / name, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    offline()
    with refused(ValueError, f"{name} has {len(data) - 1} bytes"):
        fetch()


def test_a_file_that_was_only_touched_is_read_once_more(server, monkeypatch):
    folder = fetch()
    os.utime(folder / "config.json", ns=(0, 0))
    assert fetch() == folder
    monkeypatch.setattr(hub, "check", None)
    assert fetch() == folder


def test_a_cache_that_cannot_be_written_is_used(server, monkeypatch, caplog):
    folder = fetch()
    os.utime(folder / "config.json", ns=(0, 0))

    def refuse(path, *args, **kwargs):
        raise OSError(errno.EROFS, "Read-only file system", str(path))

    for name in ("write_text", "unlink", "mkdir"):
        monkeypatch.setattr(Path, name, refuse)
    assert fetch() == fetch(folder.name) == folder
    assert "Read-only file system" in caplog.text
    (folder / "config.json").write_bytes(b"x")
    with refused(ValueError, r"config\.json has 1 bytes.*Delete /.*/config\.json"):
        fetch()


def test_a_note_that_cannot_be_put_in_place_leaves_nothing_aside(server, tmp_path, monkeypatch):
    folder = fetch()
    os.utime(folder / "config.json", ns=(0, 0))

    def refuse(*paths):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(hub.os, "replace", refuse)
    assert fetch() == folder and not cached(tmp_path, "*.part")


def test_a_cache_given_relative_to_where_we_are(server, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", "near")
    folder = fetch()
    assert folder.is_relative_to(tmp_path / "near") and holds(folder)


def test_a_note_that_is_not_whole_is_asked_for_again(server, tmp_path):
    commit = fetch().name
    note = tmp_path / "cache" / "models--owner--model" / "minidalle" / f"{commit}.json"
    whole = note.read_text()
    for text in ("", "[1]", "{}", '{"odd": 1}', whole[: len(whole) // 2]):
        note.write_text(text)
        server.paths()
        assert holds(fetch(commit))
        assert server.paths() == [f"/api/models/{REPO}/revision/{commit}?blobs=true"]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full")
def test_a_full_disk_is_named(server, tmp_path):
    fetch(names=["config.json"])
    blobs = tmp_path / "cache" / "models--owner--model" / "blobs"
    partial = blobs / f"{hashlib.sha256(WEIGHTS).hexdigest()}.incomplete"
    partial.symlink_to("/dev/full")
    with refused(OSError, rf"No space left on device: '{partial}'"):
        fetch()


@pytest.mark.parametrize(
    "name",
    ["/etc/passwd", "../up", "a/../../up", "a\\..\\up", "C:/up", "C:up", "a//b", "a/.", "", "a\nb"],
)
def test_names_that_lead_elsewhere_are_refused(server, tmp_path, name):
    server.push(FILES | {name: b"evil"})
    with refused(ValueError, "owner/model: refused"):
        fetch()
    assert not server.paths("resolve") and not cached(tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"sha": "../../../elsewhere"}, "as the commit"),
        ({"sha": None}, "does not answer as a hub does"),
        ({"siblings": None}, "does not answer as a hub does"),
        ({"siblings": [{"rfilename": "a", "size": 1}]}, "does not answer as a hub does"),
        ({"siblings": [{"rfilename": "a", "size": 1, "blobId": ""}]}, "no checksum for a"),
        ({"siblings": [{"rfilename": "a", "size": 1, "blobId": "../../b"}]}, "no checksum for a"),
        ({"siblings": [{"rfilename": "a", "size": None, "blobId": "0" * 40}]}, "no checksum for a"),
    ],
)
def test_a_listing_without_commit_or_checksums_is_refused(server, tmp_path, change, message):
    server.answer = lambda listing: listing | change
    with refused(ValueError, message):
        fetch()
    assert not server.paths("resolve") and not cached(tmp_path)


def test_a_page_that_is_no_listing_is_refused(server):
    server.answer = lambda listing: [1]
    with refused(ValueError, "is HF_ENDPOINT right"):
        fetch()


def test_another_statement_on_the_same_commit_is_not_passed_over(server):
    fetch()
    entry = {"rfilename": "config.json", "size": 15, "blobId": "0" * 40}
    server.answer = lambda listing: listing | {"siblings": [entry]}
    with refused(ValueError, r"config\.json has 15 bytes.* states 15 and 0{40}"):
        fetch()


def test_a_size_that_is_not_the_stated_one_is_refused_whatever_the_checksum(server):
    entry = {"rfilename": "config.json", "size": 16, "blobId": git_sha1(FILES["config.json"])}
    server.answer = lambda listing: listing | {"siblings": [entry]}
    with refused(ValueError, r"config\.json has 15 bytes.* states 16"):
        fetch()


def test_another_commit_than_the_one_asked_for_is_refused(server):
    commit = server.push(FILES)
    server.answer = lambda listing: listing | {"sha": "0" * 40}
    with refused(ValueError, f"answers with commit 0{{40}}, not {commit}"):
        fetch(commit)


@pytest.mark.parametrize(
    ("where", "status", "code", "message"),
    [
        ("api", 404, "RepoNotFound", r"^owner/model: the repository does not exist .*404"),
        ("api", 404, "RevisionNotFound", r"^owner/model: .*no revision 'main' of it"),
        ("api", 401, "RepoNotFound", r"^owner/model: the repository does not exist or is private"),
        ("api", 401, None, "does not exist or is private.*never logs in.*give its folder"),
        ("api", 403, None, "log in and accept its terms.*never logs in.*give its folder"),
        ("file", 401, "GatedRepo", r"accept its terms .*401 for config\.json.*give its folder"),
        ("file", 404, "EntryNotFound", r"no config\.json of it"),
        ("api", 400, None, "fails .*400"),
    ],
)
def test_what_the_hub_does_not_give_out(server, where, status, code, message):
    server.refuse[where] = (status, code)
    with refused(ValueError, message):
        fetch()
    assert len(server.paths("resolve" if where == "file" else "api")) == 1  # not asked again


def test_unknown_ids_and_revisions(server):
    with refused(ValueError, r"^owner/other: the repository does not exist"):
        hub.fetch("owner/other", lambda names: names)
    with refused(ValueError, r"^owner/model: .*no revision 'v9' of it"):
        fetch("v9")
    with refused(ValueError, "Repo id must"):
        hub.fetch("../model", lambda names: names)


def run(server: Hub, tmp_path: Path, revision: str = "main", **environment) -> subprocess.Popen:
    """`fetch` in a process of its own, set up by the environment alone."""
    code = (
        "from minidalle.checkpoints import hub\n"
        f"print(hub.fetch({REPO!r}, lambda names: names, revision={revision!r}))"
    )
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith("HF_")},
        **{"HF_ENDPOINT": server.url, "HF_HOME": str(tmp_path / "home"), "HF_TOKEN": "hf_secret"},
        **environment,
    }
    return subprocess.Popen(
        [sys.executable, "-c", code],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=environment.pop("stderr", subprocess.PIPE),
        text=True,
    )


def test_two_processes_at_once_then_one_without_the_hub(server, tmp_path):
    server.pause, server.meeting = 0.1, threading.Barrier(2)
    both = [run(server, tmp_path), run(server, tmp_path)]
    for process in both:
        output, errors = process.communicate(timeout=120)
        assert (process.returncode, errors) == (0, "")  # and no bar, as this is no terminal
        assert holds(Path(output.strip()), names=list(FILES))
        assert Path(output.strip()).is_relative_to(tmp_path / "home" / "hub")
    assert not any("authorization" in map(str.lower, headers) for *_, headers in server.requests)
    assert len(server.paths("/cdn/")) == len(FILES)

    process = run(server, tmp_path, HF_HUB_OFFLINE="1")
    output, errors = process.communicate(timeout=120)
    assert process.returncode == 0 and "HF_HUB_OFFLINE is set; using main as last seen" in errors
    assert holds(Path(output.strip())) and not server.paths()


def test_a_terminal_shows_a_bar(server, tmp_path):
    pty, fcntl, termios = map(pytest.importorskip, ("pty", "fcntl", "termios"))
    reader, terminal = pty.openpty()
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    process = run(server, tmp_path, stderr=terminal)
    os.close(terminal)
    shown = b""
    with contextlib.suppress(OSError):  # raised at the end on Linux
        while piece := os.read(reader, 4096):
            shown += piece
    process.communicate(timeout=120)
    os.close(reader)
    assert b"flax_model.msgpack: 100%" in shown and b"300k/300k" in shown


FIXTURES = Path(__file__).parents[1] / "fixtures"
MINI, VQGAN = "dalle-mini/dalle-mini", "dalle-mini/vqgan_imagenet_f16_16384"


def push_folder(server: Hub, repo: str, folder: Path, **more: bytes) -> str:
    files = {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}
    return server.push(files | {"pytorch_model.bin": b"not for us"} | more, repo=repo)


def test_from_pretrained_by_id(server, offline):
    """As a practitioner has it: Bart and VQGAN by id and revision, then again without network."""
    words = (FIXTURES / "text_normalizer" / native.WORD_LIST).read_bytes()
    push_folder(server, MINI, FIXTURES / "dalle_mini", **{native.WORD_LIST: words})
    commit = push_folder(server, VQGAN, FIXTURES / "vqgan")
    ids = {"path": MINI, "revision": "main", "vqgan": f"{VQGAN}@{commit}"}
    result = MiniDalle.from_pretrained(**ids).generate("a cat", n=2, seed=5)
    here = MiniDalle.from_pretrained(FIXTURES / "dalle_mini", vqgan=FIXTURES / "vqgan")
    assert result.tokens.equal(here.generate("a cat", n=2, seed=5).tokens)
    assert result.model == MINI
    names = [path.rsplit("/", 1)[1] for path in server.paths("/cdn/")]
    assert "pytorch_model.bin" not in names and "expected.npz" not in names
    offline()
    again = MiniDalle.from_pretrained(**ids)
    assert again.generate("a cat", n=2, seed=5).tokens.equal(result.tokens)
    assert again.normalizer("#newyorkcity") == " new york city"
    assert not server.paths()


def test_mega_takes_its_word_list_from_mini_and_does_without(server, offline, caplog):
    words = (FIXTURES / "text_normalizer" / native.WORD_LIST).read_bytes()
    push_folder(server, "dalle-mini/dalle-mega", FIXTURES / "dalle_mega")
    model = MiniDalle.from_pretrained("dalle-mini/dalle-mega", vqgan=FIXTURES / "vqgan")
    assert model.normalizer("#newyorkcity") == " newyorkcity"
    assert "hashtags will not be split" in caplog.text
    push_folder(server, MINI, FIXTURES / "dalle_mini", **{native.WORD_LIST: words})
    model = MiniDalle.from_pretrained("dalle-mini/dalle-mega", vqgan=FIXTURES / "vqgan")
    assert model.normalizer("#newyorkcity") == " new york city"


def test_an_id_that_is_not_there_says_that_no_folder_is_either(server):
    with refused(ValueError, match=r"runs/emojy is no folder here, and as a hub id: "):
        MiniDalle.from_pretrained("runs/emojy")
    with refused(ValueError, match="no hub id, so it has no revision"):
        MiniDalle.from_pretrained(FIXTURES / "dalle_mini", revision="main")
