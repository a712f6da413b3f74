"""MiniDalle: a prompt becomes pictures.

    model = MiniDalle.from_pretrained()
    result = model.generate("red apple, twemoji style", n=9, seed=7)
    result.grid().save("apples.png")

The parts are public (`model.tokenizer`, `model.bart`, `model.vqgan`); this file only leads a prompt
through them.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import accumulate
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from minidalle.bart import Bart, BartConfig
from minidalle.checkpoints import (
    PUBLISHED_SAMPLING,
    find_vqgans,
    hashtag_words,
    load_bart,
    load_clip,
    load_sampling,
    load_tokenizer,
    load_vqgan,
    locate,
    native,
    to_dtype,
)
from minidalle.clip import CLIP, TransformersCLIP
from minidalle.graphs import StepGraphs
from minidalle.memory import decoded_at_once, drawn_at_once, free_memory, is_plenty
from minidalle.normalizer import TextNormalizer
from minidalle.packed import can_pack
from minidalle.pictures import grey_after, square, to_pil
from minidalle.result import Result
from minidalle.sampling import SamplingConfig, stream_tokens
from minidalle.scoring import Scorer, check_clip, to_tensor
from minidalle.tokenizer import ByteLevelBPE
from minidalle.vqgan import VQGAN, VQGANConfig

log = logging.getLogger(__name__)

EMBEDDED = Path(__file__).parent / "pretrained" / "emoji"
# The one in DALL·E mini's inference notebook.
PUBLISHED_VQGAN = "dalle-mini/vqgan_imagenet_f16_16384@e93a26e7707683d349bf5d5c41c5b0ef69b677a9"
MAX_SEED, MAX_N = 2**63 - 1, 10_000


class MiniDalle:
    """Tokenizer, Bart and VQGAN together, and a CLIP where there is one.

    Make one by `from_pretrained`, or from parts.
    """

    def __init__(
        self,
        *,
        bart: Bart,
        vqgan: VQGAN,
        tokenizer: ByteLevelBPE,
        clip: CLIP | None = None,
        sampling: SamplingConfig = PUBLISHED_SAMPLING,
        word_list: str | Path | None = None,
        cuda_graphs: bool = False,
        name: str = "unnamed",
    ):
        check_fit(bart.config, vqgan.config)
        if clip is not None:
            check_clip(clip, tokenizer)
        self.name, self.clip = name, clip
        self.bart, self.vqgan, self.tokenizer, self.sampling = bart, vqgan, tokenizer, sampling
        self.normalizer = TextNormalizer(word_list) if bart.config.normalize_text else None
        self.word_list = word_list
        self.graphs = StepGraphs(bart) if cuda_graphs else None

    @classmethod
    def from_pretrained(
        cls,
        path: str | Path | None = None,
        *,
        vqgan: str | Path | None = None,
        revision: str | None = None,
        variant: str | None = None,
        device: str = "cpu",
        dtype: str | torch.dtype = "float32",
        cuda_graphs: bool = False,
    ) -> MiniDalle:
        """Load a model: the embedded one, a folder in any known layout, or one from the hub.

        path: a folder; a hub id such as "dalle-mini/dalle-mini", fetched once and checked against
            the hub's checksums; None for the embedded emoji model.
        vqgan: folder, file or hub id ("owner/name@revision") of the VQGAN, for a path that holds
            only a Bart; unless given, the one that DALL·E mini was published with.
        revision: branch, tag or commit of the hub id `path`; None for its main branch.
        variant: "mini" or "mega", where a folder in min-dalle's layout holds both.
        device, dtype: where and in what precision to compute.
        cuda_graphs: on a GPU, record decoder steps and play them back; see `minidalle.graphs`.
        Raises FileNotFoundError, ValueError, OSError with what was looked for and what was found.
        """
        dtype = to_dtype(dtype)
        source = locate(EMBEDDED if path is None else path, revision=revision, variant=variant)
        bart = load_bart(source, variant=variant, device=device, dtype=dtype)
        beside = find_vqgans(source)  # the VQGANs that lie beside the Bart
        if vqgan is None and not beside:
            check_fit(bart.config, VQGANConfig.f16_16384())
            vqgan = PUBLISHED_VQGAN
        tokenizer = load_tokenizer(source, variant=variant)
        check_tokenizer(bart.config, tokenizer)
        return cls(
            bart=bart,
            vqgan=load_vqgan(
                source if vqgan is None else locate(vqgan),
                variant=variant if vqgan is None and len(beside) > 1 else None,
                image_length=bart.config.image_length,
                device=device,
                dtype=dtype,
            ),
            tokenizer=tokenizer,
            clip=next((part.load(device, dtype) for part in native.find(source, CLIP)), None),
            sampling=load_sampling(source),
            word_list=hashtag_words(source),
            cuda_graphs=cuda_graphs,
            name="emoji (embedded)" if path is None else str(path),
        )

    def save_pretrained(self, folder: str | Path, *, dtype: str | torch.dtype = "float32") -> None:
        """Write a native folder that `from_pretrained` loads; weights are stored in `dtype`."""
        native.save(
            folder,
            bart=self.bart,
            vqgan=self.vqgan,
            clip=self.clip,
            tokenizer=self.tokenizer,
            sampling=self.sampling,
            word_list=self.word_list,
            dtype=to_dtype(dtype),
        )

    @property
    def device(self) -> torch.device:
        return self.bart.lm_head.weight.device

    def generate(
        self,
        prompt: str | Sequence[str],
        n: int = 1,
        seed: int = 0,
        *,
        temperature: float | None = None,
        top_k: int | None = None,
        top_p: float | None = None,
        condition_scale: float | None = None,
        image_prompt: Image.Image | None = None,
        keep: float = 0.5,
        max_batch: int | None = None,
    ) -> Result | list[Result]:
        """Draw n pictures of a prompt, or of each of several.

        prompt: a text, which may be empty, or a list of texts; a list gives a list of results.
        n: pictures per prompt, from 1 to 10,000.
        seed: of the first picture, at least 0; the others have seed+1, ….
        temperature, top_k, top_p, condition_scale: as in SamplingConfig; None takes the
            checkpoint's own default.
        image_prompt: a picture whose first image tokens, in reading order, are kept: the share
            `keep` of them, from 0 to 1.
        max_batch: how many pictures are drawn together at most, at least 1; None takes as many as
            the free memory is enough for. The pictures are the same.
        Raises ValueError for values out of range, TypeError for a prompt that is no text,
        MemoryError, before anything is drawn, where not even one picture fits.
        """
        prompts = [prompt] if isinstance(prompt, str) else list(prompt)
        sampling = self.sampling_with(
            temperature=temperature, top_k=top_k, top_p=top_p, condition_scale=condition_scale
        )
        prefix = self.prefix_of(image_prompt, keep)
        tokens = self.draw_tokens(pairs_of(prompts, n, seed), sampling, prefix, max_batch)
        results = self.results(prompts, tokens, n, seed, sampling)
        return results[0] if isinstance(prompt, str) else results

    def stream(
        self,
        prompt: str,
        n: int = 1,
        seed: int = 0,
        *,
        every: int = 8,
        temperature: float | None = None,
        top_k: int | None = None,
        top_p: float | None = None,
        condition_scale: float | None = None,
        image_prompt: Image.Image | None = None,
        keep: float = 0.5,
    ) -> Iterator[Result]:
        """Like `generate` for one prompt, but yield a result after each `every` image tokens.

        Places that are not drawn yet are grey. The last result is what `generate` would return.
        """
        if every < 1:
            raise ValueError(f"every is {every}; it must be at least 1")
        sampling = self.sampling_with(
            temperature=temperature, top_k=top_k, top_p=top_p, condition_scale=condition_scale
        )
        steps = self.stream_batch([prompt], n, seed, sampling, self.prefix_of(image_prompt, keep))
        length = self.bart.config.image_length

        def partial_results() -> Iterator[Result]:
            for tokens in steps:
                if tokens.shape[1] % every == 0 or tokens.shape[1] == length:
                    yield self.results([prompt], tokens, n, seed, sampling)[0]

        return partial_results()

    def encode(self, picture: Image.Image | Sequence[Image.Image]) -> Tensor:
        """Image tokens of a picture, (N,), or of a list of pictures, (B, N).

        Of a picture of any size the middle square is taken, and resized.
        """
        pictures = [picture] if isinstance(picture, Image.Image) else list(picture)
        if not pictures:
            raise ValueError("there is no picture to encode")
        images = torch.stack([self.to_tensor(p) for p in pictures])
        ids = self.vqgan.encode(images.to(self.bart.lm_head.weight)).cpu()
        return ids[0] if isinstance(picture, Image.Image) else ids

    def decode(self, tokens: Tensor) -> Image.Image | list[Image.Image]:
        """The picture of N image tokens, (N,), or a list of pictures, (B, N)."""
        if tokens.ndim not in (1, 2) or tokens.shape[-1] != self.bart.config.image_length:
            raise ValueError(
                f"tokens have shape {tuple(tokens.shape)}; "
                f"expected (N,) or (B, N) with N = {self.bart.config.image_length}"
            )
        images = self.vqgan.decode(torch.atleast_2d(tokens).to(self.device))
        pictures = [to_pil(image) for image in images]
        return pictures[0] if tokens.ndim == 1 else pictures

    def rerank(
        self, result: Result, clip: CLIP | TransformersCLIP | str | Path | None = None
    ) -> Result:
        """The same pictures, those first that show the prompt best, with `scores`.

        clip: what scores them: a folder of ours or of a CLIP of transformers, or a CLIP that is
            loaded already, with this model's tokenizer; None for the model's own.
        Scores are cosine similarities, -1 to 1; those of different CLIPs do not compare.
        Raises ValueError where there is no CLIP, and what loading raises.
        """
        scores = self.scorer(clip).scores(result.images, [result.prompt])[:, 0].cpu()
        order = scores.argsort(descending=True, stable=True).tolist()
        return replace(
            result,
            images=[result.images[i] for i in order],
            tokens=result.tokens[order],
            seeds=[result.seeds[i] for i in order],
            scores=[float(scores[i]) for i in order],
        )

    # The steps of the road, one method each.

    def sampling_with(self, **knobs: float | int | None) -> SamplingConfig:
        """The checkpoint's sampling defaults with the given knobs; None leaves a default."""
        return replace(
            self.sampling, **{name: value for name, value in knobs.items() if value is not None}
        )

    def text_tokens(self, prompts: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Ids and mask of prompts as the model reads them: (B, T) each."""
        texts = [self.normalizer(text) if self.normalizer else text for text in prompts]
        ids, mask = text_tokens(self.tokenizer, texts, self.bart.config)
        return ids.to(self.device), mask.to(self.device)

    def blank_tokens(self) -> tuple[Tensor, Tensor]:
        """Ids and mask of the empty string, as it is, for the unconditional branch: (1, T) each."""
        ids, mask = self.tokenizer.encode_batch([""], self.bart.config.max_text_length)
        return ids.to(self.device), mask.to(self.device)

    def prefix_of(self, image_prompt: Image.Image | None, keep: float) -> Tensor | None:
        """The first image tokens of a picture, the share `keep` of them: (1, n)."""
        if image_prompt is None:
            return None
        if not 0 <= keep <= 1:
            raise ValueError(f"keep is {keep}; it must be from 0 to 1")
        tokens = self.encode(image_prompt)
        return tokens[None, : round(keep * len(tokens))]

    def draw_tokens(
        self,
        pairs: Sequence[tuple[str, int]],
        sampling: SamplingConfig,
        prefix: Tensor | None = None,
        max_batch: int | None = None,
        progress: Callable[[int], None] = lambda tokens: None,
    ) -> Tensor:
        """Image tokens of a picture for each (prompt, seed), drawn in batches that fit: (B, N).

        max_batch: as for `generate`. progress: is told how many tokens are drawn, of B·N.
        """
        if max_batch is not None and max_batch < 1:
            raise ValueError(f"max_batch is {max_batch}; it must be at least 1")
        most = self.most_at_once(min(len(pairs), max_batch or len(pairs)))
        drawn: list[Tensor] = []
        for start in range(0, len(pairs), most):
            batch = pairs[start : start + most]
            for tokens in self.stream_pairs(batch, sampling, prefix):
                progress(start * self.bart.config.image_length + tokens.numel())
            drawn.append(tokens)
        return torch.cat(drawn)

    def most_at_once(self, count: int) -> int:
        """How many of `count` pictures can be drawn together in the memory that is free now.

        Raises MemoryError where not even one can. Where the system does not tell: all.
        """
        dtype, free = self.bart.lm_head.weight.dtype, free_memory(self.device)
        most = drawn_at_once(self.bart.config, dtype, free, self.packs())
        return count if most is None else min(count, most)

    def packs(self) -> bool:
        """Whether the decoder's weights are packed for drawing: on a CPU with plenty of memory."""
        weight, free = self.bart.lm_head.weight, free_memory(self.device)
        return can_pack(weight) and is_plenty(self.bart.config, weight.dtype, free)

    def stream_batch(
        self,
        prompts: Sequence[str],
        n: int,
        seed: int,
        sampling: SamplingConfig,
        prefix: Tensor | None,
    ) -> Iterator[Tensor]:
        """Image tokens so far of n pictures of each prompt, for t up to N: (prompts·n, t).

        All are drawn together. Raises MemoryError, before anything is drawn, where they do not fit.
        """
        pairs = pairs_of(prompts, n, seed)
        most = self.most_at_once(len(pairs))
        if most < len(pairs):
            raise MemoryError(
                f"{len(pairs)} pictures together do not fit in the free memory, {most} do; "
                f"draw fewer at a time"
            )
        return self.stream_pairs(pairs, sampling, prefix)

    def stream_pairs(
        self,
        pairs: Sequence[tuple[str, int]],
        sampling: SamplingConfig,
        prefix: Tensor | None = None,
    ) -> Iterator[Tensor]:
        """Image tokens so far of a picture for each (prompt, seed), for t up to N: (B, t)."""
        for prompt, _ in pairs:
            if not isinstance(prompt, str):
                raise TypeError(f"a prompt is {type(prompt).__name__}; it must be a str")
        prompts = list(dict.fromkeys(prompt for prompt, _ in pairs))  # each is tokenized once
        place = {text: i for i, text in enumerate(prompts)}
        rows = torch.tensor([place[prompt] for prompt, _ in pairs], device=self.device)
        ids, mask = self.text_tokens(prompts)
        uncond_ids, uncond_mask = self.blank_tokens()
        return stream_tokens(
            self.bart,
            ids[rows],
            mask[rows],
            sampling,
            seeds=[seed for _, seed in pairs],
            uncond_ids=uncond_ids,
            uncond_mask=uncond_mask,
            prefix=None if prefix is None else prefix.expand(len(pairs), -1),
            graphs=self.graphs,
            pack=self.packs(),
        )

    def results(
        self, prompts: Sequence[str], tokens: Tensor, n: int, seed: int, sampling: SamplingConfig
    ) -> list[Result]:
        """One result per prompt from image tokens (prompts·n, t); places from t on are grey."""
        return self.results_of([(text, seeds_of(seed, n)) for text in prompts], tokens, sampling)

    def results_of(
        self, wanted: Sequence[tuple[str, list[int]]], tokens: Tensor, sampling: SamplingConfig
    ) -> list[Result]:
        """One result per prompt and its seeds, which have as many rows of tokens: (seeds, t)."""
        length, step = self.bart.config.image_length, tokens.shape[1]
        filled = torch.cat([tokens, tokens.new_zeros(len(tokens), length - step)], dim=1)
        precision = self.bart.lm_head.weight.dtype
        together = decoded_at_once(self.vqgan.config, precision, self.device.type)
        images = [
            grey_after(to_pil(image), step, length)
            for part in filled.split(together)
            for image in self.vqgan.decode(part)
        ]
        tokens = tokens.cpu().clone()
        dtype = str(precision).removeprefix("torch.")
        ends = list(accumulate(len(seeds) for _, seeds in wanted))
        return [
            Result(
                prompt=prompt,
                images=images[end - len(seeds) : end],
                tokens=tokens[end - len(seeds) : end],
                seeds=seeds,
                sampling=sampling,
                step=step,
                length=length,
                model=self.name,
                dtype=dtype,
            )
            for (prompt, seeds), end in zip(wanted, ends, strict=True)
        ]

    def scorer(
        self, clip: CLIP | TransformersCLIP | str | Path | None = None
    ) -> Scorer | TransformersCLIP:
        """What scores pictures: this CLIP, the one in this folder, or the model's own.

        Raises ValueError where there is none.
        """
        tokenizer = self.tokenizer
        if isinstance(clip, str | Path):
            if not native.is_native(Path(clip)):
                return TransformersCLIP.load(clip, device=self.device)
            clip, tokenizer = load_clip(clip, device=str(self.device)), load_tokenizer(clip)
        clip = self.clip if clip is None else clip
        if clip is None:
            raise ValueError(
                f"the model {self.name} has no CLIP to rank by; give one by clip=, or train it: "
                f"minidalle train clip --model FOLDER --run FOLDER"
            )
        if isinstance(clip, TransformersCLIP):
            return clip
        return Scorer(clip, tokenizer, self.normalizer)

    def to_tensor(self, picture: Image.Image) -> Tensor:
        """A picture as (3, S, S) in [0, 1]: upright, on white, its middle square resized."""
        return to_tensor(square(picture, self.vqgan.config.resolution))


def text_tokens(
    tokenizer: ByteLevelBPE, texts: Sequence[str], config: BartConfig
) -> tuple[Tensor, Tensor]:
    """Ids and mask of normalized texts as a Bart of this shape reads them: (B, T) each."""
    ids, mask = tokenizer.encode_batch(texts, config.max_text_length)
    # A published vocabulary has one token more than its embedding has rows.
    return ids.masked_fill(ids >= config.encoder_vocab_size, ByteLevelBPE.UNK), mask


def check_fit(bart: BartConfig, vqgan: VQGANConfig) -> None:
    """Raise ValueError where a Bart and a VQGAN do not speak of the same image tokens."""
    if (bart.codebook_size, bart.image_length) != (vqgan.n_embed, vqgan.image_length):
        raise ValueError(
            f"Bart writes {bart.image_length} image tokens below {bart.codebook_size}, "
            f"the VQGAN reads {vqgan.image_length} below {vqgan.n_embed}: not a pair; "
            f"say where Bart's own VQGAN is, by vqgan="
        )


def check_tokenizer(bart: BartConfig, tokenizer: ByteLevelBPE) -> None:
    """Raise ValueError for a vocabulary that is too large, warn where it is much too small.

    DALL·E mini's has one token more than the embedding has rows, mega's a few less.
    """
    rows, tokens = bart.encoder_vocab_size, tokenizer.vocab_size
    what = f"the tokenizer has {tokens} tokens, Bart's text embedding {rows} rows"
    if tokens > rows + 1:
        raise ValueError(f"{what}: the tokenizer is not this Bart's")
    if tokens < rows - 128:
        log.warning("%s: is it this Bart's?", what)


def pairs_of(prompts: Sequence[str], n: int, seed: int) -> list[tuple[str, int]]:
    """A (prompt, seed) for each of n pictures of each prompt; ValueError where there is none."""
    if not prompts:
        raise ValueError("there is no prompt; the empty prompt is ''")
    seeds = seeds_of(seed, n)
    return [(prompt, each) for prompt in prompts for each in seeds]


def seeds_of(seed: int, n: int) -> list[int]:
    """The seeds of n pictures, seed, seed+1, …; ValueError where n or one of them is impossible."""
    if not 1 <= n <= MAX_N:
        raise ValueError(f"n is {n}; it must be at least 1, and at most {MAX_N}")
    if not 0 <= seed <= MAX_SEED - n:
        raise ValueError(f"seed is {seed}; it must be from 0 to 2**63 - 1 - n")
    return list(range(seed, seed + n))
