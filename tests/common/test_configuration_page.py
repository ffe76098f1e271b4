"""docs/configuration.md and `drift config` say what the tables of settings say."""

import math
import tomllib

import pytest
from click.testing import CliRunner

from common import config
from common.config import ConfigError, load
from common.config.reference import reference
from scripts import make_configuration


def test_the_page_is_current(tmp_path):
    checked = CliRunner().invoke(make_configuration.main, ["--check"])
    assert checked.exit_code == 0, "docs/configuration.md is stale: run make results"
    text = make_configuration.PAGE.read_text(encoding="utf-8")
    for row in reference():
        assert f"| `{row.key}` | `{row.default}` | " in text
    stale = tmp_path / "page.md"
    stale.write_text(text.replace("| `run.seed` | `0` |", "| `run.seed` | `1` |"))
    words = ["--page", str(stale)]
    assert CliRunner().invoke(make_configuration.main, ["--check", *words]).exit_code == 1
    assert CliRunner().invoke(make_configuration.main, words).exit_code == 0
    assert stale.read_text() == text


@pytest.mark.parametrize("row", reference(), ids=lambda row: row.key)
def test_defaults_bounds_and_choices_of_the_page_are_those_that_are_checked(row):
    shown = {} if row.default == "unset" else tomllib.loads(f"v = {row.default}")
    value = config.Config()
    for part in row.key.split("."):
        value = getattr(value, part)
    assert shown.get("v") == (list(value) if isinstance(value, tuple) else value)
    assert row.meaning
    for words in row.valid.split(", "):
        kind, _, number = words.rpartition(" ")
        if kind in ("at least", "above") and "each" not in row.valid:
            outside = float(number) - 1 if kind == "at least" else float(number)
            text = f"{outside:g}"
            with pytest.raises(ConfigError, match=row.key.replace(".", r"\.")):
                load("emoji", [f"{row.key}={text}"])
        if kind in ("at most", "below") and "each" not in row.valid:
            outside = 2**63 if number == "2^63" else math.floor(float(number)) + 1
            with pytest.raises(ConfigError, match=row.key.replace(".", r"\.")):
                load("emoji", [f"{row.key}={outside}"])


def test_the_words_of_kinds():
    valid = {row.key: row.valid for row in reference()}
    assert valid["run.seed"] == "whole number, at least 0, below 2^63"
    assert valid["model.quantize"] == "0, 4, 8"
    assert valid["model.path"] == "text, or unset"
    assert valid["prompts.split"] == "all, train, validation, test"
    assert valid["rollout.window_range"] == "list of 2, each number, at least 0, at most 1"
    assert valid["reward.terms"] == "table of names, each with a number"
    assert list(valid) == config.known_keys()


@pytest.mark.parametrize(
    ("prefix", "keys"),
    [
        ("rollout.steps", ["rollout.steps"]),
        ("checkpoint", ["checkpoint.every", "checkpoint.keep"]),
        ("checkpoint.", ["checkpoint.every", "checkpoint.keep"]),
        ("rollout.guidance_", ["rollout.guidance_gradient", "rollout.guidance_batch"]),
        ("seed", ["run.seed"]),
        ("noise.tau1", ["drift.noise.tau1"]),
        ("reward.options.ocr.rule", ["reward.options"]),
        ("", config.known_keys()),
    ],
)
def test_what_chooses_keys(prefix, keys):
    assert [row.key for row in reference(prefix)] == keys
