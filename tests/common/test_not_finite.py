"""Numbers that overflow in a run name the settings to change, in the same line."""

import pytest

from common import config as configuration
from common.errors import NotFiniteError
from common.trainer import Trainer


@pytest.mark.parametrize(
    ("changes", "update", "says"),
    [
        (
            ("optimizer.learning_rate=1e10",),
            2,
            "in rollout after update 2; try a lower optimizer.learning_rate (1e+10), or a lower "
            "optimizer.max_grad_norm (1)",
        ),
        (("model.dtype=bfloat16",), 3, "or model.dtype = 'float32' ('bfloat16')"),
        (
            ("model.dtype=float16",),
            0,
            "after update 0; try model.dtype = 'bfloat16' or 'float32' ('float16')",
        ),
        ((), 0, "after update 0; try other weights: this model has not been trained yet"),
    ],
)
def test_what_overflows_names_the_settings(changes, update, says):
    family = ("model.family=sd3", "model.path=m") if "dtype" in str(changes) else ()
    trainer = Trainer.__new__(Trainer)
    trainer._config, trainer._update = configuration.load("emoji", [*family, *changes]), update
    with pytest.raises(NotFiniteError) as caught, trainer._within("rollout"):
        raise NotFiniteError("8 of 8 latents are not finite")
    assert str(caught.value).startswith("8 of 8 latents are not finite, in rollout after update ")
    assert says in str(caught.value)
