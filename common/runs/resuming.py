"""From where a run goes on, and whether what it needs for that is still there.

A run goes on from its newest checkpoint. Where that one is damaged or gone, going on from an older
one would throw away work without a word: it is refused, and `--from N` goes back on purpose.
"""

import shlex
from collections.abc import Iterable
from pathlib import Path

from common.errors import existing
from common.runs import checkpoint
from common.runs.checkpoint import CheckpointError, Snapshot
from common.runs.directory import RunDirectory, RunError

__all__ = ["EVALUATED", "snapshot_to_resume"]

EVALUATED = "evaluated"
"""Key of a checkpoint's state: the updates whose evaluations were logged by then."""


def snapshot_to_resume(run: RunDirectory, update: int | None = None) -> Snapshot | None:
    """The snapshot from which the run goes on; None where it starts.

    Args:
        run: its folder.
        update: go back to the checkpoint after that update, 0 to the start; None is the newest.

    Raises:
        RunError: the newest checkpoint is incomplete or missing, or a log lacks records up to it.
        CheckpointError: a file of the checkpoint is damaged; the line names whole ones.
    """
    path = _newest(run) if update is None else _chosen(run, update)
    if path is None:
        return None
    try:
        snapshot = checkpoint.load(path)
    except CheckpointError as error:
        raise CheckpointError(f"{error}{_way_back(run, below=int(path.name))}") from None
    _check_logs(run, snapshot)
    return snapshot


def _newest(run: RunDirectory) -> Path | None:
    path = checkpoint.latest(run.checkpoints)
    reached = int(path.name) if path else 0
    for update, damaged in checkpoint.incomplete(run.checkpoints):
        if update > reached:
            back = _way_back(run, below=update)
            raise RunError(
                f"checkpoint {damaged} is incomplete: {checkpoint.MANIFEST} is missing{back}"
            )
    if (due := _last_saved(run)) > reached:
        missing = run.checkpoints / f"{due:06d}"
        raise RunError(f"checkpoint {missing} is missing{_way_back(run, below=due)}")
    return path


def _chosen(run: RunDirectory, update: int) -> Path | None:
    if update == 0:
        return None
    there = checkpoint.updates(run.checkpoints)
    if update not in there:
        where = f"{run.path} has no checkpoint after update {update}"
        raise RunError(f"{where}{existing(there)}; 0 is the start")
    return run.checkpoints / f"{update:06d}"


def _last_saved(run: RunDirectory) -> int:
    """The update of the newest checkpoint that was saved for sure: the logs go beyond it."""
    logged = max((int(row["update"]) for row in run.metrics()), default=0)
    every = run.config.checkpoint.every
    return max(logged - 1, 0) // every * every


def _check_logs(run: RunDirectory, snapshot: Snapshot) -> None:
    """Every update up to the snapshot has its record, and so has every evaluation until then."""
    logged = {int(row["update"]) for row in run.metrics()}
    evaluated = {int(row["update"]) for row in run.evaluations()}
    noted = snapshot.state.get(EVALUATED, [])
    if not (isinstance(noted, list) and all(type(update) is int for update in noted)):
        where = run.checkpoints / f"{snapshot.update:06d}"
        raise CheckpointError(f"checkpoint {where}: {EVALUATED} in its state is no list of updates")
    expected = {0, *noted}
    for name, missing in (
        ("metrics.jsonl", set(range(1, snapshot.update + 1)) - logged),
        ("evaluations.jsonl", expected - evaluated),
    ):
        if missing:
            back = _way_back(run, below=max(min(missing), 1))
            raise RunError(
                f"{run.path / name} has no record of update {_ranges(missing)}: it was damaged or "
                f"replaced; put it back{back}"
            )


def _way_back(run: RunDirectory, *, below: int) -> str:
    """What goes back on purpose; whole checkpoints before that update, and the start."""
    whole = [n for n in checkpoint.updates(run.checkpoints) if n < below and _is_whole(run, n)]
    newest = max(whole, default=0)
    known = ", ".join(map(str, [0, *whole]))
    return (
        f"; to go back to an older one (whole: {known}): drift run --resume --out "
        f"{shlex.quote(str(run.path))} --from {newest}"
    )


def _is_whole(run: RunDirectory, update: int) -> bool:
    try:
        checkpoint.load(run.checkpoints / f"{update:06d}")
    except (CheckpointError, OSError):
        return False
    return True


def _ranges(numbers: Iterable[int]) -> str:
    """Whole numbers as "2 to 3, 7"."""
    parts: list[list[int]] = []
    for number in sorted(numbers):
        if parts and parts[-1][-1] == number - 1:
            parts[-1] = [parts[-1][0], number]
        else:
            parts.append([number])
    return ", ".join(" to ".join(map(str, part)) for part in parts)
