"""What the images of any model are measured with.

A family whose images say more than those of any other (classes of them, real images of the same
prompts) has a class derived from `Measures`: see `common.evaluation.families`.
"""

from collections.abc import Callable, Sequence
from typing import ClassVar

import numpy as np

from common.algorithm import diversity, fidelity, quality
from common.backends import Backend
from common.config import Config
from common.evaluation import model_files
from common.rewards import Features, features

NEIGHBOURS = 3
"""k of recall and coverage, this toolkit's choice: of 16 images the base model covers 0.90."""

CHUNK = 1 << 24
"""Pixels that are looked at in one call, which bounds memory: 64 images of 512 x 512."""

_SAMPLER = {
    "rollout": ("guidance", "schedule", "shift"),
    "model": (
        "resolution", "dtype", "quantize", "max_tokens", "text_encoder_3", "guidance_embedding",
        "vae_tiling",
    ),
}  # fmt: skip
"""Settings that determine a model's images, beside its files and the options of `drift eval`."""


class Measures:
    """Measures of any model: diversity and fidelity in the features `evaluate.features`.

    Raises RewardNameError for features that cannot be made here.
    """

    HAS_ALIGNMENT: ClassVar[bool] = False
    """Whether the embedded scorers, which know emoji alone, say something of the images."""

    def __init__(self, config: Config, backend: Backend) -> None:
        settings = config.evaluate
        self._extract: Callable[[np.ndarray], np.ndarray] = Features(
            settings.features, backend, settings.features_options
        )

    @classmethod
    def model(cls, config: Config) -> str:
        """Digest of the base model; ValueError when its files cannot be read."""
        return model_files.digest(config.model)

    @classmethod
    def features_name(cls, config: Config) -> str:
        """The name of the features with their options; never ""."""
        options = config.evaluate.features_options
        words = [f"{key} = {value}" for key, value in sorted(options.items())]
        return " ".join([config.evaluate.features, *([f"({', '.join(words)})"] if words else [])])

    @classmethod
    def sampler(cls, config: Config) -> str:
        """The settings that determine the images of a model, in words; never ""."""
        tables = {"rollout": config.rollout, "model": config.model}
        words = []
        for table, names in _SAMPLER.items():
            settings, fields = tables[table], type(tables[table]).model_fields
            for name in names:
                value = getattr(settings, name)
                if name in ("guidance", "schedule") or value != fields[name].default:
                    words.append(f"{name} {value}")
        return ", ".join(words)

    @classmethod
    def are_shaped(cls, config: Config) -> bool:
        """Whether the run's reward is shaped with the features that its images are measured in."""
        settings = config.evaluate
        return features.shape_reward(config, settings.features, settings.features_options)

    def features(self, images: np.ndarray) -> np.ndarray:
        """Features of uint8 [P, n, H, W, 3]: float64 [P, n, F]."""
        flat = images.reshape(-1, *images.shape[2:])
        return self._flat_features(flat).reshape(*images.shape[:2], -1)

    def by_prompt(
        self, images: np.ndarray, prompts: Sequence[str], seen: np.ndarray, base: np.ndarray
    ) -> dict[str, np.ndarray]:
        """Every measure but the reward: [P] each.

        Args:
            images: uint8 [P, n, H, W, 3].
            prompts: P texts.
            seen: features of the images, [P, n, F].
            base: features of the base model's images, [P, n, F].
        """
        distances = diversity.cosine_distances(seen)
        k = min(NEIGHBOURS, images.shape[1] - 1)
        return {
            "diversity": diversity.mean_pairwise(distances),
            "vendi": diversity.vendi_of_distances(distances),
            "pixel_distance": np.array([_pixel_distance(each) for each in images]),
            "high_frequency": np.array(
                [quality.high_frequency_energy(each).mean() for each in images]
            ),
            "recall": fidelity.recall(base, seen, k),
            "coverage": fidelity.coverage(base, seen, k),
        }

    def frechet(self, seen: np.ndarray, prompts: Sequence[str], base: np.ndarray) -> float:
        """Frechet distance of the images' features [P, n, F] to those of the base model's images.

        Both sets have the same size: the distance is biased upwards by few images, in both alike.
        """
        return fidelity.frechet_distance(*(_flat(each) for each in (seen, base)))

    def _flat_features(self, flat: np.ndarray) -> np.ndarray:
        """Uint8 [N, H, W, 3] -> float64 [N, F], so many images at once that memory is bounded."""
        size = max(CHUNK // (flat.shape[1] * flat.shape[2]), 1)
        parts = [self._extract(flat[start : start + size]) for start in range(0, len(flat), size)]
        return np.concatenate(parts).astype(np.float64)


def _pixel_distance(images: np.ndarray) -> float:
    """Mean pairwise root-mean-square distance of pixels, of uint8 [n, H, W, 3]."""
    pixels = images.reshape(len(images), -1) / 255.0
    distances = diversity.euclidean_distances(pixels)
    return float(diversity.mean_pairwise(distances) / np.sqrt(images[0].size))


def _flat(features: np.ndarray) -> np.ndarray:
    return features.reshape(-1, features.shape[-1])
