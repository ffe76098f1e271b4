"""The steps of a sweep as jobs of a cluster: SLURM, through submitit.

A job runs `drift` as the sweep on one machine does, and leaves its exit code in a file beside the
log: nothing that a job wrote is unpickled. It is asked to stop by a file, too, so that it has the
time to save that it needs; it ends at once where the queue cancels it. The folder of the sweep must
be one that all machines see.
"""

import os
import re
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from common.errors import RequestError
from common.machine import cores
from common.runs import files
from common.runs.directory import CONFIG
from common.sweep import jobs
from common.sweep.jobs import Step

__all__ = ["ClusterJob", "Launcher", "Work", "going_on", "launcher", "settings"]

JOBS = "jobs"
"""Folder beside the logs: what submitit writes."""

POLL = 0.5
"""Seconds between two looks of a job at its process and at a request to stop."""

ASKED = 5.0
"""Seconds between two questions to the queue."""

GOING = ("PENDING", "RUNNING", "REQUEUED", "SUSPENDED", "COMPLETING")
"""How the states of a job begin that is in the queue."""

OVER = ("CANCELLED", "COMPLETED", "FAILED", "FINISHED", "INTERRUPTED", "TIMEOUT", "OUT_OF_MEMORY")
"""How the states of a job begin that has ended; "NODE_FAIL" and preempted ones are queued again."""

WELL, LATE = ("COMPLETED", "FINISHED"), 60.0
"""States of a job whose file may still be on its way over the network, and seconds for that."""

DAY = 24 * 60
"""Minutes of a job, where the settings say nothing: submitit would give it five."""

GENERIC = ("name", "timeout_min", "mem_gb", "nodes", "cpus_per_task", "gpus_per_node")
"""Settings that submitit has for every cluster; others get the prefix of SLURM."""


def settings(texts: Sequence[str]) -> dict[str, str | int | float]:
    """Settings of the queue, of KEY=VALUE texts; RequestError for a text that is none."""
    values: dict[str, str | int | float] = {}
    for text in texts:
        key, equals, value = (part.strip() for part in text.partition("="))
        if not equals or not key.replace("_", "").isalnum() or not value:
            raise RequestError(f"--slurm {text}: write KEY=VALUE, as partition=gpu")
        name = key if key in GENERIC or key.startswith("slurm_") else f"slurm_{key}"
        values[name] = _number(value)
    if values.get("nodes", 1) != 1:
        raise RequestError("--slurm nodes: each run of a sweep is one process, on one node")
    return values


def _number(text: str) -> str | int | float:
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def launcher(folder: Path, values: Mapping[str, Any], cluster: str = "slurm") -> "Launcher":
    """What starts steps as jobs, with the settings. RequestError where it cannot.

    folder: of the logs, which all machines see. cluster: "slurm"; submitit's "local" is for tests.
    """
    try:
        import submitit
    except ImportError:
        raise RequestError(
            "--launcher slurm needs submitit: pip install 'drift-toolkit[slurm]'"
        ) from None
    try:
        made = submitit.AutoExecutor(folder=folder / JOBS, cluster=cluster)
        made.update_parameters(**{"timeout_min": DAY, **values})
    except (RuntimeError, NameError, TypeError, ValueError, AssertionError, KeyError) as error:
        line = " ".join(str(error).split())[:300]
        raise RequestError(f"--launcher slurm: {line}") from None
    kind = submitit.SlurmJob if cluster == "slurm" else submitit.LocalJob
    return Launcher(made.submit, lambda number: kind(folder=folder / JOBS, job_id=number))


class Work:
    """Runs `drift` in a job; the queue can stop it and go on with it later."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None

    def __call__(self, words: tuple[str, ...], log: str, stop: str, code: str) -> None:
        """Run a command; its output goes to `log`, and its exit code into a file at the end.

        stop: a file that asks it to end.
        """
        threads = os.environ.get("SLURM_CPUS_PER_TASK") or os.environ.get(jobs.THREADS) or cores()
        with Path(log).open("ab") as output:
            self._process = subprocess.Popen(
                [*jobs.DRIFT, *words],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=jobs.environment(threads),
            )
        try:
            self._wait(Path(stop))
        finally:  # the job is cancelled
            self._process.kill()
        files.write_whole(Path(code), str(self._process.wait()).encode())

    def _wait(self, stop: Path) -> None:
        assert self._process is not None
        asked = False
        while self._process.poll() is None:
            if not asked and stop.exists():
                asked = True
                self._process.terminate()
            time.sleep(POLL)

    def checkpoint(self, words: tuple[str, ...], *files_of_job: str) -> Any:
        """Save and end, since the time of the job is over; returns what goes on later."""
        from submitit.helpers import DelayedSubmission

        if self._process is not None:
            self._process.terminate()
            self._process.wait()
        return DelayedSubmission(Work(), going_on(words), *files_of_job)


def going_on(words: tuple[str, ...]) -> tuple[str, ...]:
    """The command that goes on with what a command began."""
    if words[0] != "run" or "--resume" in words:
        return words
    begun = (Path(words[words.index("--out") + 1]) / CONFIG).exists()
    return (*words, "--resume") if begun else words


class Launcher:
    """Starts steps as jobs; fulfils what `jobs.run` wants of `start`."""

    def __init__(self, submit: Callable[..., Any], known: Callable[[str], Any]) -> None:
        """submit: the method of submitit's executor. known: its job of a number."""
        self._submit, self._known = submit, known

    def __call__(self, step: Step) -> "ClusterJob":
        """Submit a step, or find its job that a sweep which was killed has left in the queue.

        Raises files.WriteError, and RequestError where the queue refuses.
        """
        stop, code, number = (step.log.with_suffix(end) for end in (".stop", ".code", ".job"))
        with files.os_errors_as(f"write {step.log}"):
            step.log.parent.mkdir(parents=True, exist_ok=True)
            step.log.touch()
            if (job := self._left(number)) is None:
                for path in (stop, code):
                    path.unlink(missing_ok=True)
                job = self._submitted(step, stop, code)
                files.write_whole(number, str(job.job_id).encode())
        return ClusterJob(job, step.log, (stop, code, number))

    def _left(self, number: Path) -> Any:
        """The job of a file, if it waits or runs; else None."""
        text = number.read_text(encoding="utf-8").strip() if number.exists() else ""
        if not re.fullmatch(r"\w+", text):
            return None
        job = self._known(text)
        return job if str(job.state).upper().startswith(GOING) else None

    def _submitted(self, step: Step, stop: Path, code: Path) -> Any:
        try:
            return self._submit(Work(), step.words, *map(str, (step.log, stop, code)))
        except Exception as error:  # whatever the commands of the queue say
            line = " ".join(str(error).split())[:300]
            raise RequestError(f"the queue refused {step.log.stem}: {line}") from None


class ClusterJob:
    """A job of the queue; fulfils `jobs.Process`."""

    def __init__(self, job: Any, log: Path, own: tuple[Path, Path, Path]) -> None:
        """job: submitit's. log: of the step. own: files of the request to stop, code, number."""
        self._job, self._log, (self._stop, self._code, _) = job, log, own
        self._own = own
        self._code_known: int | None = None
        self._next, self._over_since, self._cancelled = 0.0, 0.0, False

    def poll(self) -> int | None:
        """The exit code of `drift`; -SIGTERM for a job that was cancelled; None while it runs."""
        if self._code_known is None:
            self._code_known = self._read() if self._code.exists() else self._lost()
            if self._code_known is not None:
                for path in self._own:
                    path.unlink(missing_ok=True)
        return self._code_known

    def terminate(self) -> None:
        """Ask it to save and end; cancel it where it still waits, or was asked before."""
        waits = str(self._job.state).upper().startswith("PENDING")
        if waits or self._stop.exists():
            self.kill()
        else:
            self._stop.touch()

    def kill(self) -> None:
        """Cancel it."""
        self._cancelled = True
        self._job.cancel(check=False)

    def wait(self, timeout: float | None = None) -> int:
        """The exit code, once there is one; raises subprocess.TimeoutExpired as a process does."""
        start = time.monotonic()
        while (code := self.poll()) is None:
            if timeout is not None and time.monotonic() - start > timeout:
                raise subprocess.TimeoutExpired(f"job {self._job.job_id}", timeout)
            time.sleep(POLL)
        return code

    def _read(self) -> int | None:
        text = self._code.read_text(encoding="utf-8").strip()
        return int(text) if text.removeprefix("-").isdecimal() else None

    def _lost(self) -> int | None:
        """The code of a job that has ended without its file; the log says how it ended."""
        if time.monotonic() < self._next:
            return None
        self._next = time.monotonic() + ASKED
        state = str(self._job.state).upper()
        if not state.startswith(OVER) or self._code.exists():
            return None
        if self._cancelled or state.startswith("CANCELLED"):
            return -signal.SIGTERM
        self._over_since = self._over_since or time.monotonic()
        if state.startswith(WELL) and time.monotonic() - self._over_since < LATE:
            return None
        with self._log.open("a", encoding="utf-8") as log:
            said = jobs.last_line(Path(self._job.paths.stderr))
            log.write(f"drift: job {self._job.job_id} ended as {state.lower()}: {said}\n")
        return 1
