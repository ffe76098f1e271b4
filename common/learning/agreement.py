"""Whether an update's gradient follows the reward or the noise of its samples.

The gradients of two halves of an update, those of the lower and of the upper half of the lanes,
have the same expectation and independent noise. Their cosine is S^2 / (S^2 + N^2), with S the
length of the expected gradient and N that of one half's noise: near 0 where noise alone moves the
model, near 1 where more samples would change nothing.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from array_api_compat import array_namespace

from common.backends import Array, Backend, Parameters

METRIC = "objective/gradient_agreement"

LEAST = 8
"""Updates from which a mean agreement is judged."""


def agreement(backend: Backend, one: Parameters, other: Parameters) -> float:
    """Cosine of the gradients of two halves of the pairs: in [-1, 1]; NaN where one is 0.

    Args:
        backend: of the arrays.
        one: summed gradients of one half, by parameter.
        other: of the other half, the same names.
    """
    products = [
        sum(_dot(left[name], right[name]) for name in one)
        for left, right in ((one, other), (one, one), (other, other))
    ]
    across, *squares = (float(backend.to_numpy(product)) for product in products)
    return across / math.sqrt(math.prod(squares)) if min(squares) > 0 else math.nan


def _dot(one: Array, other: Array) -> Array:
    xp = array_namespace(one)
    return xp.sum(xp.astype(one * other, xp.float32))


def warning(metrics: Sequence[Mapping[str, Any]]) -> str:
    """One line where the mean agreement of a run's updates is not above 0 with 95 %; or "".

    metrics: the rows of a run. With fewer than `LEAST` measured updates nothing is said.
    """
    measured = [row.get(METRIC) for row in metrics]
    values = [v for v in measured if isinstance(v, int | float) and math.isfinite(v)]
    if len(values) < LEAST:
        return ""
    mean = math.fsum(values) / len(values)
    spread = math.sqrt(math.fsum((v - mean) ** 2 for v in values) / (len(values) - 1))
    half = 1.96 * spread / math.sqrt(len(values))
    if mean > half:
        return ""
    return (
        f"the gradients of two halves of an update agree by {mean:.3f} +- {half:.3f} (cosine): "
        "too little to tell the reward's signal from noise; see docs/noise.md"
    )
