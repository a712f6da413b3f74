"""Where the arrays lie in a Flax checkpoint, without reading them.

`flax_model.msgpack` is one nested map whose leaves are msgpack extension values of type 1, each
holding a small msgpack array `[shape, dtype name, raw bytes]`. This reader walks the map with seeks
and notes where every leaf's bytes begin, so that a caller can read one array, or one layer of a
stacked array, at a time. It understands only what such a file is made of and refuses everything
else; nothing in a file can make it allocate more than the file is long.
"""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import msgpack
import numpy as np
import torch
from torch import Tensor

DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
MAX_DEPTH, MAX_TEXT, MAX_ENTRIES, MAX_AXES = 32, 256, 100_000, 8


@dataclass(frozen=True)
class Leaf:
    """One array of the file."""

    file: Path
    path: tuple[str, ...]  # keys from the root: ("lm_head", "kernel")
    shape: tuple[int, ...]
    dtype: torch.dtype
    offset: int  # of its first byte in the file

    def read(self, index: int | None = None) -> Tensor:
        """The array, or its row `index` along the first axis, in the file's dtype."""
        shape, offset = self.shape, self.offset
        if index is not None:
            shape = shape[1:]
            offset += index * math.prod(shape) * self.dtype.itemsize
        data = np.fromfile(
            self.file, dtype=np.uint8, count=math.prod(shape) * self.dtype.itemsize, offset=offset
        )
        return torch.from_numpy(data).view(self.dtype).view(shape)


def read_index(path: Path) -> dict[tuple[str, ...], Leaf]:
    """All leaves of a Flax checkpoint by their path.

    ValueError names the file and place of what does not fit.
    """
    with open(path, "rb") as file:
        walker = Walker(file, path)
        walker.walk((), walker.map_length())
        if file.tell() != walker.size:
            raise walker.error(f"{walker.size - file.tell()} bytes follow the parameter tree")
    return walker.leaves


class Walker:
    """Reads a file's msgpack structure from where the file stands, skipping the arrays' bytes."""

    def __init__(self, file: BinaryIO, path: Path):
        self.file, self.path = file, path
        self.size = os.fstat(file.fileno()).st_size
        self.leaves: dict[tuple[str, ...], Leaf] = {}
        self.entries = 0  # of all maps

    def error(self, what: str) -> ValueError:
        """What is wrong, with the file and the place in it."""
        return ValueError(
            f"{self.path}, byte {self.file.tell()}: {what}. "
            f"Not a whole Flax checkpoint: fetch it again"
        )

    def read(self, count: int) -> bytes:
        """The next bytes, all of them."""
        data = self.file.read(count)
        if len(data) != count:
            raise self.error(f"the file ends where {count} more bytes were expected")
        return data

    def number(self, width: int) -> int:
        """The next whole number of `width` bytes."""
        return int.from_bytes(self.read(width), "big")

    def map_length(self) -> int:
        """The number of entries of the map that begins here."""
        kind = self.number(1)
        if 0x80 <= kind <= 0x8F:
            return kind & 0x0F
        if kind in (0xDE, 0xDF):
            return self.number(2 if kind == 0xDE else 4)
        raise self.error(f"expected a map, found msgpack type 0x{kind:02x}")

    def text(self) -> str:
        """The string that stands here: a key."""
        kind = self.number(1)
        if 0xA0 <= kind <= 0xBF:
            length = kind & 0x1F
        elif kind in (0xD9, 0xDA, 0xDB):
            length = self.number({0xD9: 1, 0xDA: 2, 0xDB: 4}[kind])
        else:
            raise self.error(f"expected a key, found msgpack type 0x{kind:02x}")
        if length > MAX_TEXT:
            raise self.error(f"a key of {length} bytes")
        try:
            text = self.read(length).decode()
        except UnicodeDecodeError:
            raise self.error("a key that is not UTF-8") from None
        if not text.isprintable():
            raise self.error("a key that cannot be printed")
        return text

    def walk(self, path: tuple[str, ...], entries: int) -> None:
        """Note all leaves of a map of `entries` entries whose header was read."""
        if len(path) > MAX_DEPTH:
            raise self.error(f"maps nested more than {MAX_DEPTH} deep")
        for _ in range(entries):
            self.entries += 1
            if self.entries > MAX_ENTRIES:
                raise self.error(f"more than {MAX_ENTRIES} entries")
            here = (*path, self.text())
            if here in self.leaves:
                raise self.error(f"{'/'.join(here)} occurs twice")
            kind = self.read(1)[0]
            if kind in (0xC7, 0xC8, 0xC9):
                self.leaves[here] = self.leaf(here, self.number({0xC7: 1, 0xC8: 2, 0xC9: 4}[kind]))
            elif 0xD4 <= kind <= 0xD8:
                self.leaves[here] = self.leaf(here, 1 << (kind - 0xD4))
            else:
                self.file.seek(-1, os.SEEK_CUR)
                self.walk(here, self.map_length())

    def leaf(self, path: tuple[str, ...], length: int) -> Leaf:
        """One extension value of `length` bytes, after its length was read."""
        name = "/".join(path)
        code = self.number(1)
        if code != 1:
            raise self.error(f"{name} has extension type {code}; expected 1, an array")
        start = self.file.tell()
        end = start + length
        if end > self.size:
            raise self.error(f"{name} claims {length} bytes, {self.size - start} are left")
        # The head (shape, dtype, length of the bytes) is small: let the library read it, from a
        # bounded piece.
        head = msgpack.Unpacker(max_buffer_size=4096)
        head.feed(self.read(min(length, 512)))
        try:
            if head.read_array_header() != 3:
                raise ValueError("not three entries")
            shape, dtype = head.unpack(), head.unpack()
            at = start + head.tell()
        except (ValueError, msgpack.UnpackException) as error:
            raise self.error(f"{name} is not an array of [shape, dtype, bytes]: {error}") from None
        if not isinstance(dtype, str) or dtype not in DTYPES:
            raise self.error(f"{name} has dtype {dtype!r:.80}; known are {sorted(DTYPES)}")
        sizes = shape if isinstance(shape, list) else [None]
        if len(sizes) > MAX_AXES or not all(type(n) is int and n > 0 for n in sizes):
            raise self.error(f"{name} has shape {shape!r:.80}")
        self.file.seek(at)
        kind = self.number(1)
        if kind not in (0xC4, 0xC5, 0xC6):
            raise self.error(f"{name} holds msgpack type 0x{kind:02x}; expected bytes")
        count = self.number({0xC4: 1, 0xC5: 2, 0xC6: 4}[kind])
        offset = self.file.tell()
        expected = math.prod(shape) * DTYPES[dtype].itemsize
        if count != expected or offset + count != end:
            raise self.error(
                f"{name} of shape {shape} and {dtype} needs {expected} bytes, found {count}"
            )
        self.file.seek(end)
        return Leaf(self.path, path, tuple(shape), DTYPES[dtype], offset)
