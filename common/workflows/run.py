"""A run as Python sees it: what was logged and measured, its report, checkpoints and images."""

from collections.abc import Iterable
from os import PathLike, fspath
from pathlib import Path
from typing import Any

from common import pictures, report
from common.config import Config
from common.errors import RequestError, existing
from common.evaluation import records
from common.evaluation.records import Protocol, Record
from common.runs import checkpoint
from common.runs.directory import AUDITS, ENVIRONMENT, EVALUATIONS, METRICS, RunDirectory
from common.workflows.images import Images

RunLike = str | PathLike[str]
"""A `Run`, or the path of its folder."""


class Run:
    """A run on disk. Everything is read from its folder when it is asked for.

    `drift.train` and `drift.open` return one. Every argument that takes the path of a run takes a
    `Run` too.
    """

    def __init__(self, directory: RunDirectory) -> None:
        self._directory = directory

    def __repr__(self) -> str:
        name, updates = self.config.run.recipe, self.config.run.updates
        return f"<Run {self.path}: {name}, update {self.update} of {updates}>"

    def __fspath__(self) -> str:
        return fspath(self.path)

    @property
    def path(self) -> Path:
        """The folder."""
        return self._directory.path

    @property
    def config(self) -> Config:
        """The whole configuration."""
        return self._directory.config

    @property
    def update(self) -> int:
        """The update of the newest checkpoint; 0 where there is none."""
        return max(self.checkpoints, default=0)

    @property
    def finished(self) -> bool:
        """Whether all updates are done; if not, `drift.train(resume=True, out=run)` goes on."""
        return self.update >= self.config.run.updates

    @property
    def metrics(self) -> list[dict[str, Any]]:
        """A row for each update; RunError where the file is damaged."""
        return self._directory.metrics()

    @property
    def evaluations(self) -> list[dict[str, Any]]:
        """A row for each evaluation during the run, the base model's first."""
        return self._directory.evaluations()

    @property
    def audits(self) -> list[dict[str, Any]]:
        """A row for each audit during the run; see `audit.every`."""
        return self._directory.audits()

    @property
    def measurements(self) -> list[dict[str, Any]]:
        """The results of `drift.evaluate`: a row of means for each checkpoint and split."""
        return [mean_row(record) for record in sorted(records.load(self._directory), key=_order)]

    @property
    def checkpoints(self) -> dict[int, Path]:
        """The folder of each complete checkpoint, by update."""
        folder = self._directory.checkpoints
        return {n: folder / f"{n:06d}" for n in checkpoint.updates(folder)}

    @property
    def report(self) -> Path:
        """The report, an HTML file; written again if it is missing or older than the logs."""
        page = self._directory.report
        logs = [self.path / name for name in (METRICS, EVALUATIONS, AUDITS, ENVIRONMENT)]
        newest = max((log.stat().st_mtime for log in logs if log.exists()), default=0.0)
        if not page.exists() or newest > page.stat().st_mtime:
            return report.build(self._directory)
        return page

    def images(self, update: int | None = None) -> Images:
        """The images of an evaluation: the same prompts and the same noise at every update.

        Args:
            update: after which update; None: the last evaluation.

        Raises:
            RequestError: there is no evaluation after that update, or its picture is damaged.
        """
        rows = {int(row["update"]): row for row in self.evaluations}
        chosen = max(rows, default=0) if update is None else update
        if chosen not in rows:
            where = f"{self.path} has no evaluation after update {chosen}"
            raise RequestError(f"{where}{existing(rows)}")
        row = rows[chosen]
        folder, name = self.path / "samples", row["grid"]
        try:
            picture = pictures.load_inside(folder, name)
            array = pictures.cells(picture, len(row["prompts"]), int(row["columns"]))
        except ValueError as error:
            raise RequestError(f"the picture {name!r} in {folder} {error}") from None
        return Images(array, tuple(row["prompts"]))


def open_run(path: RunLike) -> Run:
    """The run in a folder. Raises RunError, which says what is missing or damaged."""
    return Run(RunDirectory.open(Path(path)))


def run_paths(runs: RunLike | Iterable[RunLike]) -> list[Path]:
    """One run or several, as paths without repeats."""
    several = [runs] if isinstance(runs, str | PathLike) else list(runs)
    return list(dict.fromkeys(Path(run) for run in several))


def mean_row(record: Record) -> dict[str, Any]:
    """A record as one flat row: what was measured, and each measure's mean over the prompts."""
    return {
        **vars(record.variant),
        "split": record.protocol.split,
        "prompts": len(record.protocol.prompts),
        **{name: record.mean(name) for name in record.measures},
        "grid": record.grid,
    }


def records_under(run: RunDirectory, how: Protocol) -> list[Record]:
    """All records of a run under a protocol, the base model's first."""
    matching = [record for record in records.load(run) if record.protocol == how]
    return sorted(matching, key=_order)


def _order(record: Record) -> Any:
    return record.variant
