"""Weights in the order in which a CPU multiplies them.

A decoder step multiplies a few rows by every weight of the decoder. oneDNN, which does it for torch
on a CPU, reads a weight in blocks, and puts it in their order at every product, unless that was
done before: then the weight is *packed*.

    fast = packed(bart)     the same modules over the same tensors, except for packed weights

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

import torch
from torch import Tensor, nn

from minidalle.bart import Bart, BartConfig, Dense


class PackedDense(nn.Module):
    """A Dense that multiplies by a packed weight: (..., D_in) -> (..., D_out).

    The weight is packed when it is first asked for, together with those that are multiplied by the
    same x, since every call costs time besides the arithmetic.
    """

    def __init__(self, dense: Dense):
        super().__init__()
        self.dense = dense
        self.products: dict[tuple[PackedDense, ...], PackedProduct] = {}  # by what is joined

    def forward(self, x: Tensor) -> Tensor:
        """The same map of every place of x, in its precision; no gradients flow."""
        return self.together(x)[0]

    def together(self, x: Tensor, *others: PackedDense) -> tuple[Tensor, ...]:
        """This map of x, and those of `others`, by one product."""
        rows = x.numel() // x.shape[-1]
        if not pays(x.dtype, rows):
            return self.dense.together(x, *(other.dense for other in others))
        if others not in self.products:
            weights = [each.dense.weight.detach() for each in (self, *others)]
            self.products[others] = PackedProduct(weights, rows)
        return self.products[others](x)


class PackedProduct:
    """Products with several weights, (D_out, D_in) each, which are packed as one.

    They are packed in the order in which `rows` rows are multiplied.
    """

    def __init__(self, weights: list[Tensor], rows: int):
        self.widths = [len(weight) for weight in weights]
        weight = torch.cat(weights) if len(weights) > 1 else weights[0]
        self.in_float16 = can_pack_halves(weight.dtype) and holds_halves(weight)
        if self.in_float16:
            self.weight = torch.ops.quantized.linear_prepack_fp16(weight, None)
        else:
            self.weight = torch.ops.mkldnn._reorder_linear_weight(weight, rows)

    def __call__(self, x: Tensor) -> tuple[Tensor, ...]:
        """(..., D_in) -> (..., D_out) for each weight."""
        y = self.multiply(x)
        return y.split(self.widths, -1) if len(self.widths) > 1 else (y,)

    def multiply(self, x: Tensor) -> Tensor:
        if self.in_float16:
            return torch.ops.quantized.linear_dynamic_fp16(x, self.weight)
        if x.dtype == torch.bfloat16 and x.numel() == 2 * x.shape[-1]:
            two = x.reshape(2, -1)  # are multiplied as four: so weights are read faster by a third
            return self.multiply(torch.cat([two, two]))[:2].view(*x.shape[:-1], -1)
        return torch.ops.mkldnn._linear_pointwise(x, self.weight, None, "none", [], "")


def can_pack_halves(dtype: torch.dtype) -> bool:
    """Whether weights of this precision are packed in float16 where they are no more than that.

    With AVX2 alone products of 1 to 18 rows take 0.5 to 0.8 times as long by it. Processors with
    more were not tried.
    """
    if dtype != torch.float32 or torch.backends.cpu.get_cpu_capability() != "AVX2":
        return False
    by_fbgemm = torch.backends.quantized.engine in ("x86", "fbgemm")
    return by_fbgemm and hasattr(torch.ops.quantized, "linear_prepack_fp16")


def holds_halves(weight: Tensor) -> bool:
    """Whether float16 holds every number of a float32 weight (D_out, D_in) exactly."""
    first = weight[:1]  # mostly tells that it does not, without a look at the rest
    return all(torch.equal(part.half().float(), part) for part in (first, weight))


def packed(bart: Bart) -> Bart:
    """A Bart that shares all with this one, but multiplies by packed weights in its decoder."""
    return twin_with(PackedDense, bart)


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


def pays(dtype: torch.dtype, rows: int) -> bool:
    """Whether products of so many rows are faster by packed weights.

    In float32 one row or two are as fast by Dense on a processor with AVX-512; with AVX2 alone a
    step takes 1.4 times as long by it.
    """
    few = rows <= 2 and torch.backends.cpu.get_cpu_capability() != "AVX2"
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

    halves: float16 holds every one of them exactly.
    """
    d, f = config.d_model, config.decoder_ffn_dim
    blocks = config.decoder_layers * (6 * d * d + 3 * d * f)
    each = 2 if halves and can_pack_halves(dtype) else dtype.itemsize
    return (blocks + d * (config.image_vocab_size + 1)) * each
