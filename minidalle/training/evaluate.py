"""How good is it: figures for each part, on pictures it has not learned from.

PSNR (peak signal-to-noise ratio, in dB) is computed per picture on values clipped to [0, 1] and
averaged over pictures.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from minidalle.bart import Bart
from minidalle.data.emoji import EmojiDataset
from minidalle.pipeline import MiniDalle
from minidalle.tokenizer import ByteLevelBPE
from minidalle.vqgan import VQGAN


def psnr(images: Tensor, others: Tensor) -> Tensor:
    """Peak signal-to-noise ratio of each picture: (B, 3, S, S) twice, in [0, 1] -> (B,) in dB."""
    error = (images - others.clamp(0, 1)).square().flatten(1).mean(1)
    return -10 * torch.log10(error.clamp(min=1e-10))


@torch.no_grad()
def evaluate_vqgan(vqgan: VQGAN, images: Tensor, batch_size: int = 64) -> dict[str, float]:
    """Reconstruction and codebook figures on pictures (count, 3, S, S) uint8.

    Returns `psnr` in dB (mean over pictures), `codes_used` (share of the K codes that occur at
    least once) and `perplexity` (exp of the entropy of the codes' shares).
    """
    device = vqgan.quantize.embedding.weight.device
    scores, ids = [], []
    for part in (images / 255).split(batch_size):
        tokens = vqgan.encode(part.to(device))
        scores.append(psnr(part, vqgan.decode(tokens).float().cpu()))
        ids.append(tokens.flatten().cpu())
    share = torch.bincount(torch.cat(ids), minlength=vqgan.config.n_embed).double()
    used = float((share > 0).double().mean())
    perplexity = float(torch.special.entr(share / share.sum()).sum().exp())
    return {"psnr": float(torch.cat(scores).mean()), "codes_used": used, "perplexity": perplexity}


@torch.no_grad()
def evaluate_bart(
    bart: Bart, tokenizer: ByteLevelBPE, captions: list[str], image_ids: Tensor
) -> dict[str, float]:
    """Nats per image token (count, N) with the right, an empty and a wrong caption.

    A model that reads the caption has a much lower loss with the right one; a uniform guess would
    have ln K. The wrong caption of each picture is the next picture's.
    """
    wrong = captions[1:] + captions[:1]
    device = bart.lm_head.weight.device
    losses = {}
    for name, texts in (("right", captions), ("empty", [""] * len(captions)), ("wrong", wrong)):
        ids, mask = tokenizer.encode_batch(texts, bart.config.max_text_length)
        total = 0.0
        for part in torch.arange(len(texts)).split(64):
            target = image_ids[part].to(device)
            logits = bart(ids[part].to(device), mask[part].to(device), target).float()
            total += float(F.cross_entropy(logits.flatten(0, 1), target.flatten(), reduction="sum"))
        losses[name] = total / image_ids.numel()
    return losses


def evaluate_model(model: MiniDalle, data: EmojiDataset) -> dict[str, dict[str, float]]:
    """The figures of a whole model on one split of the emoji: "vqgan" and "bart"."""
    device = model.device
    tokens = [model.vqgan.encode((part / 255).to(device)).cpu() for part in data.images.split(64)]
    captions = [record.caption for record in data.records]
    if model.normalizer:
        captions = [model.normalizer(caption) for caption in captions]
    return {
        "vqgan": evaluate_vqgan(model.vqgan, data.images),
        "bart": evaluate_bart(model.bart, model.tokenizer, captions, torch.cat(tokens)),
    }
