"""Shows a sweep: a line for each event, and on a terminal a live table of the running runs."""

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

from rich.cells import cell_len
from rich.console import Group, RenderableType
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from common import console
from common.console import UPDATE, LivePanel, say
from common.progress import clock
from common.sweep.jobs import Outcome, Step, Task
from common.sweep.plan import latest_metrics

EVALUATING = "evaluating"


class Board(LivePanel):
    """Shows a sweep; it implements the `Observer` of `jobs.run`. Use it as a context manager."""

    STOPPING = "the running ones finish their update and save (a second signal aborts at once)"

    def __init__(self, tasks: Sequence[Task], updates: Mapping[str, int], out: Path) -> None:
        """tasks: the open ones. updates: of every run, by name. out: the folder of the runs."""
        self.failures: dict[str, str] = {}
        """The reason of each failure, by run."""
        self.stopping = False
        self._updates, self._out = updates, out
        self._waiting = {task.name for task in tasks}
        self._done_before = len(updates) - len(tasks)
        self._outcomes: Counter[Outcome] = Counter()
        self._running: dict[str, tuple[Step, float]] = {}

    def __enter__(self) -> Self:
        if self._done_before:
            say(f"{self._done_before} of {len(self._updates)} runs are done")
        self.start(per_second=2)
        return self

    def __rich__(self) -> RenderableType:
        grid = Table.grid(padding=(0, 2))
        names = max(map(cell_len, self._running), default=0)
        grid.add_column(width=min(names, console.console.width), overflow="fold")
        for name, (step, since) in list(self._running.items()):
            record, total = latest_metrics(self._out / name), self._updates[name]
            done = int(record.get("update", 0))
            words = [step.verb] if step.verb == EVALUATING else _measures(record)
            bar = ProgressBar(total=total, completed=done, width=16)
            spent = clock(time.monotonic() - since)
            grid.add_row(Text(name), bar, f"{done}/{total}", "  ".join(words), spent)
        lines: list[RenderableType] = [grid, Text(self._summary(), style="dim")]
        if self.stopping:
            lines.append(Text(self.STOPPING, style="yellow"))
        return Group(*lines)

    def started(self, task: Task, step: Step) -> None:
        """Print the step that begins."""
        self._waiting.discard(task.name)
        self._running[task.name] = (step, time.monotonic())
        say(f"{step.verb} {task.name}")

    def ended(self, task: Task, outcome: Outcome, reason: str, seconds: float) -> None:
        """Print the outcome of a task."""
        del self._running[task.name]
        self._outcomes[outcome] += 1
        if outcome == "failed":
            self.failures[task.name] = reason
        say(f"{outcome} {task.name} after {clock(seconds)}{f': {reason}' if reason else ''}")

    def _summary(self) -> str:
        counts = {
            "done": self._done_before + self._outcomes["done"],
            "running": len(self._running),
            "failed": self._outcomes["failed"],
            "waiting": len(self._waiting),
        }
        return ", ".join(f"{count} {word}" for word, count in counts.items() if count)


def _measures(record: Mapping[str, Any]) -> list[str]:
    """The main measures of an update's row; null, which stands for NaN, is left out."""
    shown = ((name, record.get(key), form) for key, (name, form) in UPDATE.items())
    return [f"{name} {value:{form}}" for name, value, form in shown if value is not None]
