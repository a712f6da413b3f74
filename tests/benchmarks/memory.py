"""Peak memory of generation, measured, beside what `minidalle info` predicts.

    python tests/benchmarks/memory.py mini bfloat16 1 4 9 16
    python tests/benchmarks/memory.py mini float32/float16 1 4         float32, stored in float16

Each number of pictures has a process of its own, with random weights of the published size. What
Python and torch hold before the weights is not counted.
"""

from __future__ import annotations

import json
import subprocess
import sys

import torch

from minidalle.bart import Bart, BartConfig
from minidalle.bench.memory import measure
from minidalle.memory import memory_needed, parameter_count
from minidalle.pipeline import MiniDalle
from minidalle.tokenizer import ByteLevelBPE
from minidalle.vqgan import VQGAN, VQGANConfig

GIB = 2**30


def peak_of(size: str, precision: str, n: int) -> int:
    """Bytes that making a model and drawing n pictures takes at the most."""
    dtype, _, stored = precision.partition("/")
    torch.set_default_dtype(getattr(torch, dtype))

    def work() -> None:
        config = getattr(BartConfig, size)()
        model = MiniDalle(
            bart=Bart(config).eval(),
            vqgan=VQGAN(VQGANConfig.f16_16384()).eval(),
            tokenizer=ByteLevelBPE.train(["a"], config.encoder_vocab_size),
        )
        if stored:
            for weight in model.bart.parameters():
                weight.data.copy_(weight.to(getattr(torch, stored)))
        model.generate("a", n=n)

    return measure(work).peak_bytes


def main(size: str, precision: str, *counts: str) -> None:
    dtype, _, stored = precision.partition("/")
    bart, vqgan = getattr(BartConfig, size)(), VQGANConfig.f16_16384()
    parameters = parameter_count(bart) + parameter_count(vqgan)
    for n in map(int, counts):
        command = [sys.executable, __file__, "--one", size, precision, str(n)]
        found = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)
        needed = memory_needed(
            bart, vqgan, parameters=parameters, n=n, dtype=getattr(torch, dtype),
            halves=stored == "float16",
        ).peak_packed  # fmt: skip
        print(
            f"{size} {precision}, n = {n}: predicted {needed / GIB:.2f} GiB, "
            f"measured {found / GIB:.2f} GiB, {100 * (needed / found - 1):+.0f} %",
            flush=True,
        )


if __name__ == "__main__":
    if sys.argv[1] == "--one":
        print(json.dumps(peak_of(sys.argv[2], sys.argv[3], int(sys.argv[4]))))
    else:
        main(*sys.argv[1:])
