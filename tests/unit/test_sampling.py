"""The token loop: seeds, cache, prefixes, super-conditioning, and what it refuses."""

import math

import pytest
import torch

from minidalle.bart import Bart, BartConfig
from minidalle.checkpoints import load_bart, native
from minidalle.graphs import JoinedDense, StepGraphs
from minidalle.sampling import (
    SamplingConfig,
    draw_tokens,
    filter_logits,
    generate_tokens,
    pictures_together,
    stream_tokens,
    super_condition,
    uniform_numbers,
)


@pytest.fixture(scope="module")
def bart():
    """A tiny model with weights large enough that its distributions are far from uniform."""
    torch.manual_seed(0)
    return Bart(BartConfig.tiny()).eval()


def prompts(bart, count, same=True):
    generator = torch.Generator().manual_seed(1)
    rows = bart.config.encoder_vocab_size
    ids = (
        torch.randint(5, rows, (1 if same else count, 6), generator=generator)
        .expand(count, -1)
        .clone()
    )
    mask = torch.ones_like(ids)
    if not same:
        for row, length in enumerate(range(6, 6 - count, -1)):
            mask[row, max(length, 2) :] = 0
    return ids, mask


BLANK = {
    "uncond_ids": torch.tensor([[0, 2, 1, 1, 1, 1]]),
    "uncond_mask": torch.tensor([[1, 1, 0, 0, 0, 0]]),
}
WARM = SamplingConfig(temperature=1.5, condition_scale=3.0)


def test_a_picture_belongs_to_its_seed(bart):
    """Seed 5 gives the same tokens alone, among 4, among 9, and among other prompts."""
    ids, mask = prompts(bart, 9)
    nine = generate_tokens(bart, ids, mask, WARM, seeds=range(9), **BLANK)
    four = generate_tokens(bart, ids[:4], mask[:4], WARM, seeds=range(3, 7), **BLANK)
    one = generate_tokens(bart, ids[:1], mask[:1], WARM, seeds=[5], **BLANK)
    assert torch.equal(nine[5], one[0])
    assert torch.equal(four[2], one[0])
    assert len({tuple(row) for row in nine.tolist()}) == 9


def test_mixed_prompts_do_not_disturb_each_other(bart):
    ids, mask = prompts(bart, 4, same=False)
    together = generate_tokens(bart, ids, mask, WARM, seeds=[3, 3, 4, 4], **BLANK)
    for i, seed in enumerate([3, 3, 4, 4]):
        alone = generate_tokens(bart, ids[i : i + 1], mask[i : i + 1], WARM, seeds=[seed], **BLANK)
        assert torch.equal(together[i], alone[0])


def test_cached_loop_equals_uncached(bart):
    """The same tokens as recomputing everything at every step."""
    ids, mask = prompts(bart, 2)
    config = SamplingConfig(temperature=1.3, top_k=20, top_p=0.95, condition_scale=2.0)
    cached = generate_tokens(bart, ids, mask, config, seeds=[1, 2], **BLANK)
    uniform = uniform_numbers([1, 2], bart.config.image_length)
    text = torch.cat([ids, BLANK["uncond_ids"].expand(2, -1)])
    text_mask = torch.cat([mask, BLANK["uncond_mask"].expand(2, -1)])
    k = bart.config.codebook_size
    inputs = torch.full((2, 1), k)
    with torch.no_grad():
        memory = bart.encode(text, text_mask)
        for t in range(bart.config.image_length):
            logits = bart.decode(inputs.repeat(2, 1), memory, text_mask)[:, -1, :k]
            logits = super_condition(*logits.chunk(2), config.condition_scale)
            drawn = draw_tokens(filter_logits(logits, config), uniform[:, t])
            inputs = torch.cat([inputs, drawn[:, None]], dim=1)
    assert torch.equal(cached, inputs[:, 1:])


def test_prefix_is_kept_and_the_rest_follows_from_it(bart):
    ids, mask = prompts(bart, 1)
    whole = generate_tokens(bart, ids, mask, WARM, seeds=[7], **BLANK)
    for n in (0, 1, 5, 15, 16):
        again = generate_tokens(bart, ids, mask, WARM, seeds=[7], prefix=whole[:, :n], **BLANK)
        assert torch.equal(again, whole), n
    other = (whole[:, :5] + 1) % bart.config.codebook_size
    changed = generate_tokens(bart, ids, mask, WARM, seeds=[7], prefix=other, **BLANK)
    assert torch.equal(changed[:, :5], other)


def test_stream_yields_growing_tokens(bart):
    ids, mask = prompts(bart, 2)
    parts = [part.clone() for part in stream_tokens(bart, ids, mask, WARM, seeds=[1, 2], **BLANK)]
    assert [part.shape[1] for part in parts] == list(range(17))
    assert all(torch.equal(part, parts[-1][:, : part.shape[1]]) for part in parts)


def test_only_codebook_ids_are_drawn():
    """Head rows above K exist and are made the likeliest: they are still never drawn."""
    torch.manual_seed(0)
    bart = Bart(BartConfig(**{**BartConfig.tiny().__dict__, "image_vocab_size": 80})).eval()
    with torch.no_grad():
        bart.lm_head.weight[bart.config.codebook_size :] *= 1000
    ids, mask = prompts(bart, 9)
    tokens = generate_tokens(bart, ids, mask, SamplingConfig(temperature=5.0), seeds=range(9))
    assert tokens.min() >= 0 and tokens.max() < bart.config.codebook_size


def test_draw_tokens_is_the_inverse_of_the_cumulative_distribution():
    logits = torch.tensor([[0.5, 0.25, 0.25, 0.0]]).log()
    for uniform, token in [(0.0, 0), (0.499, 0), (0.5, 1), (0.74, 1), (0.76, 2), (0.9999999, 2)]:
        assert draw_tokens(logits, torch.tensor([uniform])).item() == token
    only_last = torch.tensor([[-math.inf, -math.inf, 0.0]])
    assert draw_tokens(only_last, torch.tensor([0.0])).item() == 2


def test_draws_follow_the_distribution():
    probabilities = torch.tensor([0.6, 0.3, 0.1])
    uniform = torch.rand(20_000, generator=torch.Generator().manual_seed(0))
    drawn = draw_tokens(probabilities.log().expand(20_000, -1), uniform)
    torch.testing.assert_close(drawn.bincount() / 20_000, probabilities, atol=0.02, rtol=0)


def test_exactly_k_stay_where_values_tie():
    kept = filter_logits(torch.zeros(2, 50), SamplingConfig(top_k=7)).isfinite().sum(-1)
    assert kept.tolist() == [7, 7]


def test_top_p_keeps_at_least_one():
    kept = filter_logits(torch.tensor([[5.0, 1.0, 0.0]]), SamplingConfig(top_p=1e-6)).isfinite()
    assert kept.tolist() == [[True, False, False]]


def test_greedy_takes_the_likeliest():
    logits = torch.randn(4, 30, generator=torch.Generator().manual_seed(0))
    drawn = draw_tokens(filter_logits(logits, SamplingConfig(temperature=0)), torch.rand(4))
    assert torch.equal(drawn, logits.argmax(-1))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("temperature", -1.0),
        ("temperature", math.nan),
        ("temperature", math.inf),
        ("top_k", -1),
        ("top_p", 0.0),
        ("top_p", 1.5),
        ("top_p", math.nan),
        ("condition_scale", math.nan),
    ],
)
def test_impossible_settings_are_refused_by_name(field, value):
    with pytest.raises(ValueError, match=field):
        SamplingConfig(**{field: value})


def test_top_k_above_the_codebook_is_off(bart):
    logits = torch.randn(2, 64)
    assert torch.equal(filter_logits(logits, SamplingConfig(top_k=1000)), logits)


def test_refusals(bart):
    ids, mask = prompts(bart, 2)
    with pytest.raises(ValueError, match="1 seeds for 2 pictures"):
        generate_tokens(bart, ids, mask, SamplingConfig(), seeds=[1])
    with pytest.raises(ValueError, match="uncond_ids"):
        generate_tokens(bart, ids, mask, WARM, seeds=[1, 2])
    with pytest.raises(ValueError, match="outside the codebook"):
        generate_tokens(
            bart, ids, mask, SamplingConfig(), seeds=[1, 2], prefix=torch.full((2, 3), 64)
        )
    with pytest.raises(ValueError, match="prefix has shape"):
        generate_tokens(
            bart,
            ids,
            mask,
            SamplingConfig(),
            seeds=[1, 2],
            prefix=torch.zeros(2, 17, dtype=torch.long),
        )


def test_equal_rows_are_encoded_once(bart, monkeypatch):
    rows = []
    encode = bart.encode
    monkeypatch.setattr(
        bart, "encode", lambda ids, mask: rows.append(len(ids)) or encode(ids, mask)
    )
    ids, mask = prompts(bart, 9)
    generate_tokens(bart, ids, mask, WARM, seeds=range(9), **BLANK)
    assert rows == [2]  # the prompt and the empty prompt


def test_no_global_state_is_touched(bart):
    state, threads = torch.get_rng_state(), torch.get_num_threads()
    ids, mask = prompts(bart, 1)
    generate_tokens(bart, ids, mask, WARM, seeds=[1], **BLANK)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.get_num_threads() == threads and torch.is_grad_enabled()


def test_rows_of_one_text_are_counted_together():
    """Two of each text; where their numbers differ, as many as go into all of them."""
    ids = torch.tensor([[1, 2]] * 4 + [[1, 3]] * 2)
    mask = torch.ones_like(ids)
    assert pictures_together(ids, mask) == 2
    assert pictures_together(ids[:4], mask[:4]) == 4
    assert pictures_together(ids[:5], mask[:5]) == 1
    mask[1:] = torch.tensor([1, 0])  # other padding is another text
    assert pictures_together(ids[:4], mask[:4]) == 1


@pytest.mark.parametrize("same", [True, False])
def test_recorded_steps_give_the_same_tokens(bart, same):
    """The static cache: first pictures, others of the same shape, and a kept beginning."""
    graphs = StepGraphs(bart)
    prefix = torch.randint(bart.config.codebook_size, (3, 4))
    for seed, kept in ((0, None), (10, None), (20, prefix)):
        ids, mask = prompts(bart, 3, same=same)
        knobs = {"seeds": range(seed, seed + 3), "prefix": kept, **BLANK}
        plain = generate_tokens(bart, ids, mask, WARM, **knobs)
        recorded = generate_tokens(bart, ids, mask, WARM, graphs=graphs, **knobs)
        assert torch.equal(recorded, plain)
    step = graphs.step
    generate_tokens(bart, ids[:1], mask[:1], WARM, seeds=[1], graphs=graphs, **BLANK)
    assert graphs.step is not step  # another shape, another recording


def test_recorded_steps_multiply_by_the_models_own_weights(tmp_path):
    """Side by side, none twice; so what the model learns is drawn by, and it is saved as before."""
    bart = Bart(BartConfig.tiny()).eval()
    before = {name: value.clone() for name, value in bart.state_dict().items()}
    graphs, (ids, mask) = StepGraphs(bart), prompts(bart, 2)
    generate_tokens(bart, ids, mask, WARM, seeds=[0, 1], graphs=graphs, **BLANK)
    joined = [each for each in graphs.bart.modules() if isinstance(each, JoinedDense)]
    whole = [weight for each in joined for weight in each.joined.values()]
    assert len(whole) == 2 * bart.config.decoder_layers
    block = bart.decoder.layers[0]
    for together in (
        [block.self_attn.q_proj, block.self_attn.k_proj, block.self_attn.v_proj],
        [block.glu.fc0, block.glu.fc1],
    ):
        assert len({dense.weight.untyped_storage().data_ptr() for dense in together}) == 1
    for name, value in bart.state_dict().items():
        assert torch.equal(value, before[name])
    native.save(tmp_path / "saved", bart=bart)
    for name, value in load_bart(tmp_path / "saved").state_dict().items():
        assert torch.equal(value, before[name])
    with torch.no_grad():
        for parameter in bart.parameters():
            parameter += torch.randn_like(parameter)
    drawn = [
        generate_tokens(bart, ids, mask, WARM, seeds=[0, 1], graphs=each, **BLANK)
        for each in (graphs, None)
    ]
    assert torch.equal(*drawn)
