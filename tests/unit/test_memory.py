"""What generation is said to need: counted by hand, and held against what it takes."""

import pytest
import torch

from minidalle.bart import BartConfig
from minidalle.memory import (
    FEATURE_MAPS,
    LOGITS,
    decoded_at_once,
    drawn_at_once,
    feature_bytes,
    free_memory,
    memory_needed,
    parameter_count,
)
from minidalle.packed import can_pack_halves, packed_bytes
from minidalle.vqgan import VQGANConfig

MINI, VQGAN = BartConfig.mini(), VQGANConfig.f16_16384()


def test_mini_counted_by_hand():
    """Nine pictures in bfloat16: 18 rows of 256 image tokens, 2 of 64 text tokens, 12 layers."""
    needed = memory_needed(MINI, VQGAN, parameters=1000, n=9, dtype=torch.bfloat16)
    keys_and_values = 2 * 12 * 1024 * 2
    assert needed.weights == 2000
    assert needed.cache == keys_and_values * (18 * 256 + 2 * 64)
    assert needed.logits == 9 * LOGITS * 4 * 16385
    at_once = decoded_at_once(VQGAN, torch.bfloat16, "cpu")
    assert needed.pictures == at_once * int(FEATURE_MAPS * 128 * 256**2) * 2
    assert needed.peak == 2000 + max(needed.cache + needed.logits, needed.pictures)
    assert needed.packed == 2 * (12 * (6 * 1024**2 + 3 * 1024 * 2730) + 1024 * 16385)
    drawing = needed.cache + needed.logits + needed.packed
    assert needed.peak_packed == 2000 + max(drawing, needed.pictures)


@pytest.mark.parametrize(
    ("few", "capability", "halves", "share"),  # few: whether MKL is fast at few rows
    [
        (True, "AVX512", False, 0),
        (False, "AVX512", False, 0),
        (False, "AVX2", False, 1),
        (True, "AVX512", True, 0),
        (True, "AVX2", True, 0.5),
        (False, "AVX2", True, 0.5),
    ],
)
def test_a_single_picture_is_packed_for_where_that_is_worth_it(
    monkeypatch, few, capability, halves, share
):
    monkeypatch.setattr("minidalle.packed.multiplies_few_rows", lambda: few)
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    if halves and share and not can_pack_halves(torch.float32):
        pytest.skip("torch packs no float16 weights on this machine")
    one = memory_needed(MINI, VQGAN, parameters=1000, n=1, dtype=torch.float32, halves=halves)
    assert one.packed == share * packed_bytes(MINI, torch.float32)
    assert (one.peak == one.peak_packed) == (share == 0)


def test_pictures_are_decoded_in_parts_below_the_bound():
    for dtype in (torch.float32, torch.bfloat16):
        at_once = decoded_at_once(VQGAN, dtype, "cpu")
        assert at_once * feature_bytes(VQGAN, dtype) <= 2**29
        assert (at_once + 1) * feature_bytes(VQGAN, dtype) > 2**29
        assert decoded_at_once(VQGAN, dtype, "cuda") > at_once
    huge = VQGANConfig(resolution=2048)
    assert decoded_at_once(huge, torch.float32, "cpu") == 1


def test_as_many_pictures_as_fit():
    """Nine tenths of the free memory are used, and what is predicted for them fits."""
    free = 2**31
    count = drawn_at_once(MINI, torch.float32, free)
    needed = memory_needed(MINI, None, parameters=0, n=count, dtype=torch.float32)
    assert 0.7 * free < needed.peak < 0.9 * free
    assert drawn_at_once(MINI, torch.bfloat16, free) > 1.9 * count
    assert drawn_at_once(MINI, torch.float32, None) is None
    packed = memory_needed(MINI, None, parameters=0, n=count, dtype=torch.float32).packed
    assert drawn_at_once(MINI, torch.float32, free + packed * 10 // 9, pack=True) == count
    with pytest.raises(MemoryError, match="besides the weights"):
        drawn_at_once(MINI, torch.float32, 2**20)


def test_free_memory_of_this_machine():
    free = free_memory(torch.device("cpu"))
    assert free is None or 2**20 < free < 2**45
    assert free_memory(torch.device("meta")) is None


def test_parameters_of_the_published_sizes():
    assert parameter_count(MINI) == 437_833_712
    assert parameter_count(VQGAN) > 70e6
