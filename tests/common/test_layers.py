"""One rule for a file over a file, --set over a recipe, and set= of Python over both."""

import pytest

from common import config
from common.config import load

BASE = """
[reward]
terms = {embedded = 10.0, ocr = 1.0}
floors = {embedded = 0.1, ocr = 0.2}
ceilings = {ocr = 1.0}
[reward.options.embedded]
scaling = "raw"
[reward.options.ocr]
rule = "strict"
scaling = "raw"
[drift.shaping]
features = "clip"
[drift.shaping.features_options]
path = "w"
device = "cpu"
"""


def as_file(tmp_path, changes):
    """The recipe BASE with changes in a file that extends it."""
    lines = ['extends = "base.toml"']
    for key, value in changes.items():
        parts = config.split_key(key)
        lines.append(".".join(f'"{part}"' for part in parts) + f" = {value}")
    (tmp_path / "over.toml").write_text("\n".join(lines))
    return load(str(tmp_path / "over.toml"))


def as_words(tmp_path, changes):
    """The recipe BASE with changes by --set."""
    words = [f"{key}={value}" for key, value in changes.items()]
    return load(str(tmp_path / "base.toml"), words)


def as_python(tmp_path, changes):
    """The recipe BASE with changes by set=, over a configuration."""
    import tomllib

    values = {key: tomllib.loads(f"v = {text}")["v"] for key, text in changes.items()}
    return config.changed(load(str(tmp_path / "base.toml")), values)


@pytest.mark.parametrize("how", [as_file, as_words, as_python])
@pytest.mark.parametrize(
    ("changes", "terms", "floors", "ceilings", "options"),
    [
        ({"reward.terms.mine": "1.0"}, {"mine": 1.0}, {}, {}, {}),
        (
            {"reward.terms.ocr": "2.0", "reward.terms.mine": "1.0", "reward.floors.mine": "0.5"},
            {"ocr": 2.0, "mine": 1.0},
            {"ocr": 0.2, "mine": 0.5},
            {"ocr": 1.0},
            {"ocr": {"rule": "strict", "scaling": "raw"}},
        ),
        (
            {"reward.terms": "{ocr = 3.0}", "reward.options.ocr.rule": '"letters"'},
            {"ocr": 3.0},
            {"ocr": 0.2},
            {"ocr": 1.0},
            {"ocr": {"rule": "letters", "scaling": "raw"}},
        ),
        (
            {"reward.floors.ocr": "0.3", "reward.ceilings": "{}", "reward.options.embedded": "{}"},
            {"embedded": 10.0, "ocr": 1.0},
            {"embedded": 0.1, "ocr": 0.3},
            {},
            {"embedded": {"scaling": "raw"}, "ocr": {"rule": "strict", "scaling": "raw"}},
        ),
    ],
)
def test_terms_are_named_as_a_whole_and_what_is_theirs_goes_with_them(
    tmp_path, how, changes, terms, floors, ceilings, options
):
    (tmp_path / "base.toml").write_text(BASE)
    reward = how(tmp_path, changes).reward
    assert reward.terms == terms
    assert reward.floors == floors
    assert reward.ceilings == ceilings
    assert reward.options == options


@pytest.mark.parametrize("how", [as_file, as_words, as_python])
@pytest.mark.parametrize(
    ("changes", "options"),
    [
        ({"drift.shaping.features": '"dino"'}, {}),
        ({"drift.shaping.features": '"clip"'}, {"path": "w", "device": "cpu"}),
        (
            {
                "drift.shaping.features": '"dino"',
                "drift.shaping.features_options.path": '"v"',
            },
            {"path": "v"},
        ),
        ({"drift.shaping.features_options.path": '"v"'}, {"path": "v", "device": "cpu"}),
        ({"drift.shaping.features_options": "{}"}, {}),
        ({"drift.shaping.weight": "0.5"}, {"path": "w", "device": "cpu"}),
    ],
)
def test_options_of_features_go_with_the_features(tmp_path, how, changes, options):
    (tmp_path / "base.toml").write_text(BASE)
    assert how(tmp_path, changes).drift.shaping.features_options == options


@pytest.mark.parametrize("how", [as_file, as_words, as_python])
@pytest.mark.parametrize(
    ("changes", "features", "options"),
    [
        ({}, ("clip",), {"path": "w"}),
        ({"evaluate.features": '["clip"]'}, ("clip",), {"path": "w"}),
        ({"evaluate.features": '["lpips", "clip"]'}, ("lpips", "clip"), {"clip": {"path": "w"}}),
        ({"evaluate.features": '["lpips", "dino"]'}, ("lpips", "dino"), {}),
        (
            {
                "evaluate.features": '["clip", "a.b:c"]',
                "evaluate.features_options.clip.device": '"cpu"',
                "evaluate.features_options.a.b:c.batch_size": "3",
            },
            ("clip", "a.b:c"),
            {"clip": {"path": "w", "device": "cpu"}, "a.b:c": {"batch_size": 3}},
        ),
    ],
)
def test_each_of_several_features_keeps_its_own_options(tmp_path, how, changes, features, options):
    text = '[evaluate]\nfeatures = "clip"\nfeatures_options = {path = "w"}\n'
    (tmp_path / "base.toml").write_text(text)
    evaluate = how(tmp_path, changes).evaluate
    assert (evaluate.features, evaluate.features_options) == (features, options)
    assert evaluate.options_of("clip").get("path") == ("w" if "clip" in features else None)
    again = config.parse(config.to_tables(how(tmp_path, changes)))
    assert again.evaluate == evaluate


def test_a_table_changes_the_keys_that_it_has(tmp_path):
    (tmp_path / "base.toml").write_text("[rollout]\nsteps = 7\ngroup_size = 6\n")
    for how in (as_file, as_words, as_python):
        rollout = how(tmp_path, {"rollout.steps": "8"}).rollout
        assert (rollout.steps, rollout.group_size) == (8, 6)
