"""Bart equals DALL·E mini's reference implementation on its stored numbers.

The fixtures are random weights of small size in the published layout, with what dalle-mini 0.1.5
computes from them in float32. Tolerance: 1e-4 absolute on states and logits; token sequences are
equal.
"""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from minidalle.checkpoints import load_bart
from minidalle.sampling import SamplingConfig, generate_tokens, super_condition

FIXTURES = Path(__file__).parents[1] / "fixtures"
MODELS = ("dalle_mini", "dalle_mega")


class Reference:
    """One fixture folder: its Bart, and its arrays as tensors."""

    def __init__(self, name: str):
        self.folder = FIXTURES / name
        self.arrays = dict(np.load(self.folder / "expected.npz"))
        self.bart = load_bart(self.folder)
        self.compared: set[str] = set()

    def __getitem__(self, name: str) -> torch.Tensor:
        self.compared.add(name)
        array = self.arrays[name]
        return torch.from_numpy(array.astype(np.int64) if array.dtype == np.int32 else array)


@pytest.fixture(scope="module", params=MODELS)
def reference(request):
    reference = Reference(request.param)
    yield reference


def close(actual: torch.Tensor, expected: torch.Tensor) -> None:
    torch.testing.assert_close(actual, expected, atol=1e-4, rtol=0)


def record_layers(layers: torch.nn.ModuleList, run) -> torch.Tensor:
    """The input of the first layer and the output of each: (layers + 1, B, n, D)."""
    states = []
    hooks = [layers[0].register_forward_pre_hook(lambda _, inputs: states.append(inputs[0]))]
    hooks += [
        layer.register_forward_hook(lambda _, __, output: states.append(output)) for layer in layers
    ]
    with torch.no_grad():
        run()
    for hook in hooks:
        hook.remove()
    return torch.stack(states)


def memory_of(reference: Reference, prefix: str = "") -> torch.Tensor:
    with torch.no_grad():
        return reference.bart.encode(
            reference[f"{prefix}input_ids"], reference[f"{prefix}attention_mask"]
        )


def test_encoder_last_hidden_state(reference):
    close(memory_of(reference), reference["encoder_last_hidden_state"])


def test_uncond_encoder_last_hidden_state(reference):
    memory = memory_of(reference, "uncond_")
    close(memory[:1], reference["uncond_encoder_last_hidden_state"])


def test_encoder_hidden_states(reference):
    states = record_layers(reference.bart.encoder.layers, lambda: memory_of(reference))
    close(states, reference["encoder_hidden_states"])


def test_decoder_logits(reference):
    with torch.no_grad():
        logits = reference.bart.decode(
            reference["decoder_input_ids"], memory_of(reference), reference["attention_mask"]
        )
    close(logits, reference["decoder_logits"])


def test_decoder_hidden_states(reference):
    memory = memory_of(reference)
    states = record_layers(
        reference.bart.decoder.layers,
        lambda: reference.bart.decode(
            reference["decoder_input_ids"], memory, reference["attention_mask"]
        ),
    )
    close(states, reference["decoder_hidden_states"])


def test_forward_shifts_right(reference):
    """`forward` on targets gives the logits that `decode` gives on start token + targets."""
    with torch.no_grad():
        targets = reference["greedy_sequences"][:, 1:]
        logits = reference.bart(reference["input_ids"], reference["attention_mask"], targets)
    close(logits, reference["greedy_logits"])


@pytest.mark.parametrize("scale", [10, 3])
def test_supercond_logits_and_sequences(reference, scale):
    """Teacher-forced along the reference's own sequence: both branches, and their argmax."""
    sequence = reference[f"supercond{scale}_sequences"]
    b = len(sequence)
    with torch.no_grad():
        cond = reference.bart.decode(
            sequence[:, :-1], memory_of(reference), reference["attention_mask"]
        )
        uncond_mask = reference["uncond_attention_mask"].expand(b, -1)
        uncond_memory = memory_of(reference, "uncond_").expand(b, -1, -1)
        uncond = reference.bart.decode(sequence[:, :-1], uncond_memory, uncond_mask)
    close(cond, reference[f"supercond{scale}_logits_cond"])
    close(uncond, reference[f"supercond{scale}_logits_uncond"])
    logits = super_condition(cond, uncond, float(scale))
    assert torch.equal(without_eos(reference, logits).argmax(-1), sequence[:, 1:])


def test_greedy_sequences(reference):
    """Unrestricted: teacher-forced, the argmax over everything but eos is the reference's next
    token.
    """
    sequence = reference["greedy_sequences"]
    with torch.no_grad():
        logits = reference.bart.decode(
            sequence[:, :-1], memory_of(reference), reference["attention_mask"]
        )
    assert torch.equal(without_eos(reference, logits).argmax(-1), sequence[:, 1:])


def without_eos(reference: Reference, logits: torch.Tensor) -> torch.Tensor:
    """The reference never lets eos be drawn before the end; where its row exists, rule it out."""
    eos = json.loads((reference.folder / "config.json").read_text())["eos_token_id"]
    if eos < logits.shape[-1]:
        logits = logits.clone()
        logits[..., eos] = -torch.inf
    return logits


@pytest.mark.parametrize(
    ("name", "config"),
    [
        ("restricted_greedy_sequences", SamplingConfig(temperature=0)),
        ("restricted_supercond10_sequences", SamplingConfig(temperature=0, condition_scale=10)),
        ("restricted_supercond10_sequences", SamplingConfig(top_k=1, condition_scale=10)),
    ],
)
def test_restricted_sequences(reference, name, config):
    """The cached token loop draws the reference's tokens, codebook ids only."""
    tokens = generate_tokens(
        reference.bart,
        reference["input_ids"],
        reference["attention_mask"],
        config,
        seeds=[0, 1, 2, 3],
        uncond_ids=reference["uncond_input_ids"][:1],
        uncond_mask=reference["uncond_attention_mask"][:1],
    )
    start = torch.full_like(tokens[:, :1], reference.bart.config.codebook_size)
    assert torch.equal(torch.cat([start, tokens], dim=1), reference[name])


def test_every_array_of_the_fixture_is_compared(reference):
    """Runs after the tests above: none of the reference's arrays was left out."""
    assert reference.compared == set(reference.arrays)


def test_parameter_count():
    for name in MODELS:
        expected = json.loads((FIXTURES / name / "expected.json").read_text())["num_params"]
        assert sum(p.numel() for p in load_bart(FIXTURES / name).parameters()) == expected


def test_fp16_checkpoint():
    """Weights stored in half precision, computed in float32: all arrays of fp16/expected.npz."""
    stored = Reference("dalle_mega/fp16")
    prompts = Reference("dalle_mega")
    text = (prompts["input_ids"], prompts["attention_mask"])
    with torch.no_grad():
        memory = stored.bart.encode(*text)
        close(memory, stored["encoder_last_hidden_state"])
        close(
            stored.bart.decode(stored["decoder_input_ids"], memory, text[1]),
            stored["decoder_logits"],
        )
        for name, scale in (("greedy_sequences", 1.0), ("supercond10_sequences", 10.0)):
            sequence = stored[name]
            logits = stored.bart.decode(sequence[:, :-1], memory, text[1])
            if scale != 1:
                mask = prompts["uncond_attention_mask"].expand(len(sequence), -1)
                blank = stored.bart.encode(
                    prompts["uncond_input_ids"].expand(len(sequence), -1), mask
                )
                uncond = stored.bart.decode(sequence[:, :-1], blank, mask)
                logits = super_condition(logits, uncond, scale)
            assert torch.equal(without_eos(prompts, logits).argmax(-1), sequence[:, 1:])
    tokens = generate_tokens(
        stored.bart,
        *text,
        SamplingConfig(temperature=0, condition_scale=10),
        seeds=[0] * 4,
        uncond_ids=prompts["uncond_input_ids"][:1],
        uncond_mask=prompts["uncond_attention_mask"][:1],
    )
    assert torch.equal(tokens, stored["restricted_supercond10_sequences"][:, 1:])
    assert stored.compared == set(stored.arrays)


def test_unscanned_layout_gives_the_same_weights():
    """Layers one by one instead of stacked: the same parameters, bit for bit."""
    stacked = load_bart(FIXTURES / "dalle_mini").state_dict()
    single = load_bart(FIXTURES / "dalle_mini" / "unscanned").state_dict()
    assert stacked.keys() == single.keys()
    assert all(torch.equal(stacked[name], single[name]) for name in stacked)
