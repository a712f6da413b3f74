"""The published sizes: results, memory, and loading time, on random weights of those sizes.

    pytest -m full                    everything but mega: 5 GB of disk, two minutes
    pytest -m "full and slow"         mega as well: 20 GB of disk, ten minutes

The checkpoints are made when they are first needed, in a temporary folder. The expected values were
computed by the reference implementations from the same random weights. Tolerance: 1e-3 absolute,
for sums over a thousand channels in another order.
"""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from minidalle.checkpoints import load_bart, load_vqgan

HERE = Path(__file__).parents[1]
EXPECTED = HERE / "fixtures" / "full_expected"
GiB = 2**30

pytestmark = pytest.mark.full


def make(tmp_path_factory, name: str) -> Path:
    folder = tmp_path_factory.mktemp("full")
    script = HERE / "make_full_checkpoint.py"
    subprocess.run([sys.executable, script, folder, name], check=True)
    return next(folder.iterdir())


@pytest.fixture(scope="module")
def mini(tmp_path_factory):
    return make(tmp_path_factory, "mini")


@pytest.fixture(scope="module")
def mega(tmp_path_factory):
    return make(tmp_path_factory, "mega")


@pytest.fixture(scope="module")
def vqgan_folder(tmp_path_factory):
    return make(tmp_path_factory, "vqgan")


def close(actual: torch.Tensor, expected: np.ndarray, atol: float = 1e-3) -> None:
    torch.testing.assert_close(actual.float(), torch.from_numpy(expected), atol=atol, rtol=0)


def peak(*arguments: object) -> dict:
    """What `minidalle.bench` measures of loading or converting, in a process of its own."""
    command = [sys.executable, "-m", "minidalle", "bench", *map(str, arguments), "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


@torch.no_grad()
def test_bart(mini):
    expected = np.load(EXPECTED / "dalle_mini_expected.npz")
    ids, mask, inputs = (
        torch.from_numpy(expected[name]).long()
        for name in ("input_ids", "attention_mask", "decoder_input_ids")
    )
    bart = load_bart(mini)
    memory = bart.encode(ids, mask)
    close(memory, expected["encoder_last_hidden_state"])
    logits = bart.decode(inputs, memory, mask)
    close(logits, expected["decoder_logits"])
    # bfloat16 keeps 8 bits: logits may be off by 3 % of their spread.
    half = load_bart(mini, dtype="bfloat16")
    rough = half.decode(inputs, half.encode(ids, mask), mask).float()
    assert (rough - logits).std() < 0.03 * logits.std()


@torch.no_grad()
def test_vqgan(vqgan_folder):
    expected = np.load(EXPECTED / "vqgan_expected.npz")
    vqgan = load_vqgan(vqgan_folder)
    image = torch.from_numpy(expected["image"]).permute(0, 3, 1, 2)
    ids = vqgan.encode(image)
    assert np.array_equal(ids, expected["indices"])
    side = vqgan.config.latent_side
    close(vqgan.quantize(ids).unflatten(1, (side, side)), expected["quantized"])
    decoded = vqgan.decode(torch.from_numpy(expected["codes"]).long())
    close(decoded.permute(0, 2, 3, 1), expected["decoded"])


@pytest.mark.parametrize(("dtype", "bound"), [("bfloat16", 1.4), ("float32", 2.3)])
def test_memory_of_loading_and_converting_mini(mini, tmp_path, dtype, bound):
    loaded = peak("load", mini, "--dtype", dtype)
    assert loaded["peak_bytes"] < bound * GiB
    converted = peak("convert", mini, tmp_path / "native", "--dtype", dtype)
    assert converted["peak_bytes"] < bound * GiB
    mapped = peak("load", tmp_path / "native", "--dtype", dtype)
    assert mapped["peak_bytes"] < 0.2 * GiB  # mapped: nothing is read before it is used
    ours, published = (load_bart(f, dtype=dtype) for f in (tmp_path / "native", mini))
    for name, value in published.state_dict().items():
        assert torch.equal(ours.state_dict()[name], value), name


@pytest.mark.slow
def test_memory_of_loading_and_converting_mega(mega, tmp_path):
    assert peak("load", mega, "--dtype", "bfloat16")["peak_bytes"] < 6.5 * GiB
    target = tmp_path / "native"
    assert peak("convert", mega, target, "--dtype", "bfloat16")["peak_bytes"] < 6.5 * GiB
