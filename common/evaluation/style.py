"""A classifier of the drawing style (the icon set) of an emoji, in plain numpy.

A prompt has a right image in each of seven drawing styles, so the number of styles among its images
counts the modes that they cover. The input is pixels only: the same image has the same style on
every backend. `scripts/train_style.py` trains the classifier and measures its accuracy.
"""

from collections.abc import Iterator, Mapping
from functools import cache
from itertools import pairwise
from pathlib import Path

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from safetensors import SafetensorError
from safetensors.numpy import load_file

from common.embedded.model import FOLDER

STYLES = (
    "emojione", "fluent-emoji", "fluent-emoji-flat", "fxemoji", "noto", "noto-v1", "twemoji"
)  # fmt: skip
"""The classes, in the order of `emoji32.npz`. The two fluent sets draw the same shapes, but one of
them has shading: the classifier separates them in 86 of 100 cases, so they count as two."""

CLASSES = len(STYLES)

WEIGHTS = FOLDER / "style.safetensors"

CHUNK = 64
"""Images convolved at once: bounds memory."""

SURE = 0.6
"""Least probability at which an image counts for a style. With a lower one a collapsed prompt with
ambiguous images would seem to cover many styles (see the table in `scripts/train_style.py`)."""

EDGES = (0.0, 0.03, 0.06, 0.1, 0.2, 0.3, np.inf)
"""Bounds of the histogram of luminance differences between neighbouring pixels.

Drawings have flat areas, generated images have slight noise there; finer bounds would only measure
this difference.
"""

NEARLY_WHITE = 240
"""Of 255, for the same reason."""

SHADES = 8
"""Bins of the histograms of luminance and saturation over [0, 1]."""

LIMIT = 4.0
"""Bound of the standardised statistics: those of generated images may be far outside real ones."""


@cache
def load(path: Path = WEIGHTS) -> "StyleClassifier":
    """The shipped classifier. Raises ValueError when its file cannot be read."""
    try:
        return StyleClassifier(load_file(path))
    except (OSError, SafetensorError, KeyError) as error:
        raise ValueError(f"cannot read weights {path}: {error}") from None


class StyleClassifier:
    """Four convolutions, with maps pooled to mean and maximum, and a linear layer.

    The style is visible in outlines and shading, not in the object, so the last layer gets the
    pooled maps of every layer and statistics of the pixels.
    """

    def __init__(self, weights: Mapping[str, np.ndarray]) -> None:
        """weights: as `scripts/train_style.py` writes them, float32; KeyError without one."""
        self._layers = [(weights[f"{name}.weight"], weights[f"{name}.bias"]) for name in "abcd"]
        self._mean, self._std = weights["statistics.mean"], weights["statistics.std"]
        self._head = weights["head.weight"], weights["head.bias"]

    def probabilities(self, images: np.ndarray) -> np.ndarray:
        """Softmax over the styles for uint8 [N, 32, 32, 3]: float64 [N, CLASSES]."""
        weight, bias = self._head
        features = np.concatenate([self._features(part) for part in _chunks(images)])
        logits = (features @ weight + bias).astype(np.float64)
        odds = np.exp(logits - logits.max(axis=1, keepdims=True))
        return odds / odds.sum(axis=1, keepdims=True)

    def labels(self, images: np.ndarray) -> np.ndarray:
        """The style of uint8 [N, 32, 32, 3]: int64 [N] into STYLES, -1 where it is not SURE."""
        probabilities = self.probabilities(images)
        return np.where(probabilities.max(axis=1) >= SURE, probabilities.argmax(axis=1), -1)

    def _features(self, images: np.ndarray) -> np.ndarray:
        pooled = []
        for maps in self._maps(images.astype(np.float32) / np.float32(127.5) - np.float32(1.0)):
            pooled += [maps.mean(axis=(1, 2)), maps.max(axis=(1, 2))]
        standard = (statistics(images) - self._mean) / self._std
        return np.concatenate([*pooled, np.clip(standard, -LIMIT, LIMIT)], axis=1)

    def _maps(self, x: np.ndarray) -> Iterator[np.ndarray]:
        a, b, c, d = self._layers
        yield (x := _convolved(x, *a))
        yield (x := _convolved(_blocks(x).max(axis=(2, 4)), *b))
        yield (x := _convolved(x, *c))
        yield _convolved(_blocks(x).mean(axis=(2, 4)), *d)


def statistics(images: np.ndarray) -> np.ndarray:
    """Statistics of the style, not of the shapes: uint8 [N, 32, 32, 3] to float32 [N, 99].

    Mean and standard deviation of the colours (6), share of near white in all, by column and by
    row (1 + 32 + 32), and histograms: of luminance differences across and down (6 each), of
    luminance and of saturation (8 each).
    """
    x = images.astype(np.float32) / np.float32(255.0)
    white = (images >= NEARLY_WHITE).all(axis=-1)
    luminance = x @ np.array([0.299, 0.587, 0.114], dtype=np.float32)
    saturation = x.max(axis=-1) - x.min(axis=-1)
    parts = [x.mean(axis=(1, 2)), x.std(axis=(1, 2))]
    parts += [white.mean(axis=(1, 2))[:, None], white.mean(axis=1), white.mean(axis=2)]
    for axis in (2, 1):
        parts.append(_histogram(np.abs(np.diff(luminance, axis=axis)), EDGES))
    shades = (*np.arange(SHADES) / SHADES, np.inf)
    parts += [_histogram(luminance, shades), _histogram(saturation, shades)]
    return np.concatenate(parts, axis=1).astype(np.float32)


def _histogram(values: np.ndarray, edges: tuple[float, ...]) -> np.ndarray:
    """Share of each image's values [N, H, W] in [edge_i, edge_(i+1)): [N, len(edges) - 1]."""
    shares = [
        ((values >= low) & (values < high)).mean(axis=(1, 2)) for low, high in pairwise(edges)
    ]
    return np.stack(shares, axis=1)


def _convolved(x: np.ndarray, weight: np.ndarray, bias: np.ndarray) -> np.ndarray:
    """3 x 3 convolution with zero padding, then ReLU: [N, H, W, C] to [N, H, W, out].

    weight: [C 9, out], rows by channel, then row and column of the kernel.
    """
    padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    windows = sliding_window_view(padded, (3, 3), axis=(1, 2))  # [N, H, W, C, 3, 3]
    return np.maximum(windows.reshape(*x.shape[:3], -1) @ weight + bias, 0)


def _blocks(x: np.ndarray) -> np.ndarray:
    """[N, H, W, C] as blocks of 2 x 2: [N, H/2, 2, W/2, 2, C]."""
    N, H, W, C = x.shape
    return x.reshape(N, H // 2, 2, W // 2, 2, C)


def _chunks(images: np.ndarray) -> Iterator[np.ndarray]:
    for start in range(0, len(images), CHUNK):
        yield images[start : start + CHUNK]
