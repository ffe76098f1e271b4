"""Terminal output: one rich console, tables, and the progress of a run, live or as plain lines."""

import io
import math
import sys
import threading
import time
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self, cast

from rich.cells import cell_len
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.markup import escape
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from common import reading, widths
from common.progress import Part, Stage, clock, counted, part_words


def _in_notebook() -> bool:
    """Whether this process runs a notebook, where output can be redrawn."""
    interactive = sys.modules.get("IPython")
    shell = interactive.get_ipython() if interactive else None
    return type(shell).__name__ == "ZMQInteractiveShell"


def _console(**options: Any) -> Console:
    """A console without colours of its own; a notebook gets plain lines, as a file does."""
    # ipykernel sets FORCE_COLOR, which rich takes for a terminal.
    terminal = False if _in_notebook() else None
    return Console(highlight=False, force_jupyter=False, force_terminal=terminal, **options)


console = _console()
"""Everything goes through it; it follows `sys.stdout` and knows whether that is a terminal."""

GAP = 2
"""Columns between a name and its value, and before an indented paragraph."""

NARROW = 20
"""A terminal with fewer columns beside the names has the values below them."""

UNLIMITED = 10_000
"""Width of a table that goes into a pipe or a file."""

Shown = dict[str, tuple[str, str]]
"""Key in a record -> its name and the format of its number."""

MEASURES: Shown = {
    "reward": ("reward", ".2f"),
    "alignment_heldout": ("held-out alignment", ".2f"),
    "diversity": ("diversity", ".3f"),
    "high_frequency": ("high-frequency energy", ".4f"),
}
"""The rows of the table that ends a run."""

FURTHER: Shown = {"heldout/": ("{}, held out", ".3g"), "diversity/": ("diversity, {}", ".3f")}
"""What begins the key of a further row -> its name, with what ends the key, and its format."""

EVALUATION: Shown = {
    "reward": ("reward", ".2f"),
    "alignment_heldout": ("held-out", ".2f"),
    "diversity": ("diversity", ".3f"),
}
"""An evaluation in one line; short, so that it fits 80 columns."""

UPDATE: Shown = {
    "reward/mean": ("reward", ".2f"),
    "diversity/group": ("diversity", ".3f"),
    "objective/gradient_norm": ("gradient", ".3g"),
}
"""An update in one line."""

COUNTED: Mapping[str, str] = {
    "sampling": "images",
    "scoring": "images",
    "training": "transitions",
    "evaluating": "images",
    "auditing": "images",
}
"""What each stage counts."""

RATIO = "diversity"
"""The measure that is shown as a share of the base model's: its unit is that of the features."""


def say(text: str) -> None:
    """Print text without markup and never wrapped, so that paths can be copied.

    Control characters other than the ends of lines are printed as escape sequences in letters.
    """
    lines = "\n".join(reading.escaped(line) for line in text.split("\n"))
    console.print(lines, markup=False, soft_wrap=True)


def pairs(values: Mapping[str, Any]) -> None:
    """Print two columns: names and values; no name or word is cut off at any width."""
    rows = [(name.replace("_", " "), _text(value)) for name, value in values.items()]
    left = max((cell_len(name) for name, _ in rows), default=0)
    right = console.width - left - GAP
    if console.is_terminal and right < NARROW:
        _stacked([name for name, _ in rows], [[value] for _, value in rows], [""])
        return
    grid = Table.grid(padding=(0, GAP))
    grid.add_column(no_wrap=True)
    grid.add_column(overflow="fold")
    for name, value in rows:
        grid.add_row(name, escape(value))
    _print(grid)


def table(rows: Sequence[Mapping[str, Any]], right: Collection[str] = ()) -> None:
    """Print rows with the same keys; the keys are the headings, those in `right` are numbers.

    The first column has the names of the rows. On a terminal no name and no word is cut off: where
    the columns do not fit side by side, each row is its name and an indented paragraph.
    """
    keys = list(rows[0]) if rows else []
    headings = [key.replace("_", " ") for key in keys]
    cells = [[_text(value) for value in row.values()] for row in rows]
    chosen: list[int] | list[None] = [None] * len(keys)
    if console.is_terminal and rows:
        least = widths.least(headings, cells)
        spare = console.width - sum(least) - (GAP + 1) * (len(least) - 1)
        if spare < 0:
            _stacked([row[0] for row in cells], [row[1:] for row in cells], headings[1:])
            return
        chosen = widths.shared_out(least, widths.full(headings, cells), spare)
    shown = Table(box=None, pad_edge=False, padding=(0, GAP + 1, 0, 0), header_style="bold")
    for key, heading, width in zip(keys, headings, chosen, strict=True):
        justify = "right" if key in right else "left"
        shown.add_column(heading, justify=justify, width=width, overflow="fold")
    for row in cells:
        shown.add_row(*map(escape, row))
    _print(shown)


def _stacked(names: Sequence[str], cells: Sequence[Sequence[str]], headings: Sequence[str]) -> None:
    """Print each name on a line of its own, and its cells with their headings below it."""
    for name, row in zip(names, cells, strict=True):
        say(name)
        for line in widths.paragraph(headings, row, console.width - GAP):
            say(" " * GAP + line)


def results(base: Mapping[str, Any], tuned: Mapping[str, Any]) -> None:
    """Print the base model against the tuned one: one row for each measure of an evaluation.

    Diversity is compared as a ratio, since its unit is the base model's; the others as a change.
    """
    rows, shown = [], dict(MEASURES)
    for start, (name, form) in FURTHER.items():
        ends = (key.removeprefix(start) for key in base if key.startswith(start))
        shown |= {start + end: (name.format(end), form) for end in ends}
    for key, (name, form) in shown.items():
        if _has_number(base, key) and _has_number(tuned, key):
            before, after = base[key], tuned[key]
            change = (
                _of_base(after, before) if key.startswith(RATIO) else f"{after - before:+{form}}"
            )
            row = {"": name, "base": f"{before:{form}}", "tuned": f"{after:{form}}"}
            rows.append({**row, "change": change})
    table(rows, right=("base", "tuned", "change"))


class _NotebookOutput:
    """Output of a notebook's cell that `update` redraws."""

    def __init__(self, shown: RenderableType) -> None:
        from IPython.display import display

        self._shown = shown
        self._handle: Any = display(self._drawn(), raw=True, display_id=True)

    def update(self) -> None:
        self._handle.update(self._drawn(), raw=True)

    def _drawn(self) -> dict[str, str]:
        screen = _console(file=io.StringIO(), width=100)
        with screen.capture() as captured:
            screen.print(self._shown)
        return {"text/plain": "\n".join(line.rstrip() for line in captured.get().splitlines())}


class LivePanel:
    """A panel that is redrawn in place on a terminal, from `start` to the end of the context.

    In a notebook it is redrawn in place too, and its last state stays.
    """

    _live: Live | None = None
    _output: _NotebookOutput | None = None
    _drawn = 0.0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._live is not None:
            self._live.stop()

    @property
    def live(self) -> bool:
        """Whether the panel is shown; never where the output is no terminal."""
        return self._live is not None

    def start(self, per_second: float) -> None:
        """Show the panel, redrawn so many times per second; in a notebook, at each `refresh`."""
        if _in_notebook():
            self._output = _NotebookOutput(cast(RenderableType, self))
        elif console.is_terminal and not console.is_dumb_terminal:
            self._live = Live(
                cast(RenderableType, self),
                console=console,
                refresh_per_second=per_second,
                transient=True,
            )
            self._live.start()

    def refresh(self, pause: float = 0.0) -> bool:
        """Redraw the panel; False where none is shown.

        pause: seconds that must have passed since a notebook's cell was redrawn, which is slow.
        """
        if self._output is not None and time.monotonic() - self._drawn >= pause:
            self._output.update()
            self._drawn = time.monotonic()
        return self.live or self._output is not None


class RunDisplay(LivePanel):
    """Shows a run: a live panel on a terminal, else a line for each update.

    It implements the trainer's `Observer`. Use it as a context manager: the panel is shown from
    `started` to the end of the context.
    """

    STOPPING = "finishing this update, then saving (a second signal aborts at once)"

    def __init__(
        self,
        updates: int,
        stop: threading.Event,
        facts: Mapping[str, Any],
        evaluations: Sequence[Mapping[str, Any]] = (),
        processes: int = 1,
    ) -> None:
        """updates: of the whole run. stop: set when the user asks the run to end early.

        facts: printed above the trainer's plan. evaluations: of a resumed run, so far. processes:
        their number; the parts of an update count the work of this one, process 0.
        """
        self._processes = processes
        self.facts = facts
        self.updates = updates
        self.stop = stop
        self.record: Mapping[str, float] = {}
        self.base: Mapping[str, Any] = evaluations[0] if evaluations else {}
        self.latest: Mapping[str, Any] = evaluations[-1] if evaluations else {}
        self._seconds: list[float] = []
        self._images = 0
        self._done = 0
        self._part: Part | None = None

    def __rich__(self) -> RenderableType:
        done = self._done
        head = Table.grid(padding=(0, 2))
        bar = ProgressBar(total=self.updates, completed=done, width=24)
        head.add_row(bar, f"{done}/{self.updates} updates", self._pace())
        lines: list[RenderableType] = [head, Text(self._measures() or self._waiting())]
        if self._part is not None:
            lines.append(Text(self._part_words(self._part)))
        if self.latest:
            lines.append(Text(self._evaluation(self.latest), style="dim"))
        if self.stop.is_set():
            lines.append(Text(self.STOPPING, style="yellow"))
        return Group(*lines)

    def rewritten(self, done: int, total: int) -> None:
        """Print a line after each tenth of the prompts."""
        if done * 10 // total > (done - 1) * 10 // total:
            say(f"prompts with variants: {done} of {total}")

    def started(self, plan: dict[str, Any]) -> None:
        """Print the plan of the run and show the panel."""
        plan = dict(plan)
        self._done = done = plan.pop("update", 0)
        pairs({**self.facts, **({"going on after update": done} if done else {}), **plan})
        self.start(per_second=4)

    def advanced(self, stage: Stage, done: int, total: int) -> None:
        """Show how far a part of an update is; without a panel, now and then in a line."""
        if self._part is None or self._part.name != stage:
            self._part = Part(stage)
        due = self._part.advance(done, total)
        if not self.refresh(pause=1.0) and due:
            in_update = stage in ("sampling", "scoring", "training")
            at = f"update {self._done + 1}/{self.updates}  " if in_update else ""
            say(f"{at}{self._part_words(self._part)}")

    def updated(self, record: dict[str, float]) -> None:
        """Show the metrics of one update."""
        self.record, self._part, self._done = record, None, int(record["update"])
        self._seconds.append(record["seconds"])
        self._images += int(record["images"])
        if (seconds := record.get("time/compile", 0.0)) >= 1:
            say(f"compiling the model took {seconds:.0f} s of this update and what came before it")
        if not self.refresh():
            say(f"update {self._done}/{self.updates}  {self._measures()}  {self._pace()}")

    def evaluated(self, record: dict[str, Any]) -> None:
        """Print one evaluation; later ones are compared with the first one."""
        self.base = self.base or record
        self.latest, self._part = record, None
        self.refresh()
        say(self._evaluation(record))

    def saved(self, path: Path) -> None:
        """Print the path of a new checkpoint."""
        say(f"saved {path}")

    def _part_words(self, part: Part) -> str:
        processes = 1 if part.name == "scoring" else self._processes  # they share all images
        return part_words(part, counted(COUNTED[part.name], processes))

    def _evaluation(self, record: Mapping[str, Any]) -> str:
        words = _words(record, EVALUATION)
        if record["update"] and RATIO in record and RATIO in self.base:
            words.append(f"({_of_base(record[RATIO], self.base[RATIO])})")
        update = record["update"]
        return f"evaluated {f'after {update}' if update else 'base model'}: {'  '.join(words)}"

    def _measures(self) -> str:
        return "  ".join(_words(self.record, UPDATE))

    def _waiting(self) -> str:
        return "first update" if self.latest else "measuring the base model"

    def _pace(self) -> str:
        if not self._seconds:
            return ""
        mean = sum(self._seconds) / len(self._seconds)
        left = (self.updates - self._done) * mean
        return f"{self._images:,} images  {mean:.1f} s an update  {clock(left)} left"


def _print(grid: Table) -> None:
    """Fit a terminal's width; in a pipe or a file print one line for each row."""
    if not grid.row_count:
        return
    if console.is_terminal:
        console.print(grid)
        return
    plain = _console(file=io.StringIO(), width=UNLIMITED)
    with plain.capture() as captured:
        plain.print(grid)
    for line in captured.get().splitlines():
        say(line.rstrip())


def _words(record: Mapping[str, Any], shown: Shown) -> list[str]:
    """The measures in `shown` that the record has, each as "name value"."""
    known = {key: how for key, how in shown.items() if _has_number(record, key)}
    return [f"{name} {record[key]:{form}}" for key, (name, form) in known.items()]


def _has_number(record: Mapping[str, Any], key: str) -> bool:
    """Whether the record has a number there: a scorer that cannot read the prompts leaves NaN."""
    return key in record and not math.isnan(record[key])


def _of_base(value: float, base: float) -> str:
    return f"{value / base:.0%} of base" if base else "-"


def _text(value: Any) -> str:
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    if isinstance(value, list | tuple):
        return ", ".join(map(_text, value))
    text = str(value)
    return text if text.isprintable() else reading.printable(text)
