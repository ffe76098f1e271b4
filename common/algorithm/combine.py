"""Several rewards as one: weights, group-wise scaling, the worst of them, floors and ceilings."""

from collections.abc import Mapping
from typing import Literal

import numpy as np

from common.algorithm import masked
from common.algorithm.choice import check_choice

__all__ = ["Combination", "combine", "finite_mean"]

Combination = Literal["weighted_sum", "group_zscore", "minimum"]
"""The way in which the terms of a reward become one."""


def combine(
    scores: Mapping[str, np.ndarray],
    weights: Mapping[str, float],
    *,
    method: Combination,
    floors: Mapping[str, float] | None = None,
    ceilings: Mapping[str, float] | None = None,
) -> np.ndarray:
    """One reward r = sum over terms k of w_k s_k, of w_k z_k, or min_k w_k s_k for every sample.

    `group_zscore` is the decoupled normalisation of GDPO: z = (s - mean) / std over the finite
    samples of the group (population std), so that a weight does not depend on the scale of its
    term. A term that is equal for a whole group has z = 0 there. `minimum` takes the worst term.
    A ceiling c replaces s_k by min(s_k, c) before everything else. A sample with s_k below a floor
    gets the lowest reward of its group: r = min of r over the group's finite samples. Floors and
    ceilings are this toolkit's choice.

    Args:
        scores: float64 [P, G] by term; not finite where there is no score.
        weights: by term, with the same names.
        method: one of the names above.
        floors: least score of some of the terms.
        ceilings: highest score that counts, of some of the terms.

    Returns:
        float64 [P, G]; NaN wherever any term is not finite, also one of weight 0.

    Raises:
        ValueError: unknown method, names that differ, or shapes that are not all one [P, G].

    Example:
        >>> scores = {"text": np.array([[1.0, 2.0]]), "style": np.array([[4.0, 1.0]])}
        >>> combine(scores, {"text": 1.0, "style": 0.5}, method="weighted_sum").tolist()
        [[3.0, 2.5]]
    """
    check_choice("method", method, Combination)
    if scores.keys() != weights.keys() or not scores:
        raise ValueError(f"scores of {sorted(scores)} do not fit weights of {sorted(weights)}")
    shapes = {np.shape(values) for values in scores.values()}
    if len(shapes) != 1 or len(shapes.pop()) != 2:
        raise ValueError("scores of every term must have the same shape [P, G]")
    parts, fails = [], False
    for name, weight in weights.items():
        s = np.asarray(scores[name], dtype=np.float64)
        s = np.where(np.isfinite(s), s, np.nan)
        fails = fails | (s < (floors or {}).get(name, -np.inf))
        s = np.minimum(s, (ceilings or {}).get(name, np.inf))
        parts.append(weight * (_group_zscore(s) if method == "group_zscore" else s))
    total = np.min(parts, axis=0) if method == "minimum" else np.sum(parts, axis=0)
    least = np.where(np.isfinite(total), total, np.inf).min(axis=1, keepdims=True)
    return np.where(fails & np.isfinite(total), least, total)


def finite_mean(values: np.ndarray, axis: int | None = None) -> np.ndarray:
    """Mean over the finite values, along an axis or all; NaN where there are none.

    Example:
        >>> finite_mean(np.array([[1.0, 3.0, np.nan], [5.0, np.inf, np.nan]]), axis=1).tolist()
        [2.0, 5.0]
    """
    finite = np.isfinite(values)
    total = np.where(finite, values, 0.0).sum(axis=axis)
    count = finite.sum(axis=axis)
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)


def _group_zscore(values: np.ndarray) -> np.ndarray:
    """Z-score each row [P, G] over its finite samples; NaN stays NaN."""
    finite = np.isfinite(values)
    known = np.where(finite, values, 0.0)
    centred = np.where(finite, values - masked.mean(known, finite), 0.0)
    std = np.sqrt(masked.mean(centred**2, finite))
    equal = std <= masked.SPREAD_FLOOR * np.abs(known).max(axis=1, keepdims=True)
    z = np.where(equal, 0.0, centred / np.where(equal, 1.0, std))
    return np.where(finite, z, np.nan)
