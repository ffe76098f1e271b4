"""The emoji policy and its image-text scorers, written against a few conversions of arrays."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import numpy as np

from common.backends import Array, Conditioning, DiffusionSchedule, FlowSchedule, Prediction
from common.embedded import model
from common.embedded.model import LastResultCache
from common.policies.tuned import TunedPolicy

__all__ = ["EmbeddedPolicy", "EmbeddedScorer"]

CHUNK = 256
"""Images that a scorer looks at in one pass: bounds memory."""


class EmbeddedPolicy(TunedPolicy):
    """The emoji flow model being tuned; all of `common.backends.Policy` but `predict`."""

    prediction: Prediction = "velocity"
    schedule: FlowSchedule | DiffusionSchedule = FlowSchedule()

    @abstractmethod
    def _array(self, values: np.ndarray) -> Array:
        """Host to device, in the dtype of the weights."""

    @abstractmethod
    def _host(self, array: Array) -> np.ndarray:
        """Device to host, detached."""

    @abstractmethod
    def _embed(self, tokens: np.ndarray) -> Conditioning:
        """Vocabulary indices int32 [B, 6] as conditioning [B, 6, 64], without a gradient."""

    def check(self, prompts: Sequence[str]) -> None:
        """Read prompts without embedding them. ValueError names a prompt it cannot read."""
        model.tokenize(prompts, self.module.config)

    def encode(self, prompts: Sequence[str]) -> Conditioning:
        """Embed clean prompts: tokens [B, 6, 64]. ValueError names a prompt it cannot read."""
        return self._embed(model.tokenize(prompts, self.module.config))

    def null(self, count: int) -> Conditioning:
        """The null prompt's embedding, `count` times."""
        return self._embed(model.null_tokens(count, self.module.config))

    def embed_time(self, t: np.ndarray) -> Array:
        """Times t [B] in [0, 1], 1 = noise, as features [B, 64], computed in float64."""
        return self._array(model.time_features(t, self.module.config))

    def trace(self, x: Array, time: Array, conditioning: Conditioning) -> dict[str, Array]:
        """Every intermediate result of `predict`, by layer name in order."""
        return self._active.layers(x, time, conditioning.tokens)

    def decode(self, x: Array) -> np.ndarray:
        """Latents as pixels: uint8 [B, 32, 32, 3]."""
        return model.to_images(self._host(x))


class EmbeddedScorer(ABC):
    """An embedded image-text scorer; fulfils `common.backends.Scorer`."""

    module: Any
    """The image and text encoders."""

    def __init__(self, name: str) -> None:
        self.config = model.scorer_config(name)
        self._features = LastResultCache(self._convolve_all)

    @abstractmethod
    def _convolve(self, images: np.ndarray) -> Array:
        """Latents float32 [B, 3, 32, 32] as features [B, F] on the device, computed by now."""

    @abstractmethod
    def _embed_features(self, features: Array) -> np.ndarray:
        """Features [B, F] as embeddings on the host, [B, E], not normalised."""

    @abstractmethod
    def _embed_text(self, tokens: np.ndarray) -> np.ndarray:
        """Vocabulary indices int32 [B, 6] as embeddings on the host, [B, E], not normalised."""

    @abstractmethod
    def _host(self, array: Array) -> np.ndarray:
        """Device to host."""

    def can_read(self, prompts: Sequence[str]) -> bool:
        """Whether every word of the prompts is in the vocabulary."""
        return model.can_read(prompts, self.config)

    def score(self, images: np.ndarray, prompts: Sequence[str]) -> np.ndarray:
        """Cosine of image and text for uint8 [N, H, W, 3] and N prompts: float64 [N]."""
        if len(images) != len(prompts):
            raise ValueError(f"{len(images)} images but {len(prompts)} prompts")
        text = self._embed_text(model.tokenize(prompts, self.config))
        image = np.concatenate([self._embed_features(part) for part in self._features(images)])
        return (model.unit(image) * model.unit(text)).sum(-1)

    def features(self, images: np.ndarray) -> np.ndarray:
        """Unit-norm image features: float32 [N, F]."""
        parts = [self._host(part) for part in self._features(images)]
        return model.unit(np.concatenate(parts)).astype(np.float32)

    def _convolve_all(self, images: np.ndarray) -> list[Array]:
        """Features of the images on the device, chunk by chunk."""
        x = model.from_images(model.fit(images, self.config))
        return [self._convolve(x[i : i + CHUNK]) for i in range(0, len(x), CHUNK)]
