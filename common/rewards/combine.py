"""Several rewards as one: weights, group-wise scaling, and the suite that a run scores with."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import numpy as np

from common.backend import Backend
from common.config import RewardConfig
from common.rewards import guard
from common.rewards.registry import create

ROUNDING = 1e-6
"""Spread relative to size below which the scores of a group are equal: they come from float32."""


def combine(
    scores: Mapping[str, np.ndarray],
    weights: Mapping[str, float],
    *,
    method: Literal["weighted_sum", "group_zscore"],
) -> np.ndarray:
    """One reward r = sum over terms k of w_k s_k (or of w_k z_k) for every sample.

    `group_zscore` is the decoupled normalisation of GDPO: z = (s - mean) / std over the finite
    samples of the group (population std), so that a weight means the same whatever a term's
    scale. A term that is equal all over a group says nothing about it: z = 0 there.

    Args:
        scores: float64 [P, G] by term; not finite where there is no score.
        weights: by term, with the same names.
        method: "weighted_sum" or "group_zscore".

    Returns:
        float64 [P, G]; NaN wherever any term is not finite, also one of weight 0.

    Raises:
        ValueError: unknown method, names that differ, or shapes that are not all one [P, G].
    """
    if method not in ("weighted_sum", "group_zscore"):
        raise ValueError(f"method = '{method}': valid are weighted_sum, group_zscore")
    if scores.keys() != weights.keys() or not scores:
        raise ValueError(f"scores of {sorted(scores)} do not fit weights of {sorted(weights)}")
    shapes = {np.shape(values) for values in scores.values()}
    if len(shapes) != 1 or len(shape := shapes.pop()) != 2:
        raise ValueError("scores of every term must have the same shape [P, G]")
    total = np.zeros(shape)
    for name, weight in weights.items():
        values = np.asarray(scores[name], dtype=np.float64)
        values = np.where(np.isfinite(values), values, np.nan)
        total += weight * (_group_zscore(values) if method == "group_zscore" else values)
    return total


def finite_mean(values: np.ndarray, axis: int | None = None) -> np.ndarray:
    """Mean over the finite values, along an axis or all; NaN where there are none."""
    finite = np.isfinite(values)
    total = np.where(finite, values, 0.0).sum(axis=axis)
    count = finite.sum(axis=axis)
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)


class RewardSuite:
    """The rewards of a run: made once, then called on every rollout."""

    def __init__(self, terms: Mapping[str, float], backend: Backend, config: RewardConfig):
        """Load every term; raises RewardNameError for the first that cannot be made."""
        self.terms = dict(terms)
        self._rewards = {name: create(name, backend) for name in terms}
        self._config = config

    def score(
        self,
        images: np.ndarray,
        prompts: Sequence[str],
        metadata: Sequence[Mapping[str, Any]],
        describe: Callable[[int], str],
    ) -> dict[str, np.ndarray]:
        """The raw values of each term: float64 [N] by name, before any weight or scaling.

        Arguments and errors are those of `guard.score`; an image's NaN in one term is left to
        `combine`, which carries it into the sum.
        """
        return {
            name: guard.score(
                reward,
                images,
                prompts,
                metadata,
                timeout=self._config.timeout,
                on_error=self._config.on_error,
                describe=describe,
            )
            for name, reward in self._rewards.items()
        }


def _group_zscore(values: np.ndarray) -> np.ndarray:
    """Z-score each row [P, G] over its finite samples; NaN stays NaN."""
    finite = np.isfinite(values)
    count = np.maximum(finite.sum(axis=1, keepdims=True), 1)
    known = np.where(finite, values, 0.0)
    mean = known.sum(axis=1, keepdims=True) / count
    centred = np.where(finite, values - mean, 0.0)
    std = np.sqrt((centred**2).sum(axis=1, keepdims=True) / count)
    equal = std <= ROUNDING * np.abs(known).max(axis=1, keepdims=True)
    z = np.where(equal, 0.0, centred / np.where(equal, 1.0, std))
    return np.where(finite, z, np.nan)
