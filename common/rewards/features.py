"""Features that images are told apart by: for the potential of shaping, and for measuring.

They are named, registered and found as rewards are. What shapes the reward must not be what
measures diversity: `same` tells when it is.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from common.backends import Backend
from common.config import Config
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
    """What the potential sees unless it is told otherwise."""
    return backend.scorer("train").features


@FEATURES.register(
    "embedded_heldout", description="maps of the scorer that nothing may train on", **EMBEDDED
)
def embedded_heldout(backend: Backend) -> Any:
    """What diversity is measured with unless it is told otherwise."""
    return backend.scorer("heldout").features


class Features:
    """A feature extractor by name, with what it returns checked."""

    def __init__(self, name: str, backend: Backend, options: Mapping[str, Any]) -> None:
        """name: a registered one, or `module:function` of images. Raises RewardNameError."""
        self.name = name
        made = FEATURES.create(name, backend, options)
        self._function, self._declared = made.function, made.spec is not None

    def __call__(self, images: np.ndarray) -> np.ndarray:
        """Uint8 [N, H, W, 3] to unit-norm float32 [N, F]; RewardError for anything else."""
        call: Any = self._function
        found = np.asarray(call(images))
        if found.ndim != 2 or len(found) != len(images) or found.dtype.kind != "f":
            raise RewardError(
                f"features '{self.name}' returned {found.dtype} {list(found.shape)} for "
                f"{len(images)} images: expected floats [{len(images)}, F]"
            )
        return found if self._declared else unit(found)


def unit(values: np.ndarray) -> np.ndarray:
    """Rows of length 1, float32 [N, F]; a row of zeros stays one."""
    values = np.asarray(values, dtype=np.float64)
    norm = np.linalg.norm(values, axis=-1, keepdims=True)
    return (values / np.where(norm > 0, norm, 1.0)).astype(np.float32)


def same(config: Config) -> str:
    """A sentence when a run shapes and measures diversity with the same features; or ""."""
    shaping, measuring = config.drift.shaping, config.evaluate
    if shaping.mode == "none" or shaping.weight == 0 or shaping.features != measuring.features:
        return ""
    if shaping.features_options != measuring.features_options:
        return ""
    return (
        f"drift.shaping.features and evaluate.features are both '{measuring.features}': the "
        "diversity that is reported is the one that is trained on; choose others for one of them"
    )
