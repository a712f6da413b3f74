"""Folders that load, for `test_fuzz.py` to spoil, and the worst files, made by hand.

Run as a program this reads the worst files, in a process that has little memory and time.
"""

import io
import json
import pickle
import sys
import tempfile
import warnings
import zipfile
from dataclasses import asdict
from functools import cache
from pathlib import Path

import msgpack
import numpy as np
import torch
from PIL import Image

from minidalle.bart import Bart, BartConfig
from minidalle.checkpoints import flax, load_bart, load_tokenizer, load_vqgan, native, taming
from minidalle.checkpoints.torch_file import load_torch_file
from minidalle.pictures import open_picture, read_metadata, write_picture
from minidalle.vqgan import VQGAN, VQGANConfig

FIXTURES = Path(__file__).parents[1] / "fixtures"


def judge(read, path: Path) -> str:
    """What came of reading: "" or the error; fails for any error that is not as it should be."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            read(path)
            return ""
        except (ValueError, OSError) as error:
            message = str(error)
    assert str(path) in message and message.isprintable() and len(message) < 2000, message
    return message


# ---- Folders that load, and what reads them ----


def files(folder: str, *names: str) -> dict[str, bytes]:
    return {name: (FIXTURES / folder / name).read_bytes() for name in names}


def saved(document) -> bytes:
    torch.save(document, file := io.BytesIO())
    return file.getvalue()


def read_tokenizer(folder: Path) -> None:
    tokenizer = load_tokenizer(folder)
    tokenizer.decode(tokenizer.encode("A <mask> café, 12 кота 🎉"))


def read_vqgan(folder: Path) -> None:
    """The file alone; the network that belongs to it takes too long to build often."""
    flax.vqgan_config(folder / "config.json")
    list(flax.read_vqgan(folder / flax.WEIGHTS))


def read_taming(folder: Path) -> None:
    """First every number of what the config would refuse by its name."""
    document = load_torch_file(folder / "last.ckpt", drop_classes=True)
    state = document.get("state_dict") if isinstance(document, dict) else None
    for value in state.values() if isinstance(state, dict) else []:
        if isinstance(value, torch.Tensor):
            value.double().sum()
    load_vqgan(folder)


def read_pictures(folder: Path) -> None:
    for path in folder.iterdir():
        judge(open_picture, path)
        judge(read_metadata, path)


@cache
def folders() -> dict:
    """Name -> the files of a folder, and the function that reads it."""
    torch.manual_seed(0)
    bart = Bart(BartConfig(2, 1, 1, 1, 1, 2, 2, 607, 4, 3, 4, 4))
    vqgan = VQGAN(VQGANConfig(32, (1,), 1, (), resolution=2, z_channels=1, embed_dim=1, n_embed=2))
    state = vqgan.half().state_dict()
    drawing = {name: v for name, v in state.items() if name.startswith(("decoder", "post_quant"))}
    drawing["embedding.weight"] = state["quantize.embedding.weight"]
    shape = {"ddconfig": asdict(vqgan.config), "n_embed": 2, "embed_dim": 1}
    config = json.dumps({"model": {"target": taming.TARGET, "params": shape}}).encode()
    pixels = Image.fromarray(np.random.default_rng(0).integers(0, 256, (8, 8, 3), np.uint8))
    with tempfile.TemporaryDirectory() as folder:
        native.save(folder, bart=bart, tokenizer=load_tokenizer(FIXTURES / "tokenizer"))
        ours = {path.name: path.read_bytes() for path in Path(folder).iterdir()}
        write_picture(pixels, path := Path(folder) / "p.png", {"prompt": "a cat"})
        pictures = {path.name: path.read_bytes()}
    for kind in ("JPEG", "WEBP", "GIF", "BMP", "TIFF"):
        pixels.save(file := io.BytesIO(), kind)
        pictures[kind] = file.getvalue()
    half = ("config.json", "encoder.pt", "decoder.pt", "vocab.json", "merges.txt")
    return {
        "bart": (files("dalle_mini", "config.json", flax.WEIGHTS), load_bart),
        "vqgan": (files("vqgan", "config.json", flax.WEIGHTS), read_vqgan),
        "ours": (ours, lambda f: (native.load_sampling(f), load_bart(f), read_tokenizer(f))),
        "mini": (files("min_dalle/mini", *half), lambda f: (load_bart(f), read_tokenizer(f))),
        "detoker": ({"detoker.pt": saved(drawing)}, lambda f: load_vqgan(f, image_length=4)),
        "taming": ({"last.ckpt": saved({"state_dict": state}), "a.yaml": config}, read_taming),
        "tokenizer": (files("tokenizer", "tokenizer.json"), read_tokenizer),
        "vocab": (files("tokenizer", *half[3:]), read_tokenizer),
        "pictures": (pictures, read_pictures),
    }


# ---- Files of torch.save, from opcodes ----

STORAGE = b"ctorch\nFloatStorage\n"
DICTIONARY = b"ccollections\nOrderedDict\n"


def number(value: int, width: int, order: str = "little") -> bytes:
    return (value % 256**width).to_bytes(width, order)


def long(value: int) -> bytes:
    data = pickle.encode_long(value)
    return b"\x8a" + bytes([len(data)]) + data


def text(value: str) -> bytes:
    return b"X" + number(len(value), 4) + value.encode()


def tensor(size: bytes, stride: bytes = b")", offset: int = 0, count: int = 16) -> bytes:
    """Opcodes for a tensor in array "0", of 16 numbers; `size` and `stride` are opcodes, too."""
    array = b"(" + text("storage") + STORAGE + text("0") + text("cpu") + long(count) + b"tQ"
    rest = long(offset) + size + stride + b"\x89NtR"
    return b"ctorch._utils\n_rebuild_tensor_v2\n(" + array + rest


def row(*sizes: int) -> bytes:
    return b"(" + b"".join(map(long, sizes)) + b"t"


def doubled(first: bytes, join: bytes) -> bytes:
    """Opcodes for an object that holds one twice, which holds one twice, …, 60 deep."""
    return first + b"q\0" + b"".join(b"h%c" % i + join + b"q%c" % (i + 1) for i in range(60))


def pack(code: bytes, arrays: dict[str, bytes], compression: int = zipfile.ZIP_STORED) -> bytes:
    """An archive as torch.save writes it, with the arrays aligned."""
    entries = {"data.pkl": code, "version": b"3\n"}
    entries |= {f"data/{key}": array for key, array in arrays.items()}
    with zipfile.ZipFile(file := io.BytesIO(), "w") as archive:
        for name, data in entries.items():
            info = zipfile.ZipInfo(f"a/{name}")
            padding = -(file.tell() + 30 + len(info.filename) + 4) % 64
            info.extra = b"FB" + number(padding, 2) + bytes(padding)
            archive.writestr(info, data, compression)
    return file.getvalue()


# ---- The worst files ----


def flax_file(*leaf, key: str = "a") -> tuple[str, str, bytes]:
    array = msgpack.ExtType(1, msgpack.packb(leaf))
    return "bart", flax.WEIGHTS, msgpack.packb({key: {"kernel": array}})


def json_file(folder: str, change: dict) -> tuple[str, str, bytes]:
    config = json.loads(folders()[folder][0]["config.json"]) | change
    return folder, "config.json", json.dumps(config).encode()


def yaml_file(*lines: str, ch: str = "1") -> tuple[str, str, bytes]:
    params = f"model: {{params: {{embed_dim: 1, n_embed: 2, ddconfig: {{ch: {ch}}}}}}}"
    return "taming", "a.yaml", "\n".join([*lines, params]).encode()


def safetensors_file(head: bytes, claimed: int) -> tuple[str, str, bytes]:
    return "ours", "bart.safetensors", number(claimed, 8) + head


def torch_file(state: bytes) -> tuple[str, str, bytes]:
    code = b"\x80\x02}" + text("state_dict") + state + b"s."
    return "taming", "last.ckpt", pack(code, {"0": bytes(64)})


def torch_value(value: bytes) -> tuple[str, str, bytes]:
    return torch_file(b"}" + text("a") + value + b"s")


def worst() -> dict[str, tuple[str, str, bytes]]:
    """What a file attacks -> a folder that loads, the file in it that is hostile, its bytes."""
    huge = dict.fromkeys(("d_model", "encoder_ffn_dim", "encoder_vocab_size"), 2**20)
    hundred = b'{"a":{"dtype":"F32","shape":[25000000000],"data_offsets":[0,100000000000]}}'
    lists = ["a0: &a0 [1]", *(f"a{i}: &a{i} [*a{i - 1}, *a{i - 1}]" for i in range(1, 61))]
    merges = [
        "a0: &a0 {x: 1}",
        *(f"a{i}: &a{i} {{<<: [*a{i - 1}, *a{i - 1}]}}" for i in range(1, 61)),
    ]
    endless = folders()["taming"][0]["a.yaml"].decode().replace("[1]", "[1000000000]")
    alike = b"".join(long(i * (2**61 - 1)) + b"N" for i in range(200_000))
    joined = doubled(b")", b"\x86")
    entry = b"(" + text("storage") + STORAGE + joined + b"NNtQ"
    return {
        "100 GB are claimed for an array": flax_file([25 * 10**9], "float32", b""),
        "an array without numbers, of shape 2**64": flax_file([2**64 - 1, 0], "float32", b""),
        "a dtype that no dictionary can look up": flax_file([1], ["float32"], b"1234"),
        "a shape of truth values": flax_file([True], "float32", b"1234"),
        "a kernel without axes": flax_file([], "float32", b"1234"),
        "a shape whose product has 1,000 digits": flax_file([2**64 - 1] * 50, "float32", b""),
        "a key that acts on a terminal": flax_file([2], "float32", b"1234", key="\x1b[2J\n"),
        "a map of 2**32 maps": ("bart", flax.WEIGHTS, b"\xdf" + b"\xff" * 4 + b"\xa0\x80" * 10**6),
        "maps 100,000 deep": ("bart", flax.WEIGHTS, b"\x81\xa0" * 10**5),
        "a network of 170 TB": json_file("bart", huge),
        "a network that torch cannot count": ("taming", "a.yaml", endless.encode()),
        "a network of 1,024 layers": json_file("bart", {"encoder_layers": 1024}),
        "a number beyond all floats": json_file("ours", {"sampling": {"temperature": 10**400}}),
        "lists 10**6 deep in JSON": ("bart", "config.json", b"[" * 10**6),
        "YAML that doubles when printed": yaml_file(*lists, ch="*a60"),
        "YAML that doubles when read": yaml_file(*merges),
        "YAML of 10**6 numbers": yaml_file("a: [" + "1," * 10**6 + "]"),
        "lists 30,000 deep in YAML": yaml_file("a: " + "[" * 30_000),
        "YAML's numbers to the base of 60": yaml_file(ch="1" + ":1" * 30_000 + ".0"),
        "YAML that calls": yaml_file(ch="!!python/object/apply:os.system [exit 1]"),
        "a head of 2**63 bytes": safetensors_file(b"{}", 2**63),
        "100 GB are claimed in a head": safetensors_file(hundred, len(hundred)),
        "lists 10**7 deep in a tokenizer": ("tokenizer", "tokenizer.json", b"[" * 10**7),
        "10**7 lists in a tokenizer": ("tokenizer", "tokenizer.json", b"[" + b"[]," * 10**7),
        "a tensor of 2**60 numbers in 16": torch_value(tensor(row(2**60), row(0))),
        "a tensor before its array": torch_value(tensor(row(2), row(-1))),
        "a tensor behind its array": torch_value(tensor(row(2), row(2**62))),
        "a number at the end of memory": torch_value(tensor(b")", b")", offset=2**63 - 1)),
        "a tensor of 5,000 axes": torch_value(tensor(row(*[1] * 5000), row(*[1] * 5000))),
        "an array longer than the file": torch_value(tensor(b")", count=2**40)),
        "a tensor for a call's arguments": torch_value(DICTIONARY + tensor(row(16), row(1)) + b"R"),
        "a shape that doubles when printed": torch_value(tensor(joined)),
        "a function that doubles when printed": torch_value(joined + b")R"),
        "a key that takes for ever to hash": torch_file(b"}" + joined + b"Ns"),
        "an array's key, likewise": torch_value(entry),
        "keys that all hash alike": torch_value(b"}(" + alike + b"u"),
        "a dictionary with a method of its own": torch_file(
            DICTIONARY + b")R}" + text("items") + b"Nsb"
        ),
        "4 GB are claimed for a text": torch_value(b"X\xff\xff\xff\xff"),
        "a pickle of 10**7 lists": torch_value(b"]" * 10**7),
        "a pickle that is compressed": ("taming", "last.ckpt", pack(b"]" * 10**7, {}, 8)),
    }


def read_worst(folder: Path) -> None:
    """Prints a line for each: what it attacks, a tab, and the error."""
    for i, (name, (base, file, data)) in enumerate(worst().items()):
        print(name, end="\t", flush=True)
        (here := folder / str(i)).mkdir()
        originals, read = folders()[base]
        for original, content in {**originals, file: data}.items():
            (here / original).write_bytes(content)
        print(judge(read, here), flush=True)


if __name__ == "__main__":
    import resource

    held = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (held + 2**30, held + 2**30))
    resource.setrlimit(resource.RLIMIT_CPU, (60, 60))
    read_worst(Path(sys.argv[1]))
