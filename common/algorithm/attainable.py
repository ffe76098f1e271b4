"""The largest diversity at a given reward, whatever the method: weights on base images.

N images of a prompt are drawn from the base model. Weights w on them, none above `cap`, have the
reward R(w) = w.r and the diversity D(w) = 1 - w'Kw, Rao's quadratic entropy of unit features with
the Gram matrix K. With cap = c / N no image becomes more than c times as likely as under the base
model; with c fixed, the fronts converge as N grows.

The KL front holds the maxima of R - beta KL(w || uniform): what KL-regularised tuning aims at. The
diversity front holds those of R + (lambda / 2) D, a concave quadratic programme: at equal reward no
weights under the cap have a larger D. Host only, float64, no randomness.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

__all__ = ["Front", "diversity_front", "diversity_weights", "estimate", "kl_front", "kl_weights"]

Parameters = Sequence[float] | np.ndarray

STEPS = 20_000
"""Most steps of projected gradient for one point of a front; a few hundred are usual."""

TOLERANCE = 1e-6
"""Duality gap at which a solution is exact enough, in ranges of the rewards."""


class Front(NamedTuple):
    """Points of a front, means over P prompts; the parameter falls and the reward rises.

    parameters: beta or lambda of each point, [M].
    reward: R, [M].
    diversity: that of images drawn with these weights, as `estimate` gives it, [M].
    effective: effective sample size 1 / (w.w), [M].
    gap: duality gap, the largest of the prompts, [M]; 0 where the solution is in closed form.
    weights: [M, P, N].
    """

    parameters: np.ndarray
    reward: np.ndarray
    diversity: np.ndarray
    effective: np.ndarray
    gap: np.ndarray
    weights: np.ndarray


def kl_weights(rewards: np.ndarray, *, beta: float, cap: float) -> np.ndarray:
    """The weights that maximise w.r - beta KL(w || uniform): min(cap, exp((r - nu) / beta)).

    Args:
        rewards: r, [N], finite.
        beta: above 0; large keeps near the base model, small goes after the reward.
        cap: most weight of one image, in [1 / N, 1].

    Returns:
        w, float64 [N]: on the simplex, none above the cap.

    Raises:
        ValueError: an argument out of its range.

    Example:
        >>> kl_weights(np.array([1.0, 0.5, 0.0]), beta=0.5, cap=1.0).round(3).tolist()
        [0.665, 0.245, 0.09]
    """
    rewards = _checked_rewards(rewards, cap)
    if not beta > 0:
        raise ValueError(f"beta = {beta} must be above 0")
    order = np.argsort(-rewards, kind="stable")
    falling = np.full(len(rewards), float(cap))
    for at_cap in range(len(rewards)):
        logits = rewards[order[at_cap:]] / beta
        powers = np.exp(logits - logits[0])
        tail = max(0.0, 1.0 - cap * at_cap) * powers / powers.sum()
        if tail[0] <= cap:  # the others share what those at the cap leave
            falling[at_cap:] = tail
            break
    weights = np.empty_like(rewards)
    weights[order] = falling
    return weights


def diversity_weights(
    rewards: np.ndarray,
    gram: np.ndarray,
    *,
    strength: float,
    cap: float,
    start: np.ndarray | None = None,
) -> tuple[np.ndarray, float]:
    """The weights that maximise w.r + (strength / 2) (1 - w'Kw), and their duality gap.

    Accelerated projected gradient (Nesterov's momentum, restarted where it goes uphill). The gap
    is g.(s - w), with g the gradient and s the best vertex: the optimum is at most that far.

    Args:
        rewards: r, [N], finite.
        gram: K, [N, N]: symmetric, positive semi-definite, of unit features.
        strength: lambda, at least 0; 0 is the reward alone.
        cap: most weight of one image, in [1 / N, 1].
        start: weights to begin from, as those of the neighbouring point of a front.

    Returns:
        (w, gap): float64 [N] on the simplex, none above the cap, and the gap in units of r.

    Raises:
        ValueError: an argument out of its range, or a Gram matrix of another shape.

    Example:
        >>> gram = np.array([[1.0, 1.0, 0.0], [1.0, 1.0, 0.0], [0.0, 0.0, 1.0]])
        >>> w, _ = diversity_weights(np.array([1.0, 0.5, 0.0]), gram, strength=2.0, cap=1.0)
        >>> w.round(4).tolist()
        [0.75, 0.0, 0.25]
    """
    rewards = _checked_rewards(rewards, cap)
    gram = np.asarray(gram, dtype=np.float64)
    if gram.shape != (len(rewards), len(rewards)) or not np.isfinite(gram).all():
        raise ValueError(f"gram must be finite, [{len(rewards)}, {len(rewards)}]: {gram.shape}")
    if not strength >= 0:
        raise ValueError(f"strength = {strength} must be at least 0")
    curvature = strength * float(np.linalg.eigvalsh(gram)[-1])
    if curvature <= 0:
        return _best_vertex(rewards, cap), 0.0
    scale = float(np.ptp(rewards)) or strength
    weights = np.full(len(rewards), 1 / len(rewards)) if start is None else start
    ahead, momentum, gap = weights, 1.0, np.inf
    for step in range(STEPS + 1):
        if step % 10 == 0:
            gradient = rewards - strength * (gram @ weights)
            gap = float(gradient @ (_best_vertex(gradient, cap) - weights))
            if gap <= TOLERANCE * scale or step == STEPS:
                break
        uphill = rewards - strength * (gram @ ahead)
        moved = _projected(ahead + uphill / curvature, cap)
        following = (1 + np.sqrt(1 + 4 * momentum**2)) / 2
        if (ahead - moved) @ (moved - weights) > 0:  # the momentum points away from the optimum
            ahead, momentum = moved, 1.0
        else:
            ahead = moved + (momentum - 1) / following * (moved - weights)
            momentum = following
        weights = moved
    return weights, max(0.0, gap)


def estimate(weights: np.ndarray, gram: np.ndarray) -> float:
    """Mean pairwise distance of images drawn with these weights: D(w) / (1 - w.w).

    The pairs of two different images have the total weight 1 - w.w, so this is what compares with
    the mean over the pairs of a sample.

    Example:
        >>> estimate(np.array([0.5, 0.5]), np.eye(2))
        1.0
    """
    pairs = 1.0 - float(weights @ weights)
    return float((1.0 - weights @ gram @ weights) / pairs) if pairs > 0 else 0.0


def kl_front(
    rewards: np.ndarray,
    grams: np.ndarray,
    *,
    cap: float,
    betas: Parameters | None = None,
) -> Front:
    """The KL front of P prompts at the same beta, which is the optimum of their mean.

    Args:
        rewards: [P, N].
        grams: [P, N, N], see `diversity_weights`.
        cap: most weight of one image, in [1 / N, 1].
        betas: from large to small; by default 33 from 30 standard deviations to 0.01.

    Example:
        >>> rewards, grams = np.array([[1.0, 0.0]]), np.eye(2)[None]
        >>> kl_front(rewards, grams, cap=1.0, betas=[0.5]).reward.round(3).tolist()
        [0.881]
    """
    rewards = np.asarray(rewards, dtype=np.float64)
    path = _path(rewards, 30.0, 0.01) if betas is None else np.asarray(betas, dtype=np.float64)

    def solve(beta: float, prompt: int, _: np.ndarray | None) -> tuple[np.ndarray, float]:
        return kl_weights(rewards[prompt], beta=beta, cap=cap), 0.0

    return _traced(path, solve, rewards, grams)


def diversity_front(
    rewards: np.ndarray,
    grams: np.ndarray,
    *,
    cap: float,
    strengths: Parameters | None = None,
) -> Front:
    """The diversity front of P prompts at the same lambda, which is the optimum of their mean.

    Args:
        rewards: [P, N].
        grams: [P, N, N], see `diversity_weights`.
        cap: most weight of one image, in [1 / N, 1].
        strengths: from large to small; by default 33 from 100 standard deviations to 0.1.

    Example:
        >>> rewards, grams = np.array([[0.2, 0.0]]), np.eye(2)[None]
        >>> front = diversity_front(rewards, grams, cap=1.0, strengths=[1.0])
        >>> front.weights.round(3).tolist()
        [[[0.6, 0.4]]]
    """
    rewards = np.asarray(rewards, dtype=np.float64)
    given = None if strengths is None else np.asarray(strengths, dtype=np.float64)
    path = _path(rewards, 100.0, 0.1) if given is None else given

    def solve(strength: float, prompt: int, start: np.ndarray | None) -> tuple[np.ndarray, float]:
        how = {"strength": strength, "cap": cap, "start": start}
        return diversity_weights(rewards[prompt], grams[prompt], **how)

    return _traced(path, solve, rewards, grams)


Solve = Callable[[float, int, np.ndarray | None], tuple[np.ndarray, float]]
"""(parameter, number of the prompt, weights at the parameter before) -> (weights, gap)."""


def _traced(path: np.ndarray, solve: Solve, rewards: np.ndarray, grams: np.ndarray) -> Front:
    """The points of a front, each solved from the one before it."""
    solved: list[list[tuple[np.ndarray, float]]] = []
    for parameter in path:
        starts = [w for w, _ in solved[-1]] if solved else [None] * len(rewards)
        solved.append([solve(float(parameter), n, start) for n, start in enumerate(starts)])
    weights = np.stack([[w for w, _ in point] for point in solved])
    diversity = [
        np.mean([estimate(w, gram) for w, gram in zip(point, grams, strict=True)])
        for point in weights
    ]
    return Front(
        parameters=path,
        reward=(weights * rewards).sum(-1).mean(-1),
        diversity=np.array(diversity),
        effective=(1.0 / (weights * weights).sum(-1)).mean(-1),
        gap=np.array([max(gap for _, gap in point) for point in solved]),
        weights=weights,
    )


def _path(rewards: np.ndarray, first: float, last: float) -> np.ndarray:
    """Parameters from large to small in units of the rewards' standard deviation in a prompt."""
    unit = float(rewards.std(axis=-1).mean()) or 1.0
    return unit * np.geomspace(first, last, 33)


def _checked_rewards(rewards: np.ndarray, cap: float) -> np.ndarray:
    rewards = np.asarray(rewards, dtype=np.float64)
    if rewards.ndim != 1 or not len(rewards) or not np.isfinite(rewards).all():
        raise ValueError(f"rewards must be finite, [N], not of shape {list(rewards.shape)}")
    if not (1 - 1e-12) / len(rewards) <= cap <= 1:
        raise ValueError(f"cap = {cap} must be in [1 / N, 1] = [{1 / len(rewards):.4g}, 1]")
    return rewards


def _best_vertex(gradient: np.ndarray, cap: float) -> np.ndarray:
    """The weights that maximise w.gradient: the cap on the largest until the sum is 1."""
    order = np.argsort(-gradient, kind="stable")
    weights = np.empty_like(gradient)
    weights[order] = np.clip(1.0 - cap * np.arange(len(gradient)), 0.0, cap)
    return weights


def _projected(values: np.ndarray, cap: float) -> np.ndarray:
    """The nearest weights: clip(values - shift, 0, cap), with the shift that makes the sum 1."""
    ordered = np.sort(values)
    tails = np.append(np.cumsum(ordered[::-1])[::-1], 0.0)

    def excess(at: np.ndarray) -> np.ndarray:
        """Sum of max(values - at, 0) for each."""
        above = np.searchsorted(ordered, at)
        return tails[above] - (len(ordered) - above) * at

    # The sum falls with the shift, in straight lines between these corners.
    corners = np.sort(np.concatenate([ordered, ordered - cap]))
    sums = excess(corners) - excess(corners + cap)
    right = int(np.searchsorted(-sums, -1.0))
    if right == 0:
        shift = corners[0]
    else:
        left, high, low = corners[right - 1], sums[right - 1], sums[right]
        shift = left + (corners[right] - left) * (high - 1.0) / (high - low)
    return np.clip(values - shift, 0.0, cap)
