"""Both fronts at levels: what is read where, over prompts, halves, resamples and other axes."""

import numpy as np
import pytest

from common.algorithm import attainable, attainable_levels
from common.algorithm.attainable_levels import at_levels, diversity_at, level_range
from common.evaluation import attainable_fronts
from common.evaluation.attainable_fronts import Task, solve

KL = np.array([[1.0, 0.40], [2.0, 0.30], [3.0, 0.10]])
BEST = np.array([[1.2, 0.60], [2.0, 0.50], [3.0, 0.10]])


@pytest.fixture(autouse=True)
def _few(monkeypatch):
    monkeypatch.setattr(attainable_fronts, "REPLICAS", 20)
    monkeypatch.setattr(attainable_fronts, "POINTS", 9)


@pytest.fixture
def task():
    """Two prompts of 24 images in three modes; the reward prefers the first mode."""

    def make(count=24, **changes):
        rng = np.random.default_rng(3)
        mode = np.arange(count) % 3
        features = np.eye(3)[mode] + 0.1 * rng.normal(size=(2, count, 3))
        features /= np.linalg.norm(features, axis=-1, keepdims=True)
        rewards = (mode == 0) + 0.3 * rng.normal(size=(2, count))
        values = {
            "rewards": rewards,
            "axes": {"reward": rewards},
            "grams": [own @ own.T for own in features],
            "ratio": 3.0,
            "prompts": ("rose", "owl"),
            "seed": 5,
        }
        return Task(**(values | changes))

    return make


def quiet(done):
    """No progress."""


def test_each_half_of_the_images_has_the_same_c(task):
    whole = task()
    axis = solve(whole, quiet).axes["reward"]
    ends = {"betas": attainable.BETAS, "strengths": attainable.STRENGTHS}
    paths = {key: attainable.parameters(whole.rewards, e, 9) for key, e in ends.items()}
    gains = []
    for half in (slice(0, 12), slice(12, 24)):
        images = (whole.rewards[:, half], np.array([gram[half, half] for gram in whole.grams]))
        cap = whole.ratio / 12
        fronts = (
            attainable.kl_front(*images, cap=cap, betas=paths["betas"]),
            attainable.diversity_front(*images, cap=cap, strengths=paths["strengths"]),
        )
        curves = [np.stack([front.reward, front.diversity], axis=-1) for front in fronts]
        kl, best = (diversity_at(curve, np.array(axis.level)) for curve in curves)
        gains.append(best / kl - 1)
    expected = np.mean(gains, axis=0)
    got = np.array([np.nan if value is None else value for value in axis.halves])
    np.testing.assert_allclose(got, expected, atol=1e-4)
    assert np.isfinite(got).sum() > 10


def test_a_front_is_flat_before_its_first_point_and_nothing_after_its_last():
    found = diversity_at(BEST, np.array([0.5, 1.2, 1.6, 3.0, 3.1]))
    np.testing.assert_allclose(found, [0.6, 0.6, 0.55, 0.1, np.nan])


def test_an_axis_that_turns_back_counts_where_it_first_gets_there():
    back = np.array([[1.0, 0.5], [2.0, 0.4], [1.5, 0.1]])
    assert diversity_at(back, np.array([1.5])).round(6).tolist() == [0.45]
    assert level_range(1.0, back, KL, count=3).tolist() == [1.0, 1.5, 2.0]
    assert level_range(3.0, back, KL).tolist() == []


def test_intervals_are_over_resamples_of_both_fronts_together():
    moved = np.linspace(-0.05, 0.05, 101)
    shift = np.stack([np.zeros(101), moved], axis=-1)[:, None]
    got = at_levels(np.array([2.0]), KL, BEST, KL + shift, BEST + shift, confidence=0.9)
    assert (got.kl.value[0], got.best.value[0]) == pytest.approx((0.3, 0.5))
    assert (got.kl.low[0], got.kl.high[0]) == pytest.approx((0.255, 0.345))
    assert got.gain.value[0] == pytest.approx(0.5 / 0.3 - 1)
    # The gain of a pair: both are higher in the same resample, which makes their ratio smaller.
    assert (got.gain.low[0], got.gain.high[0]) == pytest.approx(
        (0.545 / 0.345 - 1, 0.455 / 0.255 - 1)
    )


def test_an_interval_is_around_its_value_and_needs_half_of_the_resamples():
    short = KL[:2]
    got = at_levels(
        np.array([2.5]), KL, KL, np.stack([KL + np.array([0, k]) for k in (1, 2)]), KL[None]
    )
    around = [got.kl.low[0] - got.kl.value[0], got.kl.high[0] - got.kl.value[0]]
    assert around == pytest.approx([-0.475, 0.475])
    none = at_levels(np.array([2.5]), KL, KL, np.stack([short, short]), KL[None])
    assert np.isfinite(none.kl.value[0])
    assert np.isnan([none.kl.low[0], none.kl.high[0], none.gain.low[0]]).all()


def test_the_fronts_are_those_of_the_whole_and_every_axis_has_the_same_weights(task):
    whole = task()
    other = 10 - 2 * whole.rewards
    other[0, 3] = np.nan
    result = solve(task(axes={"reward": whole.rewards, "other": other}), quiet)
    betas = attainable.parameters(whole.rewards, attainable.BETAS, 9)
    expected = attainable.kl_front(whole.rewards, np.stack(whole.grams), cap=3 / 24, betas=betas)
    axis = result.axes["reward"]
    assert axis.level[0] == pytest.approx(result.base["reward"]) == whole.rewards.mean()
    assert axis.level[-1] == pytest.approx(expected.reward[-1], abs=2e-2)
    curve = np.stack([expected.reward, expected.diversity], axis=-1)
    np.testing.assert_allclose(axis.kl.value[:-1], diversity_at(curve, np.array(axis.level))[:-1])
    assert (np.array(axis.best.value[:-1]) >= np.array(axis.kl.value[:-1]) - 1e-3).all()
    assert axis.clear(axis.at(0.25))
    assert result.axes["other"].level == []  # it falls as the reward rises
    assert result.base["other"] == pytest.approx(np.nanmean(other, axis=1).mean())
    assert 0 <= result.gap < 1e-3
    assert len(axis.halves) == 41
    assert axis.halves[10] == pytest.approx(axis.gain.value[10], abs=0.5)


def test_images_without_a_reward_are_left_out(task):
    whole = task()
    holes, noise = whole.rewards.copy(), [gram.copy() for gram in whole.grams]
    holes[:, 5] = np.nan
    for gram in noise:
        gram[5] = gram[:, 5] = 0.5
        gram[5, 5] = 1.0
    given = {"rewards": holes, "axes": {"reward": holes}}
    one, two = solve(task(**given), quiet), solve(task(**given, grams=noise), quiet)
    assert one.base == two.base
    np.testing.assert_allclose(*(np.array(r.axes["reward"].kl.value[:-1]) for r in (one, two)))
    assert one.base["reward"] == pytest.approx(np.nanmean(holes, axis=1).mean())


def test_resamples_are_those_of_the_seed_and_the_prompt(task):
    first, again = solve(task(), quiet), solve(task(), quiet)
    assert first == again
    assert solve(task(seed=6), quiet).axes["reward"].kl.low != first.axes["reward"].kl.low
    drawn = attainable_fronts._resamples(0, "owl", np.array([1.0, 0.0, 1.0, 1.0]))
    assert drawn.shape == (20, 4)
    assert (drawn.sum(axis=1) == 3).all()
    assert (drawn[:, 1] == 0).all()
    assert len({tuple(row) for row in drawn}) > 3


def test_equal_features_and_equal_rewards_leave_nothing_to_win(task):
    same = solve(task(grams=[np.ones((24, 24))] * 2), quiet).axes["reward"]
    assert not any(map(same.clear, range(41)))
    flat = np.full((2, 24), 2.0)
    assert solve(task(rewards=flat, axes={"reward": flat}), quiet).axes["reward"].level == []


def test_progress_counts_prompts(task):
    seen = []
    solve(task(), seen.append)
    assert seen == [1, 2]
    assert attainable_levels.REACHED == 0.5
