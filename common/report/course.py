"""The course of a run: whether it goes on, how it ended, its wall time, and the command for it."""

import math
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal

from common import config as configuration, reading
from common.config import Config, ConfigError, toml
from common.evaluation.families import measures_for
from common.report import words
from common.runs.directory import BEGAN, CONFIG, ENDED, FAILED, SECONDS, RunDirectory

Records = Sequence[Mapping[str, Any]]

BASE_RECIPE = "emoji"
"""The recipe to start from where a run's own recipe does not ship."""


State = Literal["running", "stopped", "finished", "failed"]
"""How a run stands: a process trains in it, or how its last start ended."""


@dataclass(frozen=True)
class Course:
    """status: in words. seconds: wall time so far. failure: why it failed; "" if it did not."""

    status: str
    seconds: float
    failure: str


def course(run: RunDirectory, metrics: Records, evaluations: Records, audits: Records) -> Course:
    """The course of a run by its records, by what its starts wrote down, and by its lock."""
    starts, done = run.starts(), int(metrics[-1]["update"]) if metrics else 0
    ended, how = _ended(starts), state(run, done)
    at = f"update {done} of {run.config.run.updates}"
    status = {
        "running": f"Running: {at}",
        "failed": f"Failed at {at}",
        "finished": f"Finished: {words.count(done, 'update')}",
        "stopped": f"Stopped at {at}",
    }[how]
    if how == "stopped" and not ended and starts and BEGAN in starts[-1]:
        status = f"Ended without a word at {at}"
    failure = reading.printable(ended.removeprefix(FAILED)) if how == "failed" else ""
    logs = [*metrics, *evaluations, *audits]
    return Course(status, _wall_seconds(starts, logs, running=how == "running"), failure)


def state(run: RunDirectory, done: int) -> State:
    """How a run stands that has so many updates in its log; one that was killed is stopped."""
    if run.is_running():
        return "running"
    if _ended(run.starts()).startswith(FAILED):
        return "failed"
    return "finished" if done >= run.config.run.updates else "stopped"


def evaluations(run: RunDirectory) -> list[dict[str, Any]]:
    """The evaluations, without what the emoji scorers say of another model's images."""
    rows = run.evaluations()
    if measures_for(run.config.model.family).HAS_ALIGNMENT:
        return rows
    return [{k: v for k, v in row.items() if not k.startswith("alignment_")} for row in rows]


def seconds_since(began: object) -> float | None:
    """Seconds since a time that a start wrote down; None where it is no time with a zone."""
    try:
        return max((datetime.now(UTC) - datetime.fromisoformat(str(began))).total_seconds(), 0.0)
    except (ValueError, TypeError, OverflowError):
        return None


def _ended(starts: Records) -> str:
    """How the last start ended; "" where it did not write it down."""
    return str(starts[-1].get(ENDED, "")) if starts else ""


def _wall_seconds(starts: Records, logs: Records, *, running: bool) -> float:
    """Wall time of all starts: as written down, else until now, else as far as it was logged."""
    updates = [_whole(start.get("update")) for start in starts] or [0]
    total = 0.0
    for number, (first, start) in enumerate(zip(updates, starts or [{}], strict=True)):
        last = number == len(updates) - 1
        until = math.inf if last else updates[number + 1]
        written = _duration(start.get(SECONDS))
        if written is None and running and last:
            written = seconds_since(start.get(BEGAN))
        if written is None:
            # An evaluation of the state before the first update belongs to the first start.
            written = sum(
                _duration(row.get("seconds")) or 0.0
                for row in logs
                if first < row["update"] <= until or (number == 0 and row["update"] == first)
            )
        total += written
    return total


def _duration(value: object) -> float | None:
    seconds = reading.finite(value)
    return seconds if seconds is not None and seconds >= 0 else None


def _whole(value: object) -> int:
    return value if isinstance(value, int) else 0


def duration(seconds: float) -> str:
    """Seconds as people say them: 4.1 s, 4 min 0 s, 3 h 2 min."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{seconds:.1f} s"


def command(run: RunDirectory) -> str:
    """The command that makes the run again, quoted for a shell.

    It names the recipe and every key that differs from it; where that cannot be written so (a key
    of the recipe that the run does not have), the stored configuration itself.
    """
    config = run.config
    for recipe in (config.run.recipe, BASE_RECIPE):
        if recipe not in configuration.recipe_names():
            continue
        changes = _changes(configuration.load(recipe), config)
        if changes is not None and _gives(recipe, changes, config):
            words_ = ["drift", "run", recipe, "--backend", config.run.backend]
            for change in changes:
                words_ += ["--set", change]
            return shlex.join(words_)
    return shlex.join(["drift", "run", str(run.path / CONFIG)])


def _changes(recipe: Config, config: Config) -> list[str] | None:
    """Options of `--set` that turn one configuration into another; None if a key would be unset."""
    before, after = (configuration.flatten(configuration.to_tables(c)) for c in (recipe, config))
    if before.keys() - after.keys():
        return None
    return [
        f"{key}={toml.one_line(value)}"
        for key, value in after.items()
        if key != "run.backend" and (key not in before or before[key] != value)
    ]


def _gives(recipe: str, changes: Sequence[str], config: Config) -> bool:
    try:
        return configuration.load(recipe, [*changes, f"run.backend={config.run.backend}"]) == config
    except ConfigError:
        return False
