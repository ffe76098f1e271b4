"""Progress of long work: what a run reports while it works, and when a log gets a line about it."""

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal, Protocol

__all__ = [
    "NullObserver",
    "Observer",
    "Observers",
    "OnProgress",
    "Part",
    "Stage",
    "clock",
    "counted",
    "part_words",
]

OnProgress = Callable[[int, int], None]
"""Called with the number of images (or transitions) that are done, and with that of all; of a part
that several processes share, with those of this process."""

Stage = Literal["sampling", "scoring", "training", "evaluating", "auditing"]
"""Parts of an update, and an evaluation; "training" counts transitions, the others images."""

PAUSE = 30.0
"""Seconds between two lines of a log about one part."""

LINES = 10
"""At most so many lines about one part."""


class Observer(Protocol):
    """Receives a run's progress events: the terminal, a notebook, a test."""

    def rewritten(self, done: int, total: int) -> None:
        """Before the run begins: `done` of `total` prompts have their variants."""
        ...

    def started(self, plan: dict[str, Any]) -> None:
        """The run begins or is resumed; plan: its sizes, see `Trainer.plan`."""
        ...

    def advanced(self, stage: Stage, done: int, total: int) -> None:
        """Within an update or an evaluation: `done` of `total` images or transitions."""
        ...

    def updated(self, record: dict[str, float]) -> None:
        """An update is finished; record: its row of `metrics.jsonl`."""
        ...

    def evaluated(self, record: dict[str, Any]) -> None:
        """An evaluation is finished; record: its row of `evaluations.jsonl`."""
        ...

    def saved(self, path: Path) -> None:
        """A checkpoint is on disk."""
        ...


class NullObserver:
    """Ignores every event; a base class for observers that need only some of them."""

    def rewritten(self, done: int, total: int) -> None:
        """Ignored."""

    def started(self, plan: dict[str, Any]) -> None:
        """Ignored."""

    def advanced(self, stage: Stage, done: int, total: int) -> None:
        """Ignored."""

    def updated(self, record: dict[str, float]) -> None:
        """Ignored."""

    def evaluated(self, record: dict[str, Any]) -> None:
        """Ignored."""

    def saved(self, path: Path) -> None:
        """Ignored."""


class Observers:
    """Several observers as one: each receives every event, in their order."""

    def __init__(self, each: Sequence[Observer]) -> None:
        self._each = tuple(each)

    def rewritten(self, done: int, total: int) -> None:
        """Passed on."""
        for observer in self._each:
            observer.rewritten(done, total)

    def started(self, plan: dict[str, Any]) -> None:
        """Passed on."""
        for observer in self._each:
            observer.started(plan)

    def advanced(self, stage: Stage, done: int, total: int) -> None:
        """Passed on."""
        for observer in self._each:
            observer.advanced(stage, done, total)

    def updated(self, record: dict[str, float]) -> None:
        """Passed on."""
        for observer in self._each:
            observer.updated(record)

    def evaluated(self, record: dict[str, Any]) -> None:
        """Passed on."""
        for observer in self._each:
            observer.evaluated(record)

    def saved(self, path: Path) -> None:
        """Passed on."""
        for observer in self._each:
            observer.saved(path)


class Part:
    """A part of the work that is under way: how far it is, and how long the rest takes."""

    def __init__(self, name: str) -> None:
        """name: what it does, as "sampling"."""
        self.name = name
        self.done = self.total = 0
        self._start = self._line = time.monotonic()
        self._tenth = 0

    def advance(self, done: int, total: int) -> bool:
        """Take in how far it is. True where a log should get a line about it.

        That is not before PAUSE seconds have passed since the start or since the last line, at
        most LINES times in all, and never at the end, which has a line of its own.
        """
        self.done, self.total = done, total
        now, tenth = time.monotonic(), done * LINES // max(total, 1)
        due = tenth > self._tenth and done < total and now - self._line >= PAUSE
        if due:
            self._line, self._tenth = now, tenth
        return due

    def seconds_left(self) -> float | None:
        """Seconds that the rest takes at the speed so far; None before anything is done."""
        if not self.done:
            return None
        return (time.monotonic() - self._start) * (self.total - self.done) / self.done


def clock(seconds: float) -> str:
    """Seconds as m:ss or h:mm:ss."""
    minutes, rest = divmod(max(round(seconds), 0), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def counted(noun: str, processes: int) -> str:
    """What progress counts, in words: of several processes only the work of the first."""
    return noun if processes == 1 else f"{noun} of process 0"


def part_words(part: Part, noun: str) -> str:
    """How far a part of the work is: "sampling 24/96 images  0:12 left"."""
    if not part.done:
        return f"{part.name} {part.total:,} {noun}"
    left = part.seconds_left() or 0.0
    return f"{part.name} {part.done:,}/{part.total:,} {noun}  {clock(left)} left"
