"""Kills commands at random and at chosen moments, and compares what is left with what should be.

python -m scripts.kill [--each 13] [--seed 0] [--out kills.jsonl] [--only sweep]

Each kill starts from a copy of the same folder. Right after it, every file that is named as a
result is as it was or as it becomes: never a part. Then the same command runs again to its end:
it must succeed, give the bytes of a command that nothing kills, and leave no temporary file.

`--only processes` ends one of several processes of a run instead: see `scripts.kill_processes`.
Its trials that are in --out already are not made again.
"""

import argparse
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from common import config as configuration
from common.runs import checkpoint
from common.runs.checkpoint import Snapshot
from common.runs.directory import RunDirectory
from scripts import kill_processes, left_behind

PROCESSES = "processes"
"""The part that ends processes of a run."""

SMALL = (
    "run.updates=3", 'prompts.names=["rose", "owl"]', "rollout.prompts=2", "rollout.steps=3",
    "rollout.group_size=4", "rollout.window=0", "evaluate.images=2", "evaluate.steps=2",
    "checkpoint.every=1", "checkpoint.keep=0", "optimizer.ema_decay=0.5", "optimizer.ema_every=1",
)  # fmt: skip

SETS = tuple(word for change in SMALL for word in ("--set", change))

MEASURED = ("--split", "train", "--images", "2", "--steps", "2")

DRIVER = """
import os, pathlib, signal, sys
at, count_file, backend, child_at = int(sys.argv[1]), sys.argv[2], sys.argv[3], sys.argv[4]
if backend == "cpu":  # PyTorch multiplies with its own library where MLX has loaded another
    sys.modules["drift_mlx"] = sys.modules["mlx"] = None
seen = 0
def counted(function):
    def call(*args, **kwargs):
        global seen
        seen += 1
        if seen == at:
            os.kill(os.getpid(), signal.SIGKILL)
        return function(*args, **kwargs)
    return call
os.fsync, os.rename = counted(os.fsync), counted(os.rename)
pathlib.Path.replace = counted(pathlib.Path.replace)
os.mkdir, os.unlink = counted(os.mkdir), counted(os.unlink)
from common import report
report.build = lambda run: run.report  # it takes longer than the run
import common.sweep.jobs as jobs
jobs.DRIFT = (sys.executable, "-c", os.environ["DRIVER"], child_at, os.devnull, backend, "0")
sys.argv = ["drift", *sys.argv[5:]]
from common.cli import main
try:
    main()
finally:
    pathlib.Path(count_file).write_text(str(seen))
"""
"""(kill at the n-th change of the disk, file for their number, backend, the same n for children)"""

LEFTOVER = re.compile(r"\..+\.(tmp|gone|old)-\w+")


@dataclass(frozen=True)
class Subject:
    """A command and what counts of it.

    words: the command. resumed: the one that goes on. results: patterns of the files that must
    end with the same bytes.
    """

    words: tuple[str, ...]
    resumed: tuple[str, ...]
    results: tuple[str, ...]
    backend: str = "cpu"


WEIGHTS = "checkpoints/*/*.safetensors"

SUBJECTS = {
    "sweep": Subject(
        sweep := (
            *("sweep", "emoji", "--seeds", "0-1", "--out", "sweep", "--backend", "cpu", *SETS),
            *("--set", "run.updates=2", "--eval-options"),
            " ".join((*MEASURED, "--checkpoint", "2", "--cache", "cache")),
        ),
        sweep,
        (f"sweep/*/{WEIGHTS}", "sweep/*/evaluation/*.png"),
    ),
    "eval": Subject(
        measure := ("eval", "run", *MEASURED, "--cache", "cache", "--backend", "cpu"),
        measure,
        ("run/evaluation/*", f"run/{WEIGHTS}"),
    ),
    "compare": Subject(
        compare := (
            *("compare", "measured", "--split", "train", "--baseline", "emoji"),
            *("--replicas", "100", "--out", "compared"),
        ),
        compare,
        ("compared/*.json", "compared/*.png", "compared/*.svg", "measured/evaluation/*"),
    ),
    "export": Subject(
        export := ("export", "adapter", "--to", "diffusers"), export, ("adapter/diffusers/*",)
    ),
    "mlx": Subject(
        ("run", "emoji", "--out", "mlx", "--backend", "mlx", *SETS),
        ("run", "--resume", "--out", "mlx"),
        (f"mlx/{WEIGHTS}",),
        backend="mlx",
    ),
}


def main() -> int:
    """Kill; the exit code is 1 when something was lost."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--each", type=int, default=13, help="kills of each command")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("kills.jsonl"))
    parser.add_argument("--only", choices=[*SUBJECTS, PROCESSES], action="append")
    arguments = parser.parse_args()
    if arguments.only == [PROCESSES]:
        return _kill_processes(arguments.each, arguments.seed, arguments.out)
    lost = 0
    with tempfile.TemporaryDirectory(prefix="drift-kill-") as folder:
        base = Path(folder) / "base"
        _make_base(base)
        for name in arguments.only or SUBJECTS:
            if name == PROCESSES:
                lost += _kill_processes(arguments.each, arguments.seed, arguments.out)
                continue
            trial = _Trial(name, SUBJECTS[name], base, Path(folder))
            for number in range(arguments.each):
                record = trial.kill(number, random.Random(f"{arguments.seed} {name} {number}"))
                lost += bool(record["lost"])
                with arguments.out.open("a") as log:
                    log.write(json.dumps(record) + "\n")
                said = record["lost"] or "nothing lost"
                print(f"{name} {number + 1:2}: {record['moment']}: {said}", flush=True)
    print(f"{lost} kills lost something")
    return bool(lost)


def _kill_processes(count: int, seed: int, out: Path) -> int:
    """End processes of runs in so many trials, and print a table; the number that lost something.

    out: the log of the trials, to which new ones are added.
    """
    lines = out.read_text().splitlines() if out.exists() else []
    records = [json.loads(line) for line in lines]
    done = {r["number"]: r for r in records if r["command"] == PROCESSES and r["seed"] == seed}
    with tempfile.TemporaryDirectory(prefix="drift-kill-") as folder:
        trials = kill_processes.Trials(Path(folder))
        for number in range(count):
            if number in done:
                continue
            record = trials.record(kill_processes.trial(number, seed)) | {"seed": seed}
            done[number] = record
            with out.open("a") as log:
                log.write(json.dumps(record) + "\n")
            print(f"{record['moment']}: {record['lost'] or 'nothing lost'}", flush=True)
    print(kill_processes.table(done.values()))
    return sum(bool(record["lost"]) for record in done.values())


def _make_base(base: Path) -> None:
    """What the commands start from: a run, a measured one, an adapter, and older results."""
    base.mkdir()
    for words in (
        ("run", "emoji", "--out", "run", "--backend", "cpu", *SETS),
        ("eval", "run", *MEASURED, "--cache", "cache", "--backend", "cpu"),
    ):
        _completed(base, "cpu", words)
    (base / "run").rename(base / "measured")
    shutil.copytree(base / "measured", base / "run")
    shutil.rmtree(base / "run" / "evaluation")
    shutil.rmtree(base / "cache")
    adapter = {"adapter.targets": ["proj_in"], "adapter.rank": 2, "adapter.alpha": 4.0}
    config = configuration.load("sd15-compressibility", adapter)
    made = RunDirectory.create(base / "adapter", config, {})
    for update in (1, 2):
        b = np.full((2000, 2), update, dtype=np.float32)
        weights = {"x.proj_in.lora_A.weight": b.T.copy(), "x.proj_in.lora_B.weight": b}
        checkpoint.save(
            made.checkpoints,
            Snapshot(update, weights, None, {"step": np.zeros(1)}, {}),
            adapter=config.adapter,
            keep=0,
        )
        if update == 1:
            _completed(base, "cpu", ("export", "adapter", "--to", "diffusers"))


def _start(
    folder: Path, backend: str, words: tuple[str, ...], *, at: int = 0, child_at: int = 0
) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", DRIVER, str(at), ".count", backend, str(child_at), *words],
        cwd=folder,
        env=os.environ | {"DRIVER": DRIVER, "XDG_CONFIG_HOME": str(folder / ".config")},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def _completed(folder: Path, backend: str, words: tuple[str, ...]) -> str:
    """Run a command to its end; "" or what it said when it failed."""
    process = _start(folder, backend, words)
    output, _ = process.communicate(timeout=900)
    return "" if process.returncode == 0 else f"exit {process.returncode}: {output[-300:]}"


class _Trial:
    """One command, with what it gives when nothing kills it."""

    def __init__(self, name: str, subject: Subject, base: Path, folder: Path) -> None:
        self._name, self._subject, self._base, self._folder = name, subject, base, folder
        self._old = left_behind.digests(base, subject.results)
        self._whole = folder / f"whole-{name}"
        shutil.copytree(base, self._whole)
        start = time.monotonic()
        if error := _completed(self._whole, subject.backend, subject.words):
            raise RuntimeError(f"{name}: {error}")
        self._seconds = time.monotonic() - start
        self._changes = int((self._whole / ".count").read_text())
        self._new = left_behind.digests(self._whole, subject.results)

    def kill(self, number: int, picker: random.Random) -> dict[str, Any]:
        """Kill the command once, and say what was lost."""
        copy = self._copy()
        moment = self._killed(copy, number, picker)
        lost = self._parts(copy) or self._after(copy)
        return {"command": self._name, "number": number, "moment": moment, "lost": lost}

    def _copy(self) -> Path:
        copy = self._folder / "copy"
        shutil.rmtree(copy, ignore_errors=True)
        shutil.copytree(self._base, copy)
        return copy

    def _killed(self, copy: Path, number: int, picker: random.Random) -> str:
        subject, start = self._subject, time.monotonic()
        if self._name == "sweep" and number % 3 == 0:  # what a run does is known from the others
            at = picker.randint(1, 60)
            process = _start(copy, subject.backend, subject.words, child_at=at)
            process.communicate(timeout=900)
            return f"each run at its change {at} of the disk"
        if number % 3 != 2 and self._name != "sweep":
            at = picker.randint(1, self._changes)
            process = _start(copy, subject.backend, subject.words, at=at)
            process.communicate(timeout=900)
            return f"change {at} of {self._changes} of the disk"
        process = _start(copy, subject.backend, subject.words)
        share = picker.uniform(0.2, 1.0)
        while process.poll() is None and time.monotonic() - start < share * self._seconds:
            time.sleep(0.01)
        if number % 2:  # the machine is gone
            for child in left_behind.descendants(process.pid):
                os.kill(child, signal.SIGKILL)
            process.kill()
            process.communicate()
            return f"all processes after {share:.0%} of the time"
        children = left_behind.descendants(process.pid)
        process.kill()
        process.communicate()
        _wait_for(children)
        return f"the command after {share:.0%} of the time"

    def _parts(self, copy: Path) -> str:
        """Results that are neither as before nor as after, such as a part of a file; or ""."""
        there = left_behind.digests(copy, self._subject.results)
        for name, digest in there.items():
            if name.endswith(".jsonl"):  # lines are added one by one; the last may be cut off
                lines = (copy / name).read_bytes().rpartition(b"\n")[0]
                if not (self._whole / name).read_bytes().startswith(lines):
                    return f"{name} has other lines"
            elif digest not in (self._old.get(name), self._new.get(name)):
                return f"{name} is neither old nor new"
        missing = sorted(self._old.keys() - there.keys())
        return f"{missing[0]} is gone" if missing else ""

    def _after(self, copy: Path) -> str:
        """What is wrong when the command has gone on; or ""."""
        subject = self._subject
        begun = self._name != "mlx" or (copy / "mlx" / "config.toml").exists()
        if error := _completed(copy, subject.backend, subject.resumed if begun else subject.words):
            return error
        there = left_behind.digests(copy, subject.results)
        for name, digest in self._new.items():
            if there.get(name) != digest:
                return f"{name} is {'other' if name in there else 'gone'}"
        if left_behind.logged(copy) != left_behind.logged(self._whole):
            return f"the logs have {left_behind.logged(copy)}"
        left = [path for path in copy.rglob(".*") if LEFTOVER.fullmatch(path.name)]
        return f"left behind: {left[0].relative_to(copy)}" if left else ""


def _wait_for(processes: list[int]) -> None:
    """Wait until processes that are not children of this one have ended."""
    while any(Path(f"/proc/{process}").exists() for process in processes):
        time.sleep(0.1)


if __name__ == "__main__":
    sys.exit(main())
