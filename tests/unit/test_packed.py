"""Packed weights: the same logits and tokens, a twin that leaves the model alone, and its bytes."""

from functools import partial

import pytest
import torch
from torch import nn

from minidalle import MiniDalle, sampling
from minidalle.bart import Bart, BartConfig, Dense
from minidalle.packed import (
    PackedDense,
    PackedProduct,
    can_pack,
    can_pack_halves,
    holds_halves,
    packed,
    packed_bytes,
    pays,
)
from minidalle.sampling import SamplingConfig, generate_tokens

CONFIG = BartConfig.tiny()
PACKABLE = {
    name: can_pack(torch.zeros(1, dtype=getattr(torch, name))) for name in ("float32", "bfloat16")
}
TEXT = torch.tensor([[0, 5, 6, 2], [0, 7, 2, 1]])
MASK = torch.tensor([[1, 1, 1, 1], [1, 1, 1, 0]])
PROCESSORS = {  # taken for it, since any can do all ways: whether MKL is fast at few rows, and more
    "Intel, AVX512": (True, "AVX512"),
    "Intel, AVX2": (True, "AVX2"),
    "AMD, AVX512": (False, "AVX512"),
    "AMD, AVX2": (False, "AVX2"),
}


def take_for(monkeypatch, processor: str) -> None:
    few, capability = PROCESSORS[processor]
    for module in ("bart", "packed"):
        monkeypatch.setattr(f"minidalle.{module}.multiplies_few_rows", lambda: few)
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)


@pytest.fixture(scope="module")
def bart() -> Bart:
    torch.manual_seed(0)
    bart = Bart(CONFIG).eval()
    with torch.no_grad():
        bart.lm_head.weight *= 20
    return bart


def products(part: nn.Module) -> list[PackedProduct]:
    """What a twin packed so far."""
    modules = [module for module in part.modules() if isinstance(module, PackedDense)]
    return [product for module in modules for product in module.products.values()]


@pytest.mark.parametrize("processor", PROCESSORS)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("pictures", [1, 4])
def test_a_twin_decodes_as_the_model(bart, monkeypatch, dtype, pictures, processor):
    if not PACKABLE[dtype]:
        pytest.skip(f"torch packs no {dtype} weights on this machine")
    take_for(monkeypatch, processor)
    model = Bart(CONFIG).eval()
    model.load_state_dict(bart.state_dict())
    model = model.to(getattr(torch, dtype))
    twin = packed(model, 2 * pictures)
    with torch.no_grad():
        memory = model.encode(TEXT, MASK)
        caches = model.new_cache(memory), model.new_cache(memory)
        for _ in range(5):
            ids = torch.randint(CONFIG.codebook_size, (2 * pictures, 1))
            plain = model.decode(ids, memory, MASK, caches[0])
            fast = twin.decode(ids, memory, MASK, caches[1])
            torch.testing.assert_close(fast, plain, rtol=1e-5, atol=1e-5)
    used = products(twin)
    if not pays(getattr(torch, dtype), 2 * pictures, halves=False):
        assert twin is model and not used
    else:
        assert len(used) == 6 * CONFIG.decoder_layers + 1
        held = sum(product.weight.nbytes for product in used)
        assert held == packed_bytes(CONFIG, getattr(torch, dtype)) > 0
    assert not products(model) and isinstance(model.lm_head, Dense)
    assert [p.data_ptr() for p in twin.encoder.parameters()] == [
        p.data_ptr() for p in model.encoder.parameters()
    ]


@pytest.mark.parametrize(
    ("processor", "dtype", "rows"),  # rows: the first that are packed
    [(processor, "float32", 1 if processor == "AMD, AVX2" else 3) for processor in PROCESSORS]
    + [(processor, "bfloat16", 1) for processor in PROCESSORS],
)
def test_how_many_rows_pay_depends_on_the_processor(monkeypatch, processor, dtype, rows):
    take_for(monkeypatch, processor)
    paid = [pays(getattr(torch, dtype), n, halves=False) for n in range(1, 7)]
    assert paid == [n >= rows for n in range(1, 7)]
    assert pays(torch.float32, 1, halves=True)  # half as much to read
    assert not pays(torch.float16, 8, halves=False)


def test_where_float16_is_packed(monkeypatch):
    """Where it was seen to pay: with AVX2 alone."""
    by_fbgemm = torch.backends.quantized.engine in ("x86", "fbgemm")
    can = {}
    for processor in PROCESSORS:
        take_for(monkeypatch, processor)
        can[processor] = can_pack_halves(torch.float32)
        assert not can_pack_halves(torch.bfloat16)
    assert can == {name: by_fbgemm and name.endswith("AVX2") for name in PROCESSORS}


@pytest.mark.parametrize("processor", ["Intel, AVX2", "AMD, AVX2"])
@pytest.mark.parametrize("pictures", [1, 4])
@pytest.mark.parametrize("exact", [True, False])
def test_weights_that_float16_holds_are_packed_in_it(bart, monkeypatch, processor, pictures, exact):
    """All of them, and none where one of them says more; both give what the plain one gives."""
    take_for(monkeypatch, processor)
    if not PACKABLE["float32"] or not can_pack_halves(torch.float32):
        pytest.skip("torch packs no float16 weights on this machine")
    model = Bart(CONFIG).eval()
    model.load_state_dict({name: value.half() for name, value in bart.state_dict().items()})
    if not exact:
        model.lm_head.weight.data[-1, -1] += 1e-6
    twin = packed(model, 2 * pictures)
    with torch.no_grad():
        memory = model.encode(TEXT, MASK)
        caches = model.new_cache(memory), model.new_cache(memory)
        for _ in range(5):
            ids = torch.randint(CONFIG.codebook_size, (2 * pictures, 1))
            plain = model.decode(ids, memory, MASK, caches[0])
            fast = twin.decode(ids, memory, MASK, caches[1])
            torch.testing.assert_close(fast, plain, rtol=1e-5, atol=1e-5)
    kinds = {product.in_float16 for product in products(twin)}
    if exact or pays(torch.float32, 2 * pictures, halves=False):
        assert kinds == {exact}
    else:
        assert twin is model


def test_every_number_of_float16_comes_through(monkeypatch):
    take_for(monkeypatch, "AMD, AVX2")
    if not can_pack_halves(torch.float32):
        pytest.skip("torch packs no float16 weights on this machine")
    every = torch.arange(2**16, dtype=torch.int32).to(torch.int16).view(torch.float16).float()
    dense = Dense(64, 992)
    dense.weight.data = every[every.isfinite()].view(992, 64)
    assert holds_halves(dense.weight.detach())
    layer = PackedDense(dense, 64, in_float16=True)
    assert torch.equal(layer(torch.eye(64)).T, dense.weight)


@pytest.mark.parametrize("in_float16", [False, True])
def test_what_is_multiplied_together_is_what_was_asked_for(monkeypatch, in_float16):
    """In any company, and alone, each map is its own, also of a part of a tensor."""
    take_for(monkeypatch, "AMD, AVX2")
    if not PACKABLE["float32"] or (in_float16 and not can_pack_halves(torch.float32)):
        pytest.skip("torch packs no such weights on this machine")
    dense = [Dense(8, width) for width in (5, 3, 7)]
    if in_float16:
        for each in dense:
            each.weight.data = each.weight.data.half().float()
    kind = partial(PackedDense, rows=4, in_float16=in_float16)
    first, second, third = (kind(each) for each in dense)
    x = torch.randn(2, 2, 16)[..., ::2]
    with torch.no_grad():
        wanted = [each(x) for each in dense]
        for _ in range(2):  # when it is packed, and afterwards
            for modules, maps in [
                ((first,), wanted[:1]),
                ((first, second), wanted[:2]),
                ((first, second, third), wanted),
                ((first, third), [wanted[0], wanted[2]]),
            ]:
                torch.testing.assert_close(modules[0].together(x, *modules[1:]), tuple(maps))


def test_what_float16_holds():
    exact = torch.randn(5, 7).half().float()
    assert holds_halves(exact)
    for place, value in [
        ((4, 6), 1 + 2**-11),
        ((0, 0), 2**17),
        ((2, 3), 1e-9),
        ((1, 1), torch.nan),
    ]:
        weight = exact.clone()
        weight[place] = value
        assert not holds_halves(weight), value


def test_tokens_are_the_same(bart):
    arguments = {"seeds": range(4), "uncond_ids": TEXT[:1], "uncond_mask": MASK[:1]}
    drawn = [
        generate_tokens(
            bart, TEXT.repeat(2, 1), MASK.repeat(2, 1), SamplingConfig(condition_scale=3.0),
            pack=pack, **arguments,
        )
        for pack in (True, False)
    ]  # fmt: skip
    assert torch.equal(*drawn)


def test_a_model_that_learns_on_draws_by_its_new_weights(bart):
    """Nothing packed is kept from one drawing to the next."""
    model = Bart(CONFIG).eval()
    draw = lambda: generate_tokens(model, TEXT, MASK, SamplingConfig(), seeds=[0, 1])  # noqa: E731
    before = draw()
    model.lm_head.weight.data.copy_(bart.lm_head.weight)
    after = draw()
    assert not torch.equal(before, after)
    assert torch.equal(after, generate_tokens(
        model, TEXT, MASK, SamplingConfig(), seeds=[0, 1], pack=False
    ))  # fmt: skip


def test_only_where_it_can_be():
    assert not can_pack(torch.zeros(1, dtype=torch.float16))
    assert not can_pack(torch.zeros(1, device="meta"))


def test_only_where_memory_is_plenty(monkeypatch):
    """The pictures are the same, and what is free decides."""
    model, asked = MiniDalle.from_pretrained(), []
    plain = sampling.packed
    monkeypatch.setattr(sampling, "packed", lambda *a: asked.append(a[0]) or plain(*a))
    monkeypatch.setattr("minidalle.pipeline.free_memory", lambda device: None)
    much = model.generate("red apple", n=2)
    assert (asked == [model.bart]) == PACKABLE["float32"]
    enough = packed_bytes(model.bart.config, torch.float32)
    monkeypatch.setattr("minidalle.pipeline.free_memory", lambda device: 4 * enough - 1)
    assert torch.equal(model.generate("red apple", n=2).tokens, much.tokens)
    assert len(asked) == PACKABLE["float32"]
