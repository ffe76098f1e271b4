"""Alignment against diversity: fronts, values at an equal level, hypervolume, bootstrap intervals.

A point is (alignment, diversity), both to be maximised; what else was measured there may follow
as further columns, which the results keep. Everything here is float64 numpy on the
host: a handful of evaluation results, compared after the runs. No randomness: draws come in.
"""

import math
from collections.abc import Callable, Hashable, Mapping, Sequence
from statistics import NormalDist
from typing import NamedTuple, TypeVar

import numpy as np

__all__ = [
    "Interval",
    "bootstrap",
    "bootstrap_all",
    "crossing",
    "front",
    "hypervolume",
    "relative",
]

Name = TypeVar("Name", bound=Hashable)


ALIGNMENT, DIVERSITY = 0, 1
"""Columns of a point."""


def front(points: np.ndarray) -> np.ndarray:
    """The points that no other point beats: [M, C], alignment rising and diversity falling.

    A point is beaten by one that is at least as good in both and better in one; of equal points
    one is kept. Chosen among measurements with noise, a front lies above the true one.

    Args:
        points: [N, C >= 2], finite; N may be 0. Columns after the first two are kept.

    Raises:
        ValueError: another shape, or a value that is not finite.

    Example:
        >>> front(np.array([[1.0, 0.9], [2.0, 0.7], [1.5, 0.6], [3.0, 0.2]])).tolist()
        [[1.0, 0.9], [2.0, 0.7], [3.0, 0.2]]
    """
    points = np.asarray(points, dtype=np.float64)
    if points.ndim != 2 or points.shape[1] < 2:
        raise ValueError(
            f"points must be [N, 2] (alignment, diversity) or wider, not {list(points.shape)}"
        )
    if not np.isfinite(points).all():
        raise ValueError("points of a front must be finite")
    best_first = points[np.lexsort((-points[:, DIVERSITY], -points[:, ALIGNMENT]))]
    diversity = best_first[:, DIVERSITY]
    most_so_far = np.maximum.accumulate(np.append(-np.inf, diversity))[:-1]
    return best_first[diversity > most_so_far][::-1]


def crossing(curve: np.ndarray, level: float, *, axis: int) -> np.ndarray | None:
    """Where a curve first has that level: its point there, linear between its points.

    A front has each level at most once; the path of a run over its updates may come back, and
    what counts is when it first got there. None where the curve never does: no extrapolation.

    Args:
        curve: [M, C], its points in order.
        level: in the unit of the axis.
        axis: the column that has the level, ALIGNMENT or DIVERSITY.

    Returns:
        [C], or None.

    Example:
        >>> crossing(np.array([[1.0, 0.9], [2.0, 0.7]]), 1.5, axis=ALIGNMENT).round(6).tolist()
        [1.5, 0.8]
    """
    at = curve[:, axis]
    if len(at) == 1:
        return curve[0] if at[0] == level else None
    between = (np.minimum(at[:-1], at[1:]) <= level) & (level <= np.maximum(at[:-1], at[1:]))
    if not between.any():
        return None
    k = int(np.argmax(between))
    rise = at[k + 1] - at[k]
    w = (level - at[k]) / rise if rise else 0.0
    return (1 - w) * curve[k] + w * curve[k + 1]


def relative(value: float | None, other: float | None, *, base: float = 0.0) -> float | None:
    """(value - base) / (other - base) - 1; None where either is, or other is not above base.

    Example:
        >>> relative(3.0, 2.0, base=1.0), relative(3.0, None)
        (1.0, None)
    """
    if value is None or other is None or other <= base:
        return None
    return (value - base) / (other - base) - 1


def hypervolume(points: np.ndarray, reference: Sequence[float]) -> float:
    """Area that the front dominates above a reference point (alignment, diversity).

    Points at or below the reference in either coordinate add nothing. Errors as in `front`.

    Example:
        >>> hypervolume(np.array([[1.0, 0.75], [2.0, 0.25]]), (0.0, 0.0))
        1.0
    """
    above = front(points)[:, :2] - np.asarray(reference, dtype=np.float64)
    above = above[(above > 0).all(axis=1)]
    widths = np.diff(above[:, ALIGNMENT], prepend=0.0)
    return float(np.sum(widths * above[:, DIVERSITY]))


class Interval(NamedTuple):
    """A statistic with its bootstrap interval; None where it could not be computed."""

    estimate: float | None
    """On all the data, before any resampling."""
    low: float | None
    """None with one seed: the spread between seeds is then unknown, and no interval is claimed."""
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
    """Interval of one statistic; see `bootstrap_all`.

    Example:
        >>> seeds_by_prompts, draws = np.array([[1.0], [3.0]]), np.array([[0.0, 0.6, 0.0]] * 4)
        >>> bootstrap(lambda mean: float(mean), [seeds_by_prompts], draws)
        Interval(estimate=2.0, low=2.0, high=2.0, reached=1.0)
    """
    return bootstrap_all(lambda *means: {None: statistic(*means)}, samples, draws, level=level)[
        None
    ]


def bootstrap_all(
    statistics: Callable[..., Mapping[Name, float | None]],
    samples: Sequence[np.ndarray],
    draws: np.ndarray,
    *,
    level: float = 0.95,
) -> dict[Name, Interval]:
    """Intervals of statistics of means over seeds and prompts.

    Each replica draws seeds with replacement, then prompts with replacement, and takes
    statistics(*means) of each method's mean over what was drawn. The draw is shared by the methods
    (paired) and a prompt that is drawn is drawn for every seed, since all runs are evaluated on
    the same prompts: a new draw of prompts for each seed would average their variance away
    (Owen 2007, "The pigeonhole bootstrap").

    The interval runs from estimate - k (estimate - q) to estimate + k (q' - estimate), q and q'
    being the replicas' quantiles. With k = 1 this is the percentile interval, which for the mean
    of 5 seeds is only 63 % as wide as Student's. This toolkit's choice makes up for that: k is the
    ratio of Student's interval to the percentile one for a mean over seeds and prompts with the
    variances of the jackknife (`_widening`).

    Args:
        statistics: from one mean [...] of each method to numbers by name, or None (not reached).
        samples: for each method, float [S seeds, P prompts, ...]: for a front, [S, P, points, 2].
        draws: uniform in [0, 1), [replicas, S + P]: the first S choose seeds, the others prompts.
        level: coverage of the interval, in (0, 1).

    Raises:
        ValueError: methods with other seeds or prompts, or draws of another shape.

    Example:
        >>> samples, draws = np.array([[1.0], [3.0]]), np.array([[0.0, 0.6, 0.0]] * 4)
        >>> got = bootstrap_all(lambda mean: {"mean": float(mean)}, [samples], draws)
        >>> got["mean"].estimate
        2.0
    """
    samples = [np.asarray(sample, dtype=np.float64) for sample in samples]
    S, P = _common_shape(samples)
    draws = np.asarray(draws, dtype=np.float64)
    if draws.ndim != 2 or draws.shape[0] < 1 or draws.shape[1] != S + P:
        raise ValueError(
            f"draws must be [replicas, {S} seeds + {P} prompts], not {list(draws.shape)}"
        )
    if not ((draws >= 0) & (draws < 1)).all():
        raise ValueError("draws must be in [0, 1)")
    if not 0 < level < 1:
        raise ValueError(f"level = {level} must be in (0, 1)")

    def evaluate(seeds: np.ndarray, prompts: np.ndarray) -> Mapping[Name, float | None]:
        return statistics(*(_weighted_mean(sample, seeds, prompts) for sample in samples))

    all_seeds, all_prompts = np.full(S, 1 / S), np.full(P, 1 / P)
    replicas = [evaluate(_shares(row[:S]), _shares(row[S:])) for row in draws]
    estimates = evaluate(all_seeds, all_prompts)
    without_seed = [evaluate(w, all_prompts) for w in _leaving_one_out(S)]
    without_prompt = [evaluate(all_seeds, w) for w in _leaving_one_out(P)]
    intervals = {}
    for name, estimate in estimates.items():
        values = [replica[name] for replica in replicas]
        k = _widening(
            [left[name] for left in without_seed], [left[name] for left in without_prompt], level
        )
        intervals[name] = _interval(estimate, values, k if S > 1 else None, level)
    return intervals


def _interval(
    estimate: float | None, replicas: Sequence[float | None], k: float | None, level: float
) -> Interval:
    values = [value for value in replicas if value is not None]
    reached = len(values) / len(replicas)
    if estimate is None or not values or k is None:
        return Interval(estimate, None, None, reached)
    low, high = np.quantile(values, [(1 - level) / 2, (1 + level) / 2])
    low, high = estimate - k * (estimate - low), estimate + k * (high - estimate)
    # The replicas of a biased statistic may all lie on one side of the estimate.
    return Interval(estimate, float(min(low, estimate)), float(max(high, estimate)), reached)


def _widening(
    without_seed: Sequence[float | None], without_prompt: Sequence[float | None], level: float
) -> float:
    """k: how much wider Student's interval of a mean is than its bootstrap percentile interval.

    V_s and V_p are the jackknife variances over S seeds and P prompts. The bootstrap gives
    (S - 1)/S V_s + (P - 1)/P V_p and the normal quantile z; Student's interval has V_s + V_p and
    the quantile t with Satterthwaite's (1946) degrees of freedom
    (V_s + V_p)^2 / (V_s^2/(S - 1) + V_p^2/(P - 1)). Where the statistic is not reached without
    one of them, the seeds, fewest, are taken to be all of the variance.
    """
    S, P = len(without_seed), len(without_prompt)
    V_s, V_p = _jackknife_variance(without_seed), _jackknife_variance(without_prompt)
    if V_s is None or V_p is None:
        V_s, V_p = 1.0, 0.0
    if V_s + V_p == 0 or S == 1:
        return 1.0
    freedom = (V_s + V_p) ** 2 / (V_s**2 / (S - 1) + V_p**2 / max(P - 1, 1))
    shrunk = V_s * (S - 1) / S + V_p * (P - 1) / P
    z = NormalDist().inv_cdf((1 + level) / 2)
    return math.sqrt((V_s + V_p) / shrunk) * _student(z, freedom) / z


def _student(z: float, freedom: float) -> float:
    """Student's quantile from the normal one: Abramowitz and Stegun 26.7.5.

    Within 0.1 % of the exact one of 95 % intervals from 4 degrees of freedom, 1 % from 2.
    """
    return (
        z
        + (z**3 + z) / (4 * freedom)
        + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * freedom**2)
        + (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / (384 * freedom**3)
        + (79 * z**9 + 776 * z**7 + 1482 * z**5 - 1920 * z**3 - 945 * z) / (92160 * freedom**4)
    )


def _jackknife_variance(values: Sequence[float | None]) -> float | None:
    """(n - 1)/n sum (v_i - mean)^2; None where one is missing, 0 for a single value."""
    known = [value for value in values if value is not None]
    n = len(values)
    if n == 1:
        return 0.0
    return None if len(known) < n else float((n - 1) * np.var(known))


def _shares(draws: np.ndarray) -> np.ndarray:
    """How often each of n is drawn by n uniform numbers, as a share of the draws: [n]."""
    n = len(draws)
    return np.bincount((draws * n).astype(np.int64), minlength=n) / n


def _leaving_one_out(n: int) -> np.ndarray:
    """Row i weighs all but the i-th equally: [n, n]; for n = 1 there is nothing to leave out."""
    return (1 - np.eye(n)) / (n - 1) if n > 1 else np.ones((1, 1))


def _weighted_mean(sample: np.ndarray, seeds: np.ndarray, prompts: np.ndarray) -> np.ndarray:
    """sum_sp w_s w_p x_sp of x [S, P, ...]."""
    S, P, *rest = sample.shape
    by_prompt = (seeds @ sample.reshape(S, -1)).reshape(P, -1)
    return (prompts @ by_prompt).reshape(rest)


def _common_shape(samples: Sequence[np.ndarray]) -> tuple[int, int]:
    shapes = {sample.shape[:2] for sample in samples}
    if len(shapes) != 1 or len(shape := shapes.pop()) != 2 or 0 in shape:
        raise ValueError(
            "bootstrap needs methods that share their seeds and prompts, [S, P, ...] each, not "
            f"{[list(sample.shape) for sample in samples]}"
        )
    return shape
