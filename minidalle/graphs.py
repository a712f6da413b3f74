"""One decoder step as a CUDA graph: the same modules, over a cache that stays where it is.

A step of a few rows is over before Python has asked for the next of its thousand kernels. A CUDA
graph records them once and plays them back by one call, without the host in between. For that
nothing may move: the cache is set aside whole, and what changes from step to step (the ids, their
place) is written into tensors that stay. How far attention looks is fixed in a recording, so there
is one for every BLOCK places. Weights that are multiplied by the same x are laid side by side, and
multiplied at once.

    step = StepGraphs(bart).start(memory, text_mask, pictures)     ids (B, n)  ->  logits (B, n, K′)

On a CPU nothing is recorded, and the same code runs step by step: so it is tested there. **On a GPU
it has not been run yet.**
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from minidalle.bart import Bart, Cache, Dense
from minidalle.packed import twin_with

Step = Callable[[Tensor], Tensor]


class JoinedDense(nn.Module):
    """A Dense whose weight lies beside those that are multiplied by the same x."""

    def __init__(self, dense: Dense):
        super().__init__()
        self.dense = dense
        self.joined: dict[tuple[JoinedDense, ...], Tensor] = {}  # by what lies beside it

    def forward(self, x: Tensor) -> Tensor:
        return self.dense(x)

    def together(self, x: Tensor, *others: JoinedDense) -> tuple[Tensor, ...]:
        """This map of x, and those of `others`, by one product."""
        dense = [each.dense for each in (self, *others)]
        if others not in self.joined:
            self.joined[others] = side_by_side([each.weight for each in dense])
        return F.linear(x, self.joined[others]).split([each.out_features for each in dense], -1)


def side_by_side(weights: list[nn.Parameter]) -> Tensor:
    """Weights (D_out, D_in) as one, of which each is a part from now on: nothing is held twice."""
    joined = torch.cat([weight.detach() for weight in weights])
    for weight, part in zip(weights, joined.split([len(w) for w in weights]), strict=True):
        weight.data = part
    return joined


class StaticCache(Cache):
    """A cache with room for all N image tokens from the start, whose place is a tensor."""

    def __init__(self, bart: Bart, memory: Tensor, pictures: int):
        super().__init__(bart.new_cache(memory).layers)
        length, device = bart.config.image_length, memory.device
        for layer in self.layers:
            r, heads, _, d = layer.text_keys.shape
            layer.keys, layer.values = (
                memory.new_zeros(r * pictures, heads, length, d) for _ in range(2)
            )
        self.every = torch.arange(length, device=device)  # (N,)
        self.place = self.every[:1].clone()  # (1,) where a single new token goes

    def restart(self, bart: Bart, memory: Tensor) -> None:
        """Begin other pictures, from other texts: memory is (R, T, D) as before."""
        self.length = 0
        for layer, fresh in zip(self.layers, bart.new_cache(memory).layers, strict=True):
            layer.text_keys.copy_(fresh.text_keys)
            layer.text_values.copy_(fresh.text_values)

    def room_for(self, n: int) -> int:
        """How many places attention looks at, once n more inputs are held."""
        blocks = -(-(self.length + n) // self.BLOCK)
        return min(blocks * self.BLOCK, len(self.every))

    def advance(self, n: int) -> tuple[Tensor, Tensor]:
        """As any cache, but a single input goes to `place`, wherever that is by then."""
        room = self.room_for(n)
        places = self.place if n == 1 else self.every[self.length : self.length + n]
        for layer in self.layers:
            layer.places, layer.room = places, room
        self.length += n
        return places, self.every[:room] <= places[:, None]


class StaticStep:
    """The decoder step of B pictures of R texts: recorded where it first runs, then played back."""

    def __init__(self, bart: Bart, memory: Tensor, text_mask: Tensor, pictures: int):
        self.bart, self.text_mask = bart, text_mask.clone()
        self.memory = memory  # of the first texts; the cache holds all that is asked of it
        self.cache = StaticCache(bart, memory, pictures)
        self.ids = text_mask.new_zeros(len(memory) * pictures, 1)  # (B, 1) the inputs
        self.recorded: dict[int, tuple[torch.cuda.CUDAGraph, Tensor]] = {}  # by room

    def restart(self, memory: Tensor, text_mask: Tensor) -> None:
        """Begin other pictures, from other texts."""
        self.cache.restart(self.bart, memory)
        self.text_mask.copy_(text_mask)

    @torch.no_grad()
    def __call__(self, ids: Tensor) -> Tensor:
        """Logits after n more inputs: (B, n) -> (B, n, K′), to be used before the next call."""
        if ids.shape[1] > 1:  # a kept beginning, once
            return self.decode(ids)
        self.ids.copy_(ids)
        self.cache.place.fill_(self.cache.length)
        if ids.device.type != "cuda":
            return self.decode(self.ids)
        room = self.cache.room_for(1)
        if room not in self.recorded:
            self.recorded[room] = self.record()
        graph, logits = self.recorded[room]
        graph.replay()
        self.cache.length += 1
        return logits

    def record(self) -> tuple[torch.cuda.CUDAGraph, Tensor]:
        """The step as a graph, and where it leaves the logits; the cache is as before."""
        length, graph = self.cache.length, torch.cuda.CUDAGraph()
        aside = torch.cuda.Stream()
        aside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(aside):  # libraries set themselves up outside the recording
            self.decode(self.ids)
        torch.cuda.current_stream().wait_stream(aside)
        self.cache.length = length
        with torch.cuda.graph(graph):
            logits = self.decode(self.ids)
        self.cache.length = length
        return graph, logits

    def decode(self, ids: Tensor) -> Tensor:
        return self.bart.decode(ids, self.memory, self.text_mask, self.cache)


class StepGraphs:
    """The recorded steps of a Bart: those of the last shape are kept from prompt to prompt."""

    def __init__(self, bart: Bart):
        self.bart = twin_with(JoinedDense, bart)
        self.shape: tuple[int, ...] = ()
        self.step: StaticStep | None = None

    @torch.no_grad()
    def start(self, memory: Tensor, text_mask: Tensor, pictures: int) -> Step:
        """A step for `pictures` pictures of each row of memory (R, T, D); text_mask is (R, T)."""
        shape = (*memory.shape, pictures)
        if self.step is None or shape != self.shape:
            self.shape, self.step = shape, None  # the memory of the last one is free first
            self.step = StaticStep(self.bart, memory, text_mask, pictures)
        else:
            self.step.restart(memory, text_mask)
        return self.step
