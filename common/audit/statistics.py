"""The statistics of an audit: pure functions over arrays [P, n], P prompts with n images each.

Every comparison is within prompts: the difference of scores between prompts says nothing about
tuning.
"""

from collections.abc import Mapping, Sequence

import numpy as np

ROUNDING = 1e-12
"""A spread below this share of the values' size is rounding, and counts as 0."""


def spread(values: np.ndarray) -> float:
    """Standard deviation within prompts: the root of the mean over prompts of the variance."""
    return float(np.sqrt(values.var(axis=1).mean()))


def effect(base: np.ndarray, tuned: np.ndarray) -> float:
    """(mean(tuned) - mean(base)) / spread(base): the change of the mean in spreads of the base.

    NaN where the base has no spread and the mean moved, 0 where nothing moved. Both float64
    [P, n].
    """
    difference, unit = float(tuned.mean() - base.mean()), spread(base)
    size = ROUNDING * max(float(np.abs(base).max()), float(np.abs(tuned).max()), 1e-300)
    if abs(difference) <= size:
        return 0.0
    return difference / unit if unit > size else float("nan")


def r_squared(reward: np.ndarray, *statistics: np.ndarray) -> float:
    """Share of the reward's variance within prompts that the statistics explain together.

    R^2 of least squares on the values minus their mean over the prompt, in [0, 1]; with one
    statistic the squared correlation. 0 where the reward or every statistic is constant within
    prompts. All are float64 [P, n].
    """
    y = _within(reward).ravel()
    X = np.stack([_within(each).ravel() for each in statistics], axis=1)
    scale = np.sqrt((X**2).mean(axis=0))
    size = ROUNDING * np.array([max(float(np.abs(each).max()), 1e-300) for each in statistics])
    X = X[:, scale > size] / scale[scale > size]
    total = float((y**2).sum())
    if not X.shape[1] or total <= (ROUNDING * float(np.abs(reward).max())) ** 2 * y.size:
        return 0.0
    beta = np.linalg.lstsq(X, y, rcond=None)[0]
    return float(np.clip(1.0 - ((y - X @ beta) ** 2).sum() / total, 0.0, 1.0))


def disagreement(reward: np.ndarray, others: Sequence[np.ndarray]) -> np.ndarray:
    """How much higher the reward scores an image than the other scorers do: float64 [P, n].

    z(reward) minus the mean of z over the others; each is z-scored over all images.
    """
    return _zscore(reward) - np.mean([_zscore(other) for other in others], axis=0)


def calibration(values: np.ndarray, groups: Sequence[str]) -> tuple[dict[str, float], float]:
    """Mean by group of prompts, and the gap (highest - lowest mean) / spread within prompts.

    A scorer that is fair to the groups has a small gap on images of the same quality.

    Args:
        values: float64 [P, n].
        groups: P names.
    """
    names = np.array(groups)
    means = {name: float(values[names == name].mean()) for name in dict.fromkeys(groups)}
    unit = spread(values)
    gap = max(means.values()) - min(means.values())
    return means, gap / unit if unit > 0 else (0.0 if gap == 0 else float("inf"))


def intervals(
    base: Mapping[str, np.ndarray],
    tuned: Mapping[str, np.ndarray],
    draws: np.ndarray,
) -> dict[str, tuple[float, float]]:
    """95 % bootstrap interval over prompts of each effect.

    Args:
        base: float64 [P, n] by name.
        tuned: the same names.
        draws: int [B, P], the prompts of each resample.
    """
    bounds = {}
    for name, before in base.items():
        effects = [effect(before[rows], tuned[name][rows]) for rows in draws]
        known = np.array([value for value in effects if np.isfinite(value)])
        low, high = np.percentile(known, [2.5, 97.5]) if len(known) else (np.nan, np.nan)
        bounds[name] = float(low), float(high)
    return bounds


def _within(values: np.ndarray) -> np.ndarray:
    return values - values.mean(axis=1, keepdims=True)


def _zscore(values: np.ndarray) -> np.ndarray:
    std = float(values.std())
    return (values - values.mean()) / std if std > 0 else np.zeros_like(values)
