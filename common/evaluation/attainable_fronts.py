"""Both attainable fronts of some images of several prompts, with intervals, at levels of each axis.

What `common.algorithm.attainable` solves for one prompt is done for all of them, for two halves of
the images, and for resamples of them; only the means over prompts are kept.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from common import random
from common.algorithm import attainable, attainable_levels
from common.algorithm.attainable_levels import diversity_at
from common.evaluation.attainable_records import AxisLevels, Band, numbers
from common.random import Key, Purpose

POINTS = 25
"""Points of each front."""

REPLICAS, CONFIDENCE, TOLERANCE = 200, 0.95, 1e-3
"""Resamples behind the intervals, and how exactly they are solved, in ranges of the rewards."""

OnPrompt = Callable[[int], None]
"""Called with the number of prompts that are solved."""


@dataclass(frozen=True)
class Task:
    """What fronts are made from.

    rewards: r of each image, [P, N], NaN where it has none. axes: further scores [P, N] by measure.
    grams: the Gram matrix of unit features of each prompt, [N, N]. ratio: c. prompts: P texts,
    seed: of the base images; both key the resamples.
    """

    rewards: np.ndarray
    axes: Mapping[str, np.ndarray]
    grams: Sequence[np.ndarray]
    ratio: float
    prompts: Sequence[str]
    seed: int


@dataclass(frozen=True)
class Result:
    """base: of each axis and of "diversity" at even weights. gap: in ranges of the rewards."""

    base: dict[str, float]
    axes: dict[str, AxisLevels]
    gap: float


def solve(task: Task, on_prompt: OnPrompt) -> Result:
    """The fronts with weights by the rewards, on every axis."""
    betas = attainable.parameters(task.rewards, attainable.BETAS, POINTS)
    strengths = attainable.parameters(task.rewards, attainable.STRENGTHS, POINTS)
    whole, halves, drawn, base, gap = [], [], [], [], 0.0
    for number, (text, rewards, gram) in enumerate(
        zip(task.prompts, task.rewards, task.grams, strict=True)
    ):
        valid = np.isfinite(rewards).astype(np.float64)
        scores = np.stack([axis[number] for axis in task.axes.values()])
        cap = task.ratio / len(rewards)
        both = partial(_both, rewards, gram, scores, betas=betas, strengths=strengths)
        exact, own_gap = both(valid[None], cap, attainable.TOLERANCE)
        whole.append(exact)
        halves.append(both(valid * _halves(len(rewards)), 2 * cap, attainable.TOLERANCE)[0])
        drawn.append(both(_resamples(task.seed, text, valid), cap, TOLERANCE)[0])
        even = valid / valid.sum()
        base.append([*_means(even, scores), attainable.estimate(even, gram)])
        gap = max(gap, own_gap)
        on_prompt(number + 1)
    mean = [np.mean(part, axis=0) for part in (whole, halves, drawn)]
    origin = dict(zip([*task.axes, "diversity"], map(float, np.mean(base, axis=0)), strict=True))
    axes = {
        name: _levels(origin[name], *([both[..., [n, -1]] for both in part] for part in mean))
        for n, name in enumerate(task.axes)
    }
    return Result(origin, axes, gap)


def _both(
    rewards: np.ndarray,
    gram: np.ndarray,
    scores: np.ndarray,
    copies: np.ndarray,
    cap: float,
    tolerance: float,
    *,
    betas: np.ndarray,
    strengths: np.ndarray,
) -> tuple[np.ndarray, float]:
    """Both fronts of one prompt, and the gap in ranges of its rewards.

    Returns [2, B, M, A + 1]: the KL front, then the diversity front; of each point the mean of
    every axis, then the diversity.
    """
    one = (rewards[None], gram[None])
    how = {"cap": cap, "copies": copies[:, None]}
    kl = attainable.kl_front(*one, betas=betas, **how)
    best = attainable.diversity_front(*one, strengths=strengths, tolerance=tolerance, **how)
    points = [
        np.concatenate([_means(f.weights[:, :, 0], scores), f.diversity[..., None]], axis=-1)
        for f in (kl, best)
    ]
    spread = float(np.nanmax(rewards) - np.nanmin(rewards))
    return np.stack(points), float(best.gap.max()) / spread if spread else 0.0


def _means(weights: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """Weighted mean of each axis [A, N] over the images that have a score: [..., A]."""
    known = np.isfinite(scores)
    total = weights @ np.where(known, scores, 0.0).T
    share = weights @ known.T.astype(np.float64)
    return np.where(share > 0, total / np.where(share > 0, share, 1.0), np.nan)


def _halves(count: int) -> np.ndarray:
    """The first half of the images, then the second: [2, N] of 0 and 1."""
    return np.repeat(np.eye(2), [(count + 1) // 2, count // 2], axis=1)


def _resamples(seed: int, prompt: str, valid: np.ndarray) -> np.ndarray:
    """How often each image is in a resample of those that are valid: [REPLICAS, N]."""
    there = np.flatnonzero(valid)
    key = Key(seed, Purpose.BOOTSTRAP, prompt=random.address(prompt))
    draws = random.uniform(key, (REPLICAS, len(there)))
    chosen = there[(draws * len(there)).astype(np.int64)]
    rows = np.arange(REPLICAS)[:, None] * len(valid)
    counts = np.bincount((rows + chosen).ravel(), minlength=REPLICAS * len(valid))
    return counts.reshape(REPLICAS, -1).astype(np.float64)


def _levels(
    base: float, whole: list[np.ndarray], halves: list[np.ndarray], drawn: list[np.ndarray]
) -> AxisLevels:
    """The fronts on one axis. Each argument: the KL front and the diversity front, [B, M, 2]."""
    kl, best = (curves[0] for curves in whole)
    level = attainable_levels.level_range(base, kl, best)
    at = attainable_levels.at_levels(level, kl, best, *drawn, confidence=CONFIDENCE)
    gains = [
        diversity_at(better, level) / diversity_at(plain, level) - 1
        for plain, better in zip(*halves, strict=True)
    ]
    return AxisLevels(
        level=level.tolist(),
        kl=_stored(at.kl),
        best=_stored(at.best),
        gain=_stored(at.gain),
        halves=numbers(np.mean(gains, axis=0)),
    )


def _stored(band: attainable_levels.Band) -> Band:
    value, low, high = (numbers(part) for part in band)
    return Band(value=value, low=low, high=high)
