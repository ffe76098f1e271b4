"""The same update on several backends, each in its own process, in turn.

Libraries that share a process also share symbols: PyTorch beside MLX would multiply with MLX's
OpenBLAS. A process rests while the others work.
"""

import json
import subprocess
import sys
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from dataclasses import asdict
from typing import Any

from common import config as configuration
from common.backends import load
from common.pipelines.architectures import Size
from scripts.peers.setup import case, trained
from scripts.peers.turns import Cost, costs, in_turn, ratios

__all__ = ["backends", "take_turns"]

EMBEDDED = "emoji"

Worker = subprocess.Popen[str]


def backends(name: str, size: Size, rounds: int, names: Sequence[str]) -> dict[str, Any]:
    """Seconds of an update of a case on each backend, and how fast the first one is beside it."""
    changes = ("rollout.prompts=1",) if name == EMBEDDED else ()
    spent = take_turns(names, name, size, rounds, changes)
    first = names[0]
    return {
        "case": f"{name}, one prompt" if name == EMBEDDED else f"{name}, {size}",
        "update": {backend: costs(values) for backend, values in spent.items()},
        "ratio": {other: ratios(spent[other], spent[first]) for other in names[1:]},
        "first": first,
    }


def take_turns(
    names: Sequence[str], name: str, size: Size, rounds: int, changes: Sequence[str] = ()
) -> dict[str, list[Cost]]:
    """The costs of `rounds` updates on each backend; `mlx+compile` has `model.compile`."""
    with ExitStack() as stack:
        workers = {
            backend: stack.enter_context(_start(backend, name, size, changes)) for backend in names
        }
        turns = [{b: _update(b, w) for b, w in workers.items()} for _ in range(rounds + 1)]
    return {backend: [turn[backend] for turn in turns[1:]] for backend in names}


def _start(backend: str, name: str, size: Size, changes: Sequence[str]) -> Worker:
    """The process of a backend; it ends when its standard input is closed."""
    command = [sys.executable, "-m", "scripts.peers.backends", backend, name, size, *changes]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def _update(backend: str, process: Worker) -> Cost:
    assert process.stdin
    assert process.stdout
    with suppress(BrokenPipeError):  # a dead process also sends no answer
        process.stdin.write("update\n")
        process.stdin.flush()
    answer = process.stdout.readline()
    if not answer:
        raise SystemExit(f"the process of backend {backend} failed")
    return Cost(**json.loads(answer))


def work(backend: str, name: str, size: Size, *changes: str) -> None:
    """Do an update and print its cost for each line that comes in."""
    backend, _, compiled = backend.partition("+")
    own = [f"model.compile={bool(compiled)}".lower(), *changes]
    if name == EMBEDDED:
        config = configuration.load(EMBEDDED, [*own, "evaluate.every=1000000"])
    else:
        config = case(name, size, own)
    with trained(config, load(backend), size) as trainer:
        turns = in_turn({backend: trainer.step})
        for _ in sys.stdin:
            print(json.dumps(asdict(next(turns)[backend])), flush=True)


if __name__ == "__main__":
    work(*sys.argv[1:])  # pyright: ignore[reportArgumentType]
