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

    Features are named as in the configuration, and "" where the model has its own.
    RewardNameError for features that cannot be made here, where they are first used.
    """

    HAS_ALIGNMENT: ClassVar[bool] = False
    """Whether the embedded scorers, which know emoji alone, say something of the images."""

    OWN_FEATURES: ClassVar[str] = ""
    """Registered name of the features that come first for this model; "" = the user chooses."""

    def __init__(self, config: Config, backend: Backend) -> None:
        self._config, self._backend = config, backend
        self._extractors: dict[str, Callable[[np.ndarray], np.ndarray]] = {}

    @classmethod
    def model(cls, config: Config) -> str:
        """Digest of the base model; ValueError when its files cannot be read."""
        return model_files.digest(config.model)

    @classmethod
    def feature_labels(cls, config: Config, names: Sequence[str] = ()) -> tuple[str, ...]:
        """The features that are measured in, with their options in words; at least one.

        names: of features; () takes `evaluate.features`. The first is "" where the model has
        features of its own, which then come first.
        """
        chosen = dict.fromkeys(names or config.evaluate.features)
        labels = [features.label(name, config.evaluate.options_of(name)) for name in chosen]
        if cls.OWN_FEATURES:
            labels = ["", *(each for each in labels if each != cls.OWN_FEATURES)]
        return tuple(labels)

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
    def shaped(cls, config: Config, names: Sequence[str]) -> tuple[str, ...]:
        """Those of the features that a run's reward is shaped with; "" = the model's own."""
        by_name = {name: name or cls.OWN_FEATURES for name in names}
        return tuple(
            name
            for name, real in by_name.items()
            if features.shape_reward(config, real, config.evaluate.options_of(real))
        )

    def prepare(self, names: Sequence[str]) -> None:
        """Load these features. Raises RewardNameError for those that cannot be made here."""
        for name in names:
            self._extractor(name)

    def features(self, images: np.ndarray, name: str) -> np.ndarray:
        """Features of uint8 [P, n, H, W, 3]: float64 [P, n, F]."""
        flat = images.reshape(-1, *images.shape[2:])
        return self.flat_features(flat, name).reshape(*images.shape[:2], -1)

    def flat_features(self, flat: np.ndarray, name: str) -> np.ndarray:
        """Uint8 [N, H, W, 3] -> float64 [N, F], so many images at once that memory is bounded."""
        extract, size = self._extractor(name), max(CHUNK // (flat.shape[1] * flat.shape[2]), 1)
        parts = [extract(flat[start : start + size]) for start in range(0, len(flat), size)]
        return np.concatenate(parts).astype(np.float64)

    def alignments(self, images: np.ndarray, prompts: Sequence[str]) -> dict[str, np.ndarray]:
        """The alignment of each image by the model's own scorers, [N] by measure.

        Args:
            images: uint8 [N, H, W, 3].
            prompts: the text of each image.
        """
        return {}

    def by_prompt(self, images: np.ndarray, prompts: Sequence[str]) -> dict[str, np.ndarray]:
        """The measures that need neither features nor a reward: [P] each.

        Args:
            images: uint8 [P, n, H, W, 3].
            prompts: P texts.
        """
        return {
            "pixel_distance": np.array([_pixel_distance(each) for each in images]),
            "high_frequency": np.array(
                [quality.high_frequency_energy(each).mean() for each in images]
            ),
        }

    @staticmethod
    def in_features(seen: np.ndarray, base: np.ndarray | None) -> dict[str, np.ndarray]:
        """The measures of IN_FEATURES, [P] each.

        seen, base: features of the images and of the base model's images, [P, n, F]. Without a
        base model there is no recall and no coverage.
        """
        distances = diversity.cosine_distances(seen)
        made = {
            "diversity": diversity.mean_pairwise(distances),
            "vendi": diversity.vendi_of_distances(distances),
        }
        if base is None:
            return made
        k = min(NEIGHBOURS, seen.shape[1] - 1)
        return made | {
            "recall": fidelity.recall(base, seen, k),
            "coverage": fidelity.coverage(base, seen, k),
        }

    def reference(self, name: str, prompts: Sequence[str], base: np.ndarray) -> np.ndarray:
        """The features [M, F] that the Frechet distance is to: of the base model's images.

        Both sets have the same size: the distance is biased upwards by few images, in both alike.
        """
        return _flat(base)

    def _extractor(self, name: str) -> Callable[[np.ndarray], np.ndarray]:
        if name not in self._extractors:
            real = name or self.OWN_FEATURES
            options = self._config.evaluate.options_of(real)
            self._extractors[name] = Features(real, self._backend, options)
        return self._extractors[name]


def frechet(seen: np.ndarray, other: np.ndarray) -> float:
    """Frechet distance of the images' features [P, n, F] to other features [M, F]."""
    return fidelity.frechet_distance(_flat(seen), other)


def _pixel_distance(images: np.ndarray) -> float:
    """Mean pairwise root-mean-square distance of pixels, of uint8 [n, H, W, 3]."""
    pixels = images.reshape(len(images), -1) / 255.0
    distances = diversity.euclidean_distances(pixels)
    return float(diversity.mean_pairwise(distances) / np.sqrt(images[0].size))


def _flat(features: np.ndarray) -> np.ndarray:
    return features.reshape(-1, features.shape[-1])
