"""Rows that end in every way a row can: for the tests of the schedule."""

import os
import subprocess
import sys
import time

from scripts.gpu_bench.context import SkippedError


def good(context):
    return {"mode": context.mode, "pid": os.getpid(), "bad number": float("nan")}


def raises(context):
    context.keep({"so far": 1})
    raise ValueError("two\nlines")


def crashes(context):
    print("the last words", flush=True)
    os._exit(3)


def hangs(context):
    """Leaves a child of its own, as a stuck run would."""
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    context.keep({"child": child.pid})
    time.sleep(600)


def skips(context):
    raise SkippedError("needs a moon")
