"""Hostile files: whatever is in them, reading ends in a value or in one clear error.

Files of folders that load are spoiled in ways that hypothesis chooses. An error must be a
ValueError or an OSError of one printable line that names the file; nothing may crash or hang. The
worst files, made by hand in `hostile.py`, are read in a process with little memory and time.

    pytest -m slow tests/unit/test_fuzz.py    other examples each time, for some minutes
"""

import io
import json
import math
import pickletools
import subprocess
import sys
import tempfile
import zipfile
from functools import cache
from pathlib import Path

import hostile
import msgpack
import numpy as np
import pytest
from hostile import folders, judge, long, number, pack, text
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from minidalle.checkpoints.msgpack import read_index

CHECKS = list(HealthCheck)
FEW = settings(
    max_examples=120, deadline=None, derandomize=True, print_blob=True, suppress_health_check=CHECKS
)
MANY = settings(FEW, max_examples=1000, derandomize=False)

NUMBERS = [0, 1, 2, -1, 5, 127, 255, 2**15, 2**31 - 1, 2**32 - 1, 2**40, 2**63 - 1, 2**64 - 1]
ODD = [None, True, "", "a\nb\x1b", "\ud800", "<s>", "F4", 1.5, math.nan, math.inf, 10**400, b"1234"]
RAW = {"@deep": "[" * 5000 + "]" * 5000, "@deeper": "[" * 200_000, "@long": "9" * 5000}
YAML = {"@alias": "*a", "@self": "&a [*a, *a]", "@int": "!!int ''", "@time": "!!timestamp x"}
YAML |= {"@sixty": "1" + ":1" * 2000 + ".0", "@date": "2001-99-99", "@key": "{? [a] : b}"}
VALUE = st.recursive(
    st.sampled_from([*ODD, *RAW, *YAML, *NUMBERS]) | st.text(max_size=3),
    lambda v: st.lists(v, max_size=3) | st.dictionaries(st.text(max_size=3), v, max_size=3),
    max_leaves=5,
)
STEPS = st.lists(st.integers(0, 1000), min_size=1, max_size=4)
CHANGES = st.lists(st.tuples(STEPS, st.booleans(), VALUE), min_size=1, max_size=3)

PIECES = [opcode.code.encode("latin-1") for opcode in pickletools.opcodes]
PIECES += [*map(long, NUMBERS), text("storage"), text("0"), text("a\n"), b"h\0", b"h\x08"]
PIECES += [hostile.STORAGE, hostile.DICTIONARY, b"ctorch._utils\n_rebuild_tensor_v2\n"]
PIECES += [b"ctorch._utils\n_rebuild_parameter\n", b"cos\nsystem\n"]


# ---- Ways to spoil a file: a strategy, and the function that makes the file of what it chose ----


@cache
def meaningful(name: str, data: bytes) -> np.ndarray:
    """The places of bytes that are not the numbers of arrays."""
    mask = np.ones(len(data), bool)
    if name.endswith(".msgpack"):
        with tempfile.NamedTemporaryFile(mode="wb", buffering=0) as file:
            file.write(data)
            for leaf in read_index(Path(file.name)).values():
                mask[leaf.offset :][: math.prod(leaf.shape) * leaf.dtype.itemsize] = False
    elif name.endswith(".safetensors"):
        mask[8 + int.from_bytes(data[:8], "little") :] = False
    elif name.endswith((".pt", ".ckpt")):
        for entry in zipfile.ZipFile(io.BytesIO(data)).infolist():
            if "/data/" in entry.filename:
                mask[entry.header_offset + 128 :][: max(entry.file_size - 64, 0)] = False
    return np.flatnonzero(mask)


def bytes_of(name: str, data: bytes):
    """Any bytes changed, removed or put in, also pieces of the file and numbers at the limits."""

    def make(changes):
        changed, places = bytearray(data), meaningful(name, data)
        for place, removed, new in changes:
            if isinstance(new, tuple):
                start = int(places[new[0] % len(places)])
                new = changed[start : start + new[1]]
            at = int(places[place % len(places)])
            changed[at : at + (len(new) if removed is None else removed)] = new
        return bytes(changed)

    place = st.integers(0, 2**20)
    orders, widths = st.sampled_from(["little", "big"]), st.sampled_from([1, 2, 4, 8])
    numbers = st.builds(number, st.sampled_from(NUMBERS), widths, orders)
    new = st.one_of(st.binary(max_size=4), numbers, st.tuples(place, st.integers(1, 64)))
    edit = st.tuples(place, st.sampled_from([None, None, 0, 1, 8, 64, 2**30]), new)
    return st.lists(edit, min_size=1, max_size=4), make


def change(document, changes):
    """Put a value, or nothing, at some places of nested lists and dictionaries."""
    for steps, delete, value in changes:
        node = document
        for i, step in enumerate(steps):
            if not node:
                break
            key = list(range(len(node)) if isinstance(node, list) else node)[step % len(node)]
            if i < len(steps) - 1 and isinstance(node[key], dict | list):
                node = node[key]
                continue
            node[key] = value
            if delete:
                del node[key]
            break
    return document


def values_of(name: str, data: bytes):
    """Any value anywhere in JSON, in YAML (which JSON is), or in the head of safetensors."""
    start = 8 if name.endswith(".safetensors") else 0
    original, end = json.JSONDecoder().raw_decode(data[start:].decode("latin-1"))
    raw = RAW | YAML if name.endswith(".yaml") else RAW

    def make(changes):
        document = change(json.loads(json.dumps(original)), changes)
        content = json.dumps(document, default=bytes.decode)
        for mark, what in raw.items():
            content = content.replace(f'"{mark}"', what)
        head = content.encode()
        return number(len(head), 8) + head + data[start + end :] if start else head

    return CHANGES, make


def leaves_of(name: str, data: bytes):
    """Any value anywhere in a Flax file, also in the heads of its arrays."""

    def packed(node):
        if isinstance(node, dict):
            pairs = [msgpack.packb(key) + packed(value) for key, value in node.items()]
            return b"\xdf" + number(len(pairs), 4, "big") + b"".join(pairs)
        return msgpack.packb(msgpack.ExtType(1, msgpack.packb(node)))

    def make(changes):
        tree = msgpack.unpackb(data, ext_hook=lambda _, leaf: msgpack.unpackb(leaf))
        try:
            return packed(change(tree, changes))
        except (OverflowError, UnicodeEncodeError):
            return data  # msgpack has no such value

    return CHANGES, make


def opcodes_of(name: str, data: bytes):
    """Opcodes of the pickle left out, repeated and put in, or a pickle of nothing else."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        content = {entry.split("/", 1)[1]: archive.read(entry) for entry in archive.namelist()}
    arrays = {key[5:]: value for key, value in content.items() if key.startswith("data/")}
    code = content["data.pkl"]
    begins = [begin for _, _, begin in pickletools.genops(code)]
    original = [code[a:b] for a, b in zip(begins, [*begins[1:], None], strict=True)]

    def make(spoiled):
        alone, changes = spoiled
        pieces = [] if alone else list(original)
        for place, removed, new in changes:
            at = place % (min(len(pieces), 60) + 1)  # the other tensors say the same as the first
            pieces[at : at + removed] = original[new : new + 8] if isinstance(new, int) else new
        return pack(b"".join(pieces) + b"." * alone, arrays)

    new = st.lists(st.sampled_from(PIECES), max_size=3) | st.integers(0, 60)
    edit = st.tuples(st.integers(0, 60), st.integers(0, 2), new)
    return st.tuples(st.booleans(), st.lists(edit, min_size=1, max_size=8)), make


# ---- The tests ----

WAYS = [(bytes_of, folder, "") for folder in folders()] + [
    (values_of, "bart", ".json"),
    (values_of, "vqgan", ".json"),
    (values_of, "ours", ""),
    (values_of, "mini", ".json"),
    (values_of, "taming", ".yaml"),
    (values_of, "tokenizer", ".json"),
    (leaves_of, "bart", ".msgpack"),
    (leaves_of, "vqgan", ".msgpack"),
    (opcodes_of, "mini", "r.pt"),
    (opcodes_of, "detoker", ".pt"),
    (opcodes_of, "taming", ".ckpt"),
]


def fuzz(way, folder: str, ending: str, path: Path, how: settings) -> None:
    """Spoil the files of a folder that have this ending, one at a time, and read the folder."""
    originals, read = folders()[folder]
    for name, data in originals.items():
        (path / name).write_bytes(data)
    assert judge(read, path) == ""
    ways = {name: way(name, data) for name, data in originals.items() if name.endswith(ending)}

    @how
    @given(st.sampled_from(sorted(ways)).flatmap(lambda n: st.tuples(st.just(n), ways[n][0])))
    def spoil(chosen):
        name, spoiled = chosen
        (path / name).write_bytes(ways[name][1](spoiled))
        judge(read, path)
        (path / name).write_bytes(originals[name])

    spoil()


@pytest.mark.parametrize(("way", "folder", "ending"), WAYS)
def test_hostile_files(way, folder, ending, tmp_path):
    fuzz(way, folder, ending, tmp_path, FEW)


@pytest.mark.slow
@pytest.mark.parametrize(("way", "folder", "ending"), WAYS)
def test_many_more_hostile_files(way, folder, ending, tmp_path):
    fuzz(way, folder, ending, tmp_path, MANY)


@pytest.mark.skipif(sys.platform != "linux", reason="limits of memory and time as Linux has them")
def test_the_worst_files_are_refused_with_little_memory_and_time(tmp_path):
    """An error that says that memory ran out would mean that too much was asked for."""
    done = subprocess.run(
        [sys.executable, hostile.__file__, tmp_path], capture_output=True, text=True
    )
    said = dict(line.partition("\t")[::2] for line in done.stdout.splitlines())
    assert done.returncode == 0, f"{list(said)[-1:]} {done.stderr[-2000:]}"
    assert said.keys() == hostile.worst().keys()
    wrong = {name: m for name, m in said.items() if not m or "alloc" in m or "emory" in m}
    assert not wrong
