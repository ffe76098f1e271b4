"""What every policy on PyTorch shares: its trainable arrays, and the model before tuning."""

import copy
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from common.arrays import check_shapes
from common.config import AdapterConfig, ModelConfig
from drift_torch import lora

__all__ = ["Tuned"]


class Tuned:
    """A denoiser with an adapter on it, or with all its weights trained.

    module: the denoiser. It is frozen but for what is trained; a reference copy is only made
    where every weight is trained.
    """

    module: Any
    device: torch.device

    def _tune(
        self,
        module: nn.Module,
        adapter: AdapterConfig,
        *,
        seed: int,
        frozen: frozenset[str] = frozenset(),
        linear: type[lora.LoRALinear] = lora.LoRALinear,
    ) -> None:
        """Make `module` trainable as `adapter` says; frozen: parameters that no tuning changes."""
        self.module = module
        self._active: Any = module
        self._base: Any = None
        if adapter.kind == "lora":
            lora.attach(module, adapter, seed=seed, linear=linear)
            return
        self._base = copy.deepcopy(module).requires_grad_(False)
        for name, parameter in module.named_parameters():
            parameter.requires_grad_(name not in frozen)

    def parameters(self) -> dict[str, Tensor]:
        """Copies of the trainable arrays as they are now, sorted by name."""
        return {name: p.detach().clone() for name, p in lora.trainable(self.module).items()}

    def load_parameters(self, values: Mapping[str, np.ndarray]) -> None:
        """Replace every trainable array; ValueError names missing, extra or misshapen ones."""
        parameters = lora.trainable(self.module)
        shapes = {name: tuple(p.shape) for name, p in parameters.items()}
        check_shapes(values, shapes, "trainable parameters")
        with torch.no_grad():
            for name, parameter in parameters.items():
                parameter.copy_(torch.from_numpy(np.array(values[name])))

    def resident(self) -> list[nn.Module]:
        """The modules whose weights are on the device all the time."""
        return [self.module] if self._base is None else [self.module, self._base]

    def transient_parts(self, batch: int) -> dict[str, tuple[nn.Module, Callable[[], Any]]]:
        """Other parts that work now and then: stage -> (module, its work for `batch` samples)."""
        return {}

    @contextmanager
    def with_memory_settings(self, model: ModelConfig) -> Iterator[None]:
        """Within it, memory is used as these settings of the same model say; for estimates."""
        yield

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
