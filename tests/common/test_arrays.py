"""Arrays that do not fit are refused by name."""

import numpy as np
import pytest

from common.arrays import check_shapes


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda w: w.pop("b"), "'b' is missing"),
        (
            lambda w: w.update(bb=w["b"]),
            "'bb' is surplus; the nearest one that belongs .* 'b'",
        ),
        (lambda w: w.update(b=np.zeros((2, 1))), r"'b' has shape \[2, 1\], not \[2\]"),
    ],
)
def test_arrays_that_do_not_fit_are_named(change, message):
    weights = {"a": np.zeros(()), "b": np.zeros(2)}
    change(weights)
    with pytest.raises(ValueError, match=message):
        check_shapes(weights, {"a": (), "b": (2,)}, "weights")
