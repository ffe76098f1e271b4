"""The progress of long work that comes in named parts: images of a record, prompts of a front."""

from typing import Self

from rich.markup import escape
from rich.progress import BarColumn, Progress

from common.console import console, say
from common.progress import Part, part_words


class PartProgress:
    """Shows a bar for the part that is worked on, on a terminal; else a line now and then.

    title: what the bar says before the first part. whole: the name of a bar above it for all the
    work, which `_bars` shows as the task `_whole`; "" for none.
    """

    def __init__(self, title: str, *, whole: str = "", total: int = 1, quiet: bool) -> None:
        self._quiet, self._part = quiet, Part("")
        self._bars = Progress(
            "{task.description}",
            BarColumn(24),
            "{task.fields[words]}",
            console=console,
            transient=True,
            disable=quiet or not console.is_terminal,
        )
        if whole:
            self._whole = self._bars.add_task(escape(whole), total=total, words="")
        shown = bool(title)
        self._task = self._bars.add_task(escape(title), total=1, words="", visible=shown)

    def __enter__(self) -> Self:
        self._bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bars.stop()

    def _advance(self, name: str, done: int, total: int, noun: str, before: str = "") -> None:
        """Take in that `done` of `total` of a part are done; before: what a line begins with."""
        if self._part.name != name or done < self._part.done:
            self._part = Part(name)
        due = self._part.advance(done, total)
        text = part_words(self._part, noun)
        self._bars.update(
            self._task,
            visible=True,
            description=escape(name),
            completed=done / total,
            words=text.removeprefix(name).strip(),
        )
        if due and self._bars.disable and not self._quiet:
            say(f"{before}{text}")
