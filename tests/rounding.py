"""How far float32 rounding may take a result from its exact value."""

import numpy as np


def rounding_error(scale, operations):
    """Absolute tolerance of a float32 result against float64: the same for a result near zero.

    The model: each of the operations in series (matrix products, as a rule) rounds its output by
    an error that is uniform in +- eps/2 of the scale, independently of the others and without
    amplifying them. The sum of n such errors has standard deviation eps/2 * scale * sqrt(n/3);
    the tolerance is six of them.

    scale: the magnitude of the terms whose sum is the result, before they cancel.
    """
    return 6 * np.finfo(np.float32).eps / 2 * scale * np.sqrt(operations / 3)
