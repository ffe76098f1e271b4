"""How far two backends may differ with a real model, by the digits that its weights have."""

import math
from typing import NamedTuple

from common.config.types import Precision
from common.parity.measure import ROLLOUT, SINGLE, UPDATES

__all__ = ["Tolerances", "tolerances"]

GRADIENTS = 1e-4
"""A gradient goes through the network twice, and its sums cancel more."""

ROUNDOFF: dict[Precision, float] = {"bfloat16": 2**-8, "float16": 2**-11}
"""Unit roundoff u: the largest relative error of one rounding."""

RANGE = 4.6
"""Largest less smallest of a group of 64 normal weights, in standard deviations."""


class Tolerances(NamedTuple):
    """Relative errors that are accepted.

    single: one pass on identical inputs. times: the embedding of a time. gradients: of a pass, and
    a KL, which is a small difference of two passes. rollout: ten steps. images: their pixels.
    updates: two updates.
    """

    single: float
    times: float
    gradients: float
    rollout: float
    images: float
    updates: float


def tolerances(dtype: Precision = "float32", bits: int = 0) -> Tolerances:
    """Tolerances for weights of a dtype, or quantised to some bits (0 = not).

    float32: a pass makes about 100 roundings that do not cancel, as on the emoji model.

    Half precision, u = ROUNDOFF: the errors of the roundings of a pass add up as a random walk
    does, to 8 u. What cancels in a gradient costs ten times as much, as in float32; so does a time
    that is rounded before it is multiplied by 1000, as in FLUX. A rollout feeds
    each of its steps with the last one's errors, 16 u. A parameter of two updates moves by lr
    however large its gradient is, so its error is that of a pass.

    Quantised: weights of a group have 2^bits levels evenly over its range, so the error of one is
    q = RANGE / sqrt(12) / (2^bits - 1) of the weights' std: 4 q for a pass, 8 q for a gradient.

    Raises:
        KeyError: a dtype that is not in ROUNDOFF.
    """
    if dtype == "float32" and not bits:
        return Tolerances(SINGLE, SINGLE, GRADIENTS, ROLLOUT, _of_pixels(ROLLOUT), UPDATES)
    u = 0.0 if dtype == "float32" else ROUNDOFF[dtype]
    q = RANGE / math.sqrt(12) / (2**bits - 1) if bits else 0.0
    single, rollout = 8 * u + 4 * q, 16 * u + 4 * q
    return Tolerances(single, 80 * u + 4 * q, 80 * u + 8 * q, rollout, _of_pixels(rollout), single)


def _of_pixels(error: float) -> float:
    """Pixels are rounded: a share 2 * 255 error of them may become the next level.

    They lie so near the middle of two levels. Relative to evenly spread levels.
    """
    return math.sqrt(2 * 255 * error) / (255 / math.sqrt(3))
