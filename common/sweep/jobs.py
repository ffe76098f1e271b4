"""Tasks as processes: a few at a time, each with its log and its share of the cores.

`cluster` makes jobs of a queue of them instead.

A task is a chain of command lines, each started after the success of the one before. A failed task
does not stop the others. Each process has its own session, so that Ctrl-C in a terminal reaches
only this process, which sends one signal to each of them.
"""

import os
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

import common
from common.machine import cores
from common.runs import files

DRIFT = (sys.executable, "-P", "-c", "from common.cli import main; main()")
"""The `drift` command of this installation, whatever files named `drift` or `common` are here."""

THREADS = "OMP_NUM_THREADS"

POLL = 0.1
"""Seconds between two looks at the processes."""

PATIENCE = 60.0
"""Seconds that a process has to save and end when an error ends the sweep."""

Outcome = Literal["done", "failed", "stopped"]


@dataclass(frozen=True)
class Step:
    """verb: a word for the output. words: the arguments of `drift`. log: the output is appended."""

    verb: str
    words: tuple[str, ...]
    log: Path


@dataclass(frozen=True)
class Task:
    """A chain of steps under one name."""

    name: str
    steps: tuple[Step, ...]


class Observer(Protocol):
    """Receives the events of the tasks."""

    def started(self, task: Task, step: Step) -> None:
        """A step of a task begins."""
        ...

    def ended(self, task: Task, outcome: Outcome, reason: str, seconds: float) -> None:
        """A task has ended; reason: the last line of the log of a failure, else ""."""
        ...


class Process(Protocol):
    """A step that was started: as much of `subprocess.Popen` as is needed here."""

    def poll(self) -> int | None:
        """The exit code, that of a signal negative; None while it runs."""
        ...

    def terminate(self) -> None:
        """Ask it to save and end; the second time, to end at once."""
        ...

    def kill(self) -> None:
        """End it."""
        ...

    def wait(self, timeout: float | None = None) -> int:
        """The exit code, once there is one; raises subprocess.TimeoutExpired."""
        ...


@dataclass
class _Running:
    task: Task
    step: int
    process: Process
    since: float


def threads_each(at_once: int) -> int:
    """Threads of each of `at_once` processes: a share of the cores, at least 1.

    If the user has set OMP_NUM_THREADS, at most that.
    """
    share = max(cores() // at_once, 1)
    given = os.environ.get(THREADS, "")
    return min(share, int(given)) if given.isdecimal() and int(given) else share


def run(
    tasks: Sequence[Task],
    *,
    at_once: int,
    observer: Observer,
    asked: Callable[[], int],
    launch: Callable[[Step], Process] | None = None,
) -> dict[str, Outcome]:
    """Run tasks in order, `at_once` at a time; returns the outcome of each that was started.

    asked: the number of stop requests so far. For each request every process gets one SIGTERM: the
    first makes `drift run` save and end, the second ends it at once. No process is left when this
    function returns or raises. launch: starts a step; None = as a process of this machine. Raises
    files.WriteError when a log cannot be written.
    """
    own = environment(threads_each(at_once))
    waiting, running = deque(tasks), list[_Running]()

    def start(task: Task, step: int, since: float) -> None:
        process = launch(task.steps[step]) if launch else _start(task.steps[step], own)
        running.append(_Running(task, step, process, since))
        observer.started(task, task.steps[step])

    outcomes: dict[str, Outcome] = {}
    signalled = 0
    try:
        while running or (waiting and not asked()):
            while waiting and len(running) < at_once and not asked():
                start(waiting.popleft(), 0, time.monotonic())
            if (times := asked()) > signalled:
                signalled = times
                for each in running:
                    _terminate(each.process)
            for each in [each for each in running if each.process.poll() is not None]:
                running.remove(each)
                outcome, reason = _outcome(each, each.process.wait(), stopping=asked() > 0)
                if outcome == "done" and each.step + 1 < len(each.task.steps):
                    if not asked():
                        start(each.task, each.step + 1, each.since)
                        continue
                    outcome = "stopped"
                outcomes[each.task.name] = outcome
                observer.ended(each.task, outcome, reason, time.monotonic() - each.since)
            time.sleep(POLL)
    finally:
        for each in running:  # only after an error: after a stop the loop waits for them
            _terminate(each.process)
        for each in running:
            _wait_or_kill(each.process)
    return outcomes


def last_line(log: Path) -> str:
    """The last line of a log; "" when it is empty or missing."""
    with suppress(OSError):
        lines = log.read_text(encoding="utf-8", errors="replace").split("\n")
        return next((line.strip() for line in reversed(lines) if line.strip()), "")
    return ""


def _start(step: Step, environment: Mapping[str, str]) -> subprocess.Popen[bytes]:
    with files.os_errors_as(f"write {step.log}"):
        step.log.parent.mkdir(parents=True, exist_ok=True)
        with step.log.open("ab") as log:
            return subprocess.Popen(
                [*DRIFT, *step.words],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=dict(environment),
                start_new_session=True,
            )


def _outcome(ended: _Running, code: int, *, stopping: bool) -> tuple[Outcome, str]:
    if code == 0:
        return "done", ""
    if stopping and code in (-signal.SIGTERM, 128 + signal.SIGTERM):
        return "stopped", ""
    last = last_line(ended.task.steps[ended.step].log) or f"exit code {code}, and an empty log"
    if code < 0:
        return "failed", f"killed by {signal.Signals(-code).name}; its log ends with: {last}"
    return "failed", last


def _terminate(process: Process) -> None:
    with suppress(ProcessLookupError):
        process.terminate()


def _wait_or_kill(process: Process) -> None:
    try:
        process.wait(PATIENCE)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def environment(threads: int | str) -> dict[str, str]:
    """The environment of a process that finds this toolkit and writes its output at once."""
    here = str(Path(common.__file__).parents[1])
    paths = [here, *filter(None, [os.environ.get("PYTHONPATH")])]
    own = {THREADS: str(threads), "PYTHONUNBUFFERED": "1", "PYTHONPATH": os.pathsep.join(paths)}
    return {**os.environ, **own}
