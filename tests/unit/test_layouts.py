"""Layouts besides ours and Flax's: how they are told apart, and what is refused."""

import json
import pickle
import shutil
import zipfile
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from minidalle import MiniDalle
from minidalle.bart import BartConfig
from minidalle.checkpoints import (
    files_to_fetch,
    flax,
    load_bart,
    load_clip,
    load_tokenizer,
    load_vqgan,
    native,
)
from minidalle.checkpoints.convert import convert, describe
from minidalle.checkpoints.torch_file import load_torch_file
from minidalle.clip import CLIP, CLIPConfig
from minidalle.vqgan import VQGAN, VQGANConfig

FIXTURES = Path(__file__).parents[1] / "fixtures"
MIN_DALLE = FIXTURES / "min_dalle"
FILES = ("encoder.pt", "decoder.pt", "vocab.json", "merges.txt", "config.json")


@pytest.fixture
def hub_folder(tmp_path):
    """min-dalle's files as its hub repository has them: mega, mini, detokenizer in one folder."""
    folder = tmp_path / "hub"
    folder.mkdir()
    for variant, suffix in (("mega", ""), ("mini", "_mini")):
        for name in FILES:
            stem, dot, kind = name.partition(".")
            shutil.copy(MIN_DALLE / variant / name, folder / f"{stem}{suffix}{dot}{kind}")
    shutil.copy(MIN_DALLE / "detoker.pt", folder)
    return folder


@pytest.fixture
def local_folder(tmp_path):
    """min-dalle's files as it leaves them in its models_root; it keeps no config there."""
    folder = tmp_path / "pretrained"
    for variant in ("mini", "mega"):
        shutil.copytree(MIN_DALLE / variant, folder / f"dalle_bart_{variant}")
    (folder / "vqgan").mkdir()
    shutil.copy(MIN_DALLE / "detoker.pt", folder / "vqgan")
    return folder


@pytest.fixture
def checkpoint(tmp_path):
    """taming's checkpoint under its own name, with its config as JSON."""
    shutil.copy(FIXTURES / "vqgan" / "taming_last.ckpt", tmp_path / "last.ckpt")
    shutil.copy(FIXTURES / "vqgan" / "config.json", tmp_path)
    return tmp_path / "last.ckpt"


def equal(left: torch.nn.Module, right: torch.nn.Module) -> bool:
    a, b = left.state_dict(), right.state_dict()
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize("arrangement", ["hub_folder", "local_folder"])
def test_both_arrangements_of_min_dalle(arrangement, request):
    folder = request.getfixturevalue(arrangement)
    with pytest.raises(ValueError, match=r"more than one Bart: mega .*mini .*variant="):
        load_bart(folder)
    with pytest.raises(ValueError, match="no Bart of variant 'huge'"):
        load_bart(folder, variant="huge")
    for variant, width in (("mini", 64), ("mega", 80)):
        bart = load_bart(folder, variant=variant)
        assert bart.config.d_model == width
        assert equal(bart, load_bart(MIN_DALLE / variant))
        assert load_tokenizer(folder, variant=variant).vocab_size == 607
    assert equal(load_vqgan(folder), load_vqgan(MIN_DALLE / "detoker.pt"))


def test_from_pretrained_draws_from_min_dalles_folder(hub_folder):
    model = MiniDalle.from_pretrained(hub_folder, variant="mini")
    result = model.generate("a cat", n=2, seed=3)
    assert model.sampling.condition_scale == 10 and len(result.images) == 2
    assert result.images[0].size == (64, 64)
    with pytest.raises(ValueError, match="has no encoder"):
        model.encode(result.images[0])
    # The same weights in Flax's layout, but for rounding to half precision, draw the same tokens.
    flax = MiniDalle.from_pretrained(FIXTURES / "dalle_mini", vqgan=FIXTURES / "vqgan")
    greedy = {"temperature": 0, "condition_scale": 10.0}
    assert torch.equal(
        model.generate("a cat", n=1, **greedy).tokens, flax.generate("a cat", n=1, **greedy).tokens
    )


def test_a_local_folder_without_config_must_be_a_published_model(local_folder):
    (local_folder / "dalle_bart_mini" / "config.json").unlink()
    with pytest.raises(ValueError, match=r"no config.json beside it, and d_model 64 is neither"):
        load_bart(local_folder / "dalle_bart_mini")


def test_a_config_that_names_something_else_is_refused(hub_folder):
    path = hub_folder / "config_mini.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"use_head_scale": True}))
    with pytest.raises(ValueError, match="use_head_scale is True"):
        load_bart(hub_folder, variant="mini")
    load_bart(hub_folder, variant="mega")


def test_swapped_files_are_refused(hub_folder):
    (hub_folder / "encoder_mini.pt").replace(hub_folder / "encoder.pt")
    shutil.copy(hub_folder / "encoder.pt", hub_folder / "encoder_mini.pt")
    with pytest.raises(ValueError, match=r"has shape \(64,\), the config asks for \(80,\)"):
        load_bart(hub_folder, variant="mega")


def test_two_layouts_at_once_are_refused_unless_variant_decides(hub_folder):
    for name in ("config.json", "flax_model.msgpack"):
        shutil.copy(FIXTURES / "dalle_mini" / name, hub_folder)
    with pytest.raises(ValueError, match="more than one Bart: flax "):
        load_bart(hub_folder)
    assert load_bart(hub_folder, variant="flax").config.d_model == 64
    assert load_bart(hub_folder, variant="mini").config.d_model == 64


def test_a_weights_file_stands_for_the_part_it_belongs_to(hub_folder):
    assert load_bart(hub_folder / "decoder_mini.pt").config.d_model == 64
    assert load_bart(FIXTURES / "dalle_mini" / "flax_model.msgpack").config.d_model == 64
    with pytest.raises(ValueError, match=r"vocab.json holds no Bart"):
        load_bart(hub_folder / "vocab.json")


def test_taming_with_json_yaml_or_no_config(checkpoint):
    from_json = load_vqgan(checkpoint.parent)
    assert equal(from_json, load_vqgan(checkpoint))
    config = json.loads((checkpoint.parent / "config.json").read_text())
    (checkpoint.parent / "config.json").unlink()
    with pytest.raises(ValueError, match="the config asks for"):  # for f16-16384's shapes
        load_vqgan(checkpoint)

    listed = "".join(
        f"      {name}: {json.dumps(value)}\n"
        for name, value in config.items()
        if name not in ("n_embed", "embed_dim", "model_type", "architectures")
    )
    yaml = (
        "model:\n  base_learning_rate: 4.5e-6\n  target: taming.models.vqgan.VQModel\n  params:\n"
        f"    embed_dim: {config['embed_dim']}\n    n_embed: {config['n_embed']}\n"
        f"    ddconfig:\n{listed}"
    )
    path = checkpoint.parent / "model.yaml"
    path.write_text(yaml)
    assert equal(load_vqgan(checkpoint), from_json)
    path.write_text(yaml.replace("VQModel", "GumbelVQ"))
    with pytest.raises(ValueError, match=r"target is 'taming.models.vqgan.GumbelVQ'"):
        load_vqgan(checkpoint)
    path.write_text("model: [unclosed")
    with pytest.raises(ValueError, match="not valid YAML"):
        load_vqgan(checkpoint)
    path.write_text("model: {}")
    with pytest.raises(ValueError, match="not a config of taming's"):
        load_vqgan(checkpoint)
    (checkpoint.parent / "other.yaml").write_text(yaml)
    with pytest.raises(ValueError, match=r"model.yaml, other.yaml\?"):
        load_vqgan(checkpoint)


class Callback:
    """What a Lightning checkpoint holds besides tensors: an object of some package's class."""

    def __init__(self, path):
        self.path = path


class Bomb:
    """Pickles as a call that leaves a trace."""

    def __init__(self, trace: Path):
        self.trace = trace

    def __reduce__(self):
        return (shutil.copy, (__file__, str(self.trace)))


def test_pickled_classes_are_named_refused_and_dropped_on_demand(checkpoint):
    state = torch.load(checkpoint, weights_only=True)
    state |= {"callbacks": {Callback: Callback("best.ckpt")}, "epoch": 3}
    torch.save(state, checkpoint)
    plain = load_vqgan(FIXTURES / "vqgan")
    with pytest.raises(ValueError, match=r"test_layouts Callback.*--drop-classes"):
        load_vqgan(checkpoint)
    convert(checkpoint, checkpoint.parent / "ours", drop_classes=True)
    assert equal(load_vqgan(checkpoint.parent / "ours"), plain)


@pytest.mark.parametrize("drop_classes", [False, True])
@pytest.mark.parametrize("suffix", [".pt", ".ckpt"])
def test_a_pickle_bomb_does_not_go_off(tmp_path, suffix, drop_classes):
    trace, path = tmp_path / "trace", tmp_path / f"last{suffix}"
    torch.save({"state_dict": {"a": torch.zeros(2)}, "bomb": Bomb(trace)}, path)
    if drop_classes:  # in the bomb's place there is something that does nothing
        assert set(load_torch_file(path, drop_classes=True)) == {"state_dict", "bomb"}
    else:
        with pytest.raises(ValueError, match="loading these would run code"):
            load_torch_file(path)
    assert not trace.exists()
    torch.load(path, weights_only=False)  # the bomb is real
    assert trace.exists()


def test_a_bomb_in_os_system_is_never_run(tmp_path):
    code = b"\x80\x02cos\nsystem\nX\x06\x00\x00\x00exit 1\x85R."
    with zipfile.ZipFile(tmp_path / "last.ckpt", "w") as archive:
        archive.writestr("last/data.pkl", code)
        archive.writestr("last/version", "3")
    with pytest.raises(ValueError, match="os system"):
        load_vqgan(tmp_path)
    with pytest.raises(ValueError, match="that torch can load: ") as error:
        load_torch_file(tmp_path / "last.ckpt", drop_classes=True)
    assert "weights_only" not in str(error.value)  # torch would advise to run it


def test_memory_bombs_are_refused_before_they_are_unpacked(tmp_path):
    path = tmp_path / "last.ckpt"
    claim = b"\x80\x02c__builtin__\nbytearray\n\x8a\x05\x00\xe8\x76\x48\x17\x85R."  # 10¹¹ bytes
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("last/data.pkl", claim)
    with pytest.raises(ValueError, match="bytearray"):
        load_torch_file(path)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("last/data.pkl", b"\x80\x02]" + b"N" * 10_000_000)
    with pytest.raises(ValueError, match="compressed"):
        load_torch_file(path)


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", pickle.dumps({"a": 1}), b"\x00" * 1000])
def test_what_is_no_torch_file_is_refused(tmp_path, content):
    (tmp_path / "last.ckpt").write_bytes(content)
    with pytest.raises(ValueError, match=r"not a whole file of torch\.save"):
        load_vqgan(tmp_path)


@pytest.mark.parametrize("tenth", range(10))
def test_truncated_torch_files_are_refused(hub_folder, checkpoint, tenth):
    for path, load in ((hub_folder / "encoder_mini.pt", load_bart), (checkpoint, load_vqgan)):
        data = path.read_bytes()
        path.write_bytes(data[: len(data) * tenth // 10])
        with pytest.raises(ValueError, match=f"{path.name}: not a whole file of torch.save"):
            load(path)


@pytest.mark.parametrize(
    "state",
    [[1], {"state_dict": [1]}, {"state_dict": {"a": 1}}, {"state_dict": {1: torch.zeros(1)}}, {}],
)
def test_a_torch_file_that_holds_something_else(checkpoint, state):
    torch.save(state, checkpoint)
    with pytest.raises(ValueError, match="state_dict"):
        load_vqgan(checkpoint)


def test_whole_numbers_are_no_weights(checkpoint):
    state = torch.load(checkpoint, weights_only=True)["state_dict"]
    name = next(iter(state))
    torch.save({"state_dict": state | {name: torch.ones(state[name].shape).long()}}, checkpoint)
    with pytest.raises(ValueError, match=f"{name} is torch.int64"):
        load_vqgan(checkpoint)


def test_decoder_only_vqgan_round_trip(tmp_path):
    convert(MIN_DALLE / "detoker.pt", tmp_path / "ours")
    vqgan = load_vqgan(tmp_path / "ours")
    assert not vqgan.config.encoder and equal(vqgan, load_vqgan(MIN_DALLE))
    with pytest.raises(ValueError, match="has no encoder"):
        vqgan.encode(torch.zeros(1, 3, 64, 64))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_convert_writes_the_whole_model(tmp_path, dtype):
    convert(FIXTURES / "dalle_mini", tmp_path / "ours", vqgan=FIXTURES / "vqgan", dtype=dtype)
    ours = MiniDalle.from_pretrained(tmp_path / "ours")
    published = MiniDalle.from_pretrained(FIXTURES / "dalle_mini", vqgan=FIXTURES / "vqgan")
    assert equal(ours.bart, published.bart.to(dtype).float())
    assert equal(ours.vqgan, published.vqgan.to(dtype).float())
    assert ours.sampling == published.sampling
    assert ours.tokenizer.encode("a cat") == published.tokenizer.encode("a cat")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["ours"]
    with pytest.raises(FileExistsError, match="is there already"):
        convert(FIXTURES / "dalle_mini", tmp_path / "ours")


def test_convert_keeps_the_word_list_and_hashtags_are_read_by_it(tmp_path):
    source = Path(shutil.copytree(FIXTURES / "dalle_mini", tmp_path / "mini"))
    shutil.copy(FIXTURES / "text_normalizer" / native.WORD_LIST, source)
    with_list = MiniDalle.from_pretrained(source, vqgan=FIXTURES / "vqgan")
    convert(source, tmp_path / "ours", vqgan=FIXTURES / "vqgan")
    again = MiniDalle.from_pretrained(tmp_path / "ours")
    without = MiniDalle.from_pretrained(FIXTURES / "dalle_mini", vqgan=FIXTURES / "vqgan")
    texts = [model.normalizer("#newyorkcity") for model in (with_list, again, without)]
    assert texts == [" new york city", " new york city", " newyorkcity"]


def test_a_failed_conversion_leaves_nothing(tmp_path, monkeypatch):
    def full_disk(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(native, "save_file", full_disk)
    with pytest.raises(OSError, match="No space left"):
        convert(FIXTURES / "vqgan", tmp_path / "ours")
    assert not list(tmp_path.iterdir())


def test_describe_reads_no_weights(monkeypatch):
    monkeypatch.setattr(flax.Leaf, "read", None)
    found = describe(FIXTURES / "dalle_mini")
    assert found["parts"]["bart"]["parameters"] == 287_826
    assert found["parts"]["bart"]["layout"] == "flax" and found["text_tokens"] == 607
    assert found["parts"]["bart"]["precision"] == "float32"
    [size] = found["parts"]["bart"]["files"].values()
    assert size == (FIXTURES / "dalle_mini" / "flax_model.msgpack").stat().st_size
    both = describe(hub := MIN_DALLE / "mini")
    assert both["parts"].keys() == {"bart"} and both["path"] == str(hub)
    row = found["memory"][0]
    assert (row["dtype"], row["n"], row["weights"]) == ("float32", 1, 4 * 287_826)


def test_a_file_without_arrays_is_refused(tmp_path):
    """By name, in a layout with an index and in one without."""
    shutil.copy(FIXTURES / "dalle_mini" / "config.json", tmp_path)
    (tmp_path / "flax_model.msgpack").write_bytes(b"\x80")  # an empty map
    with pytest.raises(ValueError, match=r"flax_model\.msgpack"):
        describe(tmp_path)
    native.save(tmp_path / "ours", vqgan=VQGAN(VQGANConfig.tiny()))
    save_file({}, tmp_path / "ours" / "vqgan.safetensors")
    with pytest.raises(ValueError, match=r"vqgan\.safetensors"):
        describe(tmp_path / "ours")


def test_a_bart_without_its_vqgan_asks_for_it(tmp_path):
    with pytest.raises(ValueError, match=r"not a pair; say where Bart's own VQGAN is, by vqgan="):
        MiniDalle.from_pretrained(FIXTURES / "dalle_mini")


def test_a_tokenizer_of_another_vocabulary_is_refused(tmp_path):
    folder = Path(shutil.copytree(FIXTURES / "dalle_mini", tmp_path / "mini"))
    embedded = Path(__file__).parents[2] / "minidalle/pretrained/emoji"
    shutil.copy(embedded / "tokenizer.json", folder)
    with pytest.raises(ValueError, match=r"tokens, Bart's text embedding 606 rows"):
        MiniDalle.from_pretrained(folder, vqgan=FIXTURES / "vqgan")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"d_model": "64"}, "d_model is '64', expected int"),
        ({"d_model": True}, "d_model is True, expected int"),
        ({"encoder_layers": 10**9}, "encoder_layers is 1000000000"),
        ({"encoder_layers": 0}, "encoder_layers is 0"),
        ({"encoder_vocab_size": 10**15}, "encoder_vocab_size"),
        ({"dropout": None}, "dropout is None, expected float"),
        ({"decoder_attention_heads": 3}, "decoder_attention_heads is 3; it must divide"),
        ({"sinkhorn_iters": 2}, "sinkhorn_iters is 2"),
    ],
)
def test_impossible_configs_are_refused_by_field(tmp_path, changes, words):
    folder = Path(shutil.copytree(FIXTURES / "dalle_mini", tmp_path / "mini"))
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    with pytest.raises(ValueError, match=words) as error:
        load_bart(folder)
    assert "config.json" in str(error.value) and "\n" not in str(error.value)


def test_configs_that_are_no_configs(tmp_path):
    folder = Path(shutil.copytree(FIXTURES / "vqgan", tmp_path / "vqgan"))
    for content in ("[" * 100_000, " " * 2_000_000, '{"n_embed": 1e400}', "\ud800"):
        (folder / "config.json").write_bytes(content.encode("utf-8", "surrogatepass"))
        with pytest.raises(ValueError, match=r"config\.json"):
            load_vqgan(folder)


def test_published_configs_are_ours():
    """The fixtures' configs differ from the published ones in size only; the flags are the same."""
    assert BartConfig.mini().encoder_vocab_size == 50264
    assert VQGANConfig.f16_16384().image_length == 256
    with torch.device("meta"):
        half = VQGAN(VQGANConfig(encoder=False))
    assert sum(p.numel() for p in half.parameters()) == 46_709_891  # of min-dalle's detoker.pt


@pytest.mark.parametrize(
    ("names", "variant", "wanted"),
    [
        (
            ["README.md", "config.json", "flax_model.msgpack", "tokenizer.json", "vocab.json"],
            None,
            ["config.json", "flax_model.msgpack", "tokenizer.json", "vocab.json"],
        ),
        (
            ["encoder.pt", "encoder_mini.pt", "decoder_mini.pt", "detoker.pt", "vocab_mini.json"],
            "mini",
            ["encoder_mini.pt", "decoder_mini.pt", "vocab_mini.json", "detoker.pt"],
        ),
        (["config.json", "vqgan.safetensors"], None, ["config.json", "vqgan.safetensors"]),
    ],
)
def test_only_what_loading_needs_is_fetched(names, variant, wanted):
    assert files_to_fetch(names, variant) == wanted


def test_what_is_not_fetched():
    with pytest.raises(ValueError, match=r"mega and mini; choose by variant="):
        files_to_fetch(["encoder.pt", "encoder_mini.pt"])
    with pytest.raises(ValueError, match=r"no known layout; found model.bin"):
        files_to_fetch(["model.bin"])


def test_convert_and_info_keep_a_clip(tmp_path):
    torch.manual_seed(0)
    native.save(tmp_path / "ours", vqgan=VQGAN(VQGANConfig.tiny()), clip=CLIP(CLIPConfig.tiny()))
    assert describe(tmp_path / "ours")["parts"].keys() == {"vqgan", "clip"}
    convert(tmp_path / "ours", tmp_path / "half", dtype=torch.float16)
    before, after = (load_clip(tmp_path / name) for name in ("ours", "half"))
    assert equal(after, before.half().float())


def test_a_converted_min_dalle_draws_what_it_drew(hub_folder, tmp_path):
    """The detokenizer does not say how large its pictures are: the Bart beside it does."""
    convert(hub_folder, tmp_path / "beside", variant="mini")
    convert(MIN_DALLE / "mini", tmp_path / "apart", vqgan=MIN_DALLE)
    expected = MiniDalle.from_pretrained(hub_folder, variant="mini").generate("a cat", seed=3)
    for name in ("beside", "apart"):
        drawn = MiniDalle.from_pretrained(tmp_path / name).generate("a cat", seed=3)
        assert torch.equal(drawn.tokens, expected.tokens)
        assert drawn.images[0].tobytes() == expected.images[0].tobytes()
