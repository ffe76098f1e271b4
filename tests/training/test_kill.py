"""A run that is killed -9, wherever it was, goes on and ends with the bytes of one that was not.

The kill comes from inside, at a chosen call, so that the same moments are hit every time: in the
middle of an update, and at the n-th time that something is made durable on disk, which walks
through appending a line, writing the files of a checkpoint, and renaming it into place. Every run
is `drift run` in a process of its own; one on the CPU can load nothing of MLX or a compiler.
"""

import signal
import subprocess
import sys

import pytest
import tomli_w

from common.config import to_tables
from common.runs.directory import RunDirectory

DRIVER = """
import os, signal, sys
where, count, backend = sys.argv[1], int(sys.argv[2]), sys.argv[3]
if backend == "cpu":  # PyTorch multiplies with its own library where MLX has not loaded another
    sys.modules["drift_mlx"] = sys.modules["mlx"] = None
    sys.modules["torch._dynamo"] = None  # what is not compiled does not wait for the compiler
seen = 0

def fatal(function):
    def call(*args, **kwargs):
        global seen
        seen += 1
        if seen == count:
            os.kill(os.getpid(), signal.SIGKILL)
        return function(*args, **kwargs)
    return call

if where == "update":
    from common.learning.update import Learner
    Learner._on_host = fatal(Learner._on_host)
elif where == "fsync":
    os.fsync = fatal(os.fsync)
from common import report
report.build = lambda run: run.report  # it takes longer than the run
sys.argv = ["drift", "run", "--backend", backend, *sys.argv[4:]]
from common.cli import main
main()
"""

KILLS = [
    ("cpu", "update", 3),  # in the second update
    pytest.param("cpu", "fsync", 9, marks=pytest.mark.slow),  # after the first row of metrics.jsonl
    ("cpu", "fsync", 16),  # before the first checkpoint is whole
    pytest.param("cpu", "fsync", 27, marks=pytest.mark.slow),  # with the second one in its place
    ("mlx", "update", 3),
    pytest.param("mlx", "fsync", 16, marks=pytest.mark.slow),
]


def drift_run(backend, *arguments, kill=("nowhere", 0)):
    """`drift run` in a process of its own; kill: the function at whose n-th call it ends, and n."""
    command = [sys.executable, "-c", DRIVER, *map(str, (*kill, backend, *arguments))]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)


@pytest.fixture(scope="module")
def recipe(tiny, tmp_path_factory):
    path = tmp_path_factory.mktemp("recipe") / "tiny.toml"
    config = tiny("run.updates=2", "optimizer.ema_decay=0.5", "optimizer.ema_every=1")
    path.write_text(tomli_w.dumps(to_tables(config)))
    return path


@pytest.fixture(scope="module")
def uninterrupted(recipe, final_bytes, tmp_path_factory):
    """Final bytes of a run that nothing kills, by backend."""
    known = {}

    def ended(backend):
        if backend not in known:
            path = tmp_path_factory.mktemp("whole") / "run"
            done = drift_run(backend, recipe, "--out", path)
            assert done.returncode == 0, done.stderr
            known[backend] = final_bytes(RunDirectory.open(path))
        return known[backend]

    return ended


@pytest.mark.parametrize(("backend", "where", "count"), KILLS)
def test_killed_and_resumed(recipe, uninterrupted, final_bytes, tmp_path, backend, where, count):
    path = tmp_path / "run"
    killed = drift_run(backend, recipe, "--out", path, kill=(where, count))
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    resumed = drift_run(backend, "--resume", "--out", path)
    assert resumed.returncode == 0, resumed.stderr
    run = RunDirectory.open(path)
    assert final_bytes(run) == uninterrupted(backend)
    assert [row["update"] for row in run.metrics()] == [1, 2]
    assert [row["update"] for row in run.evaluations()] == [0, 2]
