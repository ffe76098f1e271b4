"""Statistics of a group's members, told by a mask: safe for empty and for constant groups.

Values are [..., G], a statistic is [..., 1]. What is not a member may be anything, NaN included.
"""

from typing import Any

from array_api_compat import array_namespace

Array = Any

__all__ = ["SPREAD_FLOOR", "count", "mean", "median", "std"]

SPREAD_FLOOR = 1e-6
"""A std below this share of the largest magnitude is the rounding of a float32 scorer: 0."""


def count(members: Array) -> Array:
    """Number of members of each group: int [..., 1]."""
    xp = array_namespace(members)
    return xp.sum(xp.astype(members, xp.int64), axis=-1, keepdims=True)


def mean(values: Array, members: Array) -> Array:
    """Mean of each group's members: float [..., 1]; 0 where there are none.

    Args:
        values: float [..., G]; what is not a member may be anything, NaN included.
        members: bool, of the same shape.
    """
    xp = array_namespace(values)
    weights = xp.astype(members, values.dtype)
    total = xp.sum(xp.where(members, values, 0.0), axis=-1, keepdims=True)
    return total / xp.clip(xp.sum(weights, axis=-1, keepdims=True), 1.0, xp.inf)


def std(values: Array, members: Array) -> Array:
    """Population standard deviation of each group's members: float [..., 1].

    Exactly 0 where it is below 1e-6 of the largest magnitude: equal rewards stay equal however
    their mean was rounded, and nothing divides noise by noise. Arguments as in `mean`.
    """
    xp = array_namespace(values)
    clean = xp.where(members, values, 0.0)
    centred = xp.where(members, clean - mean(clean, members), 0.0)
    # Divided by the largest deviation first: squares of tiny or huge rewards stay representable.
    largest = xp.max(xp.abs(centred), axis=-1, keepdims=True)
    unit = centred / xp.where(largest > 0, largest, 1.0)
    spread = largest * xp.sqrt(mean(unit * unit, members))
    magnitude = xp.max(xp.abs(clean), axis=-1, keepdims=True)
    return xp.where(spread > SPREAD_FLOOR * magnitude, spread, 0.0)


def median(values: Array, members: Array) -> Array:
    """Median of each group's members, the mean of the middle two: float [..., 1]; 0 for none.

    Arguments as in `mean`.
    """
    xp = array_namespace(values)
    n = count(members)
    s = xp.sort(xp.where(members, values, xp.inf), axis=-1)
    low = xp.where(n > 0, n - 1, 0) // 2
    high = xp.where(n > 0, n, 0) // 2
    high = xp.where(high < values.shape[-1], high, values.shape[-1] - 1)
    middle = 0.5 * (xp.take_along_axis(s, low, axis=-1) + xp.take_along_axis(s, high, axis=-1))
    return xp.where(n > 0, middle, 0.0)
