"""Ends one of several processes of a run at a random moment, and looks at what is left.

A part of `scripts.kill`. Each trial starts a tiny run on 2 or 4 processes of PyTorch or MLX. One of
them is killed while it samples, scores, trains or saves, or at any moment; or it hangs; or it never
starts; or it, or the command, gets SIGTERM. Then nobody may wait for ever, checkpoints must be
those of a run of one process that nothing has ended, and the run must go on, on another number of
processes, to the same bytes. All choices are keyed by the seed and the number of the trial.
"""

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scripts import left_behind

FAULTS = (
    "killed while it samples",
    "killed while it scores",
    "killed while it trains",
    "killed while it saves",
    "killed at any moment",
    "hangs",
    "hangs while it connects",
    "never starts",
    "SIGTERM to it",
    "SIGTERM to the command",
)

PLACES = {
    "killed while it samples": ("common.algorithm.kernels", "sample", 18),
    "killed while it scores": ("common.rewards.suite", "Scoring.result", 3),
    "killed while it trains": ("common.learning.update", "Learner._on_host", 3),
    "killed while it saves": ("common.learning.checkpoints", "Checkpoints.save", 3),
    "hangs": ("common.backends.world", "Several.share", 40),
    "hangs while it connects": ("BACKEND.world", "connect", 1),
}
"""Fault -> the function at whose n-th call it happens, and the largest n."""

SETUPS = (("cpu", 2), ("mlx", 2), ("cpu", 4), ("mlx", 4))
"""Backends and numbers of processes."""

PATIENCE = 25
"""DRIFT_TIMEOUT of the trials: it must outlast a start of all processes on few cores."""

LIMIT = 240
"""Seconds that a run has to end after its fault; longer is for ever."""

SMALL = (
    "run.updates=3", 'prompts.names=["rose", "owl"]', "rollout.prompts=2", "rollout.steps=3",
    "rollout.group_size=4", "rollout.window=0", "rollout.batch_size=1", "objective.micro_batch=2",
    "evaluate.images=2", "evaluate.steps=2", "checkpoint.every=1", "checkpoint.keep=0",
    "optimizer.ema_decay=0.5", "optimizer.ema_every=1",
)  # fmt: skip

CHILD = """
import importlib, os, signal, sys
module, name, at, victim, number, backend = sys.argv[1:7]
if backend == "cpu":  # PyTorch multiplies with its own library where MLX has loaded another
    sys.modules["drift_mlx"] = sys.modules["mlx"] = None
mine = os.environ.get("RANK") == victim
if mine and module == "start":
    os.kill(os.getpid(), signal.SIGSTOP)
if mine and name:
    owner = importlib.import_module(module)
    *path, last = name.split(".")
    for part in path:
        owner = getattr(owner, part)
    before, seen = getattr(owner, last), 0
    def counted(*args, **kwargs):
        global seen
        seen += 1
        if seen == int(at):
            os.kill(os.getpid(), int(number))
        return before(*args, **kwargs)
    setattr(owner, last, counted)
from common import report
report.build = lambda run: run.report  # it takes longer than the run
sys.argv = ["drift", *sys.argv[7:]]
from common.cli import main
main()
"""
"""(module, function, n-th call, number of the process, signal, backend, words of drift)"""

LAUNCHER = """
import os, sys
import common.sweep.jobs as jobs
jobs.DRIFT = (sys.executable, "-c", os.environ["CHILD"], *sys.argv[1:7])
sys.argv = ["drift", *sys.argv[7:]]
from common.cli import main
main()
"""


@dataclass(frozen=True)
class Trial:
    """One fault. victim: the process. at: the call that it happens at. later: seconds to wait."""

    number: int
    fault: str
    backend: str
    size: int
    victim: int
    at: int
    updates: int
    later: float
    resumed_on: int

    @property
    def moment(self) -> str:
        """The trial in words."""
        one = f"process {self.victim} of {self.size} on {self.backend}"
        if self.fault in PLACES:
            return f"{one}: {self.fault}, call {self.at}"
        return f"{one}: {self.fault}, {self.later:.1f} s after update {self.updates}"


def trial(number: int, seed: int) -> Trial:
    """The trial of a number: every fault in turn, each on every setup in four rounds."""
    picker = random.Random(f"{seed} processes {number}")
    place, round_ = number % len(FAULTS), number // len(FAULTS)
    fault, (backend, size) = FAULTS[place], SETUPS[(place + round_) % len(SETUPS)]
    return Trial(
        number,
        fault,
        backend,
        size,
        victim=picker.randrange(size),
        at=picker.randint(1, PLACES.get(fault, ("", "", 1))[2]),
        updates=picker.randrange(3),
        later=picker.uniform(0.0, 1.5),
        resumed_on=picker.choice((1, 2)),
    )


class Trials:
    """Runs trials below a folder; the run that nothing ends is made once for each backend."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._whole: dict[str, Path] = {}

    def record(self, each: Trial) -> dict[str, Any]:
        """Run one trial: what was lost, "" if nothing, and the seconds that the end took."""
        whole, copy = self._unbroken(each.backend), self._folder / "copy"
        shutil.rmtree(copy, ignore_errors=True)
        copy.mkdir()
        process = _start(copy, each)
        try:
            seconds, lost = self._ended(process, copy, each)
        finally:
            for pid in [*left_behind.descendants(process.pid), process.pid]:
                _kill(pid)
            process.wait()
        lost = lost or self._parts(copy, whole) or self._after(copy, whole, each)
        return {
            "command": "processes",
            "number": each.number,
            "fault": each.fault,
            "backend": each.backend,
            "processes": each.size,
            "moment": each.moment,
            "seconds": round(seconds, 1),
            "over_first": process.returncode == 0,
            "lost": lost,
        }

    def _unbroken(self, backend: str) -> Path:
        if backend not in self._whole:
            path = self._folder / f"whole-{backend}"
            path.mkdir()
            words = ("run", "emoji", "--out", "run", "--backend", backend, *_sets())
            if error := _completed(path, backend, words):
                raise RuntimeError(error)
            self._whole[backend] = path
        return self._whole[backend]

    def _ended(
        self, process: "subprocess.Popen[bytes]", copy: Path, each: Trial
    ) -> tuple[float, str]:
        """Wait for the end of the run: seconds since its fault at most, and what is wrong."""
        if each.fault not in PLACES and each.fault != "never starts":
            self._signal(process, copy, each)
        start, family = time.monotonic(), list[int]()
        while process.poll() is None and time.monotonic() - start < LIMIT:
            family = left_behind.descendants(process.pid) or family
            time.sleep(0.1)
        seconds = time.monotonic() - start
        if process.returncode is None:
            return seconds, f"nothing ended it in {LIMIT} s"
        if left := [pid for pid in family if Path(f"/proc/{pid}").exists()]:
            for pid in left:
                _kill(pid)
            return seconds, f"{len(left)} processes outlive the command"
        wanted = {128 + signal.SIGTERM, 1} if each.fault.startswith("SIGTERM") else {1}
        log = (copy / "log").read_text(errors="replace")
        finished = process.returncode == 0 and _updates(copy) == 3
        if process.returncode not in wanted and not finished:
            return seconds, f"exit code {process.returncode}: {log[-300:]}"
        if "Traceback" in log:
            return seconds, f"a traceback: {log[-300:]}"
        return seconds, ""

    def _signal(self, process: "subprocess.Popen[bytes]", copy: Path, each: Trial) -> None:
        """Wait for the moment of the trial, and send the signal."""
        while process.poll() is None and _updates(copy) < each.updates:
            time.sleep(0.02)
        while process.poll() is None and len(self._ranks(process)) < each.size:
            time.sleep(0.02)
        time.sleep(each.later)
        if each.fault == "SIGTERM to the command":
            target, number = process.pid, signal.SIGTERM
        else:
            target = self._ranks(process).get(each.victim, 0)
            number = signal.SIGKILL if each.fault.startswith("killed") else signal.SIGTERM
        if target and process.poll() is None:
            os.kill(target, number)

    def _ranks(self, process: "subprocess.Popen[bytes]") -> dict[int, int]:
        """The processes of a run by their number."""
        ranks = {}
        for pid in left_behind.descendants(process.pid):
            try:
                content = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
            except OSError:  # it has ended
                continue
            for entry in content:
                if entry.startswith(b"RANK="):
                    ranks[int(entry[5:])] = pid
        return ranks

    def _parts(self, copy: Path, whole: Path) -> str:
        """A file of a checkpoint that is not that of the unbroken run; or ""."""
        expected = left_behind.digests(whole, WEIGHTS)
        for name, digest in left_behind.digests(copy, WEIGHTS).items():
            if expected.get(name) != digest:
                return f"{name} is other before the run goes on"
        return ""

    def _after(self, copy: Path, whole: Path, each: Trial) -> str:
        """What is wrong when the run has gone on; or ""."""
        several = ("--processes", str(each.resumed_on)) if each.resumed_on > 1 else ()
        begun = (copy / "run" / "config.toml").exists()
        words = ("run", "--resume", "--out", "run", *several)
        if not begun:
            words = ("run", "emoji", "--out", "run", "--backend", each.backend, *several, *_sets())
        if error := _completed(copy, each.backend, words):
            return error
        expected, there = (left_behind.digests(path, WEIGHTS) for path in (whole, copy))
        for name, digest in expected.items():
            if there.get(name) != digest:
                return f"{name} is {'other' if name in there else 'gone'} at the end"
        if left_behind.logged(copy) != left_behind.logged(whole):
            return f"the logs have {left_behind.logged(copy)}"
        return ""


WEIGHTS = ("run/checkpoints/*/*.safetensors",)


def table(records: Iterable[Mapping[str, Any]]) -> str:
    """A Markdown table: for each fault its trials, the longest end, and how many lost something."""
    by_fault: dict[str, list[Mapping[str, Any]]] = {}
    for record in records:
        by_fault.setdefault(record["fault"], []).append(record)
    lines = ["| a process | trials | the run was over first | longest until the end | lost |"]
    lines.append("|---|--:|--:|--:|--:|")
    for fault in FAULTS:
        if own := by_fault.get(fault):
            longest, lost = max(r["seconds"] for r in own), sum(bool(r["lost"]) for r in own)
            over = sum(r.get("over_first", False) for r in own)
            lines.append(f"| {fault} | {len(own)} | {over} | {longest:.0f} s | {lost} |")
    return "\n".join(lines)


def _sets() -> list[str]:
    return [word for change in SMALL for word in ("--set", change)]


def _start(folder: Path, each: Trial) -> "subprocess.Popen[bytes]":
    module, name, _ = PLACES.get(each.fault, ("", "", 0))
    package = "drift_mlx" if each.backend == "mlx" else "drift_torch"
    module = "start" if each.fault == "never starts" else module.replace("BACKEND", package)
    if each.fault == "killed while it saves" and each.victim == 0:  # it alone writes
        module, name = "os", "fsync"
    number = signal.SIGSTOP if each.fault.startswith("hangs") else signal.SIGKILL
    place = (module, name, str(each.at), str(each.victim), str(int(number)), each.backend)
    words = ("run", "emoji", "--out", "run", "--backend", each.backend, *_sets())
    return _launched(folder, place, (*words, "--processes", str(each.size)))


def _completed(folder: Path, backend: str, words: tuple[str, ...]) -> str:
    """Run a command to its end; "" or what it said when it failed."""
    process = _launched(folder, ("", "", "0", "", "0", backend), words)
    code = process.wait(timeout=900)
    return "" if code == 0 else f"exit {code}: {(folder / 'log').read_text()[-300:]}"


def _launched(
    folder: Path, place: tuple[str, ...], words: tuple[str, ...]
) -> "subprocess.Popen[bytes]":
    driver = LAUNCHER if "--processes" in words else CHILD
    own = {"CHILD": CHILD, "DRIFT_TIMEOUT": str(PATIENCE), "OMP_NUM_THREADS": "1"}
    with (folder / "log").open("wb") as log:
        return subprocess.Popen(
            [sys.executable, "-c", driver, *place, *words],
            cwd=folder,
            env=os.environ | own,
            stdout=log,
            stderr=subprocess.STDOUT,
        )


def _updates(folder: Path) -> int:
    """The updates that the run in a folder has logged."""
    try:
        return len((folder / "run" / "metrics.jsonl").read_text().splitlines())
    except OSError:
        return 0


def _kill(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return
