"""Processes that try one input after another; one that hangs or dies is replaced."""

import multiprocessing
import resource
import time
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection, wait
from pathlib import Path

from scripts.fuzz.trial import MEGABYTES, SECONDS, Outcome, serving, try_input

__all__ = ["outcomes"]

PATIENCE = 2 * SECONDS
"""Seconds until an input counts as a hang: its process is killed."""

START = 300.0
"""Seconds that a process may take to load the libraries and a model."""

ROOM = 4 * MEGABYTES * 1e6
"""Bytes of address space beyond that of a warm process: what a wild request can take."""


class _Worker:
    """A process that tries one input after another."""

    def __init__(self, seed: int, base: Path) -> None:
        context = multiprocessing.get_context("spawn")
        self.link, there = context.Pipe()
        self.process = context.Process(target=_work, args=(there, seed, base), daemon=True)
        self.process.start()
        there.close()
        self.at: tuple[str, int] | None = None
        self.until = time.monotonic() + START

    def give(self, at: tuple[str, int]) -> None:
        self.at, self.until = at, time.monotonic() + PATIENCE
        self.link.send(at)

    def end(self) -> None:
        self.process.kill()
        self.process.join()


def outcomes(waiting: list[tuple[str, int]], seed: int, base: Path, jobs: int) -> Iterator[Outcome]:
    """The outcome of each input, as they come; a process that hangs or dies is replaced."""
    waiting = waiting[::-1]
    with _workers(jobs, seed, base) as workers:
        while waiting or any(worker.at for worker in workers):
            ready = wait([worker.link for worker in workers], timeout=1.0)
            for number, worker in enumerate(workers):
                outcome, gone = None, time.monotonic() > worker.until and worker.at is not None
                if worker.link in ready:
                    try:
                        outcome = worker.link.recv()
                    except EOFError:
                        if worker.at is None:
                            raise RuntimeError("a process ended while it was started") from None
                        gone = True
                if gone and worker.at:
                    worker.end()
                    code = worker.process.exitcode
                    fault = "hangs" if worker.link not in ready else f"its process died: {code}"
                    outcome = Outcome(*worker.at, fault, "", PATIENCE, 0, ())
                    workers[number] = worker = _Worker(seed, base)
                    yield outcome
                    continue
                if worker.link in ready:
                    worker.at = None
                    if outcome is not None:
                        yield outcome
                    if waiting:
                        worker.give(waiting.pop())


@contextmanager
def _workers(jobs: int, seed: int, base: Path) -> Iterator[list[_Worker]]:
    workers = [_Worker(seed, base) for _ in range(jobs)]
    try:
        yield workers
    finally:
        for worker in workers:
            worker.end()


def _work(link: Connection, seed: int, base: Path) -> None:
    """Try what comes; the first message says that this process is warm."""
    from click.testing import CliRunner

    from common.cli import drift

    with serving() as address:
        CliRunner().invoke(drift, ["run", "--dry-run", "--backend", "cpu"])
        used = float(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        most = int(used + ROOM)
        resource.setrlimit(resource.RLIMIT_AS, (most, most))
        link.send(None)
        while True:
            kind, index = link.recv()
            link.send(try_input(kind, index, seed, base, address))
