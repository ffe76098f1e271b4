"""`drift parity` shows every stage, and its exit code says whether one is over its tolerance."""

import json
import os

import pytest

from common import backends, parity
from common.backends import BackendUnavailableError
from common.parity import StageResult

GOOD = StageResult("rollout", "cpu vs float64", 2e-7, 1e-6, 1e-5, True)
BAD = StageResult("gradients", "mlx vs cpu", float("nan"), 0.5, 1e-5, False)


@pytest.fixture
def compared(monkeypatch):
    """Has the comparison give these stages; remembers what it was asked for."""
    monkeypatch.setenv("MLX_ENABLE_TF32", "1")
    monkeypatch.setattr(backends, "load", lambda name: None)
    asked = {}

    def give(*stages):
        def compare(names, *, observer):
            asked.update(names=names, tf32=os.environ["MLX_ENABLE_TF32"])
            observer("stage")
            return list(stages)

        monkeypatch.setattr(parity, "compare", compare)
        return asked

    return give


def test_all_within_tolerance(drift, compared):
    asked = compared(GOOD)
    result = drift("parity", "--backends", "cpu, mlx")
    assert result.exit_code == 0
    assert asked == {"names": ["cpu", "mlx"], "tf32": "0"}
    row = result.stdout.splitlines()[1].split()
    assert row == ["rollout", "cpu", "vs", "float64", "2.0e-07", "1.0e-06", "1e-05", "ok"]
    assert result.stdout.splitlines()[-1] == "all 1 within tolerance"


def test_one_over_tolerance(drift, compared):
    compared(GOOD, BAD)
    result = drift("parity")
    assert result.exit_code == 1
    assert result.stdout.splitlines()[-1] == "1 of 2 over tolerance"
    result = drift("parity", "--json")
    assert result.exit_code == 1
    good, bad = json.loads(result.stdout)["stages"]
    assert good == {
        "stage": "rollout",
        "backends": "cpu vs float64",
        "relative_error": 2e-7,
        "max_abs_error": 1e-6,
        "tolerance": 1e-5,
        "ok": True,
    }
    assert (bad["relative_error"], bad["ok"]) == (None, False)


def test_wrong_requests(refused, monkeypatch):
    monkeypatch.setenv("MLX_ENABLE_TF32", "1")
    assert "did you mean 'mlx'?" in refused(2, "parity", "--backends", "cpu,mxl")
    assert "name some of cpu, cuda, mlx" in refused(2, "parity", "--backends", ",")

    def load(name):
        raise BackendUnavailableError(f"backend {name} needs mlx")

    monkeypatch.setattr(backends, "load", load)
    assert "needs mlx" in refused(2, "parity", "--backends", "mlx")
