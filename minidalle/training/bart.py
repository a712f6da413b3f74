"""Stage two: learn which image tokens belong to which captions.

The pictures are turned into image tokens once, by a trained VQGAN: at the start, or before it by
`minidalle encode`. Then Bart learns to predict each token from the caption and the tokens before.

With few pictures the danger is that the decoder learns to continue an image from its own beginning
and ignores the caption. So most of its input tokens are swapped, in training, for tokens that
another picture has in the same place: what it sees of the image is plausible but may be wrong, and
only the caption tells. The share of swapped tokens is drawn anew for every picture, so that it also
learns from clean beginnings, which is what it sees when it generates. A share of captions is left
empty, for super-conditioning.

Few pictures also show too little of each code to learn from scratch which codes are alike, and the
VQGAN knows it. So embedding and head start from the codebook, and a part of what is to be predicted
is spread over the codes near the right one ("soft labels"; Lee et al., "Autoregressive Image
Generation Using Residual Quantization", 2022, section 3.2.3).
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from accelerate import Accelerator
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from minidalle.bart import Bart, BartConfig
from minidalle.checkpoints import hashtag_words, load_bart, load_tokenizer, load_vqgan, locate
from minidalle.data.sources import GIVEN, EmojiSource, Source, open_source
from minidalle.data.stream import Samples, ShardStream, is_shards, open_tokens
from minidalle.data.variations import Variations
from minidalle.normalizer import TextNormalizer
from minidalle.pictures import image_grid
from minidalle.pipeline import MiniDalle, check_fit, check_tokenizer, text_tokens
from minidalle.sampling import SamplingConfig
from minidalle.tokenizer import ByteLevelBPE
from minidalle.training.evaluate import evaluate_bart
from minidalle.training.loop import Generators, LoopConfig
from minidalle.training.muon import Muon
from minidalle.training.run_folder import with_commit
from minidalle.training.schedule import precision_of
from minidalle.training.settings import refuse
from minidalle.vqgan import VQGAN

SAMPLE_PROMPTS = (
    "red apple, twemoji style",
    "pizza, 3d fluent style",
    "rocket, noto style",
    "cat face, flat fluent style",
    "green heart, twemoji style",
)

MOST_SPREAD = 4096  # codes that labels can be spread over


@dataclass(frozen=True)
class BartTrainConfig:
    """What the second stage learns, and how."""

    vqgan: str = ""  # path or hub id ("owner/name@revision") of the trained first stage
    data: str = "emoji"  # emoji (-more, -filled), shapes, a folder, or shards of image tokens
    tokenizer: str = ""  # path or hub id of one; empty = `init`'s, or one learned from `data`
    init: str = ""  # path or hub id of a Bart to go on from, in any layout; empty = random weights
    # The shape; N and K are the VQGAN's, and of a Bart to go on from all but dropout is its own.
    bart: BartConfig = field(default_factory=BartConfig.emoji)
    optimizer: str = "muon"  # of the blocks' matrices; "adamw" is plainer and learns slower
    lr: float = 2.5e-3  # at the peak; 1e-3 is better with adamw
    weight_decay: float = 0.01  # of all parameters, times lr at every step
    blank_caption_share: float = 0.1  # of captions that are left empty
    variations: int = 0  # of each picture, moved or recoloured, that are learned from beside it
    variations_until: float = 1.0  # up to this share of the run; then the pictures as they are
    start_from_codebook: bool = True  # image embedding and head know from the start what is alike
    tables_lr: float = 1.0  # of image embedding and head, times lr: below 1 less of it is forgotten
    label_spread: float = 0.0  # how far labels reach, in distances of a code to its nearest; 0 = no
    gradient_checkpointing: bool = False  # keep less for the backward pass, compute it again there
    swap_at_most: float = 1.0  # a picture's share of swapped input tokens is drawn from 0 to this
    sampling: SamplingConfig = field(  # the trained model's defaults
        default_factory=lambda: SamplingConfig(temperature=0.7, condition_scale=3.0)
    )

    def __post_init__(self) -> None:
        wrong = [
            f"{name} is {getattr(self, name)}; it must be above 0"
            for name in ("lr", "tables_lr")
            if not getattr(self, name) > 0
        ]
        if self.optimizer not in ("muon", "adamw"):
            wrong.append(f"optimizer is {self.optimizer!r}; it must be 'muon' or 'adamw'")
        for name in ("weight_decay", "variations", "label_spread"):
            if not 0 <= getattr(self, name) < float("inf"):
                wrong.append(f"{name} is {getattr(self, name)}; it must be at least 0")
        for name in ("blank_caption_share", "swap_at_most", "variations_until"):
            if not 0 <= getattr(self, name) <= 1:
                wrong.append(f"{name} is {getattr(self, name)}; it must be from 0 to 1")
        refuse(wrong)

    @classmethod
    def presets(cls) -> dict[str, tuple[BartTrainConfig, LoopConfig]]:
        """By name: "emoji" is the embedded model's Bart, "emoji-finish" goes on from it by `init`.

        The first has dropout. The second has none, and takes the pictures as they are after a
        while: it draws what it was shown much better, and what it was not shown no worse. Both
        learn, for what a style lacks, the nearest style's drawing (`emoji-filled`).

        "mini" has DALL·E mini's shape, for GPUs and millions of pictures: a place to begin, which
        was not run.
        """
        finish = cls(
            data="emoji-filled",
            lr=2e-3,
            weight_decay=0.05,
            variations=1,
            variations_until=0.4,
            label_spread=0.5,
            swap_at_most=0.7,
            sampling=SamplingConfig(temperature=0.2, condition_scale=2.0),
        )
        loop = LoopConfig(steps=5600, batch_size=64, evaluate_every=500, weights_ema=0.995)
        first = replace(finish, bart=replace(BartConfig.emoji(), dropout=0.1), variations_until=1.0)
        shorter = replace(loop, steps=2900, weights_ema=0.998)
        mini = cls(bart=BartConfig.mini(), optimizer="adamw", lr=4e-4, swap_at_most=0.0)
        long = LoopConfig(steps=200_000, batch_size=512, warmup_steps=5000, evaluate_every=5000)
        return {"emoji": (first, shorter), "emoji-finish": (finish, loop), "mini": (mini, long)}


class BartTask:
    """Predict image tokens from captions.

    sources: pictures to train on, and held out, in the place of what `config.data` names.
    """

    splits_batches = True

    def __init__(
        self,
        config: BartTrainConfig,
        loop: LoopConfig,
        sources: tuple[Source, Source] | None = None,
    ):
        if not config.vqgan:
            raise ValueError("vqgan is empty; it must be the path or hub id of a trained VQGAN")
        paths = {  # of the checkpoints to start from
            name: locate(getattr(config, name))
            for name in ("vqgan", "init", "tokenizer")
            if getattr(config, name)
        }
        self.loop = loop
        self.vqgan = load_vqgan(paths["vqgan"])
        self.open_data(config, sources)
        init = paths.get("init")
        learned = load_bart(init) if init else None
        shape = learned.config if learned else config.bart
        self.word_list = hashtag_words(init) if init else None
        self.normalizer = TextNormalizer(self.word_list) if shape.normalize_text else None
        if tokenizer := paths.get("tokenizer", init):
            self.tokenizer = load_tokenizer(tokenizer)
        else:
            captions = (self.normalized(t) for texts in self.train_data.captions for t in texts)
            self.tokenizer = ByteLevelBPE.train(captions, config.bart.encoder_vocab_size)
        self.model = self.first_model(config, learned)
        used = {name: with_commit(getattr(config, name), path) for name, path in paths.items()}
        data = GIVEN if sources else config.data
        self.config = replace(config, bart=self.model.config, data=data, **used)
        self.tokens_per_sample = self.model.config.image_length
        self.labels = soft_labels(self.vqgan.quantize.embedding.weight, config.label_spread)
        if self.stream is None:
            self.train_tokens, self.validation_tokens = (
                encode_all(self.vqgan, data) for data in (self.known, self.validation)
            )

    def open_data(self, config: BartTrainConfig, sources: tuple[Source, Source] | None) -> None:
        """Find what there is to learn from, and what is held out."""
        self.stream: ShardStream | None = None  # of image tokens, where `data` is shards
        self.known: Source | Samples  # to evaluate on, beside `validation`
        if sources is None and is_shards(config.data):
            self.stream, self.validation = open_tokens(
                config.data, self.vqgan, config.vqgan, self.loop.seed
            )
            self.known = self.stream.first()
            self.train_tokens, self.validation_tokens = self.known[0], self.validation[0]
        else:
            self.known, self.validation = sources or open_source(
                config.data, self.vqgan.config.resolution, self.loop.seed
            )
            if config.variations:
                self.known = Variations(self.known, config.variations, seed=self.loop.seed)
        self.train_data = self.stream or self.known

    def first_model(self, config: BartTrainConfig, learned: Bart | None) -> Bart:
        """What training starts from: a copy of the learned Bart, or one of random weights."""
        if learned is None:
            # Few captions can fill less than the vocabulary allowed: no row should never learn.
            tokens = self.vqgan.config
            bart = replace(
                config.bart,
                encoder_vocab_size=self.tokenizer.vocab_size,
                image_length=tokens.image_length,
                codebook_size=tokens.n_embed,
                image_vocab_size=tokens.n_embed,
            )
        else:
            bart = replace(learned.config, dropout=config.bart.dropout)
            check_tokenizer(bart, self.tokenizer)
        check_fit(bart, self.vqgan.config)
        with torch.random.fork_rng():
            torch.manual_seed(self.loop.seed)
            model = Bart(bart)
            if config.start_from_codebook and learned is None:
                start_from_codebook(model, self.vqgan.quantize.embedding.weight)
        if learned is not None:
            model.load_state_dict(learned.state_dict())
        if config.gradient_checkpointing:
            for block in (*model.encoder.layers, *model.decoder.layers):
                block.forward = partial(checkpoint, block.forward, use_reentrant=False)
        return model

    def normalized(self, caption: str) -> str:
        return self.normalizer(caption) if self.normalizer else caption

    def __len__(self) -> int:
        return len(self.train_data)

    def optimizers(self) -> list[torch.optim.Optimizer]:
        """Muon for the matrices inside the blocks, AdamW for embeddings, head and norms."""
        config = self.config
        stacks = (self.model.encoder.layers, self.model.decoder.layers)
        matrices = [p for stack in stacks for p in stack.parameters() if p.ndim == 2]
        if config.optimizer == "adamw":
            matrices = []
        tables = [self.model.decoder.embed_tokens.weight, self.model.lm_head.weight]
        apart = {*matrices, *tables}
        others = [p for p in self.model.parameters() if p not in apart]
        groups = [{"params": others}, {"params": tables, "lr": config.lr * config.tables_lr}]
        common = {"lr": config.lr, "weight_decay": config.weight_decay}
        optimizers = [torch.optim.AdamW(groups, betas=(0.9, 0.98), **common)]
        if matrices:
            dtype = torch.bfloat16 if precision_of(self.loop) == "bf16" else torch.float32
            optimizers.insert(0, Muon(matrices, dtype=dtype, **common))
        return optimizers

    def batch(self, step: int, indices: Tensor, generators: Generators) -> dict[str, Any]:
        """Captions as text tokens, some of them empty; image tokens, and what the decoder sees."""
        if self.stream:
            tokens, texts = self.stream.draw(len(indices))
            others = tokens  # the stream's other pictures are not at hand
        else:
            if step >= self.config.variations_until * self.loop.steps:
                indices = indices - indices % (self.config.variations + 1)
            drawn = zip(indices.tolist(), generators, strict=True)
            texts = [self.known.caption(i, generator) for i, generator in drawn]
            tokens, others = self.train_tokens[indices], self.train_tokens
        captions = []
        for caption, generator in zip(texts, generators, strict=True):
            blank = float(torch.rand((), generator=generator)) < self.config.blank_caption_share
            captions.append("" if blank else self.normalized(caption))
        ids, mask = text_tokens(self.tokenizer, captions, self.config.bart)
        longest = int(mask.sum(1).max())  # padding in every row only costs time
        at_most = self.config.swap_at_most
        swapped = [
            swap_tokens(row, others, at_most, generator)
            for row, generator in zip(tokens, generators, strict=True)
        ]
        return {
            "text_ids": ids[:, :longest],
            "text_mask": mask[:, :longest],
            "image_ids": tokens,
            "input_ids": torch.stack(swapped),
        }

    def loss(self, model: nn.Module, batch: dict[str, Any]) -> tuple[Tensor, dict[str, Tensor]]:
        logits = model(batch["text_ids"], batch["text_mask"], batch["input_ids"])
        logits, targets = logits.flatten(0, 1).float(), batch["image_ids"].flatten()
        if self.labels is not None:  # (K, K)
            self.labels = self.labels.to(targets.device)
            targets = self.labels[targets]
            logits = logits[:, : targets.shape[1]]  # the start token is never right
        return F.cross_entropy(logits, targets), self.train_data.figures()

    def after_step(self, step: int, accelerator: Accelerator) -> None:
        if self.stream:
            self.stream.after_step(accelerator)

    def sample_names(self, indices: Tensor) -> list[str]:
        return self.train_data.names(indices)

    def evaluate(self, samples: Path) -> dict[str, float]:
        """Loss with the right, an empty and a wrong caption on known and held-out pictures."""
        prompts = list(SAMPLE_PROMPTS)
        if not isinstance(self.validation, EmojiSource):
            some = range(min(len(self.validation), len(prompts)))
            prompts = [self.validation.caption(i) for i in some]
        drawn = self.pipeline().generate(prompts, n=4, seed=0)
        image_grid([image for result in drawn for image in result.images], columns=4).save(
            samples / "drawn.png"
        )
        figures = {}
        for split, data, tokens in (
            ("train", self.known, self.train_tokens),
            ("held_out", self.validation, self.validation_tokens),
        ):
            chosen = torch.randperm(len(data), generator=torch.Generator().manual_seed(0))[:256]
            captions = [self.normalized(data.caption(i)) for i in chosen.tolist()]
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
            word_list=self.word_list,
        )

    def export(self, folder: Path) -> None:
        """Write the whole model, VQGAN and tokenizer included, in half precision."""
        self.pipeline().save_pretrained(folder, dtype="float16")

    def state_dict(self) -> dict[str, Any]:
        return {"data": self.stream.state_dict()} if self.stream else {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        if self.stream:
            self.stream.load_state_dict(state["data"])


def encode_all(vqgan: VQGAN, source: Source) -> Tensor:
    """The image tokens of all pictures of a source: (count, N)."""
    parts = torch.arange(len(source)).split(64)
    return torch.cat([vqgan.encode(source.pictures(part.tolist())) for part in parts])


@torch.no_grad()
def start_from_codebook(bart: Bart, codes: Tensor) -> None:
    """Let codes (K, d) that are alike start with alike rows in the image embedding and the head.

    Each is the codebook under a random projection, as large as random weights would be, so that
    the first loss is still ln K.
    """
    k, d = codes.shape
    alike = (codes - codes.mean(0)) / codes.std(0).mean() / d**0.5  # rows of length around 1
    for table in (bart.decoder.embed_tokens.weight, bart.lm_head.weight):
        projection = torch.randn(d, table.shape[1])
        table[:k] = bart.config.init_std * alike @ projection


@torch.no_grad()
def soft_labels(codes: Tensor, spread: float) -> Tensor | None:
    """What is to be predicted where code k is right: (K, d) -> (K, K), rows that sum to one.

    The nearer a code is to the right one the more it gets: exp(−distance² / (spread · typical²)),
    where typical is the distance from a code to its nearest, in the median. None for spread 0.
    """
    if spread == 0:
        return None
    if len(codes) > MOST_SPREAD:
        raise ValueError(
            f"label_spread is {spread} for {len(codes)} codes, which would need a table of "
            f"{len(codes)} times {len(codes)}; it must be 0 above {MOST_SPREAD} codes"
        )
    squares = torch.cdist(codes, codes).square()  # (K, K)
    nearest = squares.topk(2, largest=False).values[:, 1].median()
    return torch.softmax(-squares / (spread * nearest), dim=1)


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
