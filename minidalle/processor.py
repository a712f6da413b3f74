"""What the machine at hand is fast at.

torch computes everything everywhere, but not everywhere fast, and what is fast on one processor may
be the slow way on another. So whoever has a choice asks first.
"""

from __future__ import annotations

from functools import cache

import torch


def multiplies_bfloat16(device: torch.device | str) -> bool:
    """Whether this device has instructions for bfloat16, as far as torch can tell.

    Where it has none, torch emulates them, and products of more than a few rows take many times as
    long as in float32.
    """
    kind = str(device).partition(":")[0]
    if kind == "cuda":
        return torch.cuda.is_available() and torch.cuda.is_bf16_supported(including_emulation=False)
    if kind != "cpu":
        return False
    known = capabilities()
    return any(known.get(name) for name in ("avx512_bf16", "amx_bf16", "amx_tile", "arm_bf16"))


@cache
def multiplies_few_rows() -> bool:
    """Whether torch's own products of one row or two are fast on this processor.

    In float32, and inside attention, torch multiplies by Intel's MKL. On Intel's processors that
    reads a weight as fast as memory gives it; on AMD's, at a quarter of that.
    """
    return str(capabilities().get("cpu_name", "")).startswith("Intel")


def capabilities() -> dict[str, object]:
    """What torch knows of the processor; nothing where it is too old to tell."""
    return getattr(torch.cpu, "get_capabilities", dict)()
