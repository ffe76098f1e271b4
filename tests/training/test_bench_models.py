"""Real models are measured, and estimated at full size, by scripts that need no download.

A tiny case goes through the same trainer, clock and arithmetic as a full one on a GPU; the estimate
of the larger recipe for 24 GB holds for the published shape.
"""

import json
import runpy
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

from common import config as configuration
from drift_torch import full_size

SCRIPTS = Path(__file__).parents[2] / "scripts"
CASES = ("SD 1.5, DDPO", "SD 3.5 medium, DRIFT", "FLUX.1-dev, Flow-GRPO")


@pytest.fixture
def script(monkeypatch):
    """Loads a script as its own folder sees it: a dict of what it defines."""
    monkeypatch.syspath_prepend(SCRIPTS)
    return lambda name: runpy.run_path(str(SCRIPTS / f"{name}.py"))


def test_a_tiny_case_is_measured(script, tmp_path):
    bench, name = script("bench_models"), CASES[2]
    found = bench["measure"](name, 1, 1, "cpu", True, tmp_path)
    assert found["images"] == 4
    assert 0 < found["rollout"] < found["seconds"]
    assert 0 < found["outside"] < 1
    assert found["forwards"] == 21
    assert found["flops"] > 1e6
    assert found["matrix_rate"] > 1e8
    assert found["compile"] == 0.0
    row = bench["row"](name, found)
    assert row.count("|") == len(bench["COLUMNS"]) + 1
    assert f"{found['images'] / found['seconds']:.2f}" in row
    events = json.loads((tmp_path / f"{name}.json").read_text())["traceEvents"]
    assert any("scaled_dot_product" in str(event.get("name")) for event in events)


@pytest.mark.parametrize("name", CASES)
def test_every_family_can_be_made_and_its_arithmetic_counted(name, script):
    """A forward and a backward pass cost two to four forward passes: the weights are frozen."""
    bench, estimate = script("bench_models"), script("estimate_models")
    config = bench["configured"](name, 1, 1, "cpu", True)
    policy = full_size.policy(config.model, config.adapter, device=torch.device("cpu"), tiny=True)
    assert policy.encode(["owl"]).tokens.isfinite().all()
    assert policy.decode(torch.zeros(1, *policy.latent_shape)).shape == (1, 32, 32, 3)
    shape = full_size.without_content(config.model, config.adapter, tiny=True)
    found = estimate["flops"](shape, config)
    one = found["sampling"] / config.rollout.steps
    trained = {CASES[0]: 6, CASES[1]: 5, CASES[2]: 5}[name]
    references = 1 if config.objective.kl_weight else 0
    assert 2 <= found["learning"] / trained / one - references < 4


def test_the_table_has_a_row_for_each_case_and_tells_of_one_that_failed(
    script, tmp_path, monkeypatch
):
    bench = script("bench_models")
    real = bench["in_its_process"]
    measured = {
        **{"device": "a GPU", "images": 48.0, "seconds": 12.0, "rollout": 4.0, "forwards": 92},
        **{"outside": 0.031, "peak": 5.2e10, "compile": 41.0, "flops": 2e14, "matrix_rate": 6e14},
    }
    monkeypatch.setitem(
        bench["main"].callback.__globals__,
        "in_its_process",
        lambda name, options: measured if name == CASES[1] else {"failed": "no recipe 'x'"},
    )
    out = tmp_path / "table.md"
    words = ["--case", CASES[1], "--case", CASES[2], "--out", str(out)]
    result = CliRunner().invoke(bench["main"], words)
    assert result.exit_code == 0, result.output
    lines = out.read_text(encoding="utf-8").splitlines()
    assert lines[0] == "a GPU, matrix products at 600 TFLOP/s"
    assert lines[4] == (
        "| SD 3.5 medium, DRIFT | 48 | 12.00 | 4.00 | 12.00 | 92 | 3.1 % | 52.0 GB | 41 s | "
        "3.00 images/s |"
    )
    assert lines[5].startswith("| FLUX.1-dev, Flow-GRPO | no recipe 'x' |")
    assert "not a valid integer" in real(CASES[0], ["--updates", "many"])["failed"]


@pytest.mark.slow
def test_the_larger_recipe_for_24_gb_is_estimated_under_22(script):
    estimate = script("estimate_models")
    config = configuration.load("sd35m-24gb-grpo")
    policy = full_size.without_content(config.model, config.adapter)
    trained = sum(value.numel() for value in policy.parameters().values())
    parameters = sum(value.numel() for value in policy.module.parameters()) - trained
    assert parameters == 2_243_171_520
    memory = estimate["estimate"].stages(policy, config, estimate["PROMPT"])
    assert memory.keys() == {"rollout", "encoding", "decoding", "update"}
    assert min(memory.values()) > 2 * parameters  # two bytes for each weight
    assert max(memory.values()) < 22e9
