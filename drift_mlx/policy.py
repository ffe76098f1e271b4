"""What every policy on MLX shares: its trainable arrays, and the model before tuning."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import mlx.core as mx
import numpy as np
from mlx import nn

from common.config import AdapterConfig
from common.embedded.model import check_shapes
from drift_mlx import lora

__all__ = ["Tuned"]


class Tuned:
    """A denoiser with an adapter on it, or with all its weights trained.

    module: the denoiser. It is frozen but for what is trained.
    """

    module: Any

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

    def parameters(self) -> dict[str, mx.array]:
        """The trainable arrays as they are now, sorted by name."""
        return lora.trainable(self.module)

    def load_parameters(self, values: Mapping[str, np.ndarray]) -> None:
        """Replace every trainable array; ValueError names missing, extra or misshapen ones."""
        shapes = {name: array.shape for name, array in lora.trainable(self.module).items()}
        check_shapes(values, shapes, "trainable parameters")
        self.module.load_weights([(n, mx.array(v)) for n, v in values.items()], strict=False)

    @contextmanager
    def reference(self) -> Iterator[None]:
        """Within it, `predict` is the model before tuning."""
        if self._base is None:
            with lora.disabled(self.module):
                yield
            return
        try:
            self._active = self._base
            yield
        finally:
            self._active = self.module
