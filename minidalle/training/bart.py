"""Stage two: learn which image tokens belong to which captions.

The pictures are turned into image tokens once, by a trained VQGAN; then Bart learns to predict each
token from the caption and the tokens before it.

With few pictures the danger is that the decoder learns to continue an image from its own beginning
and ignores the caption. So most of its input tokens are swapped, in training, for tokens that
another picture has in the same place: what it sees of the image is plausible but may be wrong, and
only the caption tells. The share of swapped tokens is drawn anew for every picture, so that it also
learns from clean beginnings, which is what it sees when it generates. A share of captions is left
empty, for super-conditioning.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from accelerate import Accelerator
from torch import Tensor, nn

from minidalle.bart import Bart, BartConfig
from minidalle.checkpoints import load_bart, load_tokenizer, load_vqgan, native
from minidalle.data.emoji import EmojiDataset
from minidalle.normalizer import TextNormalizer
from minidalle.pictures import image_grid
from minidalle.pipeline import MiniDalle, check_fit
from minidalle.sampling import SamplingConfig
from minidalle.tokenizer import ByteLevelBPE
from minidalle.training.evaluate import evaluate_bart
from minidalle.training.loop import Generators, LoopConfig

SAMPLE_PROMPTS = (
    "red apple, twemoji style",
    "pizza, 3d fluent style",
    "rocket, noto style",
    "cat face, flat fluent style",
    "green heart, twemoji style",
)


@dataclass(frozen=True)
class BartTrainConfig:
    """What the second stage learns, and how."""

    vqgan: str = ""  # folder of the trained first stage
    init: str = ""  # folder of a Bart to go on from; empty = start from random weights
    bart: BartConfig = field(default_factory=BartConfig.emoji)
    optimizer: str = "muon"  # of the blocks' matrices; "adamw" is plainer and learns slower
    lr: float = 2.5e-3  # at the peak; 1e-3 is better with adamw
    weight_decay: float = 0.01
    blank_caption_share: float = 0.1  # of captions that are left empty
    swap_at_most: float = 1.0  # a picture's share of swapped input tokens is drawn from 0 to this
    sampling: SamplingConfig = field(  # the trained model's defaults
        default_factory=lambda: SamplingConfig(temperature=0.7, condition_scale=3.0)
    )

    def __post_init__(self) -> None:
        if self.optimizer not in ("muon", "adamw"):
            raise ValueError(f"optimizer is {self.optimizer!r}; it must be 'muon' or 'adamw'")
        for name in ("blank_caption_share", "swap_at_most"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be from 0 to 1")

    @classmethod
    def presets(cls) -> dict[str, tuple[BartTrainConfig, LoopConfig]]:
        """By name: "emoji" is the embedded model's second stage."""
        return {"emoji": (cls(), LoopConfig(steps=1100, batch_size=128, evaluate_every=200))}


class BartTask:
    """Predict image tokens from captions."""

    def __init__(self, config: BartTrainConfig, loop: LoopConfig):
        self.loop = loop
        self.vqgan = load_vqgan(config.vqgan)
        self.train_data, self.validation = EmojiDataset("train"), EmojiDataset("validation")
        self.normalizer = TextNormalizer()
        if config.init:
            self.tokenizer = load_tokenizer(config.init)
        else:
            records = self.train_data.records
            captions = [self.normalizer(text) for r in records for text in r.all_captions()]
            self.tokenizer = ByteLevelBPE.train(captions, config.bart.encoder_vocab_size)
        # Few captions can fill less than the vocabulary allowed: no row should never learn.
        bart = replace(config.bart, encoder_vocab_size=self.tokenizer.vocab_size)
        self.config = replace(config, bart=bart)
        check_fit(bart, self.vqgan.config)
        with torch.random.fork_rng():
            torch.manual_seed(loop.seed)
            self.model = Bart(bart)
        if config.init:
            self.model.load_state_dict(load_bart(config.init).state_dict())
        self.train_tokens, self.validation_tokens = (
            torch.cat([self.vqgan.encode(part / 255) for part in data.images.split(64)])
            for data in (self.train_data, self.validation)
        )

    def __len__(self) -> int:
        return len(self.train_data)

    def optimizers(self) -> list[torch.optim.Optimizer]:
        """Muon for the matrices inside the blocks, AdamW for embeddings, head and norms."""
        config = self.config
        stacks = (self.model.encoder.layers, self.model.decoder.layers)
        matrices = [p for stack in stacks for p in stack.parameters() if p.ndim == 2]
        if config.optimizer == "adamw":
            matrices = []
        inside = set(matrices)
        others = [p for p in self.model.parameters() if p not in inside]
        common = {"lr": config.lr, "weight_decay": config.weight_decay}
        optimizers = [torch.optim.AdamW(others, betas=(0.9, 0.98), **common)]
        if matrices:
            muon = torch.optim.Muon(matrices, adjust_lr_fn="match_rms_adamw", **common)
            optimizers.insert(0, muon)
        return optimizers

    def batch(self, step: int, indices: Tensor, generators: Generators) -> dict[str, Any]:
        """Captions as text tokens, some of them empty; image tokens, and what the decoder sees."""
        captions = []
        for i, generator in zip(indices.tolist(), generators, strict=True):
            caption = self.train_data.records[i].draw_caption(generator)
            blank = float(torch.rand((), generator=generator)) < self.config.blank_caption_share
            captions.append("" if blank else self.normalizer(caption))
        ids, mask = self.tokenizer.encode_batch(captions, self.config.bart.max_text_length)
        longest = int(mask.sum(1).max())  # padding in every row only costs time
        at_most = self.config.swap_at_most
        swapped = [
            swap_tokens(self.train_tokens[i], self.train_tokens, at_most, generator)
            for i, generator in zip(indices.tolist(), generators, strict=True)
        ]
        return {
            "text_ids": ids[:, :longest],
            "text_mask": mask[:, :longest],
            "image_ids": self.train_tokens[indices],
            "input_ids": torch.stack(swapped),
        }

    def loss(self, model: nn.Module, batch: dict[str, Any]) -> tuple[Tensor, dict[str, Tensor]]:
        logits = model(batch["text_ids"], batch["text_mask"], batch["input_ids"])
        return F.cross_entropy(logits.flatten(0, 1).float(), batch["image_ids"].flatten()), {}

    def after_step(self, step: int, accelerator: Accelerator) -> None:
        pass

    def evaluate(self, samples: Path) -> dict[str, float]:
        """Loss with the right, an empty and a wrong caption on known and held-out pictures."""
        drawn = self.pipeline().generate(list(SAMPLE_PROMPTS), n=4, seed=0)
        image_grid([image for result in drawn for image in result.images], columns=4).save(
            samples / "drawn.png"
        )
        figures = {}
        for split, data, tokens in (
            ("train", self.train_data, self.train_tokens),
            ("held_out", self.validation, self.validation_tokens),
        ):
            chosen = torch.randperm(len(data), generator=torch.Generator().manual_seed(0))[:256]
            captions = [self.normalizer(data.records[i].caption) for i in chosen.tolist()]
            losses = evaluate_bart(self.model, self.tokenizer, captions, tokens[chosen])
            figures |= {f"{split}_{name}": value for name, value in losses.items()}
        return figures

    def pipeline(self) -> MiniDalle:
        """The whole model as it stands."""
        return MiniDalle(
            bart=self.model,
            vqgan=self.vqgan.to(self.model.lm_head.weight.device),
            tokenizer=self.tokenizer,
            sampling=self.config.sampling,
        )

    def export(self, folder: Path) -> None:
        """Write the whole model, VQGAN and tokenizer included, in half precision."""
        native.save(
            folder,
            bart=self.model,
            vqgan=self.vqgan,
            tokenizer=self.tokenizer,
            sampling=self.config.sampling,
            dtype=torch.float16,
        )

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        pass


def swap_tokens(
    tokens: Tensor, all_tokens: Tensor, at_most: float, generator: torch.Generator
) -> Tensor:
    """Swap a share of a picture's tokens (N,) for other pictures' in the same place.

    The share is drawn uniformly from 0 to `at_most`; the other picture, a row of `all_tokens`
    (count, N), for each token.
    """
    (n,) = tokens.shape
    share = torch.rand((), generator=generator) * at_most
    swapped = torch.rand(n, generator=generator) < share
    others = all_tokens[torch.randint(len(all_tokens), (n,), generator=generator), torch.arange(n)]
    return torch.where(swapped, others, tokens)
