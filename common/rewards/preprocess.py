"""Image preprocessing of published scorers: resize by Pillow on the host, crop, normalise.

Pillow's resampling on uint8 is what the published pipelines use; a resize of float tensors rounds
differently and changes scores.
"""

from typing import Literal

import numpy as np
from PIL import Image

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)
"""Of OpenAI's CLIP; the LAION models, BLIP and ImageReward use them too."""

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

FILTERS = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}
Filter = Literal["bicubic", "bilinear"]


def cropped(
    images: np.ndarray, size: int, *, resample: Filter = "bicubic", rounded: bool = False
) -> np.ndarray:
    """The short side resized to `size`, then the centre: uint8 [N, H, W, 3] to [N, s, s, 3].

    The long side is rounded down. rounded: the crop begins at round((long - size) / 2), as
    torchvision's does, instead of at its floor, as Hugging Face's does.
    """
    height, width = images.shape[1:3]
    short = min(height, width)
    rows, columns = (int(size * side / short) for side in (height, width))
    large = resized(images, (rows, columns), resample=resample)
    top, left = (
        round((side - size) / 2) if rounded else (side - size) // 2 for side in (rows, columns)
    )
    return large[:, top : top + size, left : left + size]


def letterboxed(images: np.ndarray, size: int, *, resample: Filter = "bicubic") -> np.ndarray:
    """The long side resized to `size`, black beside it: uint8 [N, H, W, 3] to [N, s, s, 3]."""
    height, width = images.shape[1:3]
    scale = size / max(height, width)
    rows, columns = (round(side * scale) for side in (height, width))
    box = np.zeros((len(images), size, size, 3), dtype=np.uint8)
    top, left = (size - rows) // 2, (size - columns) // 2
    box[:, top : top + rows, left : left + columns] = resized(
        images, (rows, columns), resample=resample
    )
    return box


def resized(
    images: np.ndarray, shape: tuple[int, int], *, resample: Filter = "bicubic"
) -> np.ndarray:
    """Uint8 [N, H, W, 3] to uint8 [N, *shape, 3], with Pillow's antialiasing."""
    if images.shape[1:3] == shape:
        return images
    size, how = (shape[1], shape[0]), FILTERS[resample]
    return np.stack([np.asarray(Image.fromarray(image).resize(size, how)) for image in images])


def normalised(
    images: np.ndarray, mean: tuple[float, float, float], std: tuple[float, float, float]
) -> np.ndarray:
    """(x / 255 - mean) / std by channel, channels first: uint8 [N, H, W, 3] to float32."""
    x = images.astype(np.float32) / np.float32(255.0)
    x = (x - np.array(mean, dtype=np.float32)) / np.array(std, dtype=np.float32)
    return np.ascontiguousarray(x.transpose(0, 3, 1, 2))


def clip_pixels(images: np.ndarray, size: int, *, resample: Filter = "bicubic") -> np.ndarray:
    """The input of CLIP's image encoder: float32 [N, 3, size, size]."""
    return normalised(cropped(images, size, resample=resample), CLIP_MEAN, CLIP_STD)
