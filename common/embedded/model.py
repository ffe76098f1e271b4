"""The emoji model's sizes, weights, tokenizer, time features and pixels: all that needs no device.

A small flow model of 32 x 32 emoji and two image-text scorers. The layers themselves are in
`drift_torch.embedded` and `drift_mlx.embedded`.
"""

import difflib
import hashlib
import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Generic, TypeVar

import numpy as np
from PIL import Image
from safetensors import SafetensorError
from safetensors.numpy import load_file

from common.arrays import check_finite, sinusoid

T = TypeVar("T")

FOLDER = Path(__file__).parent

PAD, NULL = 0, 1
"""Vocabulary indices of padding and of the null prompt."""

EPS = float(np.finfo(np.float32).eps)
"""Epsilon of the RMS norm of queries and keys, whatever the backend's dtype."""


@dataclass(frozen=True)
class DenoiserConfig:
    """Sizes of the flow model."""

    width: int = 128
    depth: int = 6
    heads: int = 4
    hidden: int = 512
    image: int = 32
    patch: int = 4
    channels: int = 3
    tokens: int = 6
    token_width: int = 64
    vocabulary: int = 1000
    frequencies: int = 32

    @property
    def grid(self) -> int:
        """Patches along one side of the image."""
        return self.image // self.patch

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """[C, H, W] of one latent, which is the image itself in [-1, 1]."""
        return (self.channels, self.image, self.image)

    @property
    def frozen(self) -> frozenset[str]:
        """Weights of the text encoder, which no tuning changes."""
        return frozenset({"emb.weight", "tpos"})


@dataclass(frozen=True)
class ScorerConfig:
    """Sizes of an image-text scorer: three stages of width, 2 width, 3 width channels."""

    width: int
    kernel: int
    groups: int = 8
    stages: int = 3
    embedding: int = 128
    hidden: int = 256
    image: int = 32
    tokens: int = 6
    vocabulary: int = 1000

    @property
    def feature_width(self) -> int:
        """Numbers in the flattened output of the convolutions."""
        return self.stages * self.width * (self.image >> self.stages) ** 2


SCORERS = {"train": ScorerConfig(width=48, kernel=3), "heldout": ScorerConfig(width=40, kernel=5)}
"""`train` is a reward; `heldout` (other seed, width and kernel) is for evaluation only."""


def scorer_config(name: str) -> ScorerConfig:
    """Sizes of the scorer called `name`; ValueError lists the valid names."""
    if name not in SCORERS:
        raise ValueError(f"no embedded scorer '{name}'; valid: {', '.join(SCORERS)}")
    return SCORERS[name]


def denoiser_weights(path: str | Path | None = None) -> dict[str, np.ndarray]:
    """The flow model's arrays by name, float32; `path` replaces the shipped file.

    Raises ValueError when the file cannot be read.
    """
    return _read(Path(path) if path else FOLDER / "denoiser.safetensors")


def scorer_weights(name: str) -> dict[str, np.ndarray]:
    """A scorer's arrays by name, float32."""
    scorer_config(name)
    return _read(FOLDER / f"scorer_{name}.safetensors")


def tokenize(prompts: Sequence[str], config: DenoiserConfig | ScorerConfig) -> np.ndarray:
    """Vocabulary indices of each prompt's lower-case words, padded with 0: int32 [B, tokens].

    Raises ValueError naming the prompt and, for an unknown word, the nearest known one.
    """
    vocabulary = _vocabulary()
    rows = np.full((len(prompts), config.tokens), PAD, dtype=np.int32)
    for row, prompt in zip(rows, prompts, strict=True):
        words = re.findall(r"[a-z0-9]+", prompt.lower())
        if not words or len(words) > config.tokens:
            raise ValueError(
                f"prompt '{prompt}' has {len(words)} words; the emoji model reads 1 to "
                f"{config.tokens} words of letters a-z and digits"
            )
        for word in words:
            if word not in vocabulary:
                raise ValueError(f"prompt '{prompt}': unknown word '{word}'{_nearest(word)}")
        row[: len(words)] = [vocabulary[word] for word in words]
    return rows


def can_read(prompts: Sequence[str], config: DenoiserConfig | ScorerConfig) -> bool:
    """Whether `tokenize` takes all of the prompts."""
    try:
        tokenize(prompts, config)
    except ValueError:
        return False
    return True


def null_tokens(count: int, config: DenoiserConfig) -> np.ndarray:
    """The null prompt `count` times: int32 [count, tokens]."""
    rows = np.full((count, config.tokens), PAD, dtype=np.int32)
    rows[:, 0] = NULL
    return rows


def time_features(t: np.ndarray, config: DenoiserConfig) -> np.ndarray:
    """The sinusoid of 1000 t: float64 [B, 2 J]. t: float64 [B] in [0, 1], 1 = noise."""
    return sinusoid(1000.0 * np.asarray(t, dtype=np.float64), 2 * config.frequencies)


def to_images(x: np.ndarray) -> np.ndarray:
    """Latents [B, 3, H, W] as pixels: clip to [-1, 1], round half to even, uint8 [B, H, W, 3].

    Raises NotFiniteError when a latent is not finite.
    """
    check_finite(np.asarray(np.isfinite(x).all(axis=(1, 2, 3))), "latents")
    scaled = (np.clip(x, -1.0, 1.0).astype(np.float64) + 1.0) / 2.0 * 255.0
    return np.rint(scaled).astype(np.uint8).transpose(0, 2, 3, 1)


def from_images(images: np.ndarray) -> np.ndarray:
    """Pixels uint8 [B, H, W, 3] as latents in [-1, 1]: float32 [B, 3, H, W].

    Raises ValueError for another dtype or rank.
    """
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[-1] != 3:
        raise ValueError(f"images must be uint8 [N, H, W, 3], not {images.dtype} {images.shape}")
    return (images.astype(np.float32) / 127.5 - 1.0).transpose(0, 3, 1, 2)


def fit(images: np.ndarray, config: ScorerConfig) -> np.ndarray:
    """Images uint8 [N, H, W, 3] at the size that a scorer looks at, by the mean of what they show.

    Images of that size are returned unchanged.
    """
    size = (config.image, config.image)
    if images.shape[1:3] == size:
        return images
    small = [Image.fromarray(image).resize(size, Image.Resampling.BOX) for image in images]
    return np.stack([np.asarray(image) for image in small])


def unit(vectors: np.ndarray) -> np.ndarray:
    """Rows scaled to norm 1, in float64: [N, F]; a row of zeros stays zero."""
    rows = np.asarray(vectors, dtype=np.float64)
    return rows / np.maximum(np.linalg.norm(rows, axis=-1, keepdims=True), 1e-12)


class LastResultCache(Generic[T]):
    """A function of images that keeps its last result: the same pixels again cost only a hash.

    A reward and the potential look at the same images, and so do the measures of an evaluation.
    """

    def __init__(self, function: Callable[[np.ndarray], T]):
        self._function = function
        self._last: tuple[tuple[object, ...], T] | None = None

    def __call__(self, images: np.ndarray) -> T:
        """The function's result, which the caller must not change."""
        # PyTorch convolves in the order of the memory and rounds accordingly: make it one order.
        images = np.ascontiguousarray(images)
        content = (images.dtype, images.shape, hashlib.sha256(images.tobytes()).digest())
        last = self._last
        if last is None or last[0] != content:
            # One assignment of a pair: a reward may run in a thread of its own.
            self._last = last = content, self._function(images)
        return last[1]


@cache
def _vocabulary() -> dict[str, int]:
    words = json.loads((FOLDER / "names.json").read_text(encoding="utf-8"))["vocabulary"]
    return {word: index for index, word in enumerate(words)}


def _nearest(word: str) -> str:
    near = difflib.get_close_matches(word, _vocabulary(), n=1, cutoff=0.0)
    return f"; the nearest known word is '{near[0]}'" if near else ""


def _read(path: Path) -> dict[str, np.ndarray]:
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise ValueError(f"cannot read weights {path}: {error}") from None
