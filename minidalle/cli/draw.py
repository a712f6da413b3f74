"""The command line's `generate` and `reconstruct`."""

from __future__ import annotations

import io
import json
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

import minidalle
from minidalle.cli import options

if TYPE_CHECKING:
    from torch import Tensor

    from minidalle.pipeline import MiniDalle, Result
    from minidalle.sampling import SamplingConfig

Item = TypeVar("Item")

GENERATE_EXAMPLES = options.examples(
    'generate "red apple, twemoji style" -n 9 --seed 7 -o apples.png',
    "generate --prompts prompts.txt -o out.png     writes out-1.png, out-2.png, …",
    "generate pizza --separate -n 2 -o pizza.png   writes pizza-0.png, pizza-1.png",
    "generate pizza --stream -o pizza.png          watch pizza.png while it forms",
    "generate castle --image-prompt sketch.jpg --keep 0.3",
    "generate castle --model dalle-mini/dalle-mini --device cuda",
)
RECONSTRUCT_EXAMPLES = options.examples(
    "reconstruct photo.jpg",
    "reconstruct *.png -o side-by-side.png --vqgan runs/vqgan",
)


def generate(
    prompt: options.Prompt = None,
    prompts: options.Prompts = None,
    n: options.Count = 9,
    seed: options.Seed = 0,
    out: options.Out = Path("minidalle.png"),
    separate: options.Separate = False,
    stream: options.Stream = False,
    rerank: options.Rerank = False,
    model: options.Model = None,
    vqgan: options.Vqgan = None,
    revision: options.Revision = None,
    variant: options.Variant = None,
    temperature: options.Temperature = None,
    top_k: options.TopK = None,
    top_p: options.TopP = None,
    condition_scale: options.Scale = None,
    image_prompt: options.ImagePrompt = None,
    keep: options.Keep = 0.5,
    device: options.Device = "cpu",
    dtype: options.Dtype = "auto",
    timings: options.Timings = False,
    as_json: options.Json = False,
) -> None:
    """Draw pictures of a prompt into one file, in a grid.

    Several prompts are drawn one after the other, into OUT-1.png, OUT-2.png, …; with --separate
    into OUT-1-<seed>.png, …. A PNG carries what it was made with: see `minidalle info`.
    """
    knobs = {
        "temperature": temperature,
        "top_k": top_k,
        "top_p": top_p,
        "condition_scale": condition_scale,
    }
    texts = read_prompts(prompt or [], prompts)
    files = check_request(out, len(texts), n, seed, separate, knobs)
    kept, how = read_image_prompt(image_prompt, keep)
    stages: dict[str, float] = {}
    with timed("load", stages):
        pipeline = load_model(model, vqgan, revision, variant, device, dtype)
    sampling, prefix = pipeline.sampling_with(**knobs), pipeline.prefix_of(kept, keep)
    written = []
    start = time.perf_counter()
    if rerank:
        pipeline.check_scorer()  # that there is none is said before anything is drawn
    for i, result in draw(pipeline, texts, n, seed, sampling, prefix, stream, stages):
        if rerank and result.step == result.length:
            with timed("rerank", stages):
                result = pipeline.rerank(result)
        with timed("write", stages):
            saved = save(result, files[i], how)
        if result.step == result.length:
            seconds, start = time.perf_counter() - start, time.perf_counter()
            written += [{**entry, "seconds": round(seconds, 3)} for entry in saved]
            options.say(*([] if as_json else files[i]))
    if as_json:
        rounded = {name: round(seconds, 3) for name, seconds in stages.items()}
        options.say(json.dumps({"files": written, "timings": rounded}, indent=2))
    elif timings:
        options.say(", ".join(f"{name} {seconds:.1f} s" for name, seconds in stages.items()))


def read_prompts(prompts: Sequence[str], file: Path | None) -> list[str]:
    """The prompts given as arguments, then those of a file: UTF-8, one a line, no blank ones."""
    texts = list(prompts)
    if file is not None:
        data = sys.stdin.buffer.read() if str(file) == "-" else file.read_bytes()
        try:
            lines = io.StringIO(data.decode("utf-8-sig"), newline=None)
        except UnicodeDecodeError as error:
            raise ValueError(f"{file} is not UTF-8 text: {error.reason} at {error.start}") from None
        texts += [line.rstrip("\n") for line in lines if line.strip()]
        if not texts:
            raise ValueError(f"{file} holds no prompt")
    if not texts:
        raise ValueError("there is no prompt: give one, or --prompts FILE; '' draws anything")
    return texts


def check_request(
    out: Path, prompts: int, n: int, seed: int, separate: bool, knobs: dict[str, Any]
) -> list[list[Path]]:
    """The files to be written for each prompt; ValueError for anything that cannot be done."""
    from minidalle.pictures import check_output, format_of
    from minidalle.pipeline import seeds_of
    from minidalle.sampling import SamplingConfig

    SamplingConfig(**given(**knobs))
    format_of(out)
    stems = [out.stem] if prompts == 1 else [f"{out.stem}-{i + 1}" for i in range(prompts)]
    seeds = seeds_of(seed, n)
    tails = [f"-{each}" for each in seeds] if separate else [""]
    files = [[out.with_name(f"{stem}{tail}{out.suffix}") for tail in tails] for stem in stems]
    for path in (path for group in files for path in group):
        check_output(path)
    return files


def read_image_prompt(path: Path | None, keep: float) -> tuple[Any, dict[str, Any]]:
    """The picture of which the beginning is kept, if any, and what the metadata says of it."""
    from minidalle.pictures import open_picture

    if path is None:
        return None, {}
    return open_picture(path), {"image_prompt": str(path), "keep": keep}


def load_model(
    model: str | None,
    vqgan: str | None,
    revision: str | None,
    variant: str | None,
    device: str,
    dtype: str,
) -> MiniDalle:
    """The model that the options name."""
    from minidalle.pipeline import MiniDalle

    return MiniDalle.from_pretrained(
        model,
        device=device,
        dtype=choose_dtype(dtype, device),
        **given(vqgan=vqgan, revision=revision, variant=variant),
    )


def given(**values: Any) -> dict[str, Any]:
    """Those of the options that were given."""
    return {name: value for name, value in values.items() if value is not None}


def choose_dtype(dtype: str, device: str) -> str:
    """The precision; "auto" is float32 on a CPU and the best half precision of a CUDA GPU."""
    import torch

    if dtype != "auto":
        return dtype
    if not device.startswith("cuda") or not torch.cuda.is_available():
        return "float32"
    native = torch.cuda.is_bf16_supported(including_emulation=False)  # emulated, it is slow
    return "bfloat16" if native else "float16"


def draw(
    pipeline: MiniDalle,
    texts: Sequence[str],
    n: int,
    seed: int,
    sampling: SamplingConfig,
    prefix: Tensor | None,
    stream: bool,
    stages: dict[str, float],
) -> Iterator[tuple[int, Result]]:
    """Each prompt's number and result; with `stream`, eight results before the last one, too.

    One prompt at a time, so that a long file of prompts needs no more memory than one.
    """
    from tqdm import tqdm

    length = pipeline.bart.config.image_length
    every = max(1, length // 8)
    hidden = not sys.stderr.isatty()
    with tqdm(total=len(texts) * length, desc="drawing", unit="token", disable=hidden) as bar:
        for i, text in enumerate(texts):
            steps = pipeline.stream_batch([text], n, seed, sampling, prefix)
            for tokens in timed_each("draw tokens", stages, steps):
                step = tokens.shape[1]
                bar.update(i * length + step - bar.n)
                if step == length or (stream and step % every == 0):
                    with timed("decode pictures", stages):
                        (result,) = pipeline.results([text], tokens, n, seed, sampling)
                    yield i, result


def save(result: Result, files: list[Path], how: dict[str, Any]) -> list[dict[str, Any]]:
    """Write the grid into the one file, or each picture into its own; say what each holds."""
    from minidalle.pictures import write_picture

    whole = len(files) == 1
    by_seed = sorted(range(len(result.seeds)), key=result.seeds.__getitem__)
    entries = []
    for i, path in zip([0] if whole else by_seed, files, strict=True):
        metadata = {**result.metadata(None if whole else i), **how}
        write_picture(result.grid() if whole else result.images[i], path, metadata)
        entries.append({"file": str(path), **metadata})
    return entries


def reconstruct(
    pictures: Annotated[list[Path], typer.Argument(metavar="PICTURE", help="Picture files.")],
    out: options.Out = Path("reconstruction.png"),
    model: options.Model = None,
    vqgan: options.Vqgan = None,
    revision: options.Revision = None,
    variant: options.Variant = None,
    device: options.Device = "cpu",
    dtype: options.Dtype = "auto",
    as_json: options.Json = False,
) -> None:
    """Show pictures beside what the VQGAN makes of them.

    Writes one file: a row per picture, on the left the middle square as the network sees it, on the
    right its reconstruction. Prints each one's PSNR, in dB: the higher, the more alike.
    """
    from minidalle.checkpoints import load_vqgan, locate
    from minidalle.pictures import (
        check_output,
        image_grid,
        open_picture,
        square,
        to_pil,
        write_picture,
    )
    from minidalle.pipeline import to_tensor
    from minidalle.training.evaluate import psnr

    check_output(out)
    for path in pictures:
        open_picture(path)  # what cannot be read is said before anything is loaded
    if vqgan is not None and model is None:
        source = locate(vqgan, revision=revision, variant=variant)
        precision = choose_dtype(dtype, device)
        network = load_vqgan(source, variant=variant, device=device, dtype=precision)
    else:
        network = load_model(model, vqgan, revision, variant, device, dtype).vqgan
    weight = network.quantize.embedding.weight
    rows, scores = [], []
    for path in pictures:
        original = square(open_picture(path), network.config.resolution)
        images = to_tensor(original)[None]
        again = network.decode(network.encode(images.to(weight))).float().cpu()
        rows += [original, to_pil(again[0])]
        scores.append({"picture": str(path), "psnr": round(float(psnr(images, again)), 3)})
    made_by = {**given(model=model, vqgan=vqgan), "version": minidalle.__version__}
    write_picture(image_grid(rows, columns=2), out, {"reconstructed": scores, **made_by})
    if as_json:
        options.say(json.dumps({"file": str(out), "pictures": scores}, indent=2))
    else:
        options.say(*(f"{score['picture']}  {score['psnr']:.2f} dB" for score in scores), out)


@contextmanager
def timed(name: str, stages: dict[str, float]) -> Iterator[None]:
    """Add the seconds that the block took."""
    start = time.perf_counter()
    yield
    stages[name] = stages.get(name, 0.0) + time.perf_counter() - start


def timed_each(name: str, stages: dict[str, float], items: Iterator[Item]) -> Iterator[Item]:
    """The items, adding the seconds that each took to come."""
    while True:
        with timed(name, stages):
            item = next(items, None)
        if item is None:
            return
        yield item
