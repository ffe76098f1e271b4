"""Image features: for the diversity potential of shaping, and for the measurement of diversity.

They are named and registered like rewards. Shaping and measurement should use different features;
`same` returns a warning when they do not.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from common import imports
from common.backends import Backend
from common.config import Config
from common.rewards import guard
from common.rewards.guard import RewardError
from common.rewards.registry import FEATURES

EMBEDDED: dict[str, Any] = {
    "range": "unit norm, 1 x F",
    "version": "1",
    "licence": "MIT",
    "weights": "in the toolkit",
    "device": "backend",
}


@FEATURES.register("embedded", description="maps of the emoji model's training scorer", **EMBEDDED)
def embedded(backend: Backend) -> Any:
    """The default features of the shaping potential."""
    return backend.scorer("train").features


@FEATURES.register(
    "embedded_heldout", description="maps of the scorer that training never uses", **EMBEDDED
)
def embedded_heldout(backend: Backend) -> Any:
    """The default features for the measurement of diversity."""
    return backend.scorer("heldout").features


class Features:
    """A feature extractor by name; its result is checked at each call."""

    def __init__(self, name: str, backend: Backend, options: Mapping[str, Any]) -> None:
        """name: registered features, or `module:function` of images. Raises RewardNameError."""
        self.name = name
        made = FEATURES.create(name, backend, options)
        self._function, self._declared = made.function, made.spec is not None

    def __call__(self, images: np.ndarray) -> np.ndarray:
        """Uint8 [N, H, W, 3] to unit-norm float32 [N, F]; RewardError for anything else."""
        features = self._called(images)
        if features.ndim != 2 or len(features) != len(images) or features.dtype.kind != "f":
            raise RewardError(
                f"features '{self.name}' returned {features.dtype} {list(features.shape)} for "
                f"{len(images)} images: expected floats [{len(images)}, F]"
            )
        return features if self._declared else unit(features)

    def _called(self, images: np.ndarray) -> np.ndarray:
        call: Any = self._function
        try:
            return guard.numbers(call(images))
        except guard.NotNumbersError as error:
            raise RewardError(f"features '{self.name}' returned {error}") from error
        except Exception as error:
            if self._declared:
                raise
            what = f"{imports.error_text(error)}{imports.place(error, (__file__,))}"
            raise RewardError(f"features '{self.name}' raised {what}") from error


def unit(values: np.ndarray) -> np.ndarray:
    """Rows of length 1, float32 [N, F]; a row of zeros stays one."""
    values = np.asarray(values, dtype=np.float64)
    norm = np.linalg.norm(values, axis=-1, keepdims=True)
    return (values / np.where(norm > 0, norm, 1.0)).astype(np.float32)


def label(name: str, options: Mapping[str, Any]) -> str:
    """The name with its options in words: "clip (path = weights/clip)"."""
    words = ", ".join(f"{key} = {value}" for key, value in sorted(options.items()))
    return f"{name} ({words})" if words else name


def shape_reward(config: Config, name: str, options: Mapping[str, Any]) -> bool:
    """Whether a run shapes its reward with the features of that name and those options."""
    settings = config.drift.shaping
    if settings.mode == "none" or settings.weight == 0:
        return False
    return _target(settings.features, settings.features_options) == _target(name, options)


def _target(name: str, options: Mapping[str, Any]) -> tuple[Any, dict[str, Any]]:
    """The registered name and the options of features that may have a name of the user's own."""
    return options.get("reward", name), {k: v for k, v in options.items() if k != "reward"}


def shaping(config: Config) -> list[str]:
    """Those of `evaluate.features` that shape the run's reward."""
    settings = config.evaluate
    return [n for n in settings.features if shape_reward(config, n, settings.options_of(n))]


def same(config: Config) -> str:
    """A sentence when a run measures diversity only with the features of shaping; or ""."""
    measuring = config.evaluate
    if len(shaping(config)) < len(measuring.features):
        return ""
    return (
        "drift.shaping.features and evaluate.features are both "
        f"{' and '.join(map(repr, measuring.features))}: the diversity that is reported is the one "
        "that is trained on; choose others for one of them"
    )
