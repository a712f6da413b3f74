"""min-dalle's and taming's files give what their own classes compute, on the stored numbers.

min-dalle's text tokens are stored, since its tokenizer is another one than DALL·E mini's.
Tolerance: 1e-4 absolute on states, logits and pictures; token sequences are equal.
"""

from pathlib import Path

import numpy as np
import pytest
import torch

from minidalle.checkpoints import load_bart, load_vqgan
from minidalle.sampling import super_condition

FIXTURES = Path(__file__).parents[1] / "fixtures"


def close(actual: torch.Tensor, expected: np.ndarray) -> None:
    torch.testing.assert_close(actual, torch.from_numpy(expected), atol=1e-4, rtol=0)


@torch.no_grad()
@pytest.mark.parametrize("name", ["mini", "mega"])
def test_min_dalle(name):
    expected = np.load(FIXTURES / "min_dalle" / name / "expected.npz")
    bart = load_bart(FIXTURES / "min_dalle" / name)
    tokens = torch.from_numpy(expected["text_tokens"]).long()  # (B, 2, T): row 0 unconditional
    inputs = torch.from_numpy(expected["decoder_input_ids"]).long()  # (B, N)
    mask = (tokens != 1).long()
    sequences = torch.from_numpy(expected["supercond10_top1_sequences"]).long()  # (B, N+1)
    branches = []
    for row in (0, 1):
        memory = bart.encode(tokens[:, row], mask[:, row])
        close(memory, expected["encoder_state"][:, row])
        logits = bart.decode(inputs, memory, mask[:, row])
        close(logits, expected["decoder_logits"][:, row])
        branches.append(bart.decode(sequences[:, :-1], memory, mask[:, row]))
    # min-dalle's own class may draw any row of the head, so we follow its sequences.
    unconditional, conditional = branches
    logits = super_condition(conditional, unconditional, 10.0)
    assert torch.equal(logits.argmax(-1), sequences[:, 1:])
    compared = "text_tokens decoder_input_ids encoder_state decoder_logits"
    assert set(expected) == {*compared.split(), "supercond10_top1_sequences"}


@pytest.mark.parametrize("path", ["min_dalle", "min_dalle/detoker.pt"])
def test_detokenizer(path):
    vqgan = load_vqgan(FIXTURES / path)
    expected = np.load(FIXTURES / "vqgan" / "expected.npz")
    images = vqgan.decode(torch.from_numpy(expected["codes"]).long())
    close(images.permute(0, 2, 3, 1), expected["decoded_codes"])


@torch.no_grad()
def test_taming():
    vqgan = load_vqgan(FIXTURES / "vqgan" / "taming_last.ckpt")
    inputs = np.load(FIXTURES / "vqgan" / "expected.npz")
    expected = np.load(FIXTURES / "vqgan" / "expected_taming.npz")
    images = torch.from_numpy(inputs["images"]).permute(0, 3, 1, 2)
    output = vqgan(images)
    assert np.array_equal(output.ids, expected["indices"])
    close(output.reconstruction.permute(0, 2, 3, 1), expected["reconstruction"])
    decoded = vqgan.decode(torch.from_numpy(inputs["codes"]).long())
    close(decoded.permute(0, 2, 3, 1), expected["decoded_codes"])
    assert set(expected) == {"indices", "reconstruction", "decoded_codes"}


@torch.no_grad()
def test_half_precision_files_hold_flax_weights_rounded():
    """min-dalle's float16 and DALL·E mini's float32 are the same numbers."""
    for name in ("mini", "mega"):
        theirs = load_bart(FIXTURES / "min_dalle" / name).state_dict()
        ours = load_bart(FIXTURES / f"dalle_{name}").state_dict()
        assert theirs.keys() == ours.keys()
        assert all(torch.equal(theirs[key], ours[key].half().float()) for key in ours)
