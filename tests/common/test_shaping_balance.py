"""Shaping works: following its policy gradient, two modes with a gap in reward keep the predicted
balance, or collapse exactly where theory says so.
"""

import math

import numpy as np
import pytest

from common.algorithm import advantage, potential, shaping


def two_modes(G, D):
    """Every group of G samples by its count m of mode A: distances [G+1, G, G], is_a [G+1, G]."""
    is_a = np.arange(G)[None, :] < np.arange(G + 1)[:, None]
    return D * (is_a[:, :, None] != is_a[:, None, :]), is_a


def policy_gradient(f64, to_np, G, g, D, weight):
    """d/dp of the shaped objective, up to a positive factor: a function of p = P(mode A).

    The exact expectation over groups of G samples drawn from p, of A_i times the score of x_i.
    """
    distances, is_a = two_modes(G, D)
    rewards, phi = f64(g * is_a), potential.per_sample(f64(distances), kind="mean_pairwise")
    shaped = shaping.shape(
        rewards, phi, weight=weight, mode="terminal", scaling="raw", gate="none", steps=1
    )
    selected = phi > -1.0
    A = advantage.group_advantages(shaped, selected, statistics="global", clip=1e9)
    of_a = (to_np(A) * is_a).sum(axis=1)
    of_b = (to_np(A) * ~is_a).sum(axis=1)
    m = np.arange(G + 1)
    log_choose = [math.lgamma(G + 1) - math.lgamma(k + 1) - math.lgamma(G - k + 1) for k in m]

    def gradient(p):
        weights = np.exp(log_choose + m * np.log(p) + (G - m) * np.log1p(-p))
        return float(np.sum(weights * (of_a / p - of_b / (1 - p)) / G))

    return gradient


def follow(gradient, start=0.5, steps=4000, rate=0.5):
    """Gradient ascent in the logit of p: where the policy ends."""
    logit = math.log(start / (1 - start))
    for _ in range(steps):
        p = 1 / (1 + math.exp(-logit))
        logit += rate * p * (1 - p) * gradient(p)
        logit = min(max(logit, -12.0), 12.0)
    return 1 / (1 + math.exp(-logit))


@pytest.mark.parametrize("start", [0.5, 0.95])
def test_two_modes_reach_the_predicted_balance(f64, to_np, start):
    """p* = 1/2 + g / (2 lambda D) = .800 for g = .3, D = 1, lambda = .5, from either side."""
    gradient = policy_gradient(f64, to_np, G=100, g=0.3, D=1.0, weight=0.5)
    assert follow(gradient, start) == pytest.approx(0.800, abs=0.005)


@pytest.mark.parametrize("size", [4, 8, 24])
def test_small_groups_see_less_of_the_potential(f64, to_np, size):
    """Centring on the group takes (G-1)/G of the task reward but (G-2)/G of the potential.

    A sample's potential depends on the others, so the group mean holds some of its own credit:
    in groups of G the balance is p* = 1/2 + g / (2 lambda D) (G-1)/(G-2).
    """
    gradient = policy_gradient(f64, to_np, G=size, g=0.1, D=1.0, weight=0.5)
    balance = 0.5 + 0.1 / (2 * 0.5) * (size - 1) / (size - 2)
    assert follow(gradient) == pytest.approx(balance, abs=1e-4)


@pytest.mark.parametrize(
    ("weight", "D", "collapses"),
    [(0.0, 1.0, True), (0.2, 1.0, True), (0.3, 1.0, True), (0.45, 0.5, True), (0.4, 1.0, False)],
)
def test_collapse_where_lambda_times_distance_is_at_most_the_gap(f64, to_np, weight, D, collapses):
    gradient = policy_gradient(f64, to_np, G=100, g=0.3, D=D, weight=weight)
    assert all(gradient(p) > 0 for p in (0.5, 0.9, 0.97, 0.99)) is collapses
    if not collapses:
        assert follow(gradient) == pytest.approx(0.5 + 0.3 / (2 * weight * D), abs=0.01)


def test_the_gradient_of_a_sample_is_half_that_of_the_group(f64, to_np):
    """E[Phi_i grad log pi(x_i)] = 1/2 grad E[D]: three modes, every group of three samples."""
    p = np.array([0.5, 0.3, 0.2])
    D = np.array([[0.0, 0.9, 0.4], [0.9, 0.0, 0.7], [0.4, 0.7, 0.0]])
    groups = np.array(np.meshgrid(*[range(3)] * 3, indexing="ij")).reshape(3, -1).T
    phi = to_np(
        potential.per_sample(f64(D[groups[:, :, None], groups[:, None, :]]), kind="mean_pairwise")
    )
    probability = p[groups].prod(axis=1)
    score = np.eye(3)[groups[:, 0]] - p  # of the softmax's logits, for the first sample
    gradient = (probability * phi[:, 0]) @ score
    # E[D] = p D p; through the softmax: p * (2 D p - mean of it).
    of_pairs = p * (2 * D @ p - p @ (2 * D @ p))
    np.testing.assert_allclose(gradient, of_pairs / 2, rtol=1e-5)
