"""Alignment against diversity: fronts, values at an equal level, hypervolume, bootstrap intervals.

A point is (alignment, diversity), both to be maximised. Everything here is float64 numpy on the
host: a handful of evaluation results, compared after the runs. No randomness: draws come in.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

__all__ = [
    "Interval",
    "alignment_at",
    "alignment_gain",
    "bootstrap",
    "diversity_at",
    "diversity_gain",
    "front",
    "hypervolume",
]


def front(points: np.ndarray) -> np.ndarray:
    """The points that no other point beats: [M, 2], alignment rising and diversity falling.

    A point is beaten by one that is at least as good in both and better in one; of equal points
    one is kept.

    Args:
        points: [N, 2], finite; N may be 0.

    Raises:
        ValueError: another shape, or a value that is not finite.
    """
    points = np.asarray(points, dtype=np.float64)
    if points.ndim != 2 or points.shape[1] != 2:
        raise ValueError(f"points must be [N, 2] (alignment, diversity), not {list(points.shape)}")
    if not np.isfinite(points).all():
        raise ValueError("points of a front must be finite")
    best_first = points[np.lexsort((-points[:, 1], -points[:, 0]))]
    diversity = best_first[:, 1]
    most_so_far = np.maximum.accumulate(np.append(-np.inf, diversity))[:-1]
    return best_first[diversity > most_so_far][::-1]


def diversity_at(points: np.ndarray, alignment: float) -> float | None:
    """Diversity of the front at an alignment, linear between its points.

    None where the front does not reach: never extrapolated. Points and errors as in `front`.
    """
    return _interpolate(front(points), alignment)


def alignment_at(points: np.ndarray, diversity: float) -> float | None:
    """Alignment of the front at a diversity, linear between its points; see `diversity_at`."""
    return _interpolate(front(points)[::-1, ::-1], diversity)


def diversity_gain(points: np.ndarray, baseline: np.ndarray, alignment: float) -> float | None:
    """Relative gain in diversity over the baseline at equal alignment; 0.4 means +40 %.

    None where either front does not reach that alignment, or the baseline's diversity is 0.
    """
    return _relative(diversity_at(points, alignment), diversity_at(baseline, alignment))


def alignment_gain(points: np.ndarray, baseline: np.ndarray, diversity: float) -> float | None:
    """Relative gain in alignment over the baseline at equal diversity; 0.4 means +40 %.

    None where either front does not reach that diversity, or the baseline's alignment is not
    above 0 (a ratio to it says nothing).
    """
    return _relative(alignment_at(points, diversity), alignment_at(baseline, diversity))


def hypervolume(points: np.ndarray, reference: Sequence[float]) -> float:
    """Area that the front dominates above a reference point (alignment, diversity).

    Points at or below the reference in either coordinate add nothing. Errors as in `front`.
    """
    above = front(points) - np.asarray(reference, dtype=np.float64)
    above = above[(above > 0).all(axis=1)]
    widths = np.diff(above[:, 0], prepend=0.0)
    return float(np.sum(widths * above[:, 1]))


class Interval(NamedTuple):
    """A statistic with its bootstrap interval; None where it could not be computed."""

    estimate: float | None
    """On the data as they are."""
    low: float | None
    high: float | None
    reached: float
    """Share of the replicas in which the statistic exists; well below 1, distrust the interval."""


def bootstrap(
    statistic: Callable[..., float | None],
    samples: Sequence[np.ndarray],
    draws: np.ndarray,
    *,
    level: float = 0.95,
) -> Interval:
    """Percentile interval of a statistic of means over seeds and prompts.

    Each replica draws seeds with replacement, then prompts with replacement, and takes
    statistic(*means) of each method's mean over what was drawn. The draw is shared by the methods
    (paired) and a prompt that is drawn is drawn for every seed, since all runs are evaluated on
    the same prompts: drawing prompts anew for each seed would average their variance away
    (Owen 2007, "The pigeonhole bootstrap"). With fewer than about 5 seeds any bootstrap over
    seeds is too narrow.

    Args:
        statistic: from one mean [...] of each method to a number, or None (level not reached).
        samples: for each method, float [S seeds, P prompts, ...]: for a front, [S, P, points, 2].
        draws: uniform in [0, 1), [replicas, S + P]: the first S choose seeds, the others prompts.
        level: coverage of the interval, in (0, 1).

    Raises:
        ValueError: methods with other seeds or prompts, or draws of another shape.
    """
    samples = [np.asarray(sample, dtype=np.float64) for sample in samples]
    seeds, prompts = _common_shape(samples)
    draws = np.asarray(draws, dtype=np.float64)
    if draws.ndim != 2 or draws.shape[0] < 1 or draws.shape[1] != seeds + prompts:
        raise ValueError(
            f"draws must be [replicas, {seeds} seeds + {prompts} prompts], not {list(draws.shape)}"
        )
    if not ((draws >= 0) & (draws < 1)).all():
        raise ValueError("draws must be in [0, 1)")
    if not 0 < level < 1:
        raise ValueError(f"level = {level} must be in (0, 1)")
    chosen_seeds = (draws[:, :seeds] * seeds).astype(np.int64)
    chosen_prompts = (draws[:, seeds:] * prompts).astype(np.int64)
    replicas = [
        statistic(*(sample[np.ix_(s, p)].mean(axis=(0, 1)) for sample in samples))
        for s, p in zip(chosen_seeds, chosen_prompts, strict=True)
    ]
    estimate = statistic(*(sample.mean(axis=(0, 1)) for sample in samples))
    values = [value for value in replicas if value is not None]
    if estimate is None or not values:
        return Interval(estimate, None, None, len(values) / len(replicas))
    low, high = np.quantile(values, [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(estimate), float(low), float(high), len(values) / len(replicas))


def _interpolate(curve: np.ndarray, at: float) -> float | None:
    """Value of a curve [M, 2] with rising first column, None outside it."""
    if len(curve) == 0 or not curve[0, 0] <= at <= curve[-1, 0]:
        return None
    return float(np.interp(at, curve[:, 0], curve[:, 1]))


def _relative(value: float | None, base: float | None) -> float | None:
    return None if value is None or base is None or base <= 0 else value / base - 1


def _common_shape(samples: Sequence[np.ndarray]) -> tuple[int, int]:
    shapes = {sample.shape[:2] for sample in samples}
    if len(shapes) != 1 or len(shape := shapes.pop()) != 2 or 0 in shape:
        raise ValueError(
            "bootstrap needs methods that share their seeds and prompts, [S, P, ...] each, not "
            f"{[list(sample.shape) for sample in samples]}"
        )
    return shape
