"""Both attainable fronts at equal alignment: what each keeps, the gain, and their intervals.

A curve is [M, 2], (alignment, diversity) in the order of a falling parameter: it begins at the most
diverse weights and ends at the best aligned ones. Host only, float64.
"""

from typing import NamedTuple

import numpy as np

from common.algorithm import pareto
from common.algorithm.pareto import ALIGNMENT, DIVERSITY

__all__ = ["Band", "Levels", "at_levels", "diversity_at", "level_range"]

REACHED = 0.5
"""A level that fewer of the resamples reach has no interval."""


class Band(NamedTuple):
    """Values with their intervals, [L] each; NaN where a curve or too few resamples are there."""

    value: np.ndarray
    low: np.ndarray
    high: np.ndarray


class Levels(NamedTuple):
    """Diversity at the alignment `level` [L] on both fronts, and gain = best / kl - 1."""

    level: np.ndarray
    kl: Band
    best: Band
    gain: Band


def diversity_at(curve: np.ndarray, levels: np.ndarray) -> np.ndarray:
    """The diversity of a front where it first has each level, linear between its points: [L].

    Below the first point it is that of the first point, whose weights are better in both. NaN where
    the front is never so well aligned.

    Example:
        >>> diversity_at(np.array([[1.0, 0.9], [2.0, 0.7]]), np.array([0.0, 1.5, 3.0])).round(3)
        array([0.9, 0.8, nan])
    """
    diversity = np.full(len(levels), np.nan)
    for number, level in enumerate(levels):
        if level <= curve[0, ALIGNMENT]:
            diversity[number] = curve[0, DIVERSITY]
        elif (point := pareto.crossing(curve, float(level), axis=ALIGNMENT)) is not None:
            diversity[number] = point[DIVERSITY]
    return diversity


def level_range(base: float, *curves: np.ndarray, count: int = 41) -> np.ndarray:
    """Levels from the base model's alignment to the highest that every curve has, [count].

    [0] where a curve does not rise above the base model.

    Example:
        >>> level_range(1.0, np.array([[1.0, 0.9], [3.0, 0.5]]), count=3).tolist()
        [1.0, 2.0, 3.0]
    """
    most = min(float(curve[:, ALIGNMENT].max()) for curve in curves)
    return np.linspace(base, most, count) if most > base else np.zeros(0)


def at_levels(
    levels: np.ndarray,
    kl: np.ndarray,
    best: np.ndarray,
    resampled_kl: np.ndarray,
    resampled_best: np.ndarray,
    *,
    confidence: float = 0.95,
) -> Levels:
    """Both fronts at levels, with intervals over resamples of the images.

    Both fronts of a resample are of the same images, so the gain's interval is that of a pair. A
    resample has fewer different images, which moves its optimum: the spread of the resamples around
    their median counts, and is put around the value.

    Args:
        levels: alignment, [L].
        kl: the curve of the KL front, [M, 2].
        best: the curve of the diversity front, [M, 2].
        resampled_kl: those of B resamples, [B, M, 2].
        resampled_best: the same of the diversity front.
        confidence: coverage of the intervals.

    Example:
        >>> kl, best = np.array([[1.0, 0.4], [2.0, 0.2]]), np.array([[1.0, 0.5], [2.0, 0.2]])
        >>> got = at_levels(np.array([1.0]), kl, best, kl[None], best[None])
        >>> got.gain.value.round(3).tolist()
        [0.25]
    """
    values = [diversity_at(curve, levels) for curve in (kl, best)]
    drawn = [
        np.array([diversity_at(curve, levels) for curve in curves])
        for curves in (resampled_kl, resampled_best)
    ]
    pairs = [*zip(values, drawn, strict=True), (_gain(*values), _gain(*drawn))]
    return Levels(levels, *(_band(value, replicas, confidence) for value, replicas in pairs))


def _gain(kl: np.ndarray, best: np.ndarray) -> np.ndarray:
    return np.where(kl > 0, best / np.where(kl > 0, kl, 1.0) - 1.0, np.nan)


def _band(value: np.ndarray, replicas: np.ndarray, confidence: float) -> Band:
    low, high = (np.full(len(value), np.nan) for _ in range(2))
    ends = ((1 - confidence) / 2, 0.5, (1 + confidence) / 2)
    for number, middle in enumerate(value):
        reached = replicas[np.isfinite(replicas[:, number]), number]
        if np.isfinite(middle) and len(reached) >= REACHED * len(replicas):
            below, median, above = np.quantile(reached, ends)
            low[number], high[number] = middle - (median - below), middle + (above - median)
    return Band(value, low, high)
