"""Whether an update's gradient follows the reward or the noise of its samples.

The gradients of two halves of an update have the same expectation and independent noise. Their
cosine is S^2 / (S^2 + N^2), with S the length of the expected gradient and N that of one half's
noise: near 0 where noise alone moves the model, near 1 where more samples would change nothing.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from array_api_compat import array_namespace

from common.backends import Array, Backend, Parameters

METRIC = "objective/gradient_agreement"

LEAST = 8
"""Updates from which a mean agreement is judged."""


def agreement(backend: Backend, first: Parameters, whole: Parameters) -> float:
    """Cosine of a half's gradient and of the rest of the whole: in [-1, 1]; NaN where one is 0.

    Args:
        backend: of the arrays.
        first: gradients of one half of the pairs, by parameter.
        whole: gradients of all pairs, the same names.
    """
    rest = {name: whole[name] - first[name] for name in first}
    products = [
        sum(_dot(one[name], other[name]) for name in first)
        for one, other in ((first, rest), (first, first), (rest, rest))
    ]
    across, one, other = (float(backend.to_numpy(product)) for product in products)
    return across / math.sqrt(one * other) if one > 0 and other > 0 else math.nan


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
