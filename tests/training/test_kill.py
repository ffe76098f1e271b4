"""A run that is killed -9, wherever it was, goes on and ends with the bytes of one that was not.

The kill comes from inside, at a chosen call, so that the same moments are hit every time: in the
middle of an update, and at the n-th time that something is made durable on disk, which walks
through appending a line, writing the files of a checkpoint, and renaming it into place.
"""

import signal
import subprocess
import sys

import pytest

from common.backends import load

DRIVER = """
import os, signal, sys
import drift_mlx  # as in this session: PyTorch then shares its OpenBLAS, which rounds otherwise
where, count = sys.argv[1], int(sys.argv[2])
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
    from common.update import Learner
    Learner._record = fatal(Learner._record)
else:
    os.fsync = fatal(os.fsync)
sys.argv = ["drift", *sys.argv[3:]]
from common.cli import main
main()
"""


@pytest.fixture(scope="module")
def config(tiny):
    return tiny("run.updates=3", "optimizer.ema_decay=0.5", "optimizer.ema_every=1")


@pytest.fixture(scope="module")
def uninterrupted(config, train, final_bytes):
    directory, _, _ = train(config, load("cpu"))
    return final_bytes(directory)


@pytest.mark.parametrize(
    ("where", "count"),
    [("update", 1), ("update", 3), ("fsync", 7), ("fsync", 12), ("fsync", 15), ("fsync", 21)],
)
def test_killed_and_resumed(config, train, final_bytes, uninterrupted, tmp_path, where, count):
    import tomli_w

    from common.config import to_tables

    recipe, path = tmp_path / "emoji.toml", tmp_path / "run"
    recipe.write_text(tomli_w.dumps(to_tables(config)))
    command = [sys.executable, "-c", DRIVER, where, str(count)]
    arguments = ["run", str(recipe), "--backend", "cpu", "--out", str(path)]
    ended = subprocess.run([*command, *arguments], capture_output=True, timeout=300, check=False)
    assert ended.returncode == -signal.SIGKILL, ended.stderr.decode()
    resumed, _, finished = train(config, load("cpu"), path=path)
    assert finished
    assert final_bytes(resumed) == uninterrupted
    assert [row["update"] for row in resumed.metrics()] == [1, 2, 3]
    assert [row["update"] for row in resumed.evaluations()] == [0, 3]
