"""Image statistics that betray reward hacking; host numpy, no model."""

import numpy as np

__all__ = [
    "high_frequency_energy",
]

_LUMA = np.array([299, 587, 114])
"""Rec. 601 weights of gamma-coded red, green and blue; integers keep a constant image constant."""

_CUTOFF = 0.25
"""Cycles per pixel. A grid of 4 x 4 patches repeats every 4 pixels: exactly here and above."""


def high_frequency_energy(images: np.ndarray) -> np.ndarray:
    """Share of an image's detail that is fine grained: float64 [N] in [0, 1].

    Energy |FFT(luminance)|^2 at frequencies of at least 1/4 cycle per pixel in either axis, over
    the energy at all frequencies but 0. It rises when patch grids or noise creep in; a constant
    image has 0. It is a share, so contrast and brightness do not matter.

    Args:
        images: uint8 [N, H, W, 3].

    Raises:
        ValueError: another dtype or shape.
    """
    images = np.asarray(images)
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[3] != 3:
        raise ValueError(
            f"images must be uint8 [N, H, W, 3], not {images.dtype} {list(images.shape)}"
        )
    rows, columns = (np.abs(np.fft.fftfreq(size)) >= _CUTOFF for size in images.shape[1:3])
    is_high = rows[:, None] | columns
    return np.array(
        [_share(image.astype(np.int64) @ _LUMA, is_high) for image in images], dtype=np.float64
    )


def _share(luminance: np.ndarray, is_high: np.ndarray) -> float:
    """Energy where is_high [H, W] over all energy but the constant's; 0 for a constant image."""
    if np.ptp(luminance) == 0:
        return 0.0
    energy = np.abs(np.fft.fft2(luminance)) ** 2
    energy[0, 0] = 0.0
    return float(energy[is_high].sum() / energy.sum())
