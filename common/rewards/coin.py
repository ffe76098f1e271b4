"""A reward that no image deserves more than another: what training does without a signal."""

import hashlib
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import numpy as np
from pydantic import Field

from common.backends import Backend
from common.config import key
from common.rewards.registry import RewardFunction, register
from common.rewards.spec import Options


class CoinOptions(Options):
    """The options of the reward `coin`."""

    seed: Annotated[int, Field(ge=0, lt=2**63)] = key(
        0, "which coin: each seed is another function of the image"
    )


def tosses(images: np.ndarray, seed: int) -> np.ndarray:
    """Whether SHA-256 of the seed and an image's bytes is odd: uint8 [N, H, W, 3] to float64 [N].

    The same image has the same score; images that differ in one byte have independent ones.
    """
    start = hashlib.sha256(seed.to_bytes(8, "little"))
    scores = []
    for image in np.ascontiguousarray(images):
        state = start.copy()
        state.update(image.tobytes())
        scores.append(float(state.digest()[0] & 1))
    return np.array(scores, dtype=np.float64)


@register(
    "coin",
    range="0 or 1",
    description="a coin for each image: a control, in which training follows nothing but noise",
    version="1",
    exact=True,
    control=True,
    options=CoinOptions,
)
def coin(backend: Backend, options: CoinOptions) -> RewardFunction:
    """The coin of that seed."""

    def score(
        images: np.ndarray, prompts: Sequence[str], metadata: Sequence[Mapping[str, Any]]
    ) -> np.ndarray:
        return tosses(images, options.seed)

    return score
