"""The trackers of a run: each works in a thread of its own, and none of them can stop the run."""

import importlib.util
import os
import queue
import re
import secrets
import threading
import time
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import tomli_w

from common import config as configuration, consent, reading
from common.config import Config, TrackConfig, Tracker as Program
from common.errors import RequestError
from common.progress import NullObserver
from common.runs import files, line_log
from common.runs.directory import RunDirectory
from common.tracking import names
from common.tracking.opening import Opening, Tracker
from common.tracking.to_swanlab import SwanLab
from common.tracking.to_tensorboard import TensorBoard
from common.tracking.to_trackio import Trackio
from common.tracking.to_wandb import WeightsAndBiases

__all__ = ["FOLDER", "OPEN", "Trackers", "check"]

OPEN: dict[Program, Callable[[Opening], Tracker]] = {
    "tensorboard": TensorBoard,
    "wandb": WeightsAndBiases,
    "trackio": Trackio,
    "swanlab": SwanLab,
}

ELSEWHERE = ("trackio",)
"""Programs that write into a folder of their own."""

LOCAL = ("tensorboard",)
"""Programs that write into the run's folder and can send nothing: they need no consent."""

SENDING = ("TRACKIO_SPACE_ID", "TRACKIO_SERVER_URL", "TRACKIO_BUCKET_ID")
"""Variables that make trackio send."""

FOLDER, IDENTITY = "track", "identity.json"

PATIENCE = 60.0
"""Seconds that all trackers together may take at the end of a run."""

Job = Callable[[Tracker], None]


def check(settings: TrackConfig) -> None:
    """Refuse trackers that are not installed or that the user has not consented to.

    Raises RequestError, in one line.
    """
    if settings.to and not settings.project.strip():
        raise RequestError("track.project is empty: the trackers need a name")
    for program in settings.to:
        package = importlib.util.find_spec(program)
        if package is None or package.origin is None:  # the latter is any folder of that name
            raise RequestError(
                f"track.to has '{program}', which is not installed: "
                f"pip install {program}, or 'drift-toolkit[track]' for all of them"
            )
        if program not in LOCAL:
            consent.require(program, f"give its metrics, settings and pictures to {program}")
    if settings.offline and "trackio" in settings.to:
        for name in SENDING:
            if os.environ.get(name):
                raise RequestError(f"track.offline: {name} makes trackio send; unset it")


class Trackers(NullObserver):
    """Receives a run's events and passes them on; a context manager that ends with the run.

    A tracker that fails or hangs is warned of once, and gets nothing more. Without any in
    `config.track.to` nothing is imported, started or written.
    """

    def __init__(self) -> None:
        self._workers: list[_Worker] = []
        self._run: RunDirectory | None = None
        self._pictures = True

    def follow(self, run: RunDirectory, config: Config) -> "Trackers":
        """Follow a run with these settings; the trackers are opened when it starts."""
        self._run, self._pictures = run, config.track.pictures
        self._workers = [_Worker(program, config) for program in config.track.to]
        return self

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """End the trackers, and wait until what they have is written or sent."""
        until = time.monotonic() + PATIENCE
        ended, self._workers = self._workers, []
        for worker in ended:
            worker.close(failed=kind is not None)
        for worker in ended:
            worker.wait(max(until - time.monotonic(), 0.0))

    def close_on_error(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """The same where the run failed; for `ExitStack.push`."""
        if kind is not None:
            self.__exit__(kind, error, traceback)

    def started(self, plan: dict[str, Any]) -> None:
        """Open the trackers."""
        if self._run is None or not self._workers:
            return
        try:
            identity = _identity(self._run)
        except (OSError, RequestError) as error:
            warnings.warn(f"nothing is tracked: {reading.printable(str(error))}", stacklevel=2)
            self._workers = []
            return
        for worker in self._workers:
            worker.open(self._run.path, identity, plan.get("update", 0))

    def updated(self, record: dict[str, float]) -> None:
        """Pass on the numbers of an update."""
        values, update = names.of_update(record), int(record["update"])
        self._each(lambda tracker: tracker.numbers(values, update))

    def evaluated(self, record: dict[str, Any]) -> None:
        """Pass on the numbers and the picture of an evaluation."""
        values, update = names.of_evaluation(record), int(record["update"])
        self._each(lambda tracker: tracker.numbers(values, update))
        if self._pictures and self._run is not None:
            file = self._run.path / "samples" / str(record["grid"])
            self._each(lambda tracker: tracker.picture(names.PICTURES, file, update))

    def finished(self, run: RunDirectory) -> None:
        """Pass on what the run ends with; its report is written."""
        if self._workers:
            rows = names.comparison(run.evaluations())
            self._each(lambda tracker: tracker.result(rows, run.report))

    def _each(self, job: Job) -> None:
        for worker in self._workers:
            worker.do(job)


class _Worker:
    """One tracker in a thread: an event costs the run no time, however slow its library is."""

    def __init__(self, program: Program, config: Config) -> None:
        self._program: Program = program
        self._config = config
        self._jobs: queue.SimpleQueue[Job | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._failure, self._warned, self._failed = "", False, False

    def open(self, folder: Path, identity: str, update: int) -> None:
        """Open the tracker, in the thread."""
        how = (folder, identity, update)
        name = f"drift-track-{self._program}"
        self._thread = threading.Thread(target=self._work, args=how, name=name, daemon=True)
        self._thread.start()

    def do(self, job: Job) -> None:
        """Queue a job; warns where an earlier one failed."""
        self._warn()
        if self._thread is not None and not self._failure:
            self._jobs.put(job)

    def close(self, *, failed: bool) -> None:
        """Ask it to end after what is queued."""
        self._failed = failed
        self._jobs.put(None)

    def wait(self, seconds: float) -> None:
        """Wait until it has ended; warns where it has not, or where something failed."""
        if self._thread is None:
            return
        self._thread.join(seconds)
        if self._thread.is_alive():
            self._failure = f"not done after {PATIENCE:.0f} s; what it has not sent may be lost"
        self._warn()

    def _work(self, folder: Path, identity: str, update: int) -> None:
        try:
            tracker = OPEN[self._program](self._opening(folder, identity, update))
            while (job := self._jobs.get()) is not None:
                job(tracker)
            tracker.close(failed=self._failed)
        except BaseException as error:  # some libraries raise SystemExit where they give up
            self._failure = reading.printable(str(error), 300) or type(error).__name__

    def _opening(self, folder: Path, identity: str, update: int) -> Opening:
        settings, tables = self._config.track, configuration.to_tables(self._config)
        own = "" if self._program in ELSEWHERE else self._program
        return Opening(
            folder=_folder(folder, own),
            project=settings.project,
            name=settings.name or reading.printable(folder.resolve().name, 100),
            identity=identity,
            update=update,
            offline=settings.offline,
            config=tables,
            text=tomli_w.dumps(tables),
        )

    def _warn(self) -> None:
        if self._failure and not self._warned:
            self._warned = True
            warnings.warn(
                f"tracker {self._program}: {self._failure}; the run goes on without it",
                stacklevel=2,
            )


def _folder(run: Path, program: str) -> Path:
    """The folder of a program in that of the run; a link that leads out of it is refused."""
    folder = run / FOLDER / program
    folder.mkdir(parents=True, exist_ok=True)
    if not folder.resolve().is_relative_to(run.resolve()):
        raise OSError(f"{folder} is a link that leads out of {run}")
    return folder


def _identity(run: RunDirectory) -> str:
    """What the run is called in all trackers, made by its first start that has some."""
    file = _folder(run.path, "") / IDENTITY
    if os.path.lexists(file):
        try:
            stored: Mapping[str, Any] = reading.json_document(reading.content(file))
            identity = stored["id"]
        except (OSError, ValueError, KeyError, TypeError):
            identity = None
        if isinstance(identity, str) and re.fullmatch("[0-9a-f]{12}", identity):
            return identity
        raise RequestError(f"{file} is damaged; remove it to track under a new name")
    identity = secrets.token_hex(6)
    with files.os_errors_as(f"write {file}"):
        files.write_whole(file, line_log.encode({"id": identity}))
    return identity
