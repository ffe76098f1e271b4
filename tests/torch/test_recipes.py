"""Each recipe of a real model trains: two updates on a tiny checkpoint of the same classes.

Only sizes change, and the reward, where its model would have to be downloaded.
"""

import runpy
from pathlib import Path

import pytest
from click.testing import CliRunner

from common import config, report
from common.cli import drift
from common.runs.directory import RunDirectory

TINY = Path(__file__).with_name("tiny.py")
RECIPES = [name for name in config.recipe_names() if config.load(name).model.family != "embedded"]
FIRST = {config.load(name).model.family: name for name in reversed(RECIPES)}

SIZES = {
    "run.updates": "2",
    "run.backend": "cpu",
    "model.dtype": "float32",
    "model.resolution": "32",
    "prompts.limit": "1",
    "rollout.prompts": "1",
    "rollout.group_size": "4",
    "rollout.steps": "6",  # of which a window of three fits into the first half
    "rollout.batch_size": "8",
    "objective.micro_batch": "8",
    "evaluate.prompts": "1",
    "evaluate.images": "2",
    "evaluate.steps": "2",
    "reward.terms": "{jpeg_compressibility = 1.0}",
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A tiny checkpoint of each family, made when it is asked for."""
    builders, made = runpy.run_path(str(TINY))["BUILDERS"], {}

    def get(family):
        if family not in made:
            made[family] = builders[family](tmp_path_factory.mktemp("tiny") / family)
        return made[family]

    return get


@pytest.mark.parametrize(
    "name",
    [
        name if name in FIRST.values() else pytest.param(name, marks=pytest.mark.slow)
        for name in RECIPES
    ],
)
def test_two_updates(name, folders, tmp_path, monkeypatch):
    monkeypatch.setattr(report, "build", lambda run: run.report)
    family = config.load(name).model.family
    sizes = SIZES | {"model.path": str(folders(family))}
    if family != "sd15":
        sizes["model.max_tokens"] = "64"  # a letter is a token
    words = [word for key, value in sizes.items() for word in ("--set", f"{key}={value}")]
    result = CliRunner().invoke(drift, ["run", name, *words, "--out", str(tmp_path / "run")])
    assert result.exit_code == 0, result.output
    rows = RunDirectory.open(tmp_path / "run").metrics()
    assert len(rows) == 2
    for row in rows:
        assert row["objective/ratio_max"] < 1e-5
        assert row["objective/gradient_norm"] > 0
        assert row["reward/mean"] < 0


@pytest.mark.parametrize(
    ("name", "change", "says"),
    [
        ("sd15-aesthetic", "reward.terms={unheard_of = 1.0}", "no reward 'unheard_of'; valid: "),
        ("sd15-compressibility", "run.seed=1", "model.dtype = 'float16' needs a GPU"),
    ],
)
def test_what_is_missing_is_reported_in_one_line_and_nothing_is_left(name, change, says, tmp_path):
    words = ["run", name, "--backend", "cpu", "--set", change, "--out", str(tmp_path / "run")]
    result = CliRunner().invoke(drift, words)
    assert result.exit_code == 2
    (line,) = result.stderr.splitlines()
    assert says in line
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("sd15-aesthetic", "reward 'aesthetic': weights"),
        ("flux-dev-pickscore-grpo", "reward 'pickscore': weights"),
        ("sd35m-24gb", "reward 'pickscore': weights"),
        ("sd15-compressibility", "model.path = 'stable-diffusion-v1-5/stable-diffusion-v1-5' is n"),
    ],
)
def test_a_recipe_as_it_stands_says_what_it_would_download(name, says, tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    words = ["run", name, "--backend", "cpu", "--set", "model.dtype=float32"]
    result = CliRunner().invoke(drift, [*words, "--out", str(tmp_path / "run")])
    assert result.exit_code == 2
    (line,) = result.stderr.splitlines()
    assert says in line
    assert not (tmp_path / "run").exists()
