"""Lists runs, one row for each; a folder that cannot be read has a row too and stops nothing."""

import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from common import reading
from common.choices import RunColumn
from common.errors import RequestError
from common.report import course
from common.report.course import State
from common.runs import line_log
from common.runs.directory import BEGAN, CONFIG, ENVIRONMENT, METRICS, RunDirectory

__all__ = ["UNREADABLE", "Row", "list_runs", "row"]

UNREADABLE = "cannot be read"
"""The state of a folder that looks like a run and is damaged."""

DEPTH, MOST = 4, 10_000
"""Levels of folders below a given one, and runs, that are looked at."""

LONGEST = 60
"""Characters of a name that a configuration of others may bring."""


@dataclass(frozen=True)
class Row:
    """One run. Numbers are None where there is none yet.

    run: its folder. done, updates: finished updates, and those of the whole run. evaluated: the
    update of the last evaluation, which reward, alignment (held out) and diversity are from. age:
    seconds since its last start. error: why the folder cannot be read, "" where it can.
    """

    run: str
    recipe: str = ""
    backend: str = ""
    seed: int | None = None
    done: int | None = None
    updates: int | None = None
    evaluated: int | None = None
    reward: float | None = None
    alignment: float | None = None
    diversity: float | None = None
    state: State | Literal["cannot be read"] = UNREADABLE
    age: float | None = None
    error: str = ""


def list_runs(folders: Iterable[Path], sort: RunColumn = "age") -> list[Row]:
    """The runs in some folders and below them.

    The newest comes first; sorted by a measure, the highest comes first. What has no value there
    comes last. Raises RequestError for a folder that is not there, and for more than MOST runs.
    """
    rows: dict[Path, Row] = {}
    for folder in folders:
        if not folder.is_dir():
            why = "it is a file" if folder.exists() else "it is not there"
            raise RequestError(f"no folder {folder}: {why}")
        for path, error in _runs_in(folder, DEPTH):
            if len(rows) >= MOST:
                raise RequestError(f"more than {MOST:,} runs in {folder}: name a folder below it")
            rows.setdefault(path.absolute(), row(path) if error is None else _damaged(path, error))
    value = _VALUES[sort]
    ordered = sorted(rows.values(), key=lambda each: each.run)
    known = [each for each in ordered if value(each) is not None]
    known.sort(key=value, reverse=sort in _HIGHEST_FIRST)
    return known + [each for each in ordered if value(each) is None]


_VALUES: Mapping[RunColumn, Callable[[Row], Any]] = {
    "age": lambda each: each.age,
    "run": lambda each: each.run,
    "recipe": lambda each: each.recipe or None,
    "backend": lambda each: each.backend or None,
    "updates": lambda each: each.done,
    "reward": lambda each: each.reward,
    "alignment": lambda each: each.alignment,
    "diversity": lambda each: each.diversity,
    "state": lambda each: each.state,
}
_HIGHEST_FIRST = ("updates", "reward", "alignment", "diversity")


def _runs_in(folder: Path, depth: int) -> Iterator[tuple[Path, Exception | None]]:
    """(folder, None) of each run, and (folder, error) where a folder cannot be listed.

    A link to a run counts; a link to a folder of runs is not followed, since links can go round.
    """
    try:
        if os.path.lexists(folder / CONFIG):
            yield folder, None
            return
        below = sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    except OSError as error:
        yield folder, error
        return
    for path in below:
        if not path.is_dir():
            continue
        if depth and not path.is_symlink():
            yield from _runs_in(path, depth - 1)
        elif os.path.lexists(path / CONFIG):
            yield path, None


def row(path: Path) -> Row:
    """The row of one run, whatever is in its folder."""
    try:
        return _read(RunDirectory.open(path))
    except Exception as error:  # whatever a damaged folder raises, the others have their rows
        return _damaged(path, error)


def _read(run: RunDirectory) -> Row:
    config, starts = run.config, run.starts()
    newest = line_log.newest(run.path / METRICS).get("update", 0)
    done = newest if type(newest) is int and newest >= 0 else 0
    evaluations = course.evaluations(run)
    last = evaluations[-1] if evaluations else {}
    age = course.seconds_since(starts[-1].get(BEGAN)) if starts else None
    if age is None:
        age = max(time.time() - (run.path / ENVIRONMENT).stat().st_mtime, 0.0)
    return Row(
        run=str(run.path),
        recipe=reading.printable(config.run.recipe, LONGEST),
        backend=reading.printable(config.run.backend, LONGEST),
        seed=config.run.seed,
        done=done,
        updates=config.run.updates,
        evaluated=last.get("update"),
        reward=reading.finite(last.get("reward")),
        alignment=reading.finite(last.get("alignment_heldout")),
        diversity=reading.finite(last.get("diversity")),
        state=course.state(run, done),
        age=age,
    )


def _damaged(path: Path, error: Exception) -> Row:
    reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return Row(run=str(path), error=reading.printable(reason) or type(error).__name__)
