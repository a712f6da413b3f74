"""Learn the text tokens: byte-level BPE on the normalized captions of what is trained on."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from minidalle.checkpoints.parts import write_atomically
from minidalle.data.sources import open_source
from minidalle.data.stream import ShardStream, is_shards
from minidalle.data.tar import find_shards
from minidalle.normalizer import TextNormalizer
from minidalle.tokenizer import ByteLevelBPE


@dataclass(frozen=True)
class TokenizerTrainConfig:
    """What a tokenizer learns, and from what."""

    data: str = "emoji"  # emoji (-more, -filled), shapes, a folder of captioned pictures, or shards
    vocab_size: int = 4096  # V, at most; special tokens and bytes are 261 of them
    min_frequency: int = 2  # how often a pair of tokens must occur to become one

    @classmethod
    def presets(cls) -> dict[str, tuple[TokenizerTrainConfig]]:
        """By name: "emoji" is the embedded model's, "mini" can grow as large as DALL·E mini's."""
        return {"emoji": (cls(),), "mini": (cls(vocab_size=50264),)}


def train_tokenizer(config: TokenizerTrainConfig, run: str | Path) -> ByteLevelBPE:
    """Learn a tokenizer; write `tokenizer.json` and `run.json` into the run folder.

    Raises ValueError or OSError where there are no captions to learn from.
    """
    texts = (text for captions in captions_of_data(config.data) for text in captions)
    if (first := next(texts, None)) is None:
        raise ValueError(f"data {config.data}: found no caption to learn a tokenizer from")
    normalized = map(TextNormalizer(), itertools.chain([first], texts))
    tokenizer = ByteLevelBPE.train(normalized, config.vocab_size, config.min_frequency)
    run = Path(run)
    run.mkdir(parents=True, exist_ok=True)
    tokenizer.save(run)
    settings = json.dumps({"task": asdict(config)}, indent=2) + "\n"
    write_atomically(run / "run.json", settings.encode())
    return tokenizer


def captions_of_data(data: str) -> Iterable[Sequence[str]]:
    """All captions of each picture to train on; the pictures themselves are not needed."""
    if is_shards(data):
        urls = find_shards(data)
        return ShardStream(urls[:-1] or urls, None, seed=0).captions
    return open_source(data, side=1)[0].captions
