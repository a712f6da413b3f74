"""Weights in the order in which a CPU multiplies them.

A decoder step multiplies a few rows by every weight of the decoder. oneDNN, which does it for torch
on a CPU, reads a weight in blocks, and puts it in their order at every product, unless that was
done before: then the weight is *packed*.

    fast = packed(bart, rows)     the same modules over the same tensors, except for packed weights

Float32 weights that were stored in float16 say no more than float16 does. A processor with AVX2
alone reads such weights packed in float16, by FBGEMM, and multiplies them in float32: half the
memory to read, and the same result.

The twin is for drawing: it is made at the start and dropped at the end, since it does not notice
when weights change, and holds those of the decoder a second time. The operations of torch that it
takes are those of torch's own compiler (`torch/_inductor/fx_passes/mkldnn_fusion.py`) and of its
dynamic quantization; where they are missing, nothing is packed.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn

from minidalle.bart import Bart, BartConfig, Dense
from minidalle.processor import multiplies_few_rows


class PackedDense(nn.Module):
    """A Dense that multiplies by a packed weight: (..., D_in) -> (..., D_out).

    The weight is packed when it is first asked for, together with those that are multiplied by the
    same x, since every call costs time besides the arithmetic.
    """

    def __init__(self, dense: Dense, rows: int, in_float16: bool):
        super().__init__()
        self.weight, self.rows, self.in_float16 = dense.weight, rows, in_float16
        self.products: dict[tuple[PackedDense, ...], PackedProduct] = {}  # by what is joined

    def forward(self, x: Tensor) -> Tensor:
        """The same map of every place of x, in its precision; no gradients flow."""
        return self.together(x)[0]

    def together(self, x: Tensor, *others: PackedDense) -> tuple[Tensor, ...]:
        """This map of x, and those of `others`, by one product."""
        if others not in self.products:
            weights = [each.weight.detach() for each in (self, *others)]
            self.products[others] = PackedProduct(weights, self.rows, self.in_float16)
        return self.products[others](x)


class PackedProduct:
    """Products with several weights, (D_out, D_in) each, which are packed as one.

    They are packed in the order in which `rows` rows are multiplied, or in float16.
    """

    def __init__(self, weights: list[Tensor], rows: int, in_float16: bool):
        self.widths = [len(weight) for weight in weights]
        weight = torch.cat(weights) if len(weights) > 1 else weights[0]
        self.in_float16 = in_float16
        if in_float16:
            self.weight = torch.ops.quantized.linear_prepack_fp16(weight, None)
        else:
            self.weight = torch.ops.mkldnn._reorder_linear_weight(weight, rows)
        # Where a few rows are slow, two read weights a third faster in bfloat16 if they are four.
        self.two_as_four = weight.dtype == torch.bfloat16 and not multiplies_few_rows()

    def __call__(self, x: Tensor) -> tuple[Tensor, ...]:
        """(..., D_in) -> (..., D_out) for each weight."""
        y = self.multiply(x)
        return y.split(self.widths, -1) if len(self.widths) > 1 else (y,)

    def multiply(self, x: Tensor) -> Tensor:
        if self.in_float16:
            return torch.ops.quantized.linear_dynamic_fp16(x, self.weight)
        if self.two_as_four and x.numel() == 2 * x.shape[-1]:
            two = x.reshape(2, -1)
            return self.multiply(torch.cat([two, two]))[:2].view(*x.shape[:-1], -1)
        return torch.ops.mkldnn._linear_pointwise(x, self.weight, None, "none", [], "")


def can_pack_halves(dtype: torch.dtype) -> bool:
    """Whether weights of this precision are packed in float16 where they are no more than that.

    With AVX2 alone products of 1 to 18 rows take 0.5 to 0.8 times as long by it. On an Intel with
    AVX-512 a step of one picture takes 0.75 times as long, but packing takes what 256 steps save.
    """
    if dtype != torch.float32 or torch.backends.cpu.get_cpu_capability() != "AVX2":
        return False
    by_fbgemm = torch.backends.quantized.engine in ("x86", "fbgemm")
    return by_fbgemm and hasattr(torch.ops.quantized, "linear_prepack_fp16")


def holds_halves(weight: Tensor) -> bool:
    """Whether float16 holds every number of a float32 weight (D_out, D_in) exactly."""
    first = weight[:1]  # mostly tells that it does not, without a look at the rest
    return all(torch.equal(part.half().float(), part) for part in (first, weight))


def packed(bart: Bart, rows: int) -> Bart:
    """A Bart that shares all with this one, but multiplies by packed weights in its decoder.

    rows: how many a decoder step has. Where so few are as fast without, this Bart itself.
    """
    weights = [bart.lm_head.weight]
    weights += [part.weight for part in bart.decoder.modules() if isinstance(part, Dense)]
    dtype = bart.lm_head.weight.dtype
    halves = can_pack_halves(dtype) and all(holds_halves(weight.detach()) for weight in weights)
    if not pays(dtype, rows, halves=halves):
        return bart
    return twin_with(partial(PackedDense, rows=rows, in_float16=halves), bart)


def twin_with(kind: Callable[[Dense], nn.Module], bart: Bart) -> Bart:
    """A Bart that shares all with this one, but has `kind` of each Dense in its decoder."""
    twin = copy.copy(bart)
    twin._modules = {**bart._modules}
    for part in ("decoder", "lm_head"):
        twin._modules[part] = replaced(kind, bart._modules[part])
    return twin


def replaced(kind: Callable[[Dense], nn.Module], module: nn.Module) -> nn.Module:
    """The same for a part of it."""
    if isinstance(module, Dense):
        return kind(module)
    twin = copy.copy(module)
    twin._modules = {name: replaced(kind, child) for name, child in module._modules.items()}
    return twin


def pays(dtype: torch.dtype, rows: int, *, halves: bool) -> bool:
    """Whether products of so many rows are faster by packed weights.

    In float32 one row or two are as fast by Dense on Intel's processors, and on AMD's with AVX-512;
    on AMD's with AVX2 alone a step takes 1.4 times as long by it.
    halves: they are packed in float16, which has half as much to read.
    """
    plain = multiplies_few_rows() or torch.backends.cpu.get_cpu_capability() != "AVX2"
    few = rows <= 2 and plain and not halves
    return dtype == torch.bfloat16 or (dtype == torch.float32 and not few)


def can_pack(weight: Tensor) -> bool:
    """Whether this machine multiplies by packed weights of the kind of this one."""
    if weight.device.type != "cpu" or not torch.backends.mkldnn.is_available():
        return False
    if not hasattr(torch.ops.mkldnn, "_reorder_linear_weight"):
        return False
    if weight.dtype == torch.bfloat16:
        return torch.ops.mkldnn._is_mkldnn_bf16_supported()
    return weight.dtype == torch.float32


def packed_bytes(config: BartConfig, dtype: torch.dtype, *, halves: bool = False) -> int:
    """What the packed weights take: all of the decoder's but the text's keys and values.

    halves: they are packed in float16.
    """
    d, f = config.d_model, config.decoder_ffn_dim
    blocks = config.decoder_layers * (6 * d * d + 3 * d * f)
    each = 2 if halves else dtype.itemsize
    return (blocks + d * (config.image_vocab_size + 1)) * each
