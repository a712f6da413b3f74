"""Checkpoints by hub id: the wanted files of a repository at a revision, each one checked.

The hub is asked which commit a revision stands for and, for every file at that commit, its size and
checksum: sha256 for large files (LFS), git's own sha1 for the others. The answer is written down
and every file is held against it. The files lie where huggingface_hub's tools expect them:

    <HF_HUB_CACHE>/models--dalle-mini--dalle-mini/
        blobs/<checksum>            contents; <checksum>.incomplete while they arrive
        snapshots/<commit>/<file>   links to them; `fetch` returns this folder
        minidalle/<commit>.json     what the hub stated, and which files were found to be so
        minidalle/@main.json        the commit at which "main" was last seen

Requests go through huggingface_hub's session, so proxies, HF_ENDPOINT, HF_HUB_OFFLINE and time-outs
are as its users know them; no token is ever sent. Downloads are our own, since its
`hf_hub_download` (2.4) drops a partial file when it gives up, and reports on this machine.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import re
import time
import uuid
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path, PureWindowsPath
from typing import Any, BinaryIO
from urllib.parse import quote

from huggingface_hub import constants, errors, utils
from tqdm.auto import tqdm

COMMIT, CHECKSUM = re.compile("[0-9a-f]{40}"), re.compile("[0-9a-f]{40}([0-9a-f]{24})?")
HEADERS = {"User-Agent": "minidalle", "Accept-Encoding": "identity"}  # bytes as they are stored
TRIES, WAIT = 6, 1.0  # breaks at one place before giving up; seconds after the first, then 2, 3 …

logger = logging.getLogger(__name__)


@dataclass
class Listing:
    """A repository at one commit, as the hub states it."""

    repo_id: str
    commit: str
    files: dict[str, list]  # name -> [bytes, checksum]: 64 hex digits are sha256, 40 git's sha1
    verified: dict[str, list[int]] = field(default_factory=dict)  # name -> `stamp` when found right

    def path(self, name: str) -> Path:
        """Where a file lies for those who read it."""
        return cache_folder(self.repo_id) / "snapshots" / self.commit / name

    def blob(self, name: str) -> Path:
        """Where its contents lie."""
        return cache_folder(self.repo_id) / "blobs" / self.files[name][1]


def is_repo_id(path: str | Path) -> bool:
    """Whether this is a hub id such as "dalle-mini/dalle-mini", and not a path that exists."""
    try:
        utils.validate_repo_id(path)
    except ValueError:
        return False
    return isinstance(path, str) and path.count("/") == 1 and not os.path.lexists(path)


def fetch(
    repo_id: str, wanted: Callable[[list[str]], list[str]], *, revision: str | None = None
) -> Path:
    """A folder with the wanted files of a hub repository, downloaded where the cache lacks them.

    `wanted` gets the names of all files at the revision (a branch, tag or commit; None is "main")
    and returns those to fetch. A full commit whose files are cached needs no network; any other
    revision is looked up or, where the hub cannot be reached, taken as it was last seen.
    ValueError: no such repository or revision, one that is not public, a file that is not what the
    hub states. OSError: no network and not in the cache, or a download that keeps breaking.
    """
    utils.validate_repo_id(repo_id)
    revision = revision or "main"
    listing, absence = find_listing(repo_id, revision)
    for name in wanted(sorted(listing.files)):
        path = listing.path(name)
        if not path.exists():
            if absence:
                raise missing(f"{repo_id} at {revision}: {name}", absence)
            obtain(listing, name)
        elif listing.verified.get(name) == stamp(path):
            continue
        else:
            check(listing, name, path)
        listing.verified[name] = stamp(path)
        write_note(repo_id, listing.commit, asdict(listing))
    return listing.path("")


def find_listing(repo_id: str, revision: str) -> tuple[Listing, str | None]:
    """A revision's listing and, where nothing can be downloaded, the reason."""
    absence = "HF_HUB_OFFLINE is set" if constants.HF_HUB_OFFLINE else None
    if COMMIT.fullmatch(revision) and (known := read_note(repo_id, revision, Listing)):
        return known, absence
    if not absence:
        try:
            return ask(repo_id, revision), None
        except ConnectionError as error:
            absence = str(error)
    seen = read_note(repo_id, f"@{revision}", dict)
    known = read_note(repo_id, seen.get("commit"), Listing) if seen else None
    if known is None:
        raise missing(f"{repo_id} at {revision}", absence)
    logger.warning("%s: %s; using %s as last seen", repo_id, absence, revision)
    return known, absence


def missing(what: str, absence: str) -> FileNotFoundError:
    """The error for what is neither cached nor within reach."""
    return FileNotFoundError(
        f"{what} is not in the cache ({constants.HF_HUB_CACHE}), and {absence}. Load it once where "
        f"the hub can be reached, or download the files yourself and give their folder"
    )


def ask(repo_id: str, revision: str) -> Listing:
    """A revision's listing as the hub states it now; ConnectionError where the hub is away."""
    url = f"{constants.ENDPOINT}/api/models/{repo_id}/revision/{quote(revision, safe='')}"
    timeout = constants.HF_HUB_ETAG_TIMEOUT
    try:
        response = utils.get_session().get(f"{url}?blobs=true", headers=HEADERS, timeout=timeout)
        response.raise_for_status()
        listing = parse(response.json(), repo_id)
    except errors.HTTPError as error:
        raise failure(error, repo_id, f"revision {revision!r}") from error
    except (KeyError, TypeError, AttributeError, UnicodeError, json.JSONDecodeError) as error:
        raise ValueError(f"{url} does not answer as a hub does: is HF_ENDPOINT right?") from error
    if COMMIT.fullmatch(revision) and listing.commit != revision:
        raise ValueError(f"{repo_id}: the hub answers with commit {listing.commit}, not {revision}")
    known = read_note(repo_id, listing.commit, Listing)
    if known and known.files == listing.files:
        listing = known  # which knows what was verified
    else:
        write_note(repo_id, listing.commit, asdict(listing))
    seen = {"commit": listing.commit}
    if read_note(repo_id, f"@{revision}", dict) != seen:
        write_note(repo_id, f"@{revision}", seen)
    return listing


def parse(answer: dict[str, Any], repo_id: str) -> Listing:
    """The hub's answer as a Listing. Its names and checksums become paths here: none is trusted."""
    listing = Listing(repo_id, answer["sha"], {})
    for entry in answer["siblings"]:
        name, large = entry["rfilename"], entry.get("lfs")
        parts, drive = set(name.split("/")), PureWindowsPath(name).drive
        if parts & {"", ".", ".."} or drive or re.search(r"[\\\x00-\x1f]", name):
            raise ValueError(f"{repo_id}: refused, since it has a file with the name {name!r}")
        size, checksum = (large or entry)["size"], large["sha256"] if large else entry["blobId"]
        if not CHECKSUM.fullmatch(checksum) or not isinstance(size, int):
            raise ValueError(f"{repo_id}: the hub states no checksum for {name}, but {checksum!r}")
        listing.files[name] = [size, checksum]
    if not COMMIT.fullmatch(listing.commit):
        raise ValueError(f"{repo_id}: the hub states {listing.commit!r} as the commit")
    return listing


def obtain(listing: Listing, name: str) -> None:
    """Bring a file into the cache; it is checked while it still lies aside."""
    path, blob, folder = listing.path(name), listing.blob(name), cache_folder(listing.repo_id)
    partial = blob.with_name(f"{blob.name}.incomplete")
    lock = folder.parent / ".locks" / folder.name / f"{blob.name}.lock"  # huggingface_hub's own
    for parent in (path.parent, blob.parent, lock.parent):
        parent.mkdir(parents=True, exist_ok=True)
    with utils.WeakFileLock(lock):
        # The contents may be there: from another commit, program or process.
        source = next((place for place in (path, blob) if place.exists()), partial)
        if source == partial:
            try:
                transfer(listing, name, partial)
            except OSError as error:
                if error.errno is None:
                    raise
                raise OSError(error.errno, error.strerror, str(partial)) from error  # a full disk
        check(listing, name, source)
        if source == partial:
            os.replace(partial, blob)
        if source != path:
            path.unlink(missing_ok=True)
            try:
                path.symlink_to(os.path.relpath(blob, path.parent))
            except OSError:  # Windows, without the right to make links
                os.replace(blob, path)


def transfer(listing: Listing, name: str, partial: Path) -> None:
    """Append to a partial file what it lacks, again and again where the connection breaks."""
    repo_id, size = listing.repo_id, listing.files[name][0]
    url = f"{constants.ENDPOINT}/{repo_id}/resolve/{listing.commit}/{quote(name)}"
    hidden = utils.are_progress_bars_disabled() or None  # None: on a terminal or in a notebook only
    form = {"desc": name, "unit": "B", "unit_scale": True, "disable": hidden}
    failures = 0
    with open(partial, "ab") as file, tqdm(total=size, initial=file.tell(), **form) as bar:
        while (start := file.tell()) != size:
            try:
                return receive(url, file, size, bar)
            except errors.HTTPError as error:
                trouble = failure(error, repo_id, name)
                if not isinstance(trouble, ConnectionError):
                    raise trouble from error
                failures = 1 if file.tell() > start else failures + 1
                if failures == TRIES:
                    raise OSError(
                        f"{repo_id}: {name} stops at {file.tell()} of {size} bytes: {trouble}. "
                        f"What came is kept; run it again to go on from there"
                    ) from error
                time.sleep(failures * WAIT)


def receive(url: str, file: BinaryIO, size: int, bar: tqdm) -> None:
    """Append what one request brings: the bytes from the file's end on, or all of them anew."""
    start = file.tell()
    headers = HEADERS | ({"Range": f"bytes={start}-"} if start else {})
    timeout = constants.HF_HUB_DOWNLOAD_TIMEOUT
    with utils.get_session().stream("GET", url, headers=headers, timeout=timeout) as response:
        if start and response.status_code in (200, 416):  # it cannot begin there
            file.seek(0)
            file.truncate()
            bar.update(-start)
        response.raise_for_status()
        for chunk in response.iter_bytes():
            file.write(chunk)
            bar.update(len(chunk))
            if file.tell() > size:
                return  # it is not the file we ask for, and may have no end


def failure(error: errors.HTTPError, repo_id: str, what: str) -> ValueError | ConnectionError:
    """What a failed request comes to: ConnectionError where it may succeed later."""
    # errors.HTTPError is the base class of the HTTP library's errors, whichever library that is.
    if (response := getattr(error, "response", None)) is None:
        reason = f"the hub cannot be reached ({type(error).__name__}: {error})"
        return ConnectionError(" ".join(reason.split()))
    status, code = response.status_code, response.headers.get("X-Error-Code")
    if status >= 500 or status in (408, 416, 429):
        return ConnectionError(f"the hub answers with status {status}")
    if code in ("RevisionNotFound", "EntryNotFound"):
        return ValueError(f"{repo_id}: the hub has this repository, but no {what} of it")
    if code == "GatedRepo" or status == 403:
        reason = "is open only to people who log in and accept its terms"
    else:
        reason = {401: "does not exist or is private", 404: "does not exist"}.get(status, "fails")
    return ValueError(
        f"{repo_id}: the repository {reason} (status {status} for {what}). Check the id; minidalle "
        f"never logs in, so download what is not public yourself and give its folder"
    )


def check(listing: Listing, name: str, source: Path) -> None:
    """Hold a file against what the hub states; one that differs is deleted, with ValueError."""
    size, checksum = source.stat().st_size, listing.files[name][1]
    digest = hashlib.sha256()
    if len(checksum) == 40:
        digest = hashlib.sha1(b"blob %d\0" % size, usedforsecurity=False)
    with open(source, "rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    if [size, digest.hexdigest()] == listing.files[name]:
        return
    for wrong in (source, listing.path(name), listing.blob(name)):
        with contextlib.suppress(OSError):
            wrong.unlink()
    raise ValueError(
        f"{listing.repo_id} at {listing.commit}: {name} has {size} bytes and the {digest.name} "
        f"{digest.hexdigest()}, but the hub states {' and '.join(map(str, listing.files[name]))}. "
        f"{f'Delete {source}' if source.exists() else 'It was deleted'}: try again, and if that "
        f"gives the same, tell the repository's owner"
    )


def stamp(path: Path) -> list[int]:
    """Size and time of change: while they stay, a file is not read through again."""
    stat = path.stat()
    return [stat.st_size, stat.st_mtime_ns]


def cache_folder(repo_id: str) -> Path:
    """Where huggingface_hub keeps a model repository."""
    return Path(constants.HF_HUB_CACHE).absolute() / f"models--{repo_id.replace('/', '--')}"


def note_path(repo_id: str, name: str) -> Path:
    """Where we write down what the hub said of a commit, or of @revision."""
    return cache_folder(repo_id) / "minidalle" / f"{quote(name, safe='@')}.json"


def read_note(repo_id: str, name: str, kind: type) -> Any:
    """What was written down, as a `kind`; None where that is not there or not whole."""
    try:
        return kind(**json.loads(note_path(repo_id, name).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None


def write_note(repo_id: str, name: str, note: dict[str, Any]) -> None:
    """Write down, by way of a file aside. A cache that is read-only is used without notes."""
    path = note_path(repo_id, name)
    temporary = path.with_name(f".{uuid.uuid4().hex}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_text(json.dumps(note, indent=1), encoding="utf-8")
        os.replace(temporary, path)
    except OSError as error:
        logger.warning("%s: not written, so the next call asks and reads again: %s", path, error)
        if temporary.exists():
            temporary.unlink()
