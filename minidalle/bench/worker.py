"""A contestant in a process of its own, and how it is spoken to.

What one contestant sets for its whole process, such as threads or gradients, never touches another.
The parent writes an order on the worker's standard input, one line of JSON, and reads one line of
JSON back: what was measured, or `error`. Only one worker is asked at a time; the others wait.

    python -m minidalle.bench.worker        (started by `Worker`, not by hand)
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from typing import Any, TextIO

import torch

from minidalle.bart import BartConfig
from minidalle.bench.contestants import CONTESTANTS
from minidalle.bench.limits import measure_limits
from minidalle.bench.memory import RESET, STATUS, status
from minidalle.vqgan import VQGANConfig

COMMAND = (sys.executable, "-m", "minidalle.bench.worker")
PATIENCE = 60  # seconds that a worker has to end by itself
ORDERS = ("road", "tokens", "decode", "steps")  # methods of a contestant


class WorkerError(Exception):
    """A contestant could not do what it was asked; the message says why."""


class Worker:
    """The parent's side: start a process, give it orders, stop it. Use it in a `with`."""

    def __init__(self, name: str, command: Iterable[str] = COMMAND):
        self.name = name
        self.errors = tempfile.TemporaryFile("w+")  # noqa: SIM115 (`stop` closes it)
        self.process = subprocess.Popen(
            [*command], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.errors, text=True
        )

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def ask(self, do: str, **arguments: Any) -> dict[str, Any]:
        """Give one order and wait for the answer; WorkerError where there is none, or an error."""
        try:
            self.process.stdin.write(json.dumps({"do": do, **arguments}) + "\n")
            self.process.stdin.flush()
            line = self.process.stdout.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            code = self.process.wait()
            self.errors.seek(0)
            said = self.errors.read().strip().splitlines()[-1:] or ["nothing was said"]
            raise WorkerError(f"{self.name} ended with code {code} when asked to {do}: {said[0]}")
        answer = json.loads(line)
        if "error" in answer:
            raise WorkerError(f"{self.name} could not {do}: {answer['error']}")
        return answer

    def stop(self) -> None:
        """End the process: its input ends, and if it goes on, it is killed."""
        try:
            self.process.communicate(timeout=PATIENCE)
        except (subprocess.TimeoutExpired, BrokenPipeError):
            self.process.kill()
            self.process.wait()
        self.errors.close()


def serve(orders: Iterable[str], answers: TextIO) -> None:
    """The worker's side: obey lines of JSON until they end."""
    contestant = None
    base = memory_held()
    for line in orders:
        order = json.loads(line)
        try:
            if order["do"] == "build":
                base = memory_held()
                contestant, answer = build(order)
            else:
                answer = obey(contestant, order, base)
        except Exception as error:  # whatever it is, the parent must hear of it
            answer = {"error": f"{type(error).__name__}: {error}"}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


def build(order: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    """Make a contestant from its order: name, configs' fields, dtype, device and threads.

    Where `stored` is a precision, its weights are as if they had been stored so.
    """
    contestant = CONTESTANTS[order["contestant"]](
        BartConfig(**order["bart"]),
        VQGANConfig(**{k: tuple(v) if type(v) is list else v for k, v in order["vqgan"].items()}),
        order["dtype"],
        order["device"],
    )
    if order["stored"] is not None:
        for network in contestant.networks:
            for weight in network.parameters():
                weight.data.copy_(weight.to(getattr(torch, order["stored"])))
    torch.set_num_threads(order["threads"])  # last, since importing min-dalle sets it too
    return contestant, {"threads": torch.get_num_threads()}


def obey(contestant: Any, order: dict[str, Any], base: int | None) -> dict[str, Any]:
    """One order: measured seconds, with the peak of memory above what the process began with."""
    arguments = {name: value for name, value in order.items() if name != "do"}
    if order["do"] == "limits":
        return measure_limits(**arguments)
    if order["do"] not in ORDERS:
        raise ValueError(f"the order is {order['do']!r}; it must be one of {', '.join(ORDERS)}")
    if contestant is None:
        raise ValueError(f"nothing is built that could {order['do']}")
    if RESET.exists():
        RESET.write_text("5")
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    answer = getattr(contestant, order["do"])(**arguments)
    return {**answer, **peaks(base)}


def memory_held() -> int | None:
    """Bytes in RAM; None where the system does not tell."""
    return status("VmRSS") if STATUS.exists() else None


def peaks(base: int | None) -> dict[str, int | None]:
    """The most that was held since the last reset: in RAM above `base`, and on the GPU."""
    gpu = torch.cuda.max_memory_allocated() if torch.cuda.is_available() else None
    return {"peak_bytes": None if base is None else status("VmHWM") - base, "gpu_peak_bytes": gpu}


if __name__ == "__main__":
    # Only answers go to the parent: what a library prints goes where errors go.
    to_parent = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    serve(sys.stdin, to_parent)
