"""Checkers of lesson 08, CLIP: the contrastive loss, retrieval, re-ranking."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from minidalle.lessons.exercise import exercise


@exercise
def loss_without_idea(answer: Any) -> str | None:
    """The contrastive loss of 64 pairs where all similarities are equal: ln 64."""
    hints = {
        64: "that is how many to choose from; the loss is minus the logarithm of a chance",
        1 / 64: "that is the chance of a right guess; the loss is minus its logarithm",
        6: "that is log2 64, in bits; a cross-entropy takes the natural logarithm",
        2 * math.log(64): "both halves are averaged, not added",
        math.log10(
            64
        ): "that takes the logarithm to base 10; a cross-entropy takes the natural one",
        -math.log(64): "the sign: a loss is minus the logarithm of a chance",
        0: "the loss is 0 only where every guess is right and certain",
    }
    if abs(float(answer) - math.log(64)) < 0.01:
        return None
    near = [hint for number, hint in hints.items() if abs(float(answer) - number) < 0.005]
    return near[0] if near else "a softmax over 64 equal numbers gives each of them 1/64"


@exercise
def text_to_image_loss(answer: Any) -> str | None:
    """Mean cross-entropy of every text looking for its picture."""
    generator = torch.Generator().manual_seed(0)
    images = F.normalize(torch.randn(5, 6, generator=generator), dim=1)
    texts = F.normalize(torch.randn(5, 6, generator=generator), dim=1)
    found = answer(images.clone(), texts.clone(), 7.0)
    if not isinstance(found, float | Tensor) or torch.as_tensor(found).numel() != 1:
        return "return one number: the mean over the texts"
    logits, right = images @ texts.T, torch.arange(5)
    by_text = F.cross_entropy(7 * logits.T, right)
    by_picture = F.cross_entropy(7 * logits, right)
    mistakes = [
        (by_picture, "that is every picture looking for its text; the softmax runs over pictures"),
        ((by_text + by_picture) / 2, "that is the whole loss; this half is asked for"),
        (F.cross_entropy(logits.T, right), "multiply the similarities with `scale` first"),
        (5 * by_text, "that is the sum over the texts; return the mean"),
        (-by_text, "the sign: a loss is minus a logarithm"),
    ]
    value = float(found)
    if abs(value - float(by_text)) < 1e-3:
        return None
    near = [hint for wrong, hint in mistakes if abs(value - float(wrong)) < 1e-3]
    return near[0] if near else "row i of the transposed similarities is text i; it should choose i"


@exercise
def top1(answer: Any) -> str | None:
    """The share of captions whose highest-scored picture is their own."""
    scores = torch.tensor(
        [[0.9, 0.8, 0.1, 0.3], [0.2, 0.3, 0.0, 0.1], [0.7, 0.9, 0.8, 0.9], [0.0, 0.0, 0.1, 0.4]]
    )  # down the columns the pictures 0, 2, 2, 2 win; along the rows the captions 0, 1, 1, 3
    found = answer(scores.clone())
    if not isinstance(found, int | float | Tensor) or torch.as_tensor(found).numel() != 1:
        return "return one number, from 0 to 1"
    hints = {
        0.75: "that is the share of pictures that find their caption; captions look down a column",
        2.0: "that is how many; return the share of them",
        50.0: "that is in percent; return a share, from 0 to 1",
    }
    if abs(float(found) - 0.5) < 1e-6:
        return None
    return hints.get(float(found), "compare scores.argmax(dim=0), of each caption, with 0, 1, 2, …")


@exercise
def best_first(answer: Any) -> str | None:
    """The tokens of pictures, those of the highest score first."""
    tokens = torch.arange(12).view(4, 3)
    scores = torch.tensor([0.2, 0.9, -0.1, 0.5])
    found = answer(tokens.clone(), scores.clone())
    if not isinstance(found, Tensor) or found.shape != tokens.shape:
        what = tuple(found.shape) if isinstance(found, Tensor) else type(found).__name__
        return f"it returned {what}; expected all tokens, {tuple(tokens.shape)}"
    order = scores.argsort(descending=True)
    if torch.equal(found, tokens[order]):
        return None
    if torch.equal(found, tokens[order.flip(0)]):
        return "that is the worst first: sort in descending order"
    if torch.equal(found, tokens[order.argsort()]):
        return "those are the ranks: index the tokens with argsort itself"
    return "the order of the pictures is scores.argsort(descending=True)"
