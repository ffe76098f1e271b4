"""What the command says about itself, its recipes, its rewards and this machine."""

import importlib.metadata
import json
import tomllib

import pytest

from common import backends, config
from common.backends import BackendUnavailableError


def test_help_names_every_command(drift):
    output = drift("--help").output
    for name in ("run", "runs", "sample", "doctor", "recipes", "rewards", "parity"):
        assert f"\n  {name} " in output


def test_version(drift):
    result = drift("--version")
    assert (result.exit_code, result.output.split()[0]) == (0, "drift")


@pytest.mark.parametrize(
    ("words", "nearest"), [(["rnu"], "'run'"), (["run", "--bakend", "cpu"], "'--backend'")]
)
def test_a_misspelt_command_or_option_gets_the_nearest_one(drift, words, nearest):
    result = drift(*words)
    assert result.exit_code == 2
    assert nearest in result.stderr.replace('"', "'") or nearest.strip("'") in result.stderr


def test_recipes_lists_sizes_and_what_each_says_of_itself(drift):
    listed = json.loads(drift("recipes", "--json").output)["recipes"]
    emoji = next(recipe for recipe in listed if recipe["name"] == "emoji")
    settings = config.load("emoji")
    rollout = settings.rollout
    assert emoji["images_per_update"] == rollout.prompts * rollout.group_size
    assert emoji["updates"] == settings.run.updates
    assert (
        f'description = "{emoji["description"]}"\n' in (config.RECIPES / "emoji.toml").read_text()
    )
    assert (emoji["source"], emoji["extends"]) == ("DRIFT, arXiv:2601.12401", "emoji-grpo")
    assert [recipe["name"] for recipe in listed] == config.recipe_names()


def test_a_recipe_is_printed_with_every_key(drift):
    text = drift("recipes", "emoji-noise").output
    assert text.splitlines()[1:3] == [
        "# source: DRIFT, arXiv:2601.12401",
        "# extends emoji, which extends emoji-grpo",
    ]
    assert config.parse(tomllib.loads(text)) == config.load("emoji-noise")
    tables = tomllib.loads(drift("recipes", "emoji").output)
    assert config.parse(tables) == config.load("emoji")
    assert tables == json.loads(drift("recipes", "emoji", "--json").output)


def test_rewards_in_words_and_as_json(drift):
    listed = {
        reward["name"]: reward
        for reward in json.loads(drift("rewards", "--json").output)["rewards"]
    }
    assert listed["embedded"]["works"] is True
    text = drift("rewards").output
    for name, reward in listed.items():
        line = next(line for line in text.splitlines() if line.startswith(f"{name} "))
        assert reward["description"] in line  # in a pipe a row is one line


def test_doctor_shows_what_works_and_what_auto_takes(drift):
    findings = json.loads(drift("doctor", "--json").output)
    by_name = {backend["name"]: backend for backend in findings["backends"]}
    assert set(by_name) == set(backends.names())
    assert by_name[findings["auto"]]["works"]
    text = drift("doctor").output
    assert text.splitlines()[-1] == findings["verdict"] == f"drift run takes {findings['auto']}"
    for name, backend in by_name.items():
        verdict = "works" if backend["works"] else f"does not work: {backend['reason']}"
        assert f"\n{name}: {verdict}\n" in text
        assert backend["works"] or backend["reason"]


def test_doctor_survives_a_backend_that_breaks_and_says_why(drift, monkeypatch):
    def load(name):
        raise (
            OSError("libbroken.so: cannot open") if name == "mlx" else BackendUnavailableError("no")
        )

    monkeypatch.setattr(backends, "load", load)
    monkeypatch.setattr(backends, "best", lambda: load("any"))
    result = drift("doctor")
    assert result.exit_code == 0
    assert "mlx: does not work: libbroken.so: cannot open" in result.output
    assert result.output.splitlines()[-1] == "drift run does not work here: no"


def test_doctor_says_what_to_install(drift, monkeypatch):
    from common import machine

    declared = ["pillow>=10.3", "torch>=2.6; extra == 'torch'", "pillow>=10.3; extra == 'rewards'"]
    monkeypatch.setattr(importlib.metadata, "requires", lambda name: declared)
    monkeypatch.setattr(machine, "installed", lambda name: None)
    output = drift("doctor").output
    assert "  torch: without torch: pip install 'drift-toolkit[torch]'\n" in output
    assert "rewards" not in output  # an extra of what is there anyway
