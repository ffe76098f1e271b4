"""Image statistics that reveal reward hacking; host numpy, no model."""

import numpy as np

__all__ = [
    "color_entropy",
    "edge_density",
    "high_frequency_energy",
    "saturation",
]

_LUMA = np.array([299, 587, 114])
"""Rec. 601 weights of gamma-coded red, green and blue; integers keep a constant image constant."""

_CUTOFF = 0.25
"""Cycles per pixel. A grid of 4 x 4 patches repeats every 4 pixels: exactly here and above."""

_EDGE = 1 / 8
"""Share of white: a step in luminance that counts as an edge."""


def high_frequency_energy(images: np.ndarray) -> np.ndarray:
    """Share of an image's detail that is fine grained: float64 [N] in [0, 1].

    Energy |FFT(luminance)|^2 at frequencies of at least 1/4 cycle per pixel in either axis, over
    the energy at all frequencies but 0. It rises when patch grids or noise creep in; a constant
    image has 0. It is a share, so contrast and brightness do not matter.

    Args:
        images: uint8 [N, H, W, 3].

    Raises:
        ValueError: another dtype or shape.

    Example:
        >>> stripes = np.zeros((1, 4, 4, 3), dtype=np.uint8)
        >>> stripes[:, :, ::2] = 255
        >>> high_frequency_energy(stripes).tolist()
        [1.0]
    """
    images = _checked(images)
    rows, columns = (np.abs(np.fft.fftfreq(size)) >= _CUTOFF for size in images.shape[1:3])
    is_high = rows[:, None] | columns
    return np.array(
        [_share(image.astype(np.int64) @ _LUMA, is_high) for image in images], dtype=np.float64
    )


def edge_density(images: np.ndarray) -> np.ndarray:
    """Share of neighbouring pixels, across and down, whose luminance differs by over 1/8 of white.

    Float64 [N] in [0, 1]; outlines and textures raise it, noise most of all. Arguments and errors
    are those of `high_frequency_energy`, here and below. The threshold is this toolkit's choice.

    Example:
        >>> image = np.zeros((1, 2, 2, 3), dtype=np.uint8)
        >>> image[:, :, 1] = 255
        >>> edge_density(image).tolist()
        [0.5]
    """
    luminance = _checked(images).astype(np.int64) @ _LUMA
    limit = _EDGE * 255 * _LUMA.sum()
    across, down = (np.abs(np.diff(luminance, axis=axis)) > limit for axis in (2, 1))
    count = across[0].size + down[0].size
    return (across.sum(axis=(1, 2)) + down.sum(axis=(1, 2))) / max(count, 1)


def color_entropy(images: np.ndarray) -> np.ndarray:
    """Entropy of the histogram of colours, 8 x 8 x 8 bins, over that of equal bins: [N] in [0, 1].

    -sum p ln p / ln 512: 0 for one colour, 1 where every bin is as full as any other.

    Example:
        >>> color_entropy(np.zeros((1, 2, 2, 3), dtype=np.uint8)).tolist()
        [0.0]
    """
    images = _checked(images)
    bins = (images >> 5).astype(np.int64) @ np.array([64, 8, 1])
    return np.array([_entropy(np.bincount(each.ravel(), minlength=512)) for each in bins])


def saturation(images: np.ndarray) -> np.ndarray:
    """Mean over pixels of (max - min) / max of red, green and blue, black as 0: [N] in [0, 1].

    Example:
        >>> saturation(np.array([[[[255, 0, 0], [200, 100, 100]]]], dtype=np.uint8)).tolist()
        [0.75]
    """
    images = _checked(images).astype(np.float64)
    high, low = images.max(axis=3), images.min(axis=3)
    return np.where(high > 0, (high - low) / np.maximum(high, 1), 0.0).mean(axis=(1, 2))


def _checked(images: np.ndarray) -> np.ndarray:
    images = np.asarray(images)
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[3] != 3:
        raise ValueError(
            f"images must be uint8 [N, H, W, 3], not {images.dtype} {list(images.shape)}"
        )
    return images


def _entropy(counts: np.ndarray) -> float:
    p = counts[counts > 0] / counts.sum()
    return float(-(p * np.log(p)).sum() / np.log(len(counts))) + 0.0


def _share(luminance: np.ndarray, is_high: np.ndarray) -> float:
    """Energy where is_high [H, W] over all energy but the constant's; 0 for a constant image."""
    if np.ptp(luminance) == 0:
        return 0.0
    energy = np.abs(np.fft.fft2(luminance)) ** 2
    energy[0, 0] = 0.0
    return float(energy[is_high].sum() / energy.sum())
