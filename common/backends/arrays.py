"""The methods of a backend for arrays: to and from the device, and gradients."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Protocol

import numpy as np

from common.backends.protocols import Array, LossFunction, Parameters, Policy


class Arrays(Protocol):
    """Arrays and gradients of a tensor library."""

    def asarray(self, values: np.ndarray) -> Array:
        """Host to device. Floats become the backend's dtype, integers int32, booleans bool."""
        ...

    def to_numpy(self, array: Array) -> np.ndarray:
        """Device to host, detached; bfloat16 comes back as float32."""
        ...

    def evaluate(self, *arrays: Array) -> None:
        """Compute lazy arrays now (MLX); does nothing elsewhere."""
        ...

    def synchronize(self) -> None:
        """Wait until the device has done what it was asked; for clocks."""
        ...

    def inference(self) -> AbstractContextManager[None]:
        """Within it no gradient is recorded."""
        ...

    def value_and_grad(
        self, policy: Policy, loss: LossFunction
    ) -> Callable[..., tuple[Array, dict[str, Array], Parameters]]:
        """A function (*arrays, onto=None) -> (loss, auxiliary, gradients by parameter name).

        onto: gradients of the same names that these are added to. Where `policy` is compiled, the
        whole of it is, if the library can: so whatever changes from call to call is an array.
        """
        ...
