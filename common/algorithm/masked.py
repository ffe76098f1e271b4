"""Statistics of the members of each group, given by a mask: safe for empty and constant groups.

Values are [..., G], a statistic is [..., 1]. What is not a member may be anything, NaN included.
"""

from typing import Any, NamedTuple

from array_api_compat import array_namespace

Array = Any

__all__ = [
    "SPREAD_FLOOR",
    "Statistics",
    "correlation",
    "count",
    "mean",
    "median",
    "statistics",
    "std",
    "usable",
]

SPREAD_FLOOR = 1e-6
"""A std below this share of the largest magnitude is the rounding of a float32 scorer: 0."""


class Statistics(NamedTuple):
    """Statistics of the members of each group, float [..., 1]; 0 where there are no members."""

    mean: Array
    std: Array
    lowest: Array
    highest: Array


def usable(values: Array, valid: Array | None = None) -> Array:
    """The samples that are valid and finite: bool, the shape of the values.

    Args:
        values: float [..., G].
        valid: bool, broadcasts against the values; None means all.

    Example:
        >>> usable(np.array([1.0, np.nan, 3.0]), np.array([True, True, False])).tolist()
        [True, False, False]
    """
    finite = array_namespace(values).isfinite(values)
    return finite if valid is None else finite & valid


def statistics(values: Array, members: Array) -> Statistics:
    """Mean, population std, minimum and maximum of each group's members.

    Arguments as in `mean`.

    Example:
        >>> of_group = statistics(np.array([[1.0, 3.0, 99.0]]), np.array([[True, True, False]]))
        >>> [value.item() for value in of_group]
        [2.0, 1.0, 1.0, 3.0]
    """
    xp = array_namespace(values)
    lowest = xp.min(xp.where(members, values, xp.inf), axis=-1, keepdims=True)
    highest = xp.max(xp.where(members, values, -xp.inf), axis=-1, keepdims=True)
    some = lowest <= highest
    return Statistics(
        mean=mean(values, members),
        std=std(values, members),
        lowest=xp.where(some, lowest, 0.0),
        highest=xp.where(some, highest, 0.0),
    )


def count(members: Array) -> Array:
    """Number of members of each group: int [..., 1].

    Example:
        >>> count(np.array([[True, True, False], [False, False, False]])).tolist()
        [[2], [0]]
    """
    xp = array_namespace(members)
    return xp.sum(xp.astype(members, xp.int64), axis=-1, keepdims=True)


def mean(values: Array, members: Array) -> Array:
    """Mean of each group's members: float [..., 1]; 0 where there are none.

    Args:
        values: float [..., G]; what is not a member may be anything, NaN included.
        members: bool, of the same shape.

    Example:
        >>> mean(np.array([[1.0, 3.0, np.nan]]), np.array([[True, True, False]])).tolist()
        [[2.0]]
    """
    xp = array_namespace(values)
    weights = xp.astype(members, values.dtype)
    total = xp.sum(xp.where(members, values, 0.0), axis=-1, keepdims=True)
    return total / xp.clip(xp.sum(weights, axis=-1, keepdims=True), 1.0, xp.inf)


def std(values: Array, members: Array) -> Array:
    """Population standard deviation of each group's members: float [..., 1].

    Exactly 0 where it is below 1e-6 of the largest magnitude: equal rewards stay equal however
    their mean was rounded, and nothing divides noise by noise. Arguments as in `mean`.

    Example:
        >>> std(np.array([[1.0, 3.0, np.nan]]), np.array([[True, True, False]])).tolist()
        [[1.0]]
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

    Example:
        >>> median(np.array([[1.0, 2.0, np.nan]]), np.array([[True, True, False]])).tolist()
        [[1.5]]
    """
    xp = array_namespace(values)
    n = count(members)
    s = xp.sort(xp.where(members, values, xp.inf), axis=-1)
    low = xp.where(n > 0, n - 1, 0) // 2
    high = xp.where(n > 0, n, 0) // 2
    high = xp.where(high < values.shape[-1], high, values.shape[-1] - 1)
    middle = 0.5 * (xp.take_along_axis(s, low, axis=-1) + xp.take_along_axis(s, high, axis=-1))
    return xp.where(n > 0, middle, 0.0)


def correlation(x: Array, y: Array, members: Array) -> Array:
    """Pearson's correlation of x and y over each group's members: float [..., 1], in [-1, 1].

    0 where one of the two is constant. Arguments as in `mean`.

    Example:
        >>> x, y = np.array([[1.0, 2.0, 3.0]]), np.array([[5.0, 3.0, 1.0]])
        >>> correlation(x, y, np.array([[True, True, True]])).round(6).tolist()
        [[-1.0]]
    """
    xp = array_namespace(x)
    dx, dy = (xp.where(members, values - mean(values, members), 0.0) for values in (x, y))
    scale = xp.sqrt(xp.sum(dx**2, axis=-1, keepdims=True) * xp.sum(dy**2, axis=-1, keepdims=True))
    product = xp.sum(dx * dy, axis=-1, keepdims=True)
    return xp.where(scale > 0, product / xp.where(scale > 0, scale, 1.0), 0.0)
