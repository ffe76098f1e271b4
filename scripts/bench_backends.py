"""Seconds of one update on each backend, each in its own process, and their ratio.

    python scripts/bench_backends.py --backends cpu,mlx [--updates 3] [--set table.key=value]...

Each backend gets a process because libraries that share one also share symbols: PyTorch beside
MLX would multiply with MLX's OpenBLAS. The backends take turns at every update, A B A B, so that
a machine that slows down does so for all. The first update of each is a warm-up and not counted.
`mlx+compile` is MLX with `model.compile`. Prints medians; quote the ratio.
"""

import statistics
import subprocess
import sys
import tempfile
import threading
from contextlib import ExitStack, suppress
from pathlib import Path

import click

from common import config as configuration
from common.backends import load
from common.progress import NullObserver
from common.runs.directory import RunDirectory
from common.trainer import Trainer

Worker = subprocess.Popen[str]


@click.command()
@click.option("--backends", default="cpu,mlx", show_default=True)
@click.option("--updates", default=3, show_default=True)
@click.option("--set", "overrides", multiple=True)
@click.option("--worker", hidden=True, help="Run as the process of this backend.")
def main(backends: str, updates: int, overrides: tuple[str, ...], worker: str | None) -> None:
    """Time updates of the emoji recipe on each backend, one after the other."""
    if worker:
        work(worker, overrides)
        return
    names = backends.split(",")
    seconds: dict[str, list[float]] = {name: [] for name in names}
    with ExitStack() as stack:
        workers = {name: stack.enter_context(start(name, overrides)) for name in names}
        for update in range(updates + 1):
            for name, process in workers.items():
                took = time_update(name, process)
                if update:
                    seconds[name].append(took)
    first = statistics.median(seconds[names[0]])
    for name, values in seconds.items():
        median = statistics.median(values)
        print(f"{name:12s} {median:8.2f} s an update   {median / first:6.2f} x {names[0]}")


def start(name: str, overrides: tuple[str, ...]) -> Worker:
    """The process of a backend; it ends when its standard input is closed."""
    options = [word for text in overrides for word in ("--set", text)]
    command = [sys.executable, __file__, "--worker", name, *options]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def time_update(name: str, process: Worker) -> float:
    """Seconds of one update by the process, which rests before and after."""
    assert process.stdin
    assert process.stdout
    with suppress(BrokenPipeError):  # a dead process also sends no answer
        process.stdin.write("update\n")
        process.stdin.flush()
    answer = process.stdout.readline()
    if not answer:
        raise SystemExit(f"the process of backend {name} failed")
    return float(answer)


def work(name: str, overrides: tuple[str, ...]) -> None:
    """Do an update and print its seconds for each line that comes in."""
    backend, _, compiled = name.partition("+")
    config = configuration.load("emoji", (*overrides, f"model.compile={bool(compiled)}".lower()))
    with tempfile.TemporaryDirectory() as folder:
        run = RunDirectory.create(Path(folder) / "run", config, {})
        trainer = Trainer(
            config, load(backend), run, observer=NullObserver(), stop=threading.Event()
        )
        for _ in sys.stdin:
            print(trainer.step()["seconds"], flush=True)


if __name__ == "__main__":
    main()
