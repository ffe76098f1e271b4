"""Every method is a recipe that trains; levers at their ends are the plain mechanisms, bit for bit.

On PyTorch; that a mechanism does the same on both backends is shown in `test_trainer.py`.
"""

import numpy as np
import pytest

from common import backends, config as configuration

HALF = "drift.noise.strength=0.5"
RECIPES = [name for name in configuration.recipe_names() if name.startswith("emoji")]


@pytest.fixture(scope="module")
def cpu():
    return backends.load("cpu")


@pytest.fixture(scope="module")
def one_update(cpu, tiny_settings, train, final_bytes):
    """One update of a recipe: its row of metrics, and the bytes it ends with. Asked for once."""
    known = {}

    def call(recipe, *changes):
        if (recipe, changes) not in known:
            # Enough samples, and a band narrow enough, for `mad` to leave out some and keep three.
            subset = ["rollout.group_size=6", "drift.subset.keep=4", "drift.subset.kappa=1.2"]
            small = [*tiny_settings, *subset, "run.updates=1", "evaluate.prompts=1", *changes]
            directory, record, _ = train(configuration.load(recipe, small), cpu)
            known[recipe, changes] = record.updates[0], final_bytes(directory)
        return known[recipe, changes]

    return call


@pytest.mark.parametrize("recipe", RECIPES)
def test_every_recipe_makes_an_update(one_update, recipe):
    row, _ = one_update(recipe)
    assert np.isfinite(row["objective/loss"])
    assert row["objective/gradient_norm"] > 0
    assert row["objective/ratio_max"] < 1e-6
    rule = configuration.load(recipe).drift.subset.rule
    if rule in ("random", "maxvar"):
        assert row["subset/size"] == 4
    elif rule == "none":
        assert row["subset/size"] == 6
    else:
        assert 2 <= row["subset/size"] < 6


def test_methods_are_different_but_for_the_strict_control(one_update):
    updates = {name: one_update(name)[1] for name in RECIPES}
    # Strict shaping is inert: DRIFT with it is DRIFT without shaping.
    assert updates["emoji-strict"] == updates.pop("emoji-noise-subset")
    # One update starts at the reference, where the KL has no gradient.
    assert updates.pop("emoji-kl") == updates["emoji-grpo"]
    assert len(set(updates.values())) == len(updates)


def test_noise_on_none_of_a_group_is_no_noise_and_on_all_of_it_is_all_the_noise(one_update):
    clean = one_update("emoji-grpo")[1]
    noisy = one_update("emoji-grpo", HALF)[1]
    assert one_update("emoji-grpo", HALF, "drift.noise.share=0.0")[1] == clean
    assert one_update("emoji-grpo", HALF, "drift.noise.share=1.0")[1] == noisy
    half = one_update("emoji-grpo", HALF, "drift.noise.share=0.5")[1]
    assert len({clean, noisy, half}) == 3


def test_statistics_of_the_subset_are_those_of_the_group_where_everything_is_selected(one_update):
    change = ("drift.shaping.mode=terminal", "drift.shaping.weight=0.5")
    whole = one_update("emoji-grpo", *change)[1]
    assert one_update("emoji-grpo", *change, "drift.shaping.statistics=subset")[1] == whole
    assert one_update("emoji-grpo", *change, "drift.shaping.shuffle=true")[1] != whole


def test_the_schedule_falls_by_the_second_update(cpu, tiny_settings, train):
    def share(schedule):
        changes = [
            "drift.shaping.mode=terminal",
            "drift.shaping.weight=3.0",
            f"drift.shaping.training_schedule={schedule}",
            "evaluate.prompts=1",
        ]
        config = configuration.load("emoji-grpo", [*tiny_settings, *changes])
        return [row["shaping/variance_share"] for row in train(config, cpu)[1].updates]

    constant, falling = share("constant"), share("cosine")
    assert constant[0] == falling[0]
    assert falling[1] < constant[1]
