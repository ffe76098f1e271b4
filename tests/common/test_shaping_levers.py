"""Levers on shaping: the statistics that set lambda's unit, permuted potentials, the schedule.

Defaults are pinned by numbers that the code gave before there were these levers.
"""

from typing import Any, get_args

import numpy as np
import pytest

from common import config as configuration
from common.algorithm import advantage, masked, potential, shaping, subset
from common.learning import credit

P, G, T = 3, 8, 4


@pytest.fixture(scope="module")
def batch():
    """Rewards with an outlier, potentials, the valid samples and the selected ones."""
    rng = np.random.default_rng(21)
    rewards, phi = 5.0 + rng.normal(size=(P, G)), rng.random((P, G))
    rewards[:, 0] += 6.0
    valid = np.ones((P, G), bool)
    valid[1, 2] = False
    selected = subset.select(rewards, rule="window", keep=5, valid=valid)
    assert not selected[:, 0].any()
    return rewards, phi, valid, selected


def plain(**changes: Any) -> dict[str, Any]:
    settings = {"weight": 0.5, "mode": "terminal", "scaling": "zscore", "gate": "none", "steps": T}
    return settings | changes


# --- statistics of the subset --------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["terminal", "per_step"])
@pytest.mark.parametrize("scaling", get_args(shaping.Scaling))
@pytest.mark.parametrize("gate", get_args(shaping.Gate))
def test_referring_to_the_subset_is_as_if_nothing_else_had_been_sampled(
    xp, f64, bools, rtol, to_np, batch, mode, scaling, gate
):
    rewards, phi, valid, selected = batch
    if mode == "per_step":
        phi = np.random.default_rng(22).random((T + 1, P, G))
    base = np.array([4.8, 5.0, 5.2])
    changes = {"mode": mode, "scaling": scaling, "gate": gate, "gamma": 0.9}
    got = shaping.shape(
        f64(rewards),
        f64(phi),
        **plain(**changes),
        valid=bools(valid),
        base=f64(base),
        reference=bools(selected),
    )
    for p, keep in enumerate(selected):
        alone = shaping.shape(
            f64(rewards[p : p + 1, keep]),
            f64(phi[..., p : p + 1, :][..., keep]),
            **plain(**changes),
            base=f64(base[p : p + 1]),
        )
        close = {"rtol": 10 * rtol(xp), "atol": 10 * rtol(xp)}
        np.testing.assert_allclose(to_np(got)[..., p, keep], to_np(alone)[..., 0, :], **close)


@pytest.mark.parametrize("keep", [3, 5, 8])
def test_selection_leaves_lambda_its_meaning(batch, keep):
    """On the samples trained on the potential has lambda standard deviations of the reward."""
    rewards, phi, valid, _ = batch
    selected = subset.select(rewards, rule="minvar", keep=keep, valid=valid)
    ratios = {}
    for name, reference in (("subset", selected), ("full", valid)):
        shaped = shaping.shape(rewards, phi, **plain(), valid=valid, reference=reference)
        added = masked.std(np.where(valid, shaped - rewards, 0.0), selected)
        ratios[name] = (added / masked.std(rewards, selected))[:, 0]
    np.testing.assert_allclose(ratios["subset"], 0.5, rtol=1e-9)
    # Of the whole group: std(r) / std_subset(r) times what the subset has of the potential's std.
    reward, potential = (
        (masked.std(x, valid) / masked.std(x, selected))[:, 0] for x in (rewards, phi)
    )
    np.testing.assert_allclose(ratios["full"], 0.5 * reward / potential, rtol=1e-9)


def test_the_whole_group_as_reference_is_the_default_bit_for_bit(batch):
    rewards, phi, valid, _ = batch
    one = shaping.shape(rewards, phi, **plain(gate="soft"), valid=valid)
    other = shaping.shape(rewards, phi, **plain(gate="soft"), valid=valid, reference=valid)
    assert one.tobytes() == other.tobytes()


def test_an_empty_reference_adds_nothing(batch):
    rewards, phi, _, _ = batch
    nobody = np.zeros((P, G), bool)
    for scaling in ("zscore", "minmax"):
        got = shaping.shape(rewards, phi, **plain(scaling=scaling), reference=nobody)
        np.testing.assert_array_equal(got, rewards)


# --- permuted potentials -------------------------------------------------------------------------


def test_shuffling_by_hand(f64, bools, to_np):
    phi, draws = f64([[1.0, 2.0, 3.0, 4.0]]), f64([[0.9, 0.1, 0.5, 0.2]])
    # By draws the samples are 1, 3, 2, 0: they give their potentials to 0, 1, 2, 3.
    got = to_np(potential.shuffled(phi, draws))
    np.testing.assert_array_equal(got, [[2.0, 4.0, 3.0, 1.0]])
    # Without sample 1 they are 3, 2, 0, and give to 0, 2, 3.
    got = to_np(potential.shuffled(phi, draws, valid=bools([[True, False, True, True]])))
    np.testing.assert_array_equal(got, [[4.0, 2.0, 3.0, 1.0]])


def test_shuffling_keeps_the_potentials_of_each_group_and_moves_whole_trajectories(
    f64, bools, to_np, batch
):
    _, _, valid, _ = batch
    phi = np.random.default_rng(23).random((T + 1, P, G)).astype(np.float32)
    draws = np.random.default_rng(24).random((P, G))
    got = to_np(potential.shuffled(f64(phi), f64(draws), valid=bools(valid))).astype(np.float32)
    moved = 0
    for p, keep in enumerate(valid):
        np.testing.assert_array_equal(got[:, p, ~keep], phi[:, p, ~keep])
        columns = {phi[:, p, i].tobytes() for i in range(G)}
        assert {got[:, p, i].tobytes() for i in range(G)} == columns
        moved += sum((got[:, p, i] != phi[:, p, i]).any() for i in range(G))
    assert moved > P * G / 2


# --- in the assignment of credit -----------------------------------------------------------------

PINNED = [
    [0.18030571123926, -0.14289659252012, -1.80047679261485, 0.0, 1.15644284210044,
     0.60662483179527],
    [0.33307537760627, -0.67292082555737, 1.5032268099592, 0.71778696987516, -1.60839111133106,
     -0.2727772205522],
]  # fmt: skip
"""Advantages of `example` before there were statistics, schedules and shuffling."""

DRIFT = (
    "drift.subset.rule=mad",
    "drift.subset.kappa=2.5",
    "drift.shaping.mode=terminal",
    "drift.shaping.weight=0.5",
    "rollout.group_size=6",
)


def example():
    groups, size, width = 2, 6, 5
    rewards = 5 + np.sin(1.7 * np.arange(groups * size)).reshape(groups, size)
    rewards[0, 3] += 6
    features = np.cos(0.9 * np.arange(groups * size * width) ** 1.3)
    features = features.reshape(groups, size, width)
    return rewards, features / np.linalg.norm(features, axis=-1, keepdims=True)


def assign(*changes, **more):
    rewards, features = example()
    config = configuration.load("emoji-grpo", [*DRIFT, *changes])
    draws = np.random.default_rng(25).random((2, *rewards.shape))
    return credit.assign(config, rewards, features, draws=draws[0], shuffle_draws=draws[1], **more)


def test_defaults_give_the_numbers_they_always_gave():
    given = assign(progress=0.7)
    np.testing.assert_allclose(given.advantages, PINNED, rtol=1e-11, atol=1e-12)
    assert given.selected.tolist() == [[1, 1, 1, 0, 1, 1], [1] * 6]


def test_a_schedule_multiplies_the_weight():
    for schedule, progress, weight in (("linear", 0.25, 0.375), ("cosine", 0.5, 0.25)):
        change = f"drift.shaping.training_schedule={schedule}"
        falling = assign(change, progress=progress).advantages
        np.testing.assert_allclose(
            falling, assign(f"drift.shaping.weight={weight}").advantages, rtol=1e-12, atol=1e-14
        )
        multiplicative = "drift.shaping.mode=multiplicative"
        np.testing.assert_allclose(
            assign(multiplicative, change, progress=progress).advantages,
            assign(multiplicative, f"drift.shaping.weight={weight}").advantages,
            rtol=1e-12,
        )


def test_statistics_of_the_subset_matter_where_something_was_left_out_and_only_there():
    full, own = assign().advantages, assign("drift.shaping.statistics=subset").advantages
    assert abs(full[0] - own[0]).max() > 0.01
    assert full[1].tobytes() == own[1].tobytes()
    rewards, features = example()
    selected = assign().selected
    phi = potential.per_sample(credit._distances(features, selected | True), kind="mean_pairwise")
    z = [(x[0, selected[0]] - x[0, selected[0]].mean()) for x in (rewards, phi)]
    z = [x / x.std() for x in z]
    expected = z[0] + 0.5 * z[1]
    expected = (expected - expected.mean()) / expected.std()
    np.testing.assert_allclose(own[0, selected[0]], expected, rtol=1e-9)


def test_multiplicative_shaping_too_can_refer_to_the_subset():
    change = ("drift.shaping.mode=multiplicative", "drift.shaping.weight=1.0")
    plain_advantages = assign("drift.shaping.mode=none").advantages
    _, features = example()
    selected = assign().selected
    phi = potential.per_sample(credit._distances(features, selected | True), kind="mean_pairwise")
    own = assign(*change, "drift.shaping.statistics=subset").advantages
    factor = phi[0] / phi[0, selected[0]].mean()
    expected = np.where(plain_advantages[0] > 0, plain_advantages[0] * factor, plain_advantages[0])
    np.testing.assert_allclose(own[0], expected, rtol=1e-12)


def test_the_shuffled_control_deals_out_the_bonus_and_nothing_else():
    given = assign("drift.shaping.shuffle=true")
    assert given.selected.tolist() == assign().selected.tolist()
    rewards, features = example()
    phi = potential.per_sample(
        credit._distances(features, given.selected | True), kind="mean_pairwise"
    )
    draws = np.random.default_rng(25).random((2, *rewards.shape))[1]
    shaped = shaping.shape(
        rewards, potential.shuffled(phi, draws), **plain(steps=10), valid=given.selected | True
    )
    expected = advantage.group_advantages(shaped, given.selected, statistics="subset", clip=5.0)
    np.testing.assert_allclose(given.advantages, expected, rtol=1e-12, atol=1e-14)
    assert abs(given.advantages - assign().advantages).max() > 0.1
    config = configuration.load("emoji-grpo", [*DRIFT, "drift.shaping.shuffle=true"])
    with pytest.raises(ValueError, match="shuffle needs uniform draws"):
        credit.assign(config, rewards, features, draws=draws)
