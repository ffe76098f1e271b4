"""What every policy on MLX shares: its trainable arrays, and the model before tuning."""

from abc import abstractmethod
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import mlx.core as mx
import numpy as np
from mlx import nn
from mlx.utils import tree_unflatten

from common.backends import Conditioning
from common.config import AdapterConfig
from common.policies.tuned import TunedPolicy
from drift_mlx import lora
from drift_mlx.compiling import compiled

__all__ = ["Tuned", "set_parameters"]


class Tuned(TunedPolicy):
    """A denoiser on MLX; see `TunedPolicy`.

    compiled: predictions, gradients and the optimizer's step of this policy go through
    `drift_mlx.compiling`.
    """

    compiled: bool = False

    def _tune(
        self,
        module: nn.Module,
        adapter: AdapterConfig,
        *,
        seed: int,
        again: Callable[[], nn.Module],
        frozen: frozenset[str] = frozenset(),
        linear: type[lora.LoRALinear] = lora.LoRALinear,
    ) -> None:
        """Make `module` trainable as `adapter` says.

        again: makes another module of the same shape, for the reference of one that is trained in
        full. frozen: parameters that no tuning changes.
        """
        self.module = module
        self._active: Any = module
        self._base: Any = None
        self._predictors: dict[bool, Callable[..., mx.array]] = {}
        if adapter.kind == "lora":
            lora.attach(module, adapter, seed=seed, linear=linear)
            return
        # Arrays are immutable, so the frozen copy shares them until tuning replaces them.
        self._base = again()
        self._base.update(module.parameters())
        self._base.freeze()
        module.unfreeze()
        parts = dict(module.named_modules())  # "" is the module itself
        for name in frozen:
            part, _, last = name.rpartition(".")
            parts[part].freeze(keys=last, recurse=False)

    @abstractmethod
    def _forward(self, x: mx.array, time: mx.array, conditioning: Conditioning) -> mx.array:
        """The output of the denoiser or of its reference."""

    def _by_compiled(self, x: mx.array, time: mx.array, conditioning: Conditioning) -> mx.array:
        """`_forward`, compiled for the adapter on or off; inside of another compilation, inlined.

        Compiling takes every array that is not an argument for a constant: what is trained, and
        changes, has to be an argument.
        """
        module, is_reference = self._active, self._is_reference()
        if is_reference not in self._predictors:
            blocks = conditioning.blocks

            def pure(
                trained: Any, x: mx.array, time: mx.array, tokens: mx.array, *pooled: mx.array
            ) -> mx.array:
                set_parameters(module, trained)
                inputs = Conditioning(tokens, pooled[0] if pooled else None, blocks)
                return self._forward(x, time, inputs)

            self._predictors[is_reference] = compiled(pure)
        trained = lora.trainable(module)
        parts = [part for part in (conditioning.tokens, conditioning.pooled) if part is not None]
        try:
            return self._predictors[is_reference](trained, x, time, *parts)
        finally:
            set_parameters(module, trained)

    def _is_reference(self) -> bool:
        if self._active is not self.module:
            return True
        first = next(iter(self._adapted_layers()), None)
        return first is not None and not first.enabled

    def _trainable(self) -> Mapping[str, mx.array]:
        return lora.trainable(self.module)

    def _copied(self, array: mx.array) -> mx.array:
        return array  # arrays are immutable

    def _assign(self, values: Mapping[str, np.ndarray]) -> None:
        self.module.load_weights([(n, mx.array(v)) for n, v in values.items()], strict=False)

    def _adapted_layers(self) -> Iterable[lora.LoRALinear]:
        return (part for part in self.module.modules() if isinstance(part, lora.LoRALinear))


def set_parameters(module: nn.Module, parameters: Mapping[str, mx.array]) -> None:
    """Put arrays into a module by their names."""
    module.update(tree_unflatten(list(parameters.items())))
