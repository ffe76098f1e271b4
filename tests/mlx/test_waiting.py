"""A process of MLX that waits for a peer ends in time, also while no other thread of it can run."""

import signal
import subprocess
import sys

import pytest

WAITS = """
import ctypes, sys, time
from drift_mlx.world import _watched
with _watched(float(sys.argv[1]), "process 0 waited for the others to start"):
    ctypes.PyDLL(None).usleep(int(sys.argv[2]))  # keeps the lock of Python's threads
print("connected")
"""


@pytest.mark.parametrize("late", [True, False])
def test_a_peer_that_never_connects_is_not_waited_for(late):
    seconds, microseconds = ("0.3", "60000000") if late else ("600", "1000")
    done = subprocess.run(
        [sys.executable, "-c", WAITS, seconds, microseconds],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    line = (
        "drift: process 0 waited for the others to start (DRIFT_TIMEOUT); what was saved is whole"
    )
    if late:
        assert done.returncode == -signal.SIGKILL
        assert done.stderr == f"{line}\n"
    else:
        assert (done.returncode, done.stdout, done.stderr) == (0, "connected\n", "")
