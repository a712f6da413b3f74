"""Bart's invariants: causal, masked, cached, counted."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from minidalle.bart import Bart, BartConfig, Cache, Dense, attend, slow_by_torch


@pytest.fixture(scope="module")
def bart():
    torch.manual_seed(0)
    return Bart(BartConfig.tiny()).eval()


TEXT = torch.tensor([[0, 9, 8, 7, 2, 1, 1, 1]])
MASK = torch.tensor([[1, 1, 1, 1, 1, 0, 0, 0]])


def test_causal(bart):
    """Changing token t changes no logits at or before t, and some after."""
    ids = torch.randint(64, (1, 16), generator=torch.Generator().manual_seed(0))
    changed = ids.clone()
    changed[0, 6] = (ids[0, 6] + 1) % 64
    with torch.no_grad():
        before, after = bart(TEXT, MASK, ids), bart(TEXT, MASK, changed)
    assert torch.equal(before[:, :7], after[:, :7])
    assert not torch.allclose(before[:, 7], after[:, 7])


def test_padding_changes_nothing(bart):
    """The same prompt with less padding, or other ids under the padding: the same memory and
    logits.
    """
    ids = torch.zeros(1, 16, dtype=torch.long)
    other = TEXT.clone()
    other[:, 5:] = 17
    with torch.no_grad():
        padded = bart(TEXT, MASK, ids)
        torch.testing.assert_close(bart(TEXT[:, :5], MASK[:, :5], ids), padded, atol=1e-5, rtol=0)
        torch.testing.assert_close(bart(other, MASK, ids), padded, atol=1e-5, rtol=0)


@pytest.mark.parametrize("pieces", [[16], [1] * 16, [5, 1, 1, 9], [1, 15]])
def test_cached_decoding_equals_uncached(bart, pieces):
    inputs = torch.randint(64, (1, 16), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        memory = bart.encode(TEXT, MASK)
        whole = bart.decode(inputs, memory, MASK)
        cache = bart.new_cache(memory)
        parts = [bart.decode(part, memory, MASK, cache) for part in inputs.split(pieces, dim=1)]
    assert cache.length == 16
    torch.testing.assert_close(torch.cat(parts, dim=1), whole, atol=1e-5, rtol=0)


def test_a_cache_of_several_blocks_equals_none():
    """Past one block of places the cache has grown, and what is empty behind is not looked at."""
    torch.manual_seed(1)
    bart = Bart(replace(BartConfig.tiny(), image_length=2 * Cache.BLOCK + 10)).eval()
    inputs = torch.randint(64, (1, bart.config.image_length))
    with torch.no_grad():
        memory = bart.encode(TEXT, MASK)
        cache = bart.new_cache(memory)
        steps = [bart.decode(part, memory, MASK, cache) for part in inputs.split(1, dim=1)]
        whole = bart.decode(inputs, memory, MASK)
    torch.testing.assert_close(torch.cat(steps, dim=1), whole, atol=1e-5, rtol=0)
    assert cache.layers[0].keys.shape[2] == 3 * Cache.BLOCK


def test_pictures_of_one_text_share_its_memory(bart):
    """Two texts with three pictures each: as if every picture had its own, cached or not."""
    ids = torch.randint(64, (6, 16), generator=torch.Generator().manual_seed(3))
    text, mask = torch.cat([TEXT, TEXT + 1]), torch.cat([MASK, MASK.flip(1)])
    each = [rows.repeat_interleave(3, dim=0) for rows in (text, mask)]
    with torch.no_grad():
        apart = bart(*each, ids[:, :16])
        memory = bart.encode(text, mask)
        inputs = torch.cat([torch.full((6, 1), bart.config.codebook_size), ids[:, :-1]], dim=1)
        together = bart.decode(inputs, memory, mask)
        cache = bart.new_cache(memory)
        steps = [bart.decode(part, memory, mask, cache) for part in inputs.split(1, dim=1)]
    torch.testing.assert_close(together, apart, atol=1e-5, rtol=0)
    torch.testing.assert_close(torch.cat(steps, dim=1), apart, atol=1e-5, rtol=0)
    with pytest.raises(ValueError, match="5 rows of image tokens for 2 texts"):
        bart.decode(inputs[:5], memory, mask)


@pytest.fixture(params=[True, False])
def few_rows_are_fast(request, monkeypatch):
    """A processor of either make, as far as the code asks."""
    monkeypatch.setattr("minidalle.bart.multiplies_few_rows", lambda: request.param)


@pytest.mark.usefixtures("few_rows_are_fast")
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-6), (torch.bfloat16, 0.02)])
@pytest.mark.parametrize("n", [1, 5])
@pytest.mark.parametrize("learns", [True, False])
def test_any_way_to_attend_gives_what_torch_gives_in_float32(dtype, tolerance, n, learns):
    """Both what is attended to and, where the model learns, the gradients."""
    generator = torch.Generator().manual_seed(0)
    found_from = [
        torch.randn(2, 3, length, 16, generator=generator).to(dtype).requires_grad_(learns)
        for length in (n, 9, 9)
    ]
    expected_from = [x.detach().float().requires_grad_(learns) for x in found_from]
    mask = torch.tensor([[True] * 6 + [False] * 3])
    found = attend(*found_from, mask)
    expected = F.scaled_dot_product_attention(*expected_from, mask)
    assert found.dtype == dtype
    torch.testing.assert_close(found.float(), expected, atol=tolerance, rtol=0)
    if learns:
        found.float().square().sum().backward()
        expected.square().sum().backward()
        for half, exact in zip(found_from, expected_from, strict=True):
            torch.testing.assert_close(half.grad.float(), exact.grad, atol=3 * tolerance, rtol=0)


@pytest.mark.parametrize(
    ("n", "dtype", "learns", "expected"),  # expected: on an Intel, on an AMD
    [
        (1, torch.float32, False, (False, True)),
        (1, torch.bfloat16, False, (False, True)),
        (5, torch.bfloat16, False, (False, False)),
        (5, torch.bfloat16, True, (True, True)),
        (5, torch.float32, True, (False, False)),
    ],
)
def test_products_are_taken_where_torch_is_slow(monkeypatch, n, dtype, learns, expected):
    queries = torch.zeros(2, 3, n, 16, dtype=dtype, requires_grad=learns)
    for few, slow in zip((True, False), expected, strict=True):
        monkeypatch.setattr("minidalle.bart.multiplies_few_rows", lambda few=few: few)
        assert slow_by_torch(queries) == slow
        assert not slow_by_torch(queries.to("meta"))


@pytest.mark.usefixtures("few_rows_are_fast")
@pytest.mark.parametrize("rows", [(1,), (2,), (3,), (1, 2), (3, 1), (2, 5)])
def test_few_rows_are_multiplied_alike(rows):
    dense = Dense(7, 4)
    x = torch.randn(*rows, 7, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(dense(x), F.linear(x, dense.weight))
    assert dense(x).shape == (*rows, 4)


def test_bfloat16_agrees_with_float32(bart):
    """Stated tolerance: logits within 0.05 of a standard deviation of theirs, on average."""
    ids = torch.randint(64, (4, 16), generator=torch.Generator().manual_seed(2))
    text, mask = TEXT.expand(4, -1), MASK.expand(4, -1)
    half = Bart(bart.config).eval()
    half.load_state_dict(bart.state_dict())
    half.bfloat16()
    with torch.no_grad():
        exact, rough = bart(text, mask, ids), half(text, mask, ids).float()
    assert (exact - rough).abs().mean() < 0.05 * exact.std()


def test_published_sizes():
    """Parameter counts of the published models (computed from the reference's own shape trees)."""
    with torch.device("meta"):
        mini, mega = Bart(BartConfig.mini()), Bart(BartConfig.mega())
    count = lambda module: sum(p.numel() for p in module.parameters())  # noqa: E731
    assert count(mini) == 437_833_712
    assert count(mini.encoder) == 202_591_224 and count(mini.decoder) == 218_464_248
    assert count(mega) == 2_587_521_024


def test_dropout_only_in_training():
    torch.manual_seed(0)
    bart = Bart(BartConfig(**{**BartConfig.tiny().__dict__, "dropout": 0.5}))
    ids = torch.zeros(1, 16, dtype=torch.long)
    bart.train()
    assert not torch.equal(bart(TEXT, MASK, ids), bart(TEXT, MASK, ids))
    bart.eval()
    assert torch.equal(bart(TEXT, MASK, ids), bart(TEXT, MASK, ids))


def test_gradients_under_bfloat16_autocast():
    """Training in mixed precision reaches every parameter (norms without scale included)."""
    torch.manual_seed(0)
    bart = Bart(BartConfig.tiny())
    ids = torch.randint(64, (2, 16))
    with torch.autocast("cpu", torch.bfloat16):
        logits = bart(TEXT.expand(2, -1), MASK.expand(2, -1), ids)
    torch.nn.functional.cross_entropy(logits.flatten(0, 1).float(), ids.flatten()).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in bart.parameters())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"d_model": 0}, "d_model"),
        ({"encoder_attention_heads": 5}, "encoder_attention_heads"),
        ({"codebook_size": 65}, "codebook_size"),
        ({"dropout": 1.0}, "dropout"),
    ],
)
def test_impossible_configs_are_refused_by_name(change, message):
    with pytest.raises(ValueError, match=message):
        BartConfig(**{**BartConfig.tiny().__dict__, **change})


def test_refusals(bart):
    with pytest.raises(ValueError, match="320"):
        bart.encode(torch.tensor([[0, 320, 2]]), torch.ones(1, 3))
    with pytest.raises(ValueError, match="at most 24"):
        bart.encode(torch.zeros(1, 25, dtype=torch.long), torch.ones(1, 25))
    memory = bart.encode(TEXT, MASK)
    with pytest.raises(ValueError, match="16 positions"):
        bart.decode(torch.zeros(1, 17, dtype=torch.long), memory, MASK)
