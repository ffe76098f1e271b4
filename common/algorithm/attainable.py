"""The largest diversity at a given reward, whatever the method: weights on base images.

N images of a prompt are drawn from the base model. Weights w on them, none above `cap`, have the
reward R(w) = w.r and the diversity D(w) = 1 - w'Kw, Rao's quadratic entropy of unit features with
the Gram matrix K. With cap = c / N no image becomes more than c times as likely as under the base
model; with c fixed, the fronts converge as N grows.

The KL front holds the maxima of R - beta KL(w || uniform): what KL-regularised tuning aims at. The
diversity front holds those of R + (lambda / 2) D, a concave quadratic programme: at equal reward no
weights under the cap have a larger D. Host only, float64, no randomness.

A resample of the images, as the bootstrap draws it, is a number of copies of each: m copies of an
image have together at most m times the cap, and are one image where pairs are counted.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from common.algorithm import capped_simplex

__all__ = [
    "Front",
    "diversity_front",
    "diversity_weights",
    "estimate",
    "kl_front",
    "kl_weights",
    "parameters",
]

Parameters = Sequence[float] | np.ndarray

STEPS = 20_000
"""Most steps of projected gradient for one point of a front; a few hundred are usual."""

TOLERANCE = 1e-6
"""Duality gap at which a solution is exact enough, in ranges of the rewards."""

BETAS, STRENGTHS = (30.0, 0.01), (100.0, 0.1)
"""First and last parameter of a front, in standard deviations of the rewards within a prompt."""


class Front(NamedTuple):
    """Points of a front, means over P prompts; the parameter falls and the reward rises.

    For B resamples of the images all fields but the parameters begin with another axis, B.

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
    return _tilted(rewards, beta, cap, np.ones((1, len(rewards))))[0]


def diversity_weights(
    rewards: np.ndarray, gram: np.ndarray, *, strength: float, cap: float
) -> tuple[np.ndarray, float]:
    """The weights that maximise w.r + (strength / 2) (1 - w'Kw), and their duality gap.

    Accelerated projected gradient (Nesterov's momentum, restarted where it goes uphill). The gap
    is g.(s - w), with g the gradient and s the best vertex: the optimum is at most that far.

    Args:
        rewards: r, [N], finite.
        gram: K, [N, N]: symmetric, positive semi-definite, of unit features.
        strength: lambda, at least 0; 0 is the reward alone.
        cap: most weight of one image, in [1 / N, 1].

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
    caps = np.full((1, len(rewards)), float(cap))
    problem = _Programme(rewards, gram, caps, TOLERANCE)
    weights, gap = problem.solve(strength, None)
    return weights[0], float(gap[0])


def estimate(weights: np.ndarray, gram: np.ndarray) -> np.ndarray:
    """Mean pairwise distance of images drawn with these weights [..., N]: D(w) / (1 - w.w), [...].

    The pairs of two different images have the total weight 1 - w.w, so this is what compares with
    the mean over the pairs of a sample.

    Example:
        >>> float(estimate(np.array([0.5, 0.5]), np.eye(2)))
        1.0
    """
    pairs = 1.0 - (weights * weights).sum(axis=-1)
    distance = 1.0 - ((weights @ gram) * weights).sum(axis=-1)
    return np.where(pairs > 0, distance / np.where(pairs > 0, pairs, 1.0), 0.0)


def parameters(rewards: np.ndarray, ends: tuple[float, float], count: int = 33) -> np.ndarray:
    """Parameters of a front from large to small, [count].

    Args:
        rewards: [P, N]; NaN is left out.
        ends: the first and the last, BETAS or STRENGTHS.
        count: of the points.

    Example:
        >>> parameters(np.array([[1.0, 3.0]]), (10.0, 0.1), 3).round(3).tolist()
        [10.0, 1.0, 0.1]
    """
    unit = float(np.nanstd(np.asarray(rewards, dtype=np.float64), axis=-1).mean()) or 1.0
    return unit * np.geomspace(*ends, count)


def kl_front(
    rewards: np.ndarray,
    grams: np.ndarray,
    *,
    cap: float,
    betas: Parameters | None = None,
    copies: np.ndarray | None = None,
) -> Front:
    """The KL front of P prompts at the same beta, which is the optimum of their mean.

    Args:
        rewards: [P, N].
        grams: [P, N, N], see `diversity_weights`.
        cap: most weight of one image, in [1 / N, 1].
        betas: from large to small; by default those of `parameters`.
        copies: resamples of the images, [B, P, N]; 0 leaves an image out, whatever its reward is.

    Example:
        >>> rewards, grams = np.array([[1.0, 0.0]]), np.eye(2)[None]
        >>> kl_front(rewards, grams, cap=1.0, betas=[0.5]).reward.round(3).tolist()
        [0.881]
    """
    rewards = np.asarray(rewards, dtype=np.float64)
    path = parameters(rewards, BETAS) if betas is None else np.asarray(betas, dtype=np.float64)

    def prepare(prompt: int, drawn: np.ndarray) -> _Solve:
        own = _checked_rewards(rewards[prompt], cap, drawn)

        def solve(beta: float, _: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
            return _tilted(own, beta, cap, drawn), np.zeros(len(drawn))

        return solve

    return _traced(path, prepare, rewards, grams, copies)


def diversity_front(
    rewards: np.ndarray,
    grams: np.ndarray,
    *,
    cap: float,
    strengths: Parameters | None = None,
    copies: np.ndarray | None = None,
    tolerance: float = TOLERANCE,
) -> Front:
    """The diversity front of P prompts at the same lambda, which is the optimum of their mean.

    Args:
        rewards: [P, N].
        grams: [P, N, N], see `diversity_weights`.
        cap: most weight of one image, in [1 / N, 1].
        strengths: from large to small; by default those of `parameters`.
        copies: resamples of the images, [B, P, N]; 0 leaves an image out, whatever its reward is.
        tolerance: the duality gap at which a point is solved, in ranges of the rewards.

    Example:
        >>> rewards, grams = np.array([[0.2, 0.0]]), np.eye(2)[None]
        >>> front = diversity_front(rewards, grams, cap=1.0, strengths=[1.0])
        >>> front.weights.round(3).tolist()
        [[[0.6, 0.4]]]
    """
    rewards = np.asarray(rewards, dtype=np.float64)
    given = None if strengths is None else np.asarray(strengths, dtype=np.float64)
    path = parameters(rewards, STRENGTHS) if given is None else given

    def prepare(prompt: int, drawn: np.ndarray) -> _Solve:
        own = _checked_rewards(rewards[prompt], cap, drawn)
        return _Programme(own, grams[prompt], cap * drawn, tolerance).solve

    return _traced(path, prepare, rewards, grams, copies)


_Solve = Callable[[float, np.ndarray | None], tuple[np.ndarray, np.ndarray]]
"""(parameter, weights [B, N] at the parameter before) -> (weights [B, N], gap [B])."""


def _traced(
    path: np.ndarray,
    prepare: Callable[[int, np.ndarray], _Solve],
    rewards: np.ndarray,
    grams: np.ndarray,
    copies: np.ndarray | None,
) -> Front:
    """The points of a front, each solved from the one before it.

    prepare: (number of the prompt, its copies [B, N]) -> how its points are solved.
    """
    drawn = np.ones((1, *rewards.shape)) if copies is None else np.asarray(copies, np.float64)
    (P, N), B = rewards.shape, len(drawn)
    weights, gap = np.zeros((B, len(path), P, N)), np.zeros((B, len(path), P))
    for prompt in range(P):
        solve, before = prepare(prompt, drawn[:, prompt]), None
        for number, parameter in enumerate(path):
            before, gap[:, number, prompt] = solve(float(parameter), before)
            weights[:, number, prompt] = before
    pairs = [estimate(weights[:, :, p], grams[p]) for p in range(P)]
    # Where the weight is 0 the reward may be anything, as that of an image without a score.
    shares = np.where(weights > 0, weights * rewards, 0.0)
    front = Front(
        parameters=path,
        reward=shares.sum(-1).mean(-1),
        diversity=np.mean(pairs, axis=0),
        effective=(1.0 / (weights * weights).sum(-1)).mean(-1),
        gap=gap.max(-1),
        weights=weights,
    )
    if copies is not None:
        return front
    return front._replace(**{name: getattr(front, name)[0] for name in Front._fields[1:]})


def _tilted(rewards: np.ndarray, beta: float, cap: float, copies: np.ndarray) -> np.ndarray:
    """`kl_weights` of resamples: [B, N], from copies [B, N] of the images.

    The k images of highest reward are at the cap; the others share what is left in proportion to
    exp(r / beta). The first k for which none of these exceeds the cap is the solution.
    """
    if not beta > 0:
        raise ValueError(f"beta = {beta} must be above 0")
    order = np.argsort(-rewards, kind="stable")
    m = copies[:, order]
    with np.errstate(divide="ignore"):
        mass = np.log(m) + (rewards[order] - rewards[order[0]]) / beta
    tails = np.logaddexp.accumulate(mass[:, ::-1], axis=1)[:, ::-1]  # log of each k's sum
    rest = np.maximum(1.0 - cap * (np.cumsum(m, axis=1) - m), 0.0)
    with np.errstate(divide="ignore", invalid="ignore"):
        top = np.log(rest) - tails + mass - np.log(m)  # log-weight of one copy of the first
    fits = (m > 0) & (top <= np.log(cap))
    N = len(rewards)
    k = np.where(fits.any(axis=1), fits.argmax(axis=1), N)[:, None]  # N: all are at the cap
    after, first = np.arange(N) >= k, np.minimum(k, N - 1)
    at = np.take_along_axis
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        tail = np.exp(np.log(at(rest, first, axis=1)) - at(tails, first, axis=1) + mass)
    weights = np.empty_like(m)
    weights[:, order] = np.where(m == 0, 0.0, np.where(after, tail, cap * m))
    return weights


class _Programme:
    """The concave programmes of one prompt: the same images under B sets of caps.

    Raises ValueError for a Gram matrix of another shape, or one that is not finite.
    """

    def __init__(
        self, rewards: np.ndarray, gram: np.ndarray, caps: np.ndarray, tolerance: float
    ) -> None:
        N = len(rewards)
        self._rewards, self._gram, self._caps = rewards, np.asarray(gram, np.float64), caps
        if self._gram.shape != (N, N) or not np.isfinite(self._gram).all():
            raise ValueError(f"gram must be finite, [{N}, {N}]: {self._gram.shape}")
        # Weights sum to 1, so that only the curvature along the simplex counts.
        along = self._gram - self._gram.mean(axis=0)
        along -= along.mean(axis=1, keepdims=True)
        curvature = float(np.linalg.eigvalsh(along)[-1])
        self._curvature = curvature if curvature > 1e-12 * N else 0.0
        self._range, self._tolerance = float(np.ptp(rewards)), tolerance

    def solve(self, strength: float, start: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
        """(weights [B, N], gap [B]). start: weights of the neighbouring point of a front."""
        if not strength >= 0:
            raise ValueError(f"strength = {strength} must be at least 0")
        caps = self._caps
        if strength * self._curvature == 0:
            return capped_simplex.best_vertex(self._rewards, caps), np.zeros(len(caps))
        enough = self._tolerance * (self._range or strength)
        even = caps / caps.sum(axis=1, keepdims=True)
        weights, gap = (even if start is None else start).copy(), np.full(len(caps), np.inf)
        left = np.arange(len(caps))  # the rows that are not solved yet
        w, ahead, momentum = weights, weights, np.ones((len(caps), 1))
        for step in range(STEPS + 1):
            if step % 10 == 0:
                gradient = self._gradient(w, strength)
                best = capped_simplex.best_vertex(gradient, caps)
                gap[left], weights[left] = (gradient * (best - w)).sum(axis=1), w
                going = gap[left] > enough
                if step == STEPS or not going.any():
                    break
                if not going.all():
                    left, caps = left[going], caps[going]
                    w, ahead, momentum = w[going], ahead[going], momentum[going]
            uphill = self._gradient(ahead, strength) / (strength * self._curvature)
            moved = capped_simplex.projected(ahead + uphill, caps)
            following = (1 + np.sqrt(1 + 4 * momentum**2)) / 2
            # The momentum of a row that points away from the optimum starts again.
            away = ((ahead - moved) * (moved - w)).sum(axis=1, keepdims=True) > 0
            pushed = moved + (momentum - 1) / following * (moved - w)
            ahead, momentum = np.where(away, moved, pushed), np.where(away, 1.0, following)
            w = moved
        return weights, np.maximum(gap, 0.0)

    def _gradient(self, weights: np.ndarray, strength: float) -> np.ndarray:
        return self._rewards - strength * (weights @ self._gram)


def _checked_rewards(
    rewards: np.ndarray, cap: float, copies: np.ndarray | None = None
) -> np.ndarray:
    """The rewards as float64 [N]; one that no resample has becomes the mean of the others."""
    rewards = np.asarray(rewards, dtype=np.float64)
    if copies is not None and (absent := (copies == 0).all(axis=0)).any() and not absent.all():
        rewards = np.where(absent, rewards[~absent].mean(), rewards)
    if rewards.ndim != 1 or not len(rewards) or not np.isfinite(rewards).all():
        raise ValueError(f"rewards must be finite, [N], not of shape {list(rewards.shape)}")
    if copies is not None and (cap * copies.sum(axis=-1) < 1 - 1e-9).any():
        raise ValueError(f"cap = {cap} is too low for a resample: its images cannot have weight 1")
    if not (1 - 1e-12) / len(rewards) <= cap <= 1:
        raise ValueError(f"cap = {cap} must be in [1 / N, 1] = [{1 / len(rewards):.4g}, 1]")
    return rewards
