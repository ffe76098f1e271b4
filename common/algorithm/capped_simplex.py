"""Weights on the simplex under caps: the best vertex for a gradient, and the nearest weights.

Row by row of [B, N] arrays: each row has its caps, whose sum is at least 1. Host only, float64.
"""

import numpy as np

__all__ = ["best_vertex", "projected"]

ITERATIONS = 200
"""Most steps for the shift of a projection; under ten are usual."""


def best_vertex(gradient: np.ndarray, caps: np.ndarray) -> np.ndarray:
    """The weights that maximise w.gradient: the largest entries filled to their caps.

    Args:
        gradient: [N], or [B, N].
        caps: [B, N].

    Returns:
        float64 [B, N].

    Example:
        >>> best_vertex(np.array([0.0, 2.0, 1.0]), np.full((1, 3), 0.75)).tolist()
        [[0.0, 0.75, 0.25]]
    """
    order = np.argsort(-np.broadcast_to(gradient, caps.shape), axis=1, kind="stable")
    most = np.take_along_axis(caps, order, axis=1)
    filled = np.clip(1.0 - (np.cumsum(most, axis=1) - most), 0.0, most)
    weights = np.empty_like(caps)
    np.put_along_axis(weights, order, filled, axis=1)
    return weights


def projected(values: np.ndarray, caps: np.ndarray) -> np.ndarray:
    """The nearest weights: clip(values - shift, 0, caps), with the shift that makes the sum 1.

    The sum falls with the shift in straight lines, so that Newton's steps end at the exact shift;
    where one would leave the interval that has it, the interval is halved instead.

    Args:
        values: [B, N].
        caps: [B, N].

    Returns:
        float64 [B, N].

    Example:
        >>> projected(np.array([[0.5, 0.2, -1.0]]), np.ones((1, 3))).round(3).tolist()
        [[0.65, 0.35, 0.0]]
    """
    low, high = (values - caps).min(axis=1), values.max(axis=1)
    shift = np.clip((values.sum(axis=1) - 1.0) / values.shape[1], low, high)
    weights = np.empty_like(values)
    for _ in range(ITERATIONS):
        moved = values - shift[:, None]
        np.clip(moved, 0.0, caps, out=weights)
        excess = weights.sum(axis=1) - 1.0
        if (np.abs(excess) <= 1e-14 * values.shape[1]).all():
            break
        low, high = np.where(excess > 0, shift, low), np.where(excess > 0, high, shift)
        free = ((moved > 0) & (moved < caps)).sum(axis=1)
        step = shift + excess / np.maximum(free, 1)
        inside = (free > 0) & (step > low) & (step < high)
        shift = np.where(np.abs(excess) <= 1e-15, shift, np.where(inside, step, (low + high) / 2))
    return weights
