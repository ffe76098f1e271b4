"""Credit assignment keeps the method's order: validity, potentials, subset, shaping, advantages.

Cases small enough to work by hand: the subset looks at task rewards only, an invalid sample
influences nobody, and what is logged is what happened.
"""

import numpy as np
import pytest

from common import config as configuration
from common.algorithm import subset
from common.learning import credit, credit_metrics

SEED = np.random.default_rng(7)


def settings(*changes):
    return configuration.load("emoji-grpo", ["rollout.steps=3", "rollout.window=0", *changes])


def features(groups, size, width=6):
    values = SEED.normal(size=(groups, size, width))
    return values / np.linalg.norm(values, axis=-1, keepdims=True)


def assign(config, rewards, image_features, **more):
    draws = SEED.uniform(size=rewards.shape)
    return credit.assign(config, rewards, image_features, draws=draws, **more)


def test_the_subset_is_chosen_from_the_task_reward_alone():
    rewards = SEED.normal(size=(3, 8))
    config = settings(
        "drift.subset.rule=upper",
        "drift.subset.kappa=1.0",
        "drift.shaping.mode=terminal",
        "drift.shaping.weight=5.0",
        "drift.shaping.scaling=raw",
    )
    given = assign(config, rewards, features(3, 8))
    expected = subset.select(rewards, rule="upper", kappa=1.0)
    assert not expected.all()
    np.testing.assert_array_equal(given.selected, expected)
    assert (given.advantages[~expected] == 0).all()


def test_plain_grpo_is_the_z_score_of_the_group():
    rewards = SEED.normal(size=(2, 5))
    given = assign(settings(), rewards, features(2, 5))
    centred = rewards - rewards.mean(axis=1, keepdims=True)
    expected = centred / rewards.std(axis=1, keepdims=True)
    np.testing.assert_allclose(given.advantages, expected, rtol=1e-12)


@pytest.mark.parametrize("bad", ["reward", "feature"])
def test_an_invalid_sample_is_dropped_and_influences_nobody(bad):
    config = settings("drift.shaping.mode=terminal", "drift.shaping.weight=0.5")
    rewards, images = SEED.normal(size=(2, 6)), features(2, 6)
    broken, broken_images = rewards.copy(), images.copy()
    if bad == "reward":
        broken[0, 2] = np.nan
    else:
        broken_images[0, 2, 1] = np.inf
    given = assign(config, broken, broken_images)
    kept = [0, 1, 3, 4, 5]
    alone = assign(config, rewards[:1, kept], images[:1, kept])
    assert not given.selected[0, 2]
    assert given.advantages[0, 2] == 0
    np.testing.assert_allclose(given.advantages[0, kept], alone.advantages[0], rtol=1e-12)
    assert given.metrics["group/invalid"] == 1


def test_per_step_advantages_are_looked_up_by_sample_and_step():
    config = settings("drift.shaping.mode=per_step", "drift.shaping.weight=0.5")
    rewards, images = SEED.normal(size=(2, 4)), features(2, 4)
    predicted = np.stack([features(2, 4) for _ in range(3)])
    given = assign(config, rewards, images, predicted_features=predicted)
    assert given.advantages.shape == (3, 2, 4)
    looked_up = given.advantages_at(np.array([5, 0]), np.array([2, 1]))
    np.testing.assert_array_equal(looked_up, [given.advantages[2, 1, 1], given.advantages[1, 0, 0]])
    np.testing.assert_allclose(given.advantages.sum(axis=-1), 0, atol=1e-12)


def test_what_is_logged_is_what_happened():
    rewards = np.array([[0.0, 1.0, 2.0, 9.0], [3.0, 3.0, 3.0, 3.0]])
    config = settings("drift.subset.rule=window", "drift.subset.keep=3")
    logged = assign(config, rewards, features(2, 4)).metrics
    # Group 0 keeps 0, 1, 2 and so drops its best; group 1 has no spread and keeps its first three.
    assert logged["reward/mean"] == 3.0
    assert logged["subset/size"] == 3.0
    assert logged["subset/mean"] == pytest.approx((0 + 1 + 2 + 9) / 6)
    assert logged["subset/std"] == pytest.approx(np.std([0, 1, 2]) / 2)
    assert logged["subset/best_dropped"] == 0.5
    assert logged["group/zero_std"] == 0.5
    assert logged["shaping/variance_share"] == 0.0


def test_rewards_that_differ_by_rounding_have_no_spread():
    rewards = np.array([[5.0, 5.0 + 1e-7, 5.0 - 1e-7], [5.0, 5.0 + 1e-4, 5.0]])
    given = assign(settings(), rewards, features(2, 3))
    assert given.metrics["group/zero_std"] == 0.5
    assert (given.advantages[0] == 0).all()
    assert (given.advantages[1] != 0).all()


def test_the_share_of_the_potential_by_hand():
    task = np.array([[1.0, -1.0, 1.0, -1.0]])
    orthogonal = np.array([[1.0, 1.0, -1.0, -1.0]])

    def share(advantages):
        return credit_metrics.potential_share(advantages, task).tolist()

    assert share(task) == share(3.0 * task) == [0.0]  # the same direction, whatever the scale
    assert share(orthogonal) == share(-task) == [1.0]
    assert share(task + orthogonal) == pytest.approx([0.5])
    assert share(task + 2.0 * orthogonal) == pytest.approx([0.8])
    assert share(0.0 * task) == [0.0]
    # Two steps: cos^2 = (4 + 4)^2 / ((4 + 8) (4 + 4)).
    assert share(np.stack([task, task + orthogonal])) == pytest.approx([1 / 3])
    assert credit_metrics.potential_share(orthogonal, 0.0 * task).tolist() == [1.0]


@pytest.mark.parametrize(
    ("mode", "weight"),
    [("none", 1.0), ("strict", 1.0), ("terminal", 0.0), ("per_step", 0.0), ("multiplicative", 0.0)],
)
def test_the_potential_has_no_share_where_it_has_no_say(mode, weight):
    changes = (f"drift.shaping.mode={mode}", f"drift.shaping.weight={weight}")
    rewards, images = SEED.normal(size=(4, 8)), features(4, 8)
    predicted = np.stack([features(4, 8) for _ in range(3)]) if mode == "per_step" else None
    given = assign(settings(*changes), rewards, images, predicted_features=predicted)
    assert given.metrics["shaping/variance_share"] == pytest.approx(0.0, abs=1e-15)


def test_a_strong_potential_has_all_that_is_not_along_the_reward():
    strong = ("drift.shaping.mode=terminal", "drift.shaping.weight=1e6")
    logged = assign(settings(*strong), SEED.normal(size=(1, 16)), features(1, 16)).metrics
    along = max(0.0, logged["shaping/correlation"])
    assert logged["shaping/variance_share"] == pytest.approx(1.0 - along**2, abs=1e-5)
    weighed = ("drift.shaping.mode=multiplicative", "drift.shaping.weight=1.0")
    logged = assign(settings(*weighed), SEED.normal(size=(4, 16)), features(4, 16)).metrics
    assert 0.001 < logged["shaping/variance_share"] < 0.5


def test_only_trained_steps_count_in_the_share_of_the_potential():
    config = settings("drift.shaping.mode=per_step", "drift.shaping.weight=1.0")
    rewards, images = SEED.normal(size=(2, 8)), features(2, 8)
    # Step 0 predicts the final images, so that nothing is left to shape there.
    predicted = np.stack([images, features(2, 8), features(2, 8)])
    for trained, some in (([0], False), ([1, 2], True), (None, True)):
        chosen = None if trained is None else np.array(trained)
        given = assign(config, rewards, images, predicted_features=predicted, trained=chosen)
        assert (given.metrics["shaping/variance_share"] > 0.05) is some


def test_correlation_of_reward_and_potential_has_its_sign():
    images = features(1, 12)
    cosines = np.einsum("gif,gjf->gij", images, images)
    phi = (1 - cosines).sum(axis=-1) / 11
    for sign in (1.0, -1.0):
        logged = assign(settings(), sign * phi, images).metrics
        assert logged["shaping/correlation"] == pytest.approx(sign)


def by_the_code_of_gardo(rewards, features):
    """A = (r - mean) d / mean(d) above the mean, d to the nearest neighbour; no std; then +-5."""
    centred = rewards - rewards.mean()
    D = 1 - features @ features.T
    nearest = (D + 9 * np.eye(len(D))).min(axis=1)
    weighed = centred * np.where(centred < 0, 1.0, nearest / nearest.mean())
    return np.clip(weighed, -5, 5)


def test_gardo_is_what_its_code_computes():
    """The best sample is alone among copies, so its weight is far above 1: clipped only then."""
    images = features(1, 8)
    images[0, 1:] = images[0, 1]
    images[0, 5] += 1e-3 * features(1, 1)[0, 0]
    images /= np.linalg.norm(images, axis=-1, keepdims=True)
    rewards = np.array([[3.0, 1.0, 0.5, -9.0, 0.2, 2.0, 0.1, 0.3]])
    config = configuration.load("emoji-gardo", ["rollout.steps=3", "rollout.window=0"])
    given = assign(config, rewards, images)
    expected = by_the_code_of_gardo(rewards[0], images[0])
    np.testing.assert_allclose(given.advantages[0], expected, rtol=1e-6, atol=1e-9)
    assert given.advantages.max() == 5.0
    assert given.advantages.min() == -5.0


def test_a_group_without_spread_halves_the_mean_only_where_its_samples_are_kept():
    """Two groups, one constant: dropped, its samples have no part in the mean of the loss."""
    rewards = np.array([[1.0, 2.0, 3.0, 3.0], [2.0, 2.0, 2.0, 2.0]])
    given, every = assign(settings(), rewards, features(2, 4)), np.arange(3)
    assert given.samples(every, drop_zeros=False).tolist() == list(range(8))
    assert given.samples(every, drop_zeros=True).tolist() == [0, 1, 2, 3]
    assert given.metrics["subset/zero_advantage"] == 0.5


def test_only_trained_steps_decide_whether_an_advantage_is_zero():
    advantages = np.zeros((3, 1, 4))
    advantages[0, 0, 1] = advantages[2, 0, 2] = advantages[2, 0, 3] = 1.0
    given = credit.Credit(np.array([[True, True, True, False]]), advantages, {})
    assert given.samples(np.array([1, 2]), drop_zeros=True).tolist() == [2]
    assert given.samples(np.array([0, 2]), drop_zeros=True).tolist() == [1, 2]
