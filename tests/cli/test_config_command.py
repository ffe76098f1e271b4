"""`drift config` prints keys with default, valid values and meaning."""

import json

from common import config
from tests.common.synthetic_run import make_run


def test_one_key_a_table_and_all(drift):
    lines = drift("config", "rollout.steps").output.splitlines()
    assert [line.split(maxsplit=1) for line in lines] == [
        ["key", "rollout.steps"],
        ["default", "10"],
        ["valid", "whole number, at least 2, at most 10000"],
        ["meaning", "T: denoising steps"],
    ]
    lines = drift("config", "checkpoint").output.splitlines()
    assert [line.split()[0] for line in lines] == ["key", "checkpoint.every", "checkpoint.keep"]
    (rows,) = json.loads(drift("config", "--json").output).values()
    assert [row["key"] for row in rows] == config.known_keys()
    assert set(rows[0]) == {"key", "default", "valid", "meaning"}


def test_an_unknown_key_gets_the_nearest(refused):
    assert "'rollout.stps'; did you mean 'rollout.steps'?" in refused(2, "config", "rollout.stps")
    assert "'sed'; did you mean 'seed'?" in refused(2, "config", "sed")
    assert "'zzzz'; valid: run, model, adapter, " in refused(2, "config", "zzzz")


def test_the_values_of_a_recipe_and_of_a_run(drift, refused, tmp_path):
    def lines(*words):
        return dict(line.split(maxsplit=1) for line in drift("config", *words).output.splitlines())

    assert lines("rollout.steps", "--in", "emoji-kl")["value"] == str(
        config.load("emoji-kl").rollout.steps
    )
    run = make_run(tmp_path / "run", done=0, evaluated=(), overrides=("rollout.steps=12",))
    shown = lines("rollout.steps", "--in", run.path)
    assert (shown["value"], shown["default"]) == ("12", "10")
    (rows,) = json.loads(drift("config", "model", "--in", run.path, "--json").output).values()
    assert {row["key"]: row["value"] for row in rows}["model.path"] == "unset"
    assert "no recipe 'emojy'" in refused(2, "config", "seed", "--in", "emojy")
    (run.path / "config.toml").write_text("x")
    assert "config.toml is damaged" in refused(2, "config", "seed", "--in", run.path)
