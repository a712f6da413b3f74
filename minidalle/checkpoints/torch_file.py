"""Tensors from a file that `torch.save` wrote, without running anything that is in it.

Such a file is a zip archive of raw arrays and one pickle, and a pickle is a program: it may call
anything, and even the calls that torch allows can ask for all the memory there is. So no unpickler
sees it. We follow it opcode by opcode, understand only what torch.save writes, and build nothing
but dictionaries, lists, numbers and tensors. The arrays stay in the file, mapped into memory.
"""

from __future__ import annotations

import math
import os
import pickletools
import zipfile
from pathlib import Path
from types import FunctionType
from typing import Any, BinaryIO, NamedTuple

import torch
from torch import Tensor

from minidalle.checkpoints.parts import one_line

MAX_PICKLE = 2**22  # bytes of the pickle: names and shapes, without the arrays

STORAGES = {
    "Float": torch.float32, "Half": torch.float16, "BFloat16": torch.bfloat16,
    "Double": torch.float64, "Long": torch.int64, "Int": torch.int32, "Short": torch.int16,
    "Char": torch.int8, "Byte": torch.uint8, "Bool": torch.bool,
}  # fmt: skip
LITERALS = {"BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT", "BINUNICODE"}
CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}
ITEMS = {"APPEND": 1, "APPENDS": None, "SETITEM": 2, "SETITEMS": None}
TUPLES = {"TUPLE": None, "TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}  # of so many; None: to the mark


class Dropped:
    """Stands where the file names a class or function of others, and for what calling it gives."""


class Storage(NamedTuple):
    """One array of the file, without a shape."""

    data: torch.UntypedStorage
    dtype: torch.dtype


def load_torch_file(path: Path, *, drop_classes: bool = False) -> Any:
    """What a file of `torch.save` holds: dictionaries, lists, numbers and mapped tensors.

    drop_classes: put an empty stand-in wherever the file names a class, where False refuses it.
    Raises ValueError for a damaged file, and for one that names classes or functions.
    """
    with open(path, "rb") as file:
        try:
            code, places = read_archive(file)
            size = os.fstat(file.fileno()).st_size
            mapped = torch.UntypedStorage.from_file(str(path), shared=False, nbytes=size)
            document, classes = follow(code, mapped, places)
        except Exception as error:  # zipfile and pickletools raise many kinds on damaged files
            raise ValueError(
                f"{path}: not a whole file of torch.save (1.6 or later): {one_line(error)}"
            ) from error
    if classes and not drop_classes:
        raise ValueError(
            f"{path}: besides tensors it holds {', '.join(classes[:4])}, and loading these would "
            f"run code; minidalle never does. If the file is what you think it is, `minidalle "
            f"convert {path} FOLDER --drop-classes` takes the tensors only, and runs nothing"
        )
    if isinstance(document, Dropped):
        raise ValueError(f"{path}: not a file of tensors that torch can load: it is {classes[0]}")
    return document


def read_archive(file: BinaryIO) -> tuple[bytes, dict[str, range]]:
    """The pickle, and the bytes of the file that each array has, by the array's key."""
    with zipfile.ZipFile(file) as archive:
        entries = archive.infolist()
        pickles = [entry for entry in entries if entry.filename.endswith("/data.pkl")]
        if len(pickles) != 1:
            raise ValueError(f"it has {len(pickles)} pickles, expected 1")
        if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
            raise ValueError("it is compressed")
        if pickles[0].file_size > MAX_PICKLE:
            raise ValueError(f"its pickle has {pickles[0].file_size:,} bytes")
        code = archive.read(pickles[0])
        folder = pickles[0].filename.removesuffix("data.pkl")
        places = {}
        for entry in entries:
            name = entry.filename.removeprefix(folder)
            if name == "byteorder" and (entry.file_size > 6 or archive.read(entry) != b"little"):
                raise ValueError("its numbers are not little-endian")
            if name.startswith("data/"):
                file.seek(entry.header_offset)
                header = file.read(30)  # ends in the lengths of the two fields that follow it
                if len(header) != 30 or header[:4] != b"PK\x03\x04":
                    raise ValueError(f"there is no {name!r:.80} where it should be")
                lengths = (int.from_bytes(header[i : i + 2], "little") for i in (26, 28))
                start = entry.header_offset + 30 + sum(lengths)
                places[name.removeprefix("data/")] = range(start, start + entry.file_size)
    return code, places


def storage(mapped: torch.UntypedStorage, places: dict[str, range], stated: Any) -> Any:
    """One array of the file, from what torch.save states of it: kind, dtype, key, device, count."""
    if not isinstance(stated, tuple) or len(stated) != 5:
        raise ValueError("its pickle names something that is no array")
    _, dtype, key, _, count = stated
    if isinstance(dtype, Dropped):
        return dtype
    if not (isinstance(dtype, torch.dtype) and isinstance(key, str) and isinstance(count, int)):
        raise ValueError("its pickle names something that is no array")
    place = places.get(key, range(0))
    if len(place) != count * dtype.itemsize or place.stop > mapped.nbytes():
        raise ValueError(f"array {key!r:.80} is not there, or not all of it")
    if place.start % dtype.itemsize:  # torch aligns them; numbers at odd places may crash it
        raise ValueError(f"array {key!r:.80} is not aligned: the archive was packed again")
    return Storage(mapped[place.start : place.stop], dtype)


def tensor(
    held: Storage | Dropped,
    offset: int,
    size: tuple[int, ...],
    stride: tuple[int, ...],
    requires_grad: bool,
    hooks: Any,
    metadata: Any = None,
) -> Tensor | Dropped:
    """What `torch._utils._rebuild_tensor_v2` gives: a view of an array, checked to lie within."""
    if isinstance(held, Dropped):
        return held
    if not (isinstance(held, Storage) and isinstance(size, tuple) and isinstance(stride, tuple)):
        raise ValueError("its pickle makes a tensor of what is no array")
    numbers = (offset, *size, *stride)
    if metadata or len(size) > 64 or not all(type(n) is int and n >= 0 for n in numbers):
        raise ValueError("its pickle makes a tensor whose sizes are no sizes")
    count = held.data.nbytes() // held.dtype.itemsize
    last = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
    if math.prod(size) > count or (math.prod(size) and last >= count):
        raise ValueError(f"a tensor of shape {size!r:.80} in an array of {count} numbers")
    empty = torch.empty(0, dtype=held.dtype, device="cpu")
    return empty.set_(held.data, offset, size, stride)


def parameter(data: Tensor, requires_grad: bool, hooks: Any) -> Tensor:
    """What `torch._utils._rebuild_parameter` gives, as a plain tensor."""
    return data


def empty_dictionary() -> dict:
    """What `collections.OrderedDict()` gives."""
    return {}


CALLED = {
    "collections OrderedDict": empty_dictionary,
    "torch._utils _rebuild_tensor_v2": tensor,
    "torch._utils _rebuild_parameter": parameter,
}
NAMED = CALLED | {f"torch {name}Storage": dtype for name, dtype in STORAGES.items()}


def call(function: Any, arguments: Any) -> Any:
    """What a call in the file gives; functions of others give a stand-in."""
    if isinstance(function, Dropped):
        return Dropped()
    if not isinstance(function, FunctionType) or not isinstance(arguments, tuple):
        raise ValueError(f"its pickle calls {type(function).__name__}")
    return function(*arguments)


def put_in(items: list[Any], target: Any) -> None:
    """Append the items to a list, or set them in a dictionary: key, value, key, value, …"""
    if isinstance(target, list):
        target.extend(items)
    elif isinstance(target, dict):
        # Tuples within tuples, or well-chosen numbers, could take for ever to hash.
        numbers = [key for key in items[::2] if not isinstance(key, str | Dropped)]
        if not all(isinstance(key, int) and 0 <= key < 2**32 for key in numbers):
            raise ValueError("its pickle has keys that are no names")
        target.update(zip(items[::2], items[1::2], strict=True))
    elif not isinstance(target, Dropped):
        raise ValueError(f"its pickle puts something into {type(target).__name__}")


def follow(
    code: bytes, mapped: torch.UntypedStorage, places: dict[str, range]
) -> tuple[Any, list[str]]:
    """The object that a pickle describes, and the classes and functions of others that it names.

    mapped, places: the whole file, and which bytes of it are which array.
    Raises many kinds of errors for a damaged pickle, ValueError for what torch.save never writes.
    """
    stack: list[Any] = []
    marks: list[int] = []  # where groups of objects on the stack begin
    memo: dict[int, Any] = {}
    dropped: dict[str, Dropped] = {}

    def take(count: int | None) -> list[Any]:
        """Take the last `count` objects off the stack, or those since the last mark."""
        begin = marks.pop() if count is None else len(stack) - count
        taken = stack[begin:]
        del stack[begin:]
        return taken

    for opcode, argument, _ in pickletools.genops(code):
        name = opcode.name
        if name in LITERALS:
            stack.append(argument)
        elif name in CONSTANTS:
            stack.append(CONSTANTS[name])
        elif name in ("EMPTY_DICT", "EMPTY_LIST"):
            stack.append({} if name == "EMPTY_DICT" else [])
        elif name == "MARK":
            marks.append(len(stack))
        elif name in TUPLES:
            stack.append(tuple(take(TUPLES[name])))
        elif name in ("BINPUT", "LONG_BINPUT"):
            memo[argument] = stack[-1]
        elif name in ("BINGET", "LONG_BINGET"):
            stack.append(memo[argument])
        elif name in ITEMS:
            items = take(ITEMS[name])
            put_in(items, stack[-1])
        elif name == "GLOBAL":
            if len(argument) > 256 or not argument.isprintable():
                raise ValueError("its pickle has a name that is none")
            if argument not in NAMED:
                dropped.setdefault(argument, Dropped())
            stack.append(NAMED.get(argument) or dropped[argument])
        elif name == "BINPERSID":
            stack.append(storage(mapped, places, stack.pop()))
        elif name in ("REDUCE", "NEWOBJ"):
            stack.append(call(*take(2)))
        elif name == "BUILD":  # attributes of an object; torch's dictionaries have some, too
            del stack[-1]
            if not isinstance(stack[-1], dict | Dropped):
                raise ValueError(f"its pickle changes {type(stack[-1]).__name__}")
        elif name == "STOP":
            return stack.pop(), list(dropped)
        elif name != "PROTO":
            raise ValueError(f"its pickle has the opcode {name}")
    raise ValueError("its pickle has no end")
