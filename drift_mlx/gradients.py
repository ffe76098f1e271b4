"""The value and the gradient of a loss with regard to a policy's trainable parameters."""

from collections.abc import Callable

import mlx.core as mx

from common.backends import LossFunction, Parameters, protocols
from drift_mlx import lora
from drift_mlx.adamw import is_compiled, module_of
from drift_mlx.compiling import compiled
from drift_mlx.policy import set_parameters

__all__ = ["Gradients"]

Result = tuple[mx.array, dict[str, mx.array], Parameters]

EXPONENTS = (16, 12, 8, 4)
"""Powers of two by which a float16 loss is multiplied, tried in this order before 0."""


class Gradients:
    """A function (*arrays, onto=None) -> (loss, auxiliary, onto + gradients, by name).

    It is compiled as a whole, the sum included, where the policy is; every array of it is then
    an argument but for frozen weights, so it is traced once for each set of shapes.

    Where some of the way is in float16, what is below 6e-8 vanishes. The loss is then
    multiplied by the largest power of two whose gradients are finite, searched for at every
    call: a scale that is kept would have to be part of every checkpoint.
    """

    def __init__(self, policy: protocols.Policy, loss: LossFunction) -> None:
        self._module, self._loss = module_of(policy), loss
        dtype = getattr(policy, "dtype", None)
        self._half = dtype is not None and dtype == mx.float16
        self._differentiate = mx.value_and_grad(self._scaled_loss)
        compute = self._scaled_gradients
        self._compute: Callable[..., Result] = compiled(compute) if is_compiled(policy) else compute

    def __call__(self, *arrays: mx.array, onto: Parameters | None = None) -> Result:
        """The loss of the arrays, what it returns beside it, and its gradients added to `onto`."""
        for exponent in EXPONENTS if self._half else ():
            result = self._at(exponent, onto, arrays)
            if all(mx.isfinite(g).all().item() for g in result[2].values()):
                return result
        return self._at(0, onto, arrays)

    def _at(self, exponent: int, onto: Parameters | None, arrays: tuple[mx.array, ...]) -> Result:
        """The result with the loss multiplied by 2**exponent on the way; it is computed now."""
        parameters = lora.trainable(self._module)
        try:
            result = self._compute(parameters, mx.array(2.0**exponent), onto, *arrays)
        finally:
            set_parameters(self._module, parameters)
        mx.eval(*result)
        return result

    def _scaled_loss(
        self, parameters: Parameters, scale: mx.array, *arrays: mx.array
    ) -> tuple[mx.array, dict[str, mx.array]]:
        set_parameters(self._module, parameters)
        value, auxiliary = self._loss(*arrays)
        return value * scale, auxiliary

    def _scaled_gradients(
        self, parameters: Parameters, scale: mx.array, onto: Parameters | None, *arrays: mx.array
    ) -> Result:
        # A copy: MLX puts its tracers into the dict, and leaves them there after an error.
        (value, auxiliary), gradients = self._differentiate(dict(parameters), scale, *arrays)
        if self._half:
            value, gradients = value / scale, {n: g / scale for n, g in gradients.items()}
        if onto is not None:
            gradients = {name: onto[name] + g for name, g in gradients.items()}
        return value, auxiliary, gradients
