"""What every policy on PyTorch shares: its trainable arrays, and the model before tuning."""

import copy
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from common.config import AdapterConfig, ModelConfig
from common.policies.tuned import TunedPolicy
from drift_torch import lora

__all__ = ["Tuned"]


class Tuned(TunedPolicy):
    """A denoiser on PyTorch; see `TunedPolicy`."""

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

    def _compile(self) -> None:
        """Let torch.compile choose the denoiser's kernels by rules: timing them does not repeat."""
        torch.use_deterministic_algorithms(True)  # of the compiler too, which this imports
        self.module.compile()

    def _trainable(self) -> Mapping[str, Tensor]:
        return lora.trainable(self.module)

    def _copied(self, array: Tensor) -> Tensor:
        return array.detach().clone()

    def _assign(self, values: Mapping[str, np.ndarray]) -> None:
        with torch.no_grad():
            for name, parameter in self._trainable().items():
                parameter.copy_(torch.from_numpy(np.array(values[name])))

    def _adapted_layers(self) -> Iterable[lora.LoRALinear]:
        return (part for part in self.module.modules() if isinstance(part, lora.LoRALinear))

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
