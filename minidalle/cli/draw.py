"""The command `generate`: prompts into picture files; into a folder, see `many.py` beside."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from minidalle.cli import many, options
from minidalle.cli.loading import given, load_model, timed, timed_each

if TYPE_CHECKING:
    from torch import Tensor

    from minidalle.pipeline import MiniDalle
    from minidalle.prompts import Request
    from minidalle.result import Result
    from minidalle.sampling import SamplingConfig

OUT = Path("minidalle.png")

GENERATE_EXAMPLES = options.examples(
    'generate "red apple, twemoji style" -n 9 --seed 7 -o apples.png',
    "generate --prompts prompts.txt -o out.png     writes out-1.png, out-2.png, …",
    "generate pizza --separate -n 2 -o pizza.png   writes pizza-0.png, pizza-1.png",
    "generate pizza --stream -o pizza.png          watch pizza.png while it forms",
    "generate --prompts prompts.txt --folder out   a file per picture; goes on after a crash",
    "generate castle --image-prompt sketch.jpg --keep 0.3",
    "generate castle --model dalle-mini/dalle-mini --device cuda",
)


def generate(
    prompt: options.Prompt = None,
    prompts: options.Prompts = None,
    n: options.Count = 9,
    seed: options.Seed = 0,
    out: options.Out = OUT,
    separate: options.Separate = False,
    folder: options.Folder = None,
    batch_size: options.BatchSize = None,
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
    cuda_graphs: options.CudaGraphs = False,
    timings: options.Timings = False,
    as_json: options.Json = False,
) -> None:
    """Draw pictures of a prompt into one file, in a grid.

    Several prompts are drawn one after the other, into OUT-1.png, OUT-2.png, …; with --separate
    into OUT-1-<seed>.png, …. A PNG carries what it was made with: see `minidalle info`.

    With --folder many prompts are drawn in batches, and several processes, as `accelerate launch`
    or torchrun starts them, share the pictures.
    """
    knobs = given(
        temperature=temperature, top_k=top_k, top_p=top_p, condition_scale=condition_scale
    )
    not_in_folders = {"out": out != OUT, "stream": stream, "rerank": rerank}
    not_in_folders["image-prompt"] = image_prompt is not None
    share = many.check_modes(folder, batch_size, not_in_folders)
    requests = read_requests(prompt or [], prompts, n, seed)
    stages: dict[str, float] = {}
    say = (lambda *_: None) if as_json else options.say

    def load() -> MiniDalle:
        place = many.own_device(device, share)
        with timed("load", stages):
            return load_model(model, vqgan, revision, variant, place, dtype, cuda_graphs)

    if folder is not None:
        told = many.draw_folder(load, requests, folder, batch_size, knobs, share, stages, say)
    else:
        files = check_request(out, requests, separate, knobs)
        kept = read_image_prompt(image_prompt, keep)
        told = draw_files(load, requests, files, knobs, kept, stream, rerank, stages, say)
    if as_json:
        rounded = {name: round(seconds, 3) for name, seconds in stages.items()}
        options.say(json.dumps({**told, "timings": rounded}, indent=2))
    elif timings:
        options.say(", ".join(f"{name} {seconds:.1f} s" for name, seconds in stages.items()))


def read_requests(prompts: Sequence[str], file: Path | None, n: int, seed: int) -> list[Request]:
    """What is wanted by the arguments, then by a file of prompts."""
    from minidalle.prompts import Request, parse_prompts

    requests = [Request(text, n, seed) for text in prompts]
    if file is not None:
        data = sys.stdin.buffer.read() if str(file) == "-" else file.read_bytes()
        requests += parse_prompts(data, str(file), n, seed)
    if not requests:
        raise ValueError("there is no prompt: give one, or --prompts FILE; '' draws anything")
    return requests


def check_request(
    out: Path, requests: Sequence[Request], separate: bool, knobs: dict[str, Any]
) -> list[list[Path]]:
    """The files to be written for each prompt; ValueError for anything that cannot be done."""
    from minidalle.pictures import check_output, format_of
    from minidalle.pipeline import seeds_of
    from minidalle.sampling import SamplingConfig

    SamplingConfig(**knobs)
    format_of(out)
    count, files = len(requests), []
    for i, request in enumerate(requests):
        stem = out.stem if count == 1 else f"{out.stem}-{i + 1}"
        tails = [f"-{seed}" for seed in seeds_of(request.seed, request.n)] if separate else [""]
        files.append([out.with_name(f"{stem}{tail}{out.suffix}") for tail in tails])
    for path in (path for group in files for path in group):
        check_output(path)
    return files


def read_image_prompt(path: Path | None, keep: float) -> tuple[Any, dict[str, Any]]:
    """The picture of which the beginning is kept, if any, and what the metadata says of it."""
    from minidalle.pictures import open_picture

    if path is None:
        return None, {}
    return open_picture(path), {"image_prompt": str(path), "keep": keep}


def draw_files(
    load: Callable[[], MiniDalle],
    requests: Sequence[Request],
    files: Sequence[list[Path]],
    knobs: dict[str, Any],
    kept: tuple[Any, dict[str, Any]],
    stream: bool,
    rerank: bool,
    stages: dict[str, float],
    say: Callable[..., None],
) -> dict[str, Any]:
    """Draw one prompt after the other into their files; say what each of them holds."""
    (picture, how), written = kept, []
    model = load()
    sampling, prefix = model.sampling_with(**knobs), model.prefix_of(picture, how.get("keep", 0))
    start = time.perf_counter()
    if rerank:
        model.scorer()  # that there is none is said before anything is drawn
    for i, result in draw(model, requests, sampling, prefix, stream, stages):
        if rerank and result.step == result.length:
            with timed("rerank", stages):
                result = model.rerank(result)
        with timed("write", stages):
            saved = save(result, files[i], how)
        if result.step == result.length:
            seconds, start = time.perf_counter() - start, time.perf_counter()
            written += [{**entry, "seconds": round(seconds, 3)} for entry in saved]
            say(*files[i])
    return {"files": written}


def draw(
    pipeline: MiniDalle,
    requests: Sequence[Request],
    sampling: SamplingConfig,
    prefix: Tensor | None,
    stream: bool,
    stages: dict[str, float],
) -> Iterator[tuple[int, Result]]:
    """Each prompt's number and result; with `stream`, eight results before the last one, too.

    One prompt at a time, so that a long file of prompts needs no more memory than one.
    """
    from tqdm import tqdm

    from minidalle.pipeline import seeds_of

    total = pipeline.bart.config.image_length * sum(request.n for request in requests)
    hidden, before = not sys.stderr.isatty(), 0
    with tqdm(total=total, desc="drawing", unit="token", disable=hidden) as bar:

        def show(tokens: int) -> None:
            bar.update(before + tokens - bar.n)

        for i, request in enumerate(requests):
            steps = drawn_tokens(pipeline, request, sampling, prefix, stream, show)
            for tokens in timed_each("draw tokens", stages, steps):
                with timed("decode pictures", stages):
                    wanted = [(request.prompt, seeds_of(request.seed, request.n))]
                    (result,) = pipeline.results_of(wanted, tokens, sampling)
                yield i, result
            before += tokens.numel()


def drawn_tokens(
    pipeline: MiniDalle,
    request: Request,
    sampling: SamplingConfig,
    prefix: Tensor | None,
    stream: bool,
    show: Callable[[int], None],
) -> Iterator[Tensor]:
    """Image tokens of a prompt's pictures, (n, N); with `stream` first of eight steps, (n, t).

    show: is told how many are drawn.
    """
    from minidalle.pipeline import pairs_of

    if not stream:
        pairs = pairs_of([request.prompt], request.n, request.seed)
        yield pipeline.draw_tokens(pairs, sampling, prefix, progress=show)
        return
    length = pipeline.bart.config.image_length
    every = max(1, length // 8)
    wanted = ([request.prompt], request.n, request.seed)
    for tokens in pipeline.stream_batch(*wanted, sampling, prefix):
        show(tokens.numel())
        if tokens.shape[1] % every == 0 or tokens.shape[1] == length:
            yield tokens


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
