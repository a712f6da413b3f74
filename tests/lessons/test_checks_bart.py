"""The checkers of lesson 05: nothing, right, and the mistakes that are likely."""

import pytest
import torch
import torch.nn.functional as F
from verdicts import assert_nothing_and_right

from minidalle.lessons.checks import bart as checks


def shift_right(image_ids, start_token):
    start = torch.full_like(image_ids[:, :1], start_token)
    return torch.cat([start, image_ids[:, :-1]], dim=1)


def mask_after(past, n):
    return torch.ones(n, past + n, dtype=torch.bool).tril(past)


def cut(x, heads):
    return x.unflatten(-1, (heads, -1)).transpose(1, 2)


def multi_head(queries, keys, values, heads):
    q, k, v = (cut(x, heads) for x in (queries, keys, values))
    weights = (q @ k.mT / q.shape[-1] ** 0.5).softmax(-1)
    return (weights @ v).transpose(1, 2).flatten(2)


ANSWERS = {
    "shift_right": shift_right,
    "mask_after": mask_after,
    "multi_head": multi_head,
    "encoder_block_parameters": lambda d, f: 4 * d * d + 3 * d * f + 4 * d + f,
}


@pytest.mark.parametrize("name", ANSWERS)
def test_nothing_and_right(name):
    assert_nothing_and_right(getattr(checks, name), ANSWERS[name])


def one_head(q, k, v, heads):
    return F.scaled_dot_product_attention(q, k, v)


def divided_by(power_of):
    def answer(q, k, v, heads):
        q, k, v = (cut(x, heads) for x in (q, k, v))
        weights = (q @ k.mT / power_of(q, heads)).softmax(-1)
        return (weights @ v).transpose(1, 2).flatten(2)

    return answer


def wrong_axis(q, k, v, heads):
    q, k, v = (cut(x, heads) for x in (q, k, v))
    return ((q @ k.mT / q.shape[-1] ** 0.5).softmax(-2) @ v).transpose(1, 2).flatten(2)


def not_transposed(q, k, v, heads):
    shape = q.shape
    q, k, v = (cut(x, heads) for x in (q, k, v))
    return F.scaled_dot_product_attention(q, k, v).reshape(shape)


def every_second(q, k, v, heads):
    q, k, v = (x.unflatten(-1, (-1, heads)).movedim(-1, 1) for x in (q, k, v))
    return F.scaled_dot_product_attention(q, k, v).movedim(1, -1).flatten(2)


WRONG = [
    ("shift_right", lambda ids, start: ids.roll(1, dims=1), "still to be predicted"),
    ("shift_right", lambda ids, start: F.pad(ids, (1, 0), value=start), "nothing comes after"),
    ("shift_right", lambda ids, start: F.pad(ids[:, 1:], (0, 1), value=start), "shifts left"),
    ("shift_right", lambda ids, start: ids.index_fill(1, torch.tensor(0), start), "overwrites"),
    ("shift_right", lambda ids, start: ids[0], "expected a tensor of shape"),
    ("shift_right", lambda ids, start: F.pad(ids[:, :-1], (1, 0), value=0), "yours is [0, 3, 1"),
    ("mask_after", lambda past, n: torch.ones(n, n).tril().bool(), "expected a tensor of shape"),
    ("mask_after", lambda past, n: torch.ones(n, past + n).tril(past), "expected booleans"),
    ("mask_after", lambda past, n: ~mask_after(past, n), "True where looking is forbidden"),
    ("mask_after", lambda past, n: mask_after(past, n).tril(past - 1), "see itself"),
    ("mask_after", lambda past, n: mask_after(past, n).tril(0), "sees all 2"),
    ("mask_after", lambda past, n: torch.ones(n, past + n).triu(past).bool(), "rows ask"),
    ("multi_head", one_head, "cut D into slices"),
    ("multi_head", divided_by(lambda q, heads: 1), "not divided"),
    ("multi_head", divided_by(lambda q, heads: (q.shape[-1] * heads) ** 0.5), "D/H numbers"),
    ("multi_head", wrong_axis, "along the queries"),
    ("multi_head", not_transposed, "transpose back"),
    ("multi_head", every_second, "neighbouring"),
    ("multi_head", lambda q, k, v, heads: v, "expected a tensor of shape"),
    ("encoder_block_parameters", lambda d, f: 4 * d * d + 3 * d * f, "norms have parameters"),
    ("encoder_block_parameters", lambda d, f: 4 * d * d + 2 * d * f + 4 * d + f, "three matrices"),
    ("encoder_block_parameters", lambda d, f: 4 * d * d + 3 * d * f + 6 * d + 2 * f, "no scale"),
    ("encoder_block_parameters", lambda d, f: 3 * d * d + 3 * d * f + 4 * d + f, "four matrices"),
    ("encoder_block_parameters", lambda d, f: 1, "yours is 1"),
]


@pytest.mark.parametrize(("name", "answer", "hint"), WRONG)
def test_wrong_answers_are_told_why(name, answer, hint):
    verdict = getattr(checks, name).verdict(answer)
    assert verdict.startswith("✗ not yet:") and hint in verdict, verdict
