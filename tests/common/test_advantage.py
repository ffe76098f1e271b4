"""Advantages against numpy, by hand, and their promises: centred on what is trained on, finite."""

from typing import get_args

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from common.algorithm import advantage

P, G = 4, 8


@pytest.fixture(scope="module")
def batch():
    rng = np.random.default_rng(9)
    rewards = 3.0 + rng.normal(size=(P, G)) * np.array([[0.1], [1.0], [2.0], [5.0]])
    valid = rng.random((P, G)) < 0.9
    return rewards, valid, valid & (rng.random((P, G)) < 0.7)


def reference(r, selected, valid, statistics):
    """Group by group with plain indexing."""
    out = np.zeros_like(r)
    for p in range(len(r)):
        scale = {
            "subset": r[p][selected[p]].std(),
            "full": r[p][valid[p]].std(),
            "global": r[valid].std(),
            "none": 1.0,
        }[statistics]
        out[p][selected[p]] = (r[p][selected[p]] - r[p][selected[p]].mean()) / scale
    return out


@pytest.mark.parametrize("statistics", get_args(advantage.Statistics))
def test_against_numpy(xp, f64, bools, rtol, to_np, batch, statistics):
    rewards, valid, selected = batch
    spoiled = np.where(valid, rewards, np.nan)
    got = advantage.group_advantages(
        f64(spoiled), bools(selected), statistics=statistics, clip=1e9, valid=bools(valid)
    )
    expected = reference(rewards, selected, valid, statistics)
    np.testing.assert_allclose(to_np(got), expected, rtol=1e2 * rtol(xp), atol=rtol(xp))


def test_by_hand(f64, bools, to_np):
    rewards = f64([[0.0, 2.0, 4.0, 18.0]])  # subset 0, 2, 4: mean 2; all: mean 6, std sqrt(50)
    selected = bools([[1, 1, 1, 0]])
    divisors = {"subset": (8 / 3) ** 0.5, "full": 50**0.5, "global": 50**0.5, "none": 1.0}
    for statistics, std in divisors.items():
        got = advantage.group_advantages(rewards, selected, statistics=statistics, clip=5.0)
        np.testing.assert_allclose(to_np(got), [[-2 / std, 0, 2 / std, 0]], rtol=1e-6)


def test_clip_is_symmetric(f64, bools, to_np):
    rewards = f64([[-3.0, 0.0, 0.0, 3.0]])
    got = advantage.group_advantages(rewards, bools([[1] * 4]), statistics="subset", clip=0.5)
    np.testing.assert_allclose(to_np(got), [[-0.5, 0.0, 0.0, 0.5]])


@pytest.mark.parametrize("statistics", get_args(advantage.Statistics))
@pytest.mark.parametrize("value", [0.1, -1e8, 0.0])
def test_equal_rewards_give_exact_zeros(f64, bools, to_np, statistics, value):
    rewards = f64([[value] * 7, [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0]])
    got = advantage.group_advantages(rewards, bools([[1] * 7] * 2), statistics=statistics, clip=5)
    assert (to_np(got)[0] == 0).all()
    assert (to_np(got)[1] != 0).sum() == 6


@pytest.mark.parametrize("statistics", get_args(advantage.Statistics))
def test_scorer_rounding_is_not_blown_up(f64, bools, to_np, statistics):
    noise = 1e-7 * np.random.default_rng(10).normal(size=(1, 8))
    got = advantage.group_advantages(
        f64(5.6 * (1 + noise)), bools([[1] * 8]), statistics=statistics, clip=5
    )
    assert (to_np(got) == 0).all()


@pytest.mark.parametrize("statistics", get_args(advantage.Statistics))
def test_nothing_to_train_on(f64, bools, to_np, statistics):
    rewards = f64([[1.0, 2.0, np.nan], [np.nan, np.inf, 3.0], [1.0, 2.0, 3.0]])
    selected = bools([[0, 0, 1], [1, 1, 1], [0, 0, 0]])
    got = advantage.group_advantages(rewards, selected, statistics=statistics, clip=5.0)
    assert (to_np(got) == 0).all()


@settings(max_examples=20)
@given(
    rewards=st.lists(st.integers(-99, 99), min_size=2 * G, max_size=2 * G),
    selected=st.lists(st.booleans(), min_size=2 * G, max_size=2 * G),
    statistics=st.sampled_from(get_args(advantage.Statistics)),
)
def test_zero_sum_over_the_subset_and_zero_outside(
    f64, bools, to_np, rewards, selected, statistics
):
    chosen = np.array(selected).reshape(2, G)
    got = to_np(
        advantage.group_advantages(
            f64(np.reshape(rewards, (2, G))), bools(chosen), statistics=statistics, clip=1e9
        )
    )
    assert np.isfinite(got).all()
    assert (got[~chosen] == 0).all()
    tolerance = G * np.abs(got).max() * (1e-5 if got.dtype == np.float32 else 1e-12)
    np.testing.assert_allclose(got.sum(axis=1), 0.0, atol=tolerance)


@settings(max_examples=20)
@given(
    scale=st.floats(0.1, 10),
    shift=st.floats(-5, 5),
    statistics=st.sampled_from(["subset", "full", "global"]),
)
def test_unit_and_origin_of_the_reward_do_not_matter(
    f64, bools, to_np, batch, scale, shift, statistics
):
    rewards, valid, selected = batch
    first, second = (
        advantage.group_advantages(
            f64(r), bools(selected), statistics=statistics, clip=5.0, valid=bools(valid)
        )
        for r in (rewards, scale * rewards + shift)
    )
    np.testing.assert_allclose(to_np(second), to_np(first), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("statistics", get_args(advantage.Statistics))
def test_each_step_is_normalised_on_its_own(xp, f64, bools, rtol, to_np, batch, statistics):
    rewards, _, selected = batch
    stacked = np.stack([rewards, rewards[::-1] * 7.0 + 1.0, rewards**2])
    together = advantage.group_advantages(
        f64(stacked), bools(selected), statistics=statistics, clip=5.0
    )
    for step, r in zip(to_np(together), stacked, strict=True):
        alone = advantage.group_advantages(f64(r), bools(selected), statistics=statistics, clip=5.0)
        np.testing.assert_allclose(step, to_np(alone), rtol=rtol(xp), atol=rtol(xp))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"statistics": "group"}, "group.*subset"),
        ({"clip": 0.0}, "clip"),
        ({"selected": np.ones((3, 2), bool)}, "selected"),
    ],
)
def test_bad_requests(changes, message):
    call = {"selected": np.ones((2, 3), bool), "statistics": "subset", "clip": 5.0} | changes
    with pytest.raises(ValueError, match=message):
        advantage.group_advantages(np.zeros((2, 3)), call.pop("selected"), **call)
