"""What is measured of generation, part by part, and each part's share of the machine's limit.

The share is the least time that a part's bytes and operations need (`costs.py`) at the bandwidth
and the matrix rate that were measured in the same run (`limits.py`), over the time it took.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from minidalle.bart import BartConfig
from minidalle.bench.common import spread
from minidalle.bench.costs import Limits, encode_cost, limits_of_road, step_cost
from minidalle.bench.race import (
    Contestant,
    Say,
    Team,
    orders_for,
    race,
    rivals,
    rows_of,
    with_contestants,
)
from minidalle.memory import parameter_count
from minidalle.vqgan import VQGANConfig

WARM_TOKENS = 2  # of the round that does not count
FEW_POSITIONS = 16  # min-dalle's step is timed at so many, since it attends over all slots always
GROWTH_TOKENS = 8  # as the number of pictures or D grows, steps are timed near the start
GROWTH_PICTURES = (1, 2, 4, 8, 16, 32, 64)
GROWTH_SHARES = (8, 4, 2, 1)  # of D and F, the head count with them


@dataclass(frozen=True)
class Plan:
    """What is to be measured."""

    bart: BartConfig
    vqgan: VQGANConfig
    contestants: tuple[Contestant, ...]
    pictures: tuple[int, ...]
    tokens: int  # drawn on a road, of N
    rounds: int

    def those(self, *who: str) -> list[Contestant]:
        return [one for one in self.contestants if one.who in who]


def needed(plan: Plan, part: str) -> list[Contestant]:
    """Who is asked in a part."""
    who = {"limits": ("ours",), "transformers": ("ours", "transformers"), "growth": ("ours",)}
    found = plan.those(*who.get(part, ("ours", "min-dalle")))
    return found[:1] if part == "limits" else found


def to_limits(told: dict[str, Any] | None) -> Limits | None:
    """The limits as `costs` reads them, where they were measured."""
    return None if told is None else Limits(told["bandwidth"], told["flops"])


def measure_machine(plan: Plan, team: Team, told: Any, say: Say) -> dict[str, Any]:
    """The best of all ways and rounds; by a worker, since it is to have the same threads."""
    dtypes = sorted({one.dtype for one in plan.contestants})
    one, d, f = needed(plan, "limits")[0], plan.bart.d_model, plan.bart.decoder_ffn_dim
    read: dict[str, float] = {}
    matrix: dict[str, dict[str, float]] = {dtype: {} for dtype in dtypes}
    for turn in range(plan.rounds):
        arguments = {"width": d, "inner": f, "dtypes": dtypes, "device": team.device}
        found = team.ask(one, "limits", **arguments)
        keep_best(read, found["read"])
        for dtype in dtypes:
            keep_best(matrix[dtype], found["matrix"][dtype])
        rate = ", ".join(f"{dtype} {max(matrix[dtype].values()) / 1e9:.0f}" for dtype in dtypes)
        say(
            f"limits, round {turn + 1} of {plan.rounds}, best so far: "
            f"{max(read.values()) / 1e9:.1f} GB/s, GFLOP/s: {rate}"
        )
    best_flops = {dtype: max(ways.values()) for dtype, ways in matrix.items()}
    return {"bandwidth": max(read.values()), "flops": best_flops, "read": read, "matrix": matrix}


def keep_best(best: dict[str, float], new: dict[str, float]) -> None:
    """The greater speed of each way."""
    best.update({way: max(speed, best.get(way, 0.0)) for way, speed in new.items()})


def measure_road(plan: Plan, team: Team, told: Any, say: Say) -> list[dict[str, Any]]:
    """Text tokens to pixels, with super-conditioning."""
    rows, limits = [], to_limits(told)
    for n in plan.pictures:
        whole, few = ({"pictures": n, "tokens": t} for t in (plan.tokens, WARM_TOKENS))
        orders = orders_for(plan.those("ours", "min-dalle"), "road", whole, few)
        raced = race(team, orders, plan.rounds, f"road, {count(n)}", say)
        for row, one in with_contestants(rows_of(orders, raced, rivals(orders), n), orders):
            if limits is not None and "seconds" in row:
                arguments = (plan.bart, plan.vqgan, n, plan.tokens, one.dtype, limits)
                add_share(row, limits_of_road(*arguments)["road"])
            rows.append(row)
    return rows


def measure_step(plan: Plan, team: Team, told: Any, say: Say) -> list[dict[str, Any]]:
    """One decoder step with super-conditioning: `positions`, and the median seconds at each.

    Ours is timed at every position on the way; min-dalle's at a few, spread over them.
    """
    rows, limits = [], to_limits(told)
    every = max(1, plan.tokens // FEW_POSITIONS)
    positions = {"ours": range(plan.tokens), "min-dalle": range(0, plan.tokens, every)}
    for n in plan.pictures:
        orders = {}
        for one in plan.those("ours", "min-dalle"):
            few = {"pictures": n, "positions": [0]}
            whole = {"pictures": n, "positions": [*positions[one.who]]}
            orders |= orders_for([one], "steps", whole, few)
        raced = race(team, orders, plan.rounds, f"step, {count(n)}", say)
        for row, one in with_contestants(rows_of(orders, raced, rivals(orders), n), orders):
            rows.append(row)
            if "seconds" in row:
                add_steps(row, one, raced[one.name], positions[one.who], limits)
    return rows


def add_steps(
    row: dict[str, Any],
    one: Contestant,
    answers: list[dict[str, Any]],
    positions: Sequence[int],
    limits: Limits | None,
) -> None:
    """The encoder's seconds, those at each position, and the shares of the limit."""
    at = [statistics.median(s) for s in zip(*(answer["steps"] for answer in answers), strict=True)]
    row |= {"positions": [*positions], "step_seconds": at}
    row["encode"] = {"seconds": spread([answer["encode"] for answer in answers])}
    if limits is None:
        return
    size = getattr(torch, one.dtype).itemsize
    least = [
        limits.seconds(step_cost(one.bart, 2 * row["pictures"], position, size), one.dtype)
        for position in positions
    ]
    add_share(row, statistics.median(least))
    add_share(row["encode"], limits.seconds(encode_cost(one.bart, 2, size), one.dtype))


def measure_decode(plan: Plan, team: Team, told: Any, say: Say) -> list[dict[str, Any]]:
    """The VQGAN alone: image tokens of n pictures to pixels."""
    rows, limits = [], to_limits(told)
    for n in plan.pictures:
        orders = orders_for(plan.those("ours", "min-dalle"), "decode", {"pictures": n})
        raced = race(team, orders, plan.rounds, f"decode, {count(n)}", say)
        for row, one in with_contestants(rows_of(orders, raced, rivals(orders), n), orders):
            if limits is not None and "seconds" in row:
                arguments = (plan.bart, plan.vqgan, n, plan.tokens, one.dtype, limits)
                add_share(row, limits_of_road(*arguments)["decode"])
            rows.append(row)
    return rows


def measure_transformers(plan: Plan, team: Team, told: Any, say: Say) -> list[dict[str, Any]]:
    """Image tokens alone, without super-conditioning, beside transformers' generate."""
    rows = []
    for n in plan.pictures:
        whole, few = ({"pictures": n, "tokens": t} for t in (plan.tokens, WARM_TOKENS))
        orders = orders_for(plan.those("ours", "transformers"), "tokens", whole, few)
        raced = race(team, orders, plan.rounds, f"tokens, {count(n)}", say)
        for dtype in dict.fromkeys(order.contestant.dtype for order in orders.values()):
            alike = {k: order for k, order in orders.items() if order.contestant.dtype == dtype}
            rows += rows_of(alike, raced, [f"transformers-{dtype}"], n)
    for row in (row for row in rows if "seconds" in row):
        row["tokens_per_second"] = row["pictures"] * plan.tokens / row["seconds"]["median"]
    return rows


def measure_growth(plan: Plan, team: Team, told: Any, say: Say) -> dict[str, Any]:
    """One step of ours as the number of pictures grows, and as D does, near the start.

    How it grows with the position is in the part `step`.
    """
    tokens = min(GROWTH_TOKENS, plan.bart.image_length)
    positions = [*range(min(2, tokens - 1), tokens)]
    by_pictures, by_width = [], []
    for one in plan.those("ours"):
        orders = {}
        for n in GROWTH_PICTURES:
            whole = {"pictures": n, "positions": positions}
            [orders[str(n)]] = orders_for([one], "steps", whole).values()
        raced = race(team, orders, plan.rounds, f"step by pictures, {one.dtype}", say)
        for n in GROWTH_PICTURES:
            by_pictures += rows_of({str(n): orders[str(n)]}, raced, (), n)
        team.keep(())
        orders = {}
        for narrow in narrower(one):
            whole = {"pictures": 1, "positions": positions}
            [orders[str(narrow.bart.d_model)]] = orders_for([narrow], "steps", whole).values()
        raced = race(team, orders, plan.rounds, f"step by D, {one.dtype}", say)
        for key, order in orders.items():
            [row] = rows_of({key: order}, raced, (), 1)
            size = parameter_count(order.contestant.bart)
            by_width.append({**row, "d_model": int(key), "parameters": size})
        team.keep(())
    return {"positions": positions, "pictures": by_pictures, "d_model": by_width}


def narrower(one: Contestant) -> list[Contestant]:
    """The same with less width: D, F and the number of heads, whose own width stays."""
    names = ("d_model", "encoder_ffn_dim", "decoder_ffn_dim")
    names += ("encoder_attention_heads", "decoder_attention_heads")
    found = []
    for share in GROWTH_SHARES:
        fields = {name: max(1, getattr(one.bart, name) // share) for name in names}
        found.append(replace(one, bart=replace(one.bart, **fields)))
    return found


def add_share(row: dict[str, Any], least: float) -> None:
    """The least seconds by the machine's limits, and their share of the median."""
    row |= {"least_seconds": least, "share": least / row["seconds"]["median"]}


def count(n: int) -> str:
    return "1 picture" if n == 1 else f"{n} pictures"


MEASURED = {
    "limits": measure_machine,
    "road": measure_road,
    "step": measure_step,
    "decode": measure_decode,
    "transformers": measure_transformers,
    "growth": measure_growth,
}
