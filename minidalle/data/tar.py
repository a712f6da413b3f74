"""Tar files of samples, in the format of WebDataset: finding them, reading them, writing them.

Files of one sample stand together and share a name up to the first dot, as in `17.jpg`, `17.txt`
(https://github.com/webdataset/webdataset). They are read with Python's tarfile: that library would
take in files of any size and let an address run a command, and both take damage for the end.

A shard may come from anyone: no name in it is used as a path, and what is in memory is bounded.
Those written here are reproducible: equal samples are equal bytes.
"""

from __future__ import annotations

import glob
import logging
import os
import re
import tarfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from io import BytesIO
from itertools import islice
from pathlib import Path
from typing import BinaryIO

log = logging.getLogger(__name__)

SUFFIXES = ("jpg", "jpeg", "png", "webp", "tokens.npy", "txt")  # what is read of a sample
MAX_SAMPLE_BYTES = 2**26  # of the files of one sample
TIMEOUT = 30.0  # seconds to wait for a web server
PAUSES = (1.0, 5.0)  # seconds before a broken download is taken up again


@dataclass
class RawSample:
    """One sample's files."""

    key: str  # their common name
    files: dict[str, bytes] = field(default_factory=dict)  # by suffix
    damage: str = ""  # why it cannot be used


def find_shards(urls: str | Path | Sequence[str | Path]) -> list[str]:
    """Paths and addresses, each once, with braces, globs and folders expanded.

    Raises ValueError for addresses that are not http(s), and for what finds nothing.
    """
    found: list[str] = []
    for pattern in [urls] if isinstance(urls, str | Path) else urls:
        for url in expand_braces(str(pattern)):
            if url.startswith("pipe:") or ("://" in url and not is_remote(url)):
                raise ValueError(f"{url}: shards are read from paths, http:// and https:// only")
            path = os.path.join(glob.escape(url), "*.tar") if os.path.isdir(url) else url
            matches = [path]
            if not is_remote(url) and glob.has_magic(path):
                matches = sorted(glob.glob(path))
            if not matches:
                raise ValueError(f"{path}: no such shard; expected .tar files there")
            found += matches
    if not found:
        raise ValueError("no shard is named; expected paths or addresses of .tar files")
    return list(dict.fromkeys(found))


def is_remote(url: str) -> bool:
    return url.startswith(("http://", "https://"))


def expand_braces(pattern: str) -> list[str]:
    """`{a,b}` and `{000..099}` written out, as a shell does."""
    if not (brace := re.search(r"\{([^{}]*)\}", pattern)):
        return [pattern]
    if span := re.fullmatch(r"(\d+)\.\.(\d+)", brace[1]):
        first, last = span.groups()
        if int(first) > int(last):
            raise ValueError(f"{pattern}: {{{first}..{last}}} counts down")
        inner = [f"{n:0{len(first)}d}" for n in range(int(first), int(last) + 1)]
    else:
        inner = brace[1].split(",")
    before, after = pattern[: brace.start()], pattern[brace.end() :]
    return [text for part in inner for text in expand_braces(before + part + after)]


def read_shard(url: str) -> Iterator[RawSample]:
    """A shard's samples in their order; a download that breaks is taken up where it broke.

    Raises ValueError by the shard's name, after the samples before, where it cannot be read on.
    """
    given = 0
    for pause in (*PAUSES, None):
        try:
            for sample in islice(read_tar(url), given, None):
                given += 1
                yield sample
            return
        except Exception as error:  # what a damaged tar makes tarfile raise is not a list
            reason = " ".join(f"{url}: {type(error).__name__}: {error}".split())
            refused = isinstance(error, urllib.error.HTTPError) and error.code < 500
            if pause is None or refused or not is_remote(url):
                raise ValueError(reason) from error
            log.warning("%s; trying again", reason)
            time.sleep(pause)


def read_tar(url: str) -> Iterator[RawSample]:
    """A shard's samples, opened anew; raises what comes."""
    remote = is_remote(url)
    with (
        urllib.request.urlopen(url, timeout=TIMEOUT) if remote else open(url, "rb") as file,
        tarfile.open(fileobj=(metered := Metered(file)), mode="r|", tarinfo=Entry) as archive,
    ):
        sample = RawSample("")
        while (entry := archive.next()) is not None:
            archive.members.clear()  # else tarfile remembers every entry
            metered.left = MAX_SAMPLE_BYTES + max(entry.size, 0)
            folder, _, base = entry.name.rpartition("/")
            name, dot, suffix = base.partition(".")
            if not (name and dot and entry.isreg()):
                continue
            key = f"{folder}/{name}" if folder else name
            if key != sample.key:
                if sample.key:
                    yield sample
                sample = RawSample(key)
            if (suffix := suffix.lower()) not in SUFFIXES:
                continue
            if suffix in sample.files:
                sample.damage = f"two files .{suffix}"
            elif entry.size + sum(map(len, sample.files.values())) > MAX_SAMPLE_BYTES:
                sample.damage = f"more than {MAX_SAMPLE_BYTES:,} bytes"
            else:
                sample.files[suffix] = archive.extractfile(entry).read()
        if sample.key:
            yield sample


class Entry(tarfile.TarInfo):
    """The header of a file in a tar. tarfile takes a damaged one for the end; this one raises."""

    @classmethod
    def fromtarfile(cls, archive: tarfile.TarFile) -> Entry:
        try:
            return super().fromtarfile(archive)
        except tarfile.EOFHeaderError:
            raise  # the regular end
        except tarfile.HeaderError as error:
            raise ValueError(f"not a tar, or not a whole one: {error}") from None


class Metered:
    """A file that raises after `left` bytes, and at its end.

    tarfile reads headers of any size, and asks again and again for what a header promises.
    """

    def __init__(self, file: BinaryIO):
        self.file, self.left = file, MAX_SAMPLE_BYTES

    def read(self, size: int) -> bytes:
        data = self.file.read(size)
        self.left -= len(data)
        if self.left < 0:
            raise ValueError(f"headers of more than {MAX_SAMPLE_BYTES:,} bytes")
        if not data:
            raise ValueError("it ends before the tar's end mark")
        return data


def write_tar(path: Path, samples: Iterable[RawSample]) -> int:
    """Write a shard aside and rename it; return the number of samples."""
    temporary, count = path.with_name(f".{path.name}.part"), 0
    try:
        with tarfile.open(temporary, "w", format=tarfile.USTAR_FORMAT) as archive:
            for sample in samples:
                for suffix, data in sample.files.items():
                    entry = tarfile.TarInfo(f"{sample.key}.{suffix}")  # its time and owner are 0
                    entry.size = len(data)
                    archive.addfile(entry, BytesIO(data))
                count += 1
        os.replace(temporary, path)
    except OSError as error:  # of a full disk Python does not say for which file
        raise OSError(error.errno, error.strerror, error.filename or str(path)) from error
    finally:
        temporary.unlink(missing_ok=True)
    return count


def count_samples(path: Path) -> int | None:
    """The number of samples in a shard; None where it is not there, or not whole."""
    try:
        return sum(1 for _ in read_shard(str(path)))
    except ValueError:
        return None
