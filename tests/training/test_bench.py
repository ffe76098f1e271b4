"""The timing script gives each backend a process and compares medians."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def bench(*arguments):
    command = [sys.executable, "-m", "scripts.bench_backends", *arguments]
    return subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False
    )


@pytest.mark.slow
def test_two_backends_take_turns_and_are_compared(tiny_settings):
    changes = [word for text in tiny_settings for word in ("--set", text)]
    done = bench("--backends", "mlx,cpu", "--updates", "1", *changes)
    assert done.returncode == 0, done.stderr
    rows = re.findall(r"(\w+) +([\d.]+) s an update +([\d.]+) x mlx", done.stdout)
    assert [name for name, _, _ in rows] == ["mlx", "cpu"]
    assert rows[0][2] == "1.00"
    assert all(float(seconds) > 0 for _, seconds, _ in rows)


def test_a_backend_that_fails_is_named():
    done = bench("--backends", "tpu")
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == "the process of backend tpu failed"
    assert "tpu" in done.stderr.splitlines()[-2]
