"""What is compared, and how its error is computed."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

SINGLE = 1e-5
"""One stage on identical inputs: about 100 roundings of float32 (2^-24) that do not cancel."""

ROLLOUT = 1e-4
"""A whole rollout, or what is computed from its images: ten steps, each fed with the last."""

UPDATES = 1e-3
"""Five complete updates: rollouts by policies that the errors of earlier updates made different."""

CHANGE = 2 * math.sqrt(2 * SINGLE / math.sqrt(2 * math.pi))
"""How far five updates moved the parameters, 5.6e-3 of the distance.

Adam's first steps are lr sign(g). With an error of SINGLE in the gradient, a share 2 phi(0) SINGLE
of normally distributed elements is smaller than its own error and may take the other sign, which
puts it 2 lr off: |error| / |change| = 2 sqrt(share).
"""

EXACT = 0.0
"""The same bits."""


@dataclass(frozen=True)
class Measured:
    """Results of one stage on one backend: host arrays by name, the same names everywhere."""

    stage: str
    arrays: Mapping[str, np.ndarray]
    tolerance: float


@dataclass(frozen=True)
class StageResult:
    """How far two backends differ in one stage.

    backends: "cpu vs float64" or "cpu vs mlx". relative_error: the largest of
    |a - b| / |b| (Euclidean norms of a whole array) over the stage's arrays, b being the
    backend named second. max_abs_error: the largest difference of two elements.
    """

    stage: str
    backends: str
    relative_error: float
    max_abs_error: float
    tolerance: float
    ok: bool


def between(label: str, a: Measured, b: Measured) -> StageResult:
    """Compare a stage of two backends.

    Raises ValueError when the two did not measure the same arrays.
    """
    shapes = [{name: np.shape(array) for name, array in m.arrays.items()} for m in (a, b)]
    if a.stage != b.stage or shapes[0] != shapes[1]:
        raise ValueError(f"{label}: {a.stage} {shapes[0]} cannot be compared with {shapes[1]}")
    pairs = [(_float64(a.arrays[name]), _float64(b.arrays[name])) for name in a.arrays]
    # np.max, unlike max, passes a NaN on: not within any tolerance.
    relative = float(np.max([relative_error(x, y) for x, y in pairs]))
    absolute = float(np.max([np.abs(x - y).max() for x, y in pairs]))
    ok = relative <= a.tolerance and bool(np.isfinite(absolute))
    return StageResult(a.stage, label, relative, absolute, a.tolerance, ok)


def relative_error(a: np.ndarray, b: np.ndarray) -> float:
    """|a - b| / |b| with Euclidean norms; 0 where both are 0, infinite where only b is."""
    difference, size = float(np.linalg.norm(a - b)), float(np.linalg.norm(b))
    if size == 0.0:
        return 0.0 if difference == 0.0 else float("inf")
    return difference / size


def _float64(array: np.ndarray) -> np.ndarray:
    return np.asarray(array, dtype=np.float64).reshape(-1)
