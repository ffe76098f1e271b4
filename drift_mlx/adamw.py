"""AdamW on MLX, with the same numbers as PyTorch's; compiled where the policy is."""

import math
from collections.abc import Mapping

import mlx.core as mx
import numpy as np
from mlx import nn

from common.arrays import check_shapes
from common.backends import Parameters, protocols
from common.config import OptimizerConfig
from common.errors import NotFiniteError
from drift_mlx import lora
from drift_mlx.compiling import compiled
from drift_mlx.policy import set_parameters

__all__ = ["AdamW", "is_compiled", "module_of"]


class AdamW:
    """AdamW (Loshchilov and Hutter 2019) behind a clip; fulfils `common.backends.Optimizer`.

    m = b1 m + (1 - b1) g,  v = b2 v + (1 - b2) g^2
    p = p (1 - lr wd) - lr m / (1 - b1^t) / (sqrt(v) / sqrt(1 - b2^t) + eps)

    mlx.optimizers.AdamW takes 1 - b2^t in float32, which puts its first steps 1e-5 off.
    """

    def __init__(self, policy: protocols.Policy, settings: OptimizerConfig):
        self._module, self._settings = module_of(policy), settings
        self._step = 0
        zeros = {n: mx.zeros_like(p) for n, p in lora.trainable(self._module).items()}
        self._first, self._second = dict(zeros), dict(zeros)
        whole = compiled if is_compiled(policy) else (lambda function: function)
        self._norm, self._move = whole(_norm), whole(self._moved)

    def step(self, gradients: Parameters) -> float:
        """Scale gradients by min(1, max_norm / (norm + 1e-6)), update, return the norm.

        Raises NotFiniteError and changes nothing when the norm is not finite.
        """
        names, s = list(self._first), self._settings
        norm = self._norm([gradients[name] for name in names])
        before = float(np.array(norm))
        if not math.isfinite(before):
            raise NotFiniteError(f"the gradient norm is {before}; nothing was updated")
        self._step += 1
        t = self._step
        # Arrays, for a number is a constant to the compiler: every step would be compiled again.
        rate = mx.array(s.learning_rate / (1 - s.beta1**t))
        root = mx.array(math.sqrt(1 - s.beta2**t))
        shrink = mx.array(1 - s.learning_rate * s.weight_decay)
        updated, self._first, self._second = self._move(
            lora.trainable(self._module),
            (self._first, self._second),
            gradients,
            (norm, rate, root, shrink),
        )
        set_parameters(self._module, updated)
        mx.eval(updated, self._first, self._second)
        return before

    def _moved(
        self,
        parameters: Parameters,
        moments: tuple[Parameters, Parameters],
        gradients: Parameters,
        scalars: tuple[mx.array, ...],
    ) -> tuple[Parameters, Parameters, Parameters]:
        """Parameters and both moments after a step; pure."""
        s, (norm, rate, root, shrink) = self._settings, scalars
        clip = mx.minimum(s.max_grad_norm / (norm + 1e-6), 1.0)
        updated, first, second = {}, {}, {}
        for name, p in parameters.items():
            g = gradients[name] * clip
            first[name] = m = s.beta1 * moments[0][name] + (1 - s.beta1) * g
            second[name] = v = s.beta2 * moments[1][name] + (1 - s.beta2) * mx.square(g)
            updated[name] = p * shrink - rate * m / (mx.sqrt(v) / root + s.eps)
        return updated, first, second

    def state(self) -> dict[str, np.ndarray]:
        """`step` (int64 scalar), `first/<name>` and `second/<name>` (moments), on the host."""
        state = {"step": np.array(self._step, dtype=np.int64)}
        for moment, arrays in (("first", self._first), ("second", self._second)):
            state |= {f"{moment}/{name}": np.array(array) for name, array in arrays.items()}
        return state

    def load_state(self, state: Mapping[str, np.ndarray]) -> None:
        """Restore what `state` gave; ValueError names missing, extra or misshapen arrays."""
        expected = {name: array.shape for name, array in self.state().items()}
        check_shapes(state, expected, "optimizer state")
        self._step = int(state["step"])
        for moment, arrays in (("first", self._first), ("second", self._second)):
            arrays.update(
                {name: mx.array(state[f"{moment}/{name}"], mx.float32) for name in arrays}
            )


def is_compiled(policy: protocols.Policy) -> bool:
    """Whether a policy is to be compiled; False for a policy without the attribute `compiled`."""
    return getattr(policy, "compiled", False)


def _norm(gradients: list[mx.array]) -> mx.array:
    """Euclidean norm of all arrays together."""
    # By rows first: MLX adds up a long float32 array on a CPU with an error of 2e-5.
    return mx.sqrt(mx.stack([mx.square(g).sum(-1).sum() for g in gradients]).sum())


def module_of(policy: protocols.Policy) -> nn.Module:
    """The denoiser of a policy. TypeError for one of another backend."""
    module = getattr(policy, "module", None)
    if not isinstance(module, nn.Module):
        raise TypeError(f"{type(policy).__name__} is not a policy of the MLX backend")
    return module
