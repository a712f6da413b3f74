"""Super-conditioning and the warpers equal the reference's stored logits and probabilities, to
1e-6.
"""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from minidalle.sampling import SamplingConfig, filter_logits, super_condition

FOLDER = Path(__file__).parents[1] / "fixtures" / "sampling"
CASES = json.loads((FOLDER / "cases.json").read_text())


@pytest.mark.parametrize("number", range(len(CASES)))
def test_filtered_logits_and_probs(number):
    case = CASES[number]
    arrays = {
        name: torch.from_numpy(value)
        for name, value in np.load(FOLDER / "logits_processing.npz").items()
    }
    given = {
        name: case[name] for name in ("temperature", "top_k", "top_p") if case[name] is not None
    }
    logits = arrays["cond_logits"]
    if case["condition_scale"] != 1:
        logits = super_condition(logits, arrays["uncond_logits"], case["condition_scale"])
    filtered = filter_logits(logits, SamplingConfig(**given))
    expected = arrays[f"case{number}_filtered_logits"]
    assert torch.equal(filtered.isinf(), expected.isinf())
    kept = expected.isfinite()
    assert kept.sum(1).tolist() == case["kept_per_row"]
    torch.testing.assert_close(filtered[kept], expected[kept], atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(
        filtered.softmax(-1), arrays[f"case{number}_probs"], atol=1e-6, rtol=0
    )
