"""How good is it: figures for each part, on pictures it has not learned from.

    evaluate_vqgan      are pictures drawn well from their image tokens, and all codes used?
    evaluate_bart       how likely are a picture's image tokens, given its caption?
    evaluate_model      both, on a split of the emoji

Whether the whole model draws what a caption says is asked in `drawings.py`. PSNR and SSIM are
computed per picture on values clipped to [0, 1] and averaged over pictures.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from minidalle.bart import Bart
from minidalle.data.emoji import EmojiDataset
from minidalle.pipeline import MiniDalle, text_tokens
from minidalle.tokenizer import ByteLevelBPE
from minidalle.training.metrics import psnr, ssim
from minidalle.vqgan import VQGAN

BATCH = 64  # pictures computed at once


@torch.no_grad()
def evaluate_vqgan(vqgan: VQGAN, images: Tensor, batch_size: int = BATCH) -> dict[str, float]:
    """Reconstruction and codebook figures on pictures (count, 3, S, S) uint8.

    Returns `psnr` in dB and `ssim` (means over pictures), `codes_used` (share of the K codes that
    occur at least once) and `perplexity` (exp of the entropy of the codes' shares).
    """
    weight = vqgan.quantize.embedding.weight
    decibels, similarities, ids = [], [], []
    for part in (images / 255).split(batch_size):
        tokens = vqgan.encode(part.to(weight))
        again = vqgan.decode(tokens).float().cpu()
        decibels.append(psnr(part, again))
        similarities.append(ssim(part, again))
        ids.append(tokens.flatten().cpu())
    share = torch.bincount(torch.cat(ids), minlength=vqgan.config.n_embed).double()
    return {
        "psnr": float(torch.cat(decibels).mean()),
        "ssim": float(torch.cat(similarities).mean()),
        "codes_used": float((share > 0).double().mean()),
        "perplexity": float(torch.special.entr(share / share.sum()).sum().exp()),
    }


@torch.no_grad()
def evaluate_bart(
    bart: Bart, tokenizer: ByteLevelBPE, captions: list[str], image_ids: Tensor
) -> dict[str, float]:
    """Nats per image token (count, N) with the `right`, an `empty` and a `wrong` caption.

    A model that reads the caption has a much lower loss with the right one; a uniform guess would
    have `ln_k`. The wrong caption of each picture is the next picture's.
    """
    wrong = captions[1:] + captions[:1]
    device = bart.lm_head.weight.device
    losses = {}
    for name, texts in (("right", captions), ("empty", [""] * len(captions)), ("wrong", wrong)):
        ids, mask = text_tokens(tokenizer, texts, bart.config)
        total = 0.0
        for part in torch.arange(len(texts)).split(BATCH):
            target = image_ids[part].to(device)
            logits = bart(ids[part].to(device), mask[part].to(device), target).float()
            total += float(F.cross_entropy(logits.flatten(0, 1), target.flatten(), reduction="sum"))
        losses[name] = total / image_ids.numel()
    return losses | {"ln_k": math.log(bart.config.codebook_size)}


def evaluate_model(model: MiniDalle, data: EmojiDataset) -> dict[str, dict[str, float]]:
    """The figures of a whole model on one split of the emoji: "vqgan" and "bart"."""
    return evaluate_parts(model, data.images, [record.caption for record in data.records])


def evaluate_parts(
    model: MiniDalle, images: Tensor, captions: list[str]
) -> dict[str, dict[str, float]]:
    """The figures of both parts on pictures (count, 3, S, S) uint8 with their captions."""
    images = at_side(images, model.vqgan.config.resolution)
    weight = model.vqgan.quantize.embedding.weight
    tokens = [model.vqgan.encode((part / 255).to(weight)).cpu() for part in images.split(BATCH)]
    if model.normalizer:
        captions = [model.normalizer(caption) for caption in captions]
    return {
        "vqgan": evaluate_vqgan(model.vqgan, images),
        "bart": evaluate_bart(model.bart, model.tokenizer, captions, torch.cat(tokens)),
    }


@torch.no_grad()
def reconstructions(model: MiniDalle, images: Tensor) -> Tensor:
    """What the VQGAN makes of pictures: (B, 3, S, S) uint8 -> (B, 3, S', S') in [0, 1]."""
    weight = model.vqgan.quantize.embedding.weight
    images = at_side(images, model.vqgan.config.resolution) / 255
    return model.vqgan.decode(model.vqgan.encode(images.to(weight))).float().cpu().clamp(0, 1)


def at_side(images: Tensor, side: int) -> Tensor:
    """Pictures (B, 3, S, S) resized to another side, where it is another."""
    if images.shape[-1] == side:
        return images
    resized = F.interpolate(images.float(), (side, side), mode="bilinear", antialias=True)
    return resized if images.is_floating_point() else resized.round().clamp(0, 255).byte()
