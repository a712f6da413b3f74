"""Learn which texts and pictures belong together, for CLIP.

A batch of pictures and their captions: every picture must find its caption among all of the batch,
and every caption its picture (`contrastive_loss`). Pictures are moved and scaled a little, which
leaves their captions true; they are never mirrored. Captions are worded differently each time.

How well it learns is measured by retrieval on pictures that it never saw: every concept there is
known from other styles, so the right picture must be told from that concept in other styles too.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from minidalle.checkpoints import locate, native
from minidalle.clip import CLIP, CLIPConfig, contrastive_loss
from minidalle.data.sources import GIVEN, Source, open_source
from minidalle.data.stream import is_shards
from minidalle.data.variations import Variations, move_and_zoom
from minidalle.normalizer import TextNormalizer
from minidalle.pictures import image_grid, to_pil
from minidalle.pipeline import MiniDalle
from minidalle.tokenizer import ByteLevelBPE
from minidalle.training.loop import Generators, LoopConfig
from minidalle.training.processes import gather_rows
from minidalle.training.run_folder import with_commit
from minidalle.training.settings import refuse

GALLERY = 500  # training pictures that held-out ones are to be told from
SHOWN = 8  # captions whose nearest pictures are drawn at an evaluation


@dataclass(frozen=True)
class CLIPTrainConfig:
    """What CLIP learns, and how."""

    # Whole model to put the CLIP into, a path or hub id; empty = the CLIP stands alone.
    model: str = ""
    data: str = "emoji"  # emoji (-more, -filled), shapes, or a folder of captioned pictures
    variations: int = 0  # of each picture, moved or recoloured, that are learned from beside it
    clip: CLIPConfig = field(default_factory=CLIPConfig.emoji)  # its shape
    lr: float = 1e-3  # at the peak
    weight_decay: float = 0.1  # of matrices and convolutions, not of norms, biases, temperature
    max_shift: float = 4.0  # pixels that pictures are moved by, at most, in both directions
    max_zoom: float = 0.15  # share by which they grow or shrink, at most

    def __post_init__(self) -> None:
        wrong = [] if self.lr > 0 else [f"lr is {self.lr}; it must be above 0"]
        for name in ("variations", "weight_decay", "max_shift"):
            if not 0 <= getattr(self, name) < float("inf"):
                wrong.append(f"{name} is {getattr(self, name)}; it must be at least 0")
        if not 0 <= self.max_zoom < 1:
            wrong.append(f"max_zoom is {self.max_zoom}; it must be from 0 to below 1")
        refuse(wrong)

    @classmethod
    def presets(cls) -> dict[str, tuple[CLIPTrainConfig, LoopConfig]]:
        """By name: "emoji" is the embedded model's CLIP."""
        emoji = cls(data="emoji-more", variations=3, clip=CLIPConfig.emoji())
        loop = LoopConfig(steps=1700, batch_size=256, evaluate_every=200, weights_ema=0.995)
        return {"emoji": (emoji, loop)}


class CLIPTask:
    """Tell which caption belongs to which picture.

    sources: pictures to train on, and held out, in the place of what `config.data` names.
    """

    def __init__(
        self,
        config: CLIPTrainConfig,
        loop: LoopConfig,
        sources: tuple[Source, Source] | None = None,
    ):
        self.loop = loop
        if sources is None and is_shards(config.data):
            raise ValueError(f"data {config.data}: a CLIP is not trained on shards; give a folder")
        source, self.validation = sources or open_source(
            config.data, config.clip.resolution, loop.seed
        )
        self.train_data = Variations(source, config.variations, seed=loop.seed)
        whole = locate(config.model) if config.model else None
        self.whole = MiniDalle.from_pretrained(whole) if whole else None
        self.normalizer = self.whole.normalizer if self.whole else TextNormalizer()
        if self.whole:
            self.tokenizer = self.whole.tokenizer
        else:
            captions = (self.normalized(text) for texts in source.captions for text in texts)
            self.tokenizer = ByteLevelBPE.train(captions, config.clip.vocab_size)
        rows, normalize = self.tokenizer.vocab_size, self.normalizer is not None
        clip = replace(config.clip, vocab_size=rows, normalize_text=normalize)
        data = GIVEN if sources else config.data
        model = with_commit(config.model, whole) if whole else ""
        self.config = replace(config, clip=clip, data=data, model=model)
        with torch.random.fork_rng():
            torch.manual_seed(loop.seed)
            self.model = CLIP(clip)
        # One number per plain caption: however that is worded, it is true of all its pictures.
        plain = [self.train_data.caption(i) for i in range(len(self))]
        numbers = {caption: i for i, caption in enumerate(sorted(set(plain)))}
        self.keys = torch.tensor([numbers[caption] for caption in plain])

    def normalized(self, caption: str) -> str:
        return self.normalizer(caption) if self.normalizer else caption

    def text_tokens(self, captions: list[str]) -> tuple[Tensor, Tensor]:
        """Ids and mask of captions, no longer than the longest of them: (B, T) each."""
        texts = [self.normalized(caption) for caption in captions]
        ids, mask = self.tokenizer.encode_batch(texts, self.config.clip.max_text_length)
        longest = int(mask.sum(1).max())
        return ids[:, :longest], mask[:, :longest]

    def __len__(self) -> int:
        return len(self.train_data)

    def optimizers(self) -> list[torch.optim.Optimizer]:
        config, parameters = self.config, list(self.model.parameters())
        groups = [
            {"params": [p for p in parameters if p.ndim > 1], "weight_decay": config.weight_decay},
            {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
        ]
        return [torch.optim.AdamW(groups, lr=config.lr, betas=(0.9, 0.98))]

    def batch(self, step: int, indices: Tensor, generators: Generators) -> dict[str, Any]:
        """Pictures, each moved a little, and a caption of each as text tokens."""
        config = self.config
        images = self.train_data.pictures(indices)
        drawn = zip(indices.tolist(), generators, strict=True)
        ids, mask = self.text_tokens([self.train_data.caption(i, g) for i, g in drawn])
        return {
            "images": move_and_zoom(images, config.max_shift, config.max_zoom, generators),
            "text_ids": ids,
            "text_mask": mask,
            "keys": self.keys[indices],
        }

    def loss(self, model: nn.Module, batch: dict[str, Any]) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss over the batch of all processes together, the same in every process."""
        output = model(batch["images"], batch["text_ids"], batch["text_mask"])
        features = gather_rows(output.image_features), gather_rows(output.text_features)
        loss = contrastive_loss(*features, output.scale, gather_rows(batch["keys"]))
        return loss, {"scale": output.scale}

    def after_step(self, step: int, accelerator: Accelerator) -> None:
        self.model.limit_scale()

    def sample_names(self, indices: Tensor) -> list[str]:
        return self.train_data.names(indices)

    @torch.no_grad()
    def evaluate(self, samples: Path) -> dict[str, float]:
        """Retrieval on validation pictures, among them and some training pictures."""
        others = torch.randperm(len(self), generator=torch.Generator().manual_seed(0))[:GALLERY]
        pairs = [self.validation[i] for i in range(len(self.validation))]
        pairs += [self.train_data[i] for i in others.tolist()]
        images = torch.stack([image for image, _ in pairs])
        scores = self.scores(images, [caption for _, caption in pairs])
        columns = min(5, len(images))
        nearest = scores[:, :SHOWN].topk(columns, dim=0).indices.T  # (SHOWN, columns)
        image_grid([to_pil(images[i]) for i in nearest.flatten()], columns).save(
            samples / "nearest_pictures.png"
        )
        return retrieval_figures(scores, len(self.validation))

    def scores(self, images: Tensor, captions: list[str]) -> Tensor:
        """Similarities of pictures (M, 3, S, S) in [0, 1] with captions: (M, captions)."""
        device = self.model.log_scale.device
        features = [self.model.encode_images(part.to(device)) for part in images.split(64)]
        ids, mask = self.text_tokens(captions)
        texts = self.model.encode_text(ids.to(device), mask.to(device))
        return (torch.cat(features) @ texts.T).cpu()

    def export(self, folder: Path) -> None:
        """Write the whole model with the CLIP in it, or the CLIP and its tokenizer, in float16."""
        if self.whole:
            self.whole.clip = self.model
            self.whole.save_pretrained(folder, dtype="float16")
        else:
            native.save(folder, clip=self.model, tokenizer=self.tokenizer, dtype=torch.float16)

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        pass


def retrieval_figures(scores: Tensor, queries: int) -> dict[str, float]:
    """How often the right one is among the nearest 1 and 5, of scores (M, M) that pair i with i.

    Asked for are the first `queries` pairs, all M are there to choose from: pictures by their
    caption, and captions by their picture. A tie is no find.
    """
    figures = {}
    for name, table in (("text_to_image", scores.T), ("image_to_text", scores)):
        right = table.diagonal()[:queries, None]
        before = (~(table[:queries] < right)).sum(1) - 1  # (queries,) less the right one itself
        figures |= {f"{name}_top{k}": float((before < k).float().mean()) for k in (1, 5)}
    return figures
