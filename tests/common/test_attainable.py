"""The attainable fronts: worked cases, optimality, convergence, and what cannot be gained."""

import itertools

import numpy as np
import pytest

from common.algorithm import attainable, capped_simplex, diversity
from common.algorithm.attainable import diversity_weights, kl_weights

TWO_ALIKE = np.array([[1.0, 1.0, 0.0], [1.0, 1.0, 0.0], [0.0, 0.0, 1.0]])
FALLING = np.array([1.0, 0.5, 0.0])


def entropy(weights, gram):
    """D(w) = 1 - w'Kw."""
    return 1.0 - weights @ gram @ weights


@pytest.fixture
def drawn():
    """Rewards and a Gram matrix of n images in a few modes, the reward higher in some of them."""

    def make(n, seed=0):
        rng = np.random.default_rng(seed)
        modes = rng.normal(size=(5, 12))
        mode = rng.integers(0, 5, size=n)
        features = modes[mode] + 0.4 * rng.normal(size=(n, 12))
        features /= np.linalg.norm(features, axis=1, keepdims=True)
        return mode * 0.5 + 0.3 * rng.normal(size=n), features @ features.T

    return make


@pytest.mark.parametrize(("gap", "strength"), [(0.2, 1.0), (-0.5, 1.0), (1.5, 1.0), (0.9, 2.0)])
def test_two_modes_share_as_the_closed_form_says(gap, strength):
    weights, _ = diversity_weights(np.array([gap, 0.0]), np.eye(2), strength=strength, cap=1.0)
    expected = np.clip(0.5 + gap / (2 * strength), 0.0, 1.0)
    np.testing.assert_allclose(weights, [expected, 1 - expected], atol=1e-6)


def test_three_images_without_a_cap():
    weights, gap = diversity_weights(FALLING, TWO_ALIKE, strength=2.0, cap=1.0)
    np.testing.assert_allclose(weights, [0.75, 0.0, 0.25], atol=1e-5)
    assert gap <= 1e-6
    assert weights @ FALLING == pytest.approx(0.75, abs=1e-5)
    assert entropy(weights, TWO_ALIKE) == pytest.approx(0.375, abs=1e-5)
    assert attainable.estimate(weights, TWO_ALIKE) == pytest.approx(1.0, abs=1e-5)
    x = (1 + np.sqrt(13)) / 2
    tilted = kl_weights(FALLING, beta=0.5 / np.log(x), cap=1.0)
    np.testing.assert_allclose(tilted, np.array([x * x, x, 1]) / (x * x + x + 1), rtol=1e-12)
    assert tilted @ FALLING == pytest.approx(0.75, rel=1e-12)
    assert entropy(tilted, TWO_ALIKE) == pytest.approx(0.2054, abs=1e-4)


def test_three_images_with_a_cap():
    weights, _ = diversity_weights(FALLING, TWO_ALIKE, strength=2.0, cap=0.6)
    np.testing.assert_allclose(weights, [0.6, 0.025, 0.375], atol=1e-5)
    assert weights @ FALLING == pytest.approx(0.6125, abs=1e-5)
    assert entropy(weights, TWO_ALIKE) == pytest.approx(0.46875, abs=1e-5)


@pytest.mark.parametrize("beta", [1e-4, 0.1, 0.3, 1.0, 30.0])
@pytest.mark.parametrize("cap", [1 / 20, 0.07, 0.3, 1.0])
def test_kl_weights_are_clipped_powers_on_the_simplex(drawn, beta, cap):
    rewards, _ = drawn(20)
    weights = kl_weights(rewards, beta=beta, cap=cap)
    assert weights.sum() == pytest.approx(1.0, abs=1e-12)
    assert weights.min() >= 0
    assert weights.max() <= cap * (1 + 1e-12)
    # Off the cap, log w = (r - nu) / beta with one nu, which the images at the cap exceed.
    free = (weights < cap * (1 - 1e-9)) & (weights > 1e-200)
    nu = rewards[free] - beta * np.log(weights[free])
    if free.any():
        np.testing.assert_allclose(nu, nu.mean(), atol=1e-9)
        at_cap = weights >= cap * (1 - 1e-9)
        assert (rewards[at_cap] - beta * np.log(cap) >= nu.mean() - 1e-9).all()


@pytest.mark.parametrize("strength", [0.05, 0.5, 3.0, 50.0])
def test_no_other_weights_are_better(drawn, strength):
    rewards, gram = drawn(40)
    cap = 4 / 40
    weights, gap = diversity_weights(rewards, gram, strength=strength, cap=cap)
    assert weights.sum() == pytest.approx(1.0, abs=1e-9)
    assert 0 <= weights.min() <= weights.max() <= cap
    assert gap <= attainable.TOLERANCE * np.ptp(rewards)

    def value(w):
        return w @ rewards + strength / 2 * entropy(w, gram)

    rng = np.random.default_rng(1)
    others = [kl_weights(rng.normal(size=40), beta=0.5, cap=cap) for _ in range(50)]
    mixed = [(1 - t) * weights + t * other for other in others for t in (0.01, 0.3, 1.0)]
    assert max(value(other) for other in mixed) <= value(weights) + gap


def test_no_strength_is_the_reward_alone():
    weights, gap = diversity_weights(FALLING, TWO_ALIKE, strength=0.0, cap=0.6)
    np.testing.assert_allclose(weights, [0.6, 0.4, 0.0], atol=1e-12)
    assert gap == 0.0


def test_the_kl_front_is_never_above_the_diversity_front(drawn):
    rewards, gram = drawn(48)
    cap = 6 / 48
    tilted = attainable.kl_front(rewards[None], gram[None], cap=cap)
    strengths = np.geomspace(20.0, 0.2, 12)
    best = attainable.diversity_front(rewards[None], gram[None], cap=cap, strengths=strengths)
    for (w, strength, gap), other in itertools.product(
        zip(best.weights[:, 0], strengths, best.gap, strict=True), tilted.weights[:, 0]
    ):
        support = w @ rewards + strength / 2 * entropy(w, gram) + gap
        assert other @ rewards + strength / 2 * entropy(other, gram) <= support + 1e-12
    assert (np.diff(best.reward) > -1e-5).all()
    assert (np.diff(tilted.reward) > 0).all()
    assert (tilted.effective >= 6 - 1e-9).all()
    assert best.gap.max() <= attainable.TOLERANCE * np.ptp(rewards)


def test_the_order_of_images_does_not_matter(drawn):
    rewards, gram = drawn(30)
    order = np.random.default_rng(2).permutation(30)
    for solve in (
        lambda r, k: kl_weights(r, beta=0.4, cap=0.1),
        lambda r, k: diversity_weights(r, k, strength=1.0, cap=0.1)[0],
    ):
        moved = solve(rewards[order], gram[np.ix_(order, order)])
        np.testing.assert_allclose(moved, solve(rewards, gram)[order], atol=1e-4)


def test_equal_rewards_leave_only_diversity(drawn):
    _, gram = drawn(24)
    even = np.full(24, 3.0)
    np.testing.assert_allclose(kl_weights(even, beta=0.1, cap=0.5), np.full(24, 1 / 24))
    first, _ = diversity_weights(even, gram, strength=0.1, cap=0.5)
    second, _ = diversity_weights(even, gram, strength=10.0, cap=0.5)
    assert entropy(first, gram) == pytest.approx(entropy(second, gram), abs=1e-5)
    assert entropy(first, gram) > entropy(np.full(24, 1 / 24), gram)


def test_equal_features_leave_nothing_to_win(drawn):
    rewards, _ = drawn(24)
    same = np.ones((1, 24, 24))
    for front in (
        attainable.kl_front(rewards[None], same, cap=0.25),
        attainable.diversity_front(rewards[None], same, cap=0.25, strengths=[2.0, 0.2]),
    ):
        np.testing.assert_allclose(front.diversity, 0.0, atol=1e-9)


def test_with_more_images_and_the_same_ratio_the_front_settles(drawn):
    """Without the ratio c fixed it would go on rising: the luckiest image gets better."""
    ratio, at = 8.0, {}
    for n in (32, 128, 512):
        found = [
            attainable.diversity_front(r[None], k[None], cap=ratio / n, strengths=[1.0])
            for r, k in (drawn(n, seed) for seed in range(4))
        ]
        at[n] = np.mean([front.reward[0] for front in found])
    assert abs(at[512] - at[128]) < abs(at[128] - at[32]) + 0.05
    assert abs(at[512] - at[128]) < 0.1


def test_prompts_are_solved_apart_and_averaged(drawn):
    pairs = [drawn(20, seed) for seed in (3, 4)]
    rewards, grams = (np.stack(part) for part in zip(*pairs, strict=True))
    both = attainable.kl_front(rewards, grams, cap=0.2, betas=[0.5])
    single = [attainable.kl_front(r[None], k[None], cap=0.2, betas=[0.5]) for r, k in pairs]
    assert both.reward[0] == pytest.approx(np.mean([one.reward[0] for one in single]))
    assert both.diversity[0] == pytest.approx(np.mean([one.diversity[0] for one in single]))
    how = {"cap": 0.2, "strengths": [1.0]}
    together = attainable.diversity_front(rewards, grams, **how)
    gaps = [attainable.diversity_front(r[None], k[None], **how).gap[0] for r, k in pairs]
    assert min(gaps) < max(gaps)
    assert together.gap.tolist() == [max(gaps)]


def test_even_weights_give_the_mean_pairwise_distance(drawn):
    _, gram = drawn(16)
    features = np.linalg.cholesky(gram + 1e-12 * np.eye(16))
    distances = diversity.cosine_distances(features)
    expected = distances[np.triu_indices(16, 1)].mean()
    assert attainable.estimate(np.full(16, 1 / 16), gram) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("front", ["kl", "diversity"])
def test_copies_of_an_image_are_that_image_several_times(drawn, front):
    """A resample solved by counts is the resample itself; rows do not touch each other."""
    rewards, gram = drawn(20)
    repeated = np.array([0, 0, 1, 3, 3, 3, *range(5, 19)])
    counts = np.bincount(repeated, minlength=20).astype(float)
    copies = np.stack([counts, np.ones(20)])[:, None]

    def solve(r, k, **more):
        if front == "kl":
            return attainable.kl_front(r[None], k[None], cap=0.2, betas=[0.5, 0.1], **more)
        return attainable.diversity_front(r[None], k[None], cap=0.2, strengths=[3.0, 0.5], **more)

    absent = np.where(counts > 0, rewards, np.nan)
    got = solve(absent, gram, copies=copies[:1])
    expected = solve(rewards[repeated], gram[np.ix_(repeated, repeated)])
    np.testing.assert_allclose(got.reward[0], expected.reward, atol=2e-5)
    summed = np.stack(
        [np.bincount(repeated, point, minlength=20) for point in expected.weights[:, 0]]
    )
    for mine, other in zip(got.weights[0, :, 0], summed, strict=True):
        assert entropy(mine, gram) == pytest.approx(entropy(other, gram), abs=1e-4)
        assert (mine <= 0.2 * counts + 1e-12).all()
    # An image that is drawn twice is no pair.
    assert got.diversity[0] == pytest.approx(attainable.estimate(summed, gram), abs=1e-4)
    both, plain = solve(rewards, gram, copies=copies), solve(rewards, gram)
    np.testing.assert_allclose(both.reward, [got.reward[0], plain.reward], atol=2e-5)


def test_a_resample_with_too_few_images_is_refused(drawn):
    rewards, gram = drawn(10)
    copies = np.zeros((1, 1, 10))
    copies[0, 0, :3] = 1
    with pytest.raises(ValueError, match=r"cap = 0.2 is too low for a resample"):
        attainable.kl_front(rewards[None], gram[None], cap=0.2, copies=copies)


def test_projected_weights_are_the_nearest():
    rng = np.random.default_rng(4)
    values = rng.normal(size=(50, 30)) * 10.0 ** rng.integers(-3, 3, size=(50, 1))
    caps = 0.1 * rng.integers(0, 4, size=(50, 30))
    got = capped_simplex.projected(values, caps)
    np.testing.assert_allclose(got.sum(axis=1), 1.0, atol=1e-9)
    assert ((got >= 0) & (got <= caps)).all()
    # No vertex is in a better direction: (values - got).(s - got) <= 0 for every s.
    best = capped_simplex.best_vertex(values - got, caps)
    assert ((values - got) * (best - got)).sum(axis=1).max() < 1e-9


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: kl_weights(FALLING, beta=0.0, cap=1.0), "beta = 0.0 must be above 0"),
        (lambda: kl_weights(FALLING, beta=1.0, cap=0.3), "cap = 0.3 must be in"),
        (lambda: kl_weights(np.array([1.0, np.nan]), beta=1.0, cap=1.0), "rewards must be finite"),
        (
            lambda: diversity_weights(FALLING, TWO_ALIKE, strength=-1.0, cap=1.0),
            "strength = -1.0 must be at least 0",
        ),
        (
            lambda: diversity_weights(FALLING, np.eye(2), strength=1.0, cap=1.0),
            r"gram must be finite, \[3, 3\]",
        ),
    ],
)
def test_wrong_arguments_are_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
