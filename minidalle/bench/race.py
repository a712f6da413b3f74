"""Turns: contestants in processes of their own, asked one after the other, round by round.

Every round goes through all of them, in the opposite order of the round before, after one round
that does not count. Ratios are taken round by round, so that what else the machine does slows both
alike.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch

from minidalle.bart import BartConfig
from minidalle.bench.common import per_round, spread
from minidalle.bench.contestants import why_not
from minidalle.bench.worker import Worker, WorkerError
from minidalle.memory import parameter_count
from minidalle.vqgan import VQGANConfig

Say = Callable[[str], None]


@dataclass(frozen=True)
class Contestant:
    """Who, in which precision, of which size."""

    who: str  # a key of CONTESTANTS
    dtype: str
    bart: BartConfig
    vqgan: VQGANConfig
    stored: str | None = None  # the precision that its random weights are rounded to

    @property
    def name(self) -> str:
        return f"{self.who}-{self.dtype}"

    @property
    def weights(self) -> int:
        """Bytes of parameters."""
        count = parameter_count(self.bart)
        if self.who != "transformers":
            count += parameter_count(self.vqgan)
        return count * getattr(torch, self.dtype).itemsize


@dataclass(frozen=True)
class Order:
    """What one contestant is asked, and what instead in the round that does not count."""

    contestant: Contestant
    do: str
    arguments: dict[str, Any]
    warm_up: dict[str, Any]


class Team:
    """The workers: each started when it is first asked, and kept until `keep` names others."""

    def __init__(self, device: str, threads: int):
        self.device, self.threads = device, threads
        self.workers: dict[Contestant, Worker] = {}

    def __enter__(self) -> Team:
        return self

    def __exit__(self, *_: object) -> None:
        self.keep(())

    def ask(self, one: Contestant, do: str, **arguments: Any) -> dict[str, Any]:
        """Have a contestant do something; WorkerError where it cannot."""
        if one not in self.workers:
            reason = why_not(one.who, one.bart, one.vqgan)
            if reason is not None:
                raise WorkerError(reason)
            worker = Worker(one.name)
            shape = {"bart": asdict(one.bart), "vqgan": asdict(one.vqgan), "dtype": one.dtype}
            where = {"device": self.device, "threads": self.threads}
            try:
                worker.ask("build", contestant=one.who, stored=one.stored, **shape, **where)
            except BaseException:
                worker.stop()
                raise
            self.workers[one] = worker
        return self.workers[one].ask(do, **arguments)

    def keep(self, contestants: Iterable[Contestant]) -> None:
        """Stop all the others, for their memory."""
        for one in set(self.workers) - set(contestants):
            self.workers.pop(one).stop()


def race(
    team: Team, orders: dict[str, Order], rounds: int, title: str, say: Say
) -> dict[str, list[dict[str, Any]] | str]:
    """The answers to each order, one per round; or why there are none.

    Who fails once is out.
    """
    answers: dict[str, list[dict[str, Any]]] = {key: [] for key in orders}
    failed: dict[str, str] = {}
    for turn in range(rounds + 1):
        line = []
        for key in orders if turn % 2 == 0 else reversed(orders):
            order = orders[key]
            if key in failed:
                continue
            try:
                arguments = order.arguments if turn else order.warm_up
                answer = team.ask(order.contestant, order.do, **arguments)
            except WorkerError as error:
                failed[key] = str(error)
                line.append(f"{key} not measured: {error}")
                continue
            if turn:
                answers[key].append(answer)
            line.append(f"{key} {seconds_of(answer):.3f} s")
        say(f"{title}, {f'round {turn} of {rounds}' if turn else 'warm-up'}: {', '.join(line)}")
    return {key: failed.get(key, answers[key]) for key in orders}


def seconds_of(answer: dict[str, Any]) -> float:
    """What counts of an answer: its seconds, or its median step."""
    return statistics.median(answer["steps"]) if "steps" in answer else answer["seconds"]


def rows_of(
    orders: dict[str, Order], raced: dict[str, Any], rivals: Sequence[str], pictures: int
) -> list[dict[str, Any]]:
    """A row per contestant; `faster` is a rival's seconds over its own, round by round."""
    rows = []
    for key, order in orders.items():
        one, answers = order.contestant, raced[key]
        row: dict[str, Any] = {"who": one.who, "dtype": one.dtype, "pictures": pictures}
        if isinstance(answers, str):
            rows.append({**row, "not_measured": answers})
            continue
        own = [seconds_of(answer) for answer in answers]
        row |= {"seconds": spread(own), "peak_bytes": most(answers, "peak_bytes")}
        row |= {"gpu_peak_bytes": most(answers, "gpu_peak_bytes"), "faster": {}}
        for rival in rivals:
            if rival != key and isinstance(raced.get(rival), list):
                theirs = [seconds_of(answer) for answer in raced[rival]]
                row["faster"][rival] = spread(per_round(theirs, own))
        rows.append(row)
    return rows


def most(answers: list[dict[str, Any]], field: str) -> int | None:
    values = [answer.get(field) for answer in answers]
    return None if None in values else max(values)


def orders_for(
    contestants: Iterable[Contestant],
    do: str,
    whole: dict[str, Any],
    warm_up: dict[str, Any] | None = None,
) -> dict[str, Order]:
    """The same order for each, by name; the round that does not count is the same by default."""
    return {one.name: Order(one, do, whole, warm_up or whole) for one in contestants}


def with_contestants(
    rows: list[dict[str, Any]], orders: dict[str, Order]
) -> Iterable[tuple[dict[str, Any], Contestant]]:
    """Each row with whose it is."""
    return zip(rows, (order.contestant for order in orders.values()), strict=True)


def rivals(orders: dict[str, Order]) -> list[str]:
    """Whom ours is compared with."""
    return [key for key, order in orders.items() if order.contestant.who == "min-dalle"]
