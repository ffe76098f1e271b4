"""The base of every policy: its trainable arrays, and the model before tuning."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Protocol

import numpy as np

from common.arrays import check_shapes
from common.backends import Array, Parameters

__all__ = ["AdaptedLayer", "TunedPolicy"]


class AdaptedLayer(Protocol):
    """A layer with an adapter on it; enabled = False computes the layer alone."""

    enabled: bool


class TunedPolicy(ABC):
    """A denoiser with an adapter on it, or with all its weights trained.

    module: the denoiser. It is frozen but for what is trained; a reference copy is only made
    where every weight is trained.
    """

    module: Any
    _active: Any
    """The network that `predict` calls: the module, or the reference copy."""
    _base: Any
    """The reference copy; None for an adapter."""

    @abstractmethod
    def _trainable(self) -> Mapping[str, Array]:
        """The live trainable arrays, sorted by name."""

    @abstractmethod
    def _copied(self, array: Array) -> Array:
        """An array that a later update does not change."""

    @abstractmethod
    def _assign(self, values: Mapping[str, np.ndarray]) -> None:
        """Replace every trainable array; names and shapes are checked."""

    @abstractmethod
    def _adapted_layers(self) -> Iterable[AdaptedLayer]:
        """The layers of the module that have an adapter."""

    def parameters(self) -> Parameters:
        """Copies of the trainable arrays as they are now, sorted by name."""
        return {name: self._copied(array) for name, array in self._trainable().items()}

    def load_parameters(self, values: Mapping[str, np.ndarray]) -> None:
        """Replace every trainable array; ValueError names missing, extra or misshapen ones."""
        shapes = {name: tuple(array.shape) for name, array in self._trainable().items()}
        check_shapes(values, shapes, "trainable parameters")
        self._assign(values)

    @contextmanager
    def reference(self) -> Iterator[None]:
        """Within it, `predict` is the model before tuning."""
        with self._without_adapter() if self._base is None else self.denoising_with(self._base):
            yield

    @contextmanager
    def denoising_with(self, network: Any) -> Iterator[None]:
        """Within it, `predict` calls this network."""
        try:
            self._active = network
            yield
        finally:
            self._active = self.module

    @contextmanager
    def _without_adapter(self) -> Iterator[None]:
        layers = list(self._adapted_layers())
        before = [layer.enabled for layer in layers]
        try:
            for layer in layers:
                layer.enabled = False
            yield
        finally:
            for layer, enabled in zip(layers, before, strict=True):
                layer.enabled = enabled
