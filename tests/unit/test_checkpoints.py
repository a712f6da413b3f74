"""Reading and writing checkpoints: strict, atomic, and with errors that name the file and the
field.
"""

import json
import shutil
from pathlib import Path

import msgpack
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from minidalle.checkpoints import flax, load_bart, load_vqgan, native
from minidalle.checkpoints.msgpack import read_index
from minidalle.vqgan import VQGAN, VQGANConfig

FIXTURES = Path(__file__).parents[1] / "fixtures"


@pytest.fixture
def mini(tmp_path):
    return Path(shutil.copytree(FIXTURES / "dalle_mini", tmp_path / "mini"))


@pytest.fixture
def ours(tmp_path):
    torch.manual_seed(0)
    native.save(tmp_path / "ours", vqgan=VQGAN(VQGANConfig.tiny()))
    return tmp_path / "ours"


def change_config(folder: Path, **changes) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_index_agrees_with_the_msgpack_library():
    """Our reader finds every array where the library finds it, byte for byte."""
    path = FIXTURES / "dalle_mini" / "flax_model.msgpack"

    def decode(code, data):
        shape, dtype, raw = msgpack.unpackb(data)
        return np.frombuffer(raw, dtype=dtype).reshape(shape)

    tree = msgpack.unpackb(path.read_bytes(), ext_hook=decode)
    index = read_index(path)

    def leaves(node, path=()):
        for name, value in node.items():
            if isinstance(value, dict):
                yield from leaves(value, (*path, name))
            else:
                yield (*path, name), value

    expected = dict(leaves(tree))
    assert index.keys() == expected.keys()
    for name, leaf in index.items():
        assert np.array_equal(leaf.read().numpy(), expected[name]), name
        if leaf.shape and leaf.shape[0] > 1:
            assert np.array_equal(leaf.read(1).numpy(), expected[name][1]), name


@pytest.mark.parametrize("tenth", range(10))
def test_truncated_flax_file_is_refused(mini, tenth):
    path = mini / "flax_model.msgpack"
    data = path.read_bytes()
    path.write_bytes(data[: len(data) * tenth // 10])
    with pytest.raises(ValueError, match=r"flax_model\.msgpack, byte"):
        load_bart(mini)


def test_bytes_after_the_end_are_refused(mini):
    with open(mini / "flax_model.msgpack", "ab") as file:
        file.write(b"more")
    with pytest.raises(ValueError, match="4 bytes follow"):
        load_bart(mini)


def test_a_claim_of_100_gb_allocates_nothing(mini):
    head = msgpack.packb([25_000_000_000]) + msgpack.packb("float32")
    payload = b"\x93" + head + b"\xc6\xff\xff\xff\xff" + b"tiny"
    (mini / "flax_model.msgpack").write_bytes(
        b"\x81" + msgpack.packb("a") + msgpack.packb(msgpack.ExtType(1, payload))
    )
    with pytest.raises(ValueError, match="needs 100000000000 bytes"):
        load_bart(mini)


def rewrite(folder: Path, change) -> None:
    """Change the fixture's parameter tree by a function on the nested dict."""
    path = folder / "flax_model.msgpack"
    tree = msgpack.unpackb(path.read_bytes(), ext_hook=msgpack.ExtType)
    change(tree)
    path.write_bytes(msgpack.packb(tree))


def test_a_missing_an_extra_and_a_misshapen_leaf_are_refused(mini):
    original = (mini / "flax_model.msgpack").read_bytes()
    rewrite(mini, lambda tree: tree["model"]["encoder"].pop("final_ln"))
    with pytest.raises(ValueError, match=r"1 parameters are missing: \['encoder.final_ln.bias'\]"):
        load_bart(mini)

    (mini / "flax_model.msgpack").write_bytes(original)
    rewrite(mini, lambda tree: tree.update(surplus=dict(tree["lm_head"])))
    with pytest.raises(ValueError, match=r"unexpected parameter 'surplus\.weight'"):
        load_bart(mini)

    (mini / "flax_model.msgpack").write_bytes(original)
    change_config(mini, encoder_vocab_size=605)
    with pytest.raises(
        ValueError, match=r"encoder.embed_tokens.weight has shape \(606, 64\).*\(605, 64\)"
    ):
        load_bart(mini)


@pytest.mark.parametrize(
    ("flag", "value"), [("use_head_scale", True), ("ln_positions", "preln"), ("use_bias", True)]
)
def test_flags_that_change_the_network_are_refused_by_name(mini, flag, value):
    change_config(mini, **{flag: value})
    with pytest.raises(ValueError, match=f"{flag} is {value!r}"):
        load_bart(mini)


def test_a_missing_config_field_is_named(mini):
    config = json.loads((mini / "config.json").read_text())
    del config["d_model"]
    (mini / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match="'d_model'"):
        load_bart(mini)


def test_unknown_folders_are_refused_with_what_was_found(tmp_path, mini):
    (tmp_path / "holiday.jpg").write_bytes(b"")
    with pytest.raises(ValueError, match=r"Looked for.*Found: holiday\.jpg"):
        load_bart(tmp_path)
    with pytest.raises(ValueError, match="no VQGAN"):
        load_vqgan(mini)
    with pytest.raises(FileNotFoundError, match="no such folder or file"):
        load_vqgan(tmp_path / "nowhere")


def test_native_round_trip(ours):
    vqgan = load_vqgan(ours)
    native.save(ours / "again", vqgan=vqgan)
    again = load_vqgan(ours / "again")
    assert again.config == vqgan.config and not again.training
    assert all(
        torch.equal(a, b) for a, b in zip(again.parameters(), vqgan.parameters(), strict=True)
    )


def test_native_refusals(ours):
    with pytest.raises(ValueError, match="holds no Bart"):
        load_bart(ours)
    weights = load_file(ours / "vqgan.safetensors")
    name = "decoder.conv_out.bias"

    save_file({k: v for k, v in weights.items() if k != name}, ours / "vqgan.safetensors")
    with pytest.raises(ValueError, match=r"1 parameters are missing: \['decoder.conv_out.bias'\]"):
        load_vqgan(ours)

    save_file(weights | {name: torch.zeros(5)}, ours / "vqgan.safetensors")
    with pytest.raises(ValueError, match=r"decoder.conv_out.bias has shape \(5,\)"):
        load_vqgan(ours)

    whole = (ours / "vqgan.safetensors").read_bytes()
    (ours / "vqgan.safetensors").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match="not a whole safetensors file"):
        load_vqgan(ours)

    (ours / "vqgan.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match=r"vqgan.safetensors: missing"):
        load_vqgan(ours)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "not valid JSON"),
        ("[1]", "expected a JSON object"),
        ('{"format": "minidalle", "version": 99}', "version is 99"),
        ('{"format": "minidalle", "version": 1, "vqgan": {"channels": 3}}', "unknown fields"),
    ],
)
def test_native_config_refusals(ours, text, message):
    (ours / "config.json").write_text(text)
    with pytest.raises(ValueError, match=message):
        load_vqgan(ours)


def test_a_failed_save_leaves_the_old_file(ours, monkeypatch):
    before = (ours / "vqgan.safetensors").read_bytes()

    def full_disk(tensors, path):
        Path(path).write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(native, "save_file", full_disk)
    with pytest.raises(OSError, match="No space left"):
        native.save(ours, vqgan=VQGAN(VQGANConfig.tiny()))
    assert (ours / "vqgan.safetensors").read_bytes() == before
    assert {path.name for path in ours.iterdir()} == {"config.json", "vqgan.safetensors"}


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_loading_casts(mini, dtype):
    assert load_bart(mini, dtype=dtype).lm_head.weight.dtype == getattr(torch, dtype)
    with pytest.raises(ValueError, match="float8"):
        load_bart(mini, dtype="float8")


def test_vqgan_names():
    assert (
        flax.vqgan_name(("decoder", "up_4", "attn_0", "norm", "scale"))
        == "decoder.up.4.attn.0.norm.weight"
    )
    assert (
        flax.vqgan_name(("encoder", "mid", "attn_1", "q", "kernel"))
        == "encoder.mid.attn_1.q.weight"
    )
    assert flax.vqgan_name(("quantize", "embedding", "embedding")) == "quantize.embedding.weight"
