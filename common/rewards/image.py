"""The built-in rewards: the embedded scorer's alignment, and the size of an image as JPEG.

The second embedded scorer, "heldout", is not a reward on purpose: it measures whether an
improvement is real, so training never uses it.
"""

import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import PIL
from PIL import Image

from common.backends import Backend
from common.rewards.registry import RewardFunction, register
from common.rewards.spec import Affine

JPEG_QUALITY = 95
"""DDPO's setting (Black et al. 2023); Pillow's default chroma subsampling."""

JPEG: dict[str, Any] = {
    "version": f"quality {JPEG_QUALITY}, Pillow {PIL.__version__}",
    "exact": True,
    "scalings": {"/500": Affine(divisor=500.0)},
}
"""The scaling is Flow-GRPO's."""


def jpeg_kilobytes(images: np.ndarray) -> np.ndarray:
    """Size of each image as a JPEG file of quality 95, in kB of 1000 bytes.

    Args:
        images: uint8 [N, H, W, 3].

    Returns:
        float64 [N], above 0.
    """
    return np.array([_jpeg_bytes(image) / 1000 for image in images], dtype=np.float64)


@register(
    "embedded",
    range="-1 to 1, cosine",
    description="alignment of image and prompt by the emoji model's training scorer",
    version="1",
    licence="MIT",
    weights="in the toolkit",
    device="backend",
    extra="torch",
)
def embedded(backend: Backend) -> RewardFunction:
    """Cosine of image and text embeddings of the "train" scorer, run by the backend."""
    scorer = backend.scorer("train")

    def alignment(
        images: np.ndarray, prompts: Sequence[str], metadata: Sequence[Mapping[str, Any]]
    ) -> np.ndarray:
        return scorer.score(images, prompts)

    return alignment


@register(
    "jpeg_incompressibility",
    range="above 0, kB",
    description="size of the image as a JPEG: rewards detail and noise (DDPO)",
    **JPEG,
)
def jpeg_incompressibility(backend: Backend) -> RewardFunction:
    """+kB of the JPEG file."""
    return lambda images, prompts, metadata: jpeg_kilobytes(images)


@register(
    "jpeg_compressibility",
    range="below 0, kB",
    description="minus the size of the image as a JPEG: rewards smooth images (DDPO)",
    **JPEG,
)
def jpeg_compressibility(backend: Backend) -> RewardFunction:
    """-kB of the JPEG file."""
    return lambda images, prompts, metadata: -jpeg_kilobytes(images)


def _jpeg_bytes(image: np.ndarray) -> int:
    file = io.BytesIO()
    Image.fromarray(image).save(file, format="JPEG", quality=JPEG_QUALITY)
    return file.tell()
