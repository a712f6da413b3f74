"""In which precision a machine computes fast.

Where a processor or a GPU has no instructions for bfloat16, torch computes in it all the same, but
products of more than a few rows take many times as long as in float32. So whoever chooses a
precision asks first.
"""

from __future__ import annotations

import torch


def multiplies_bfloat16(device: torch.device | str) -> bool:
    """Whether this device has instructions for bfloat16, as far as torch can tell."""
    kind = str(device).partition(":")[0]
    if kind == "cuda":
        return torch.cuda.is_available() and torch.cuda.is_bf16_supported(including_emulation=False)
    if kind != "cpu":
        return False
    known = getattr(torch.cpu, "get_capabilities", dict)()
    return any(known.get(name) for name in ("avx512_bf16", "amx_bf16", "amx_tile", "arm_bf16"))
