"""Counter-based random streams: a key gives the same draw on every backend, batching and resume.

There is no generator state: the address of a draw is its purpose. Philox (Salmon et al. 2011,
"Parallel random numbers: as easy as 1, 2, 3") turns the address into numbers on the host.
"""

import hashlib
import operator
from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import IntEnum

import numpy as np


class Purpose(IntEnum):
    """The purpose of a draw. A run's numbers depend on the values: append, never renumber."""

    INITIAL = 0
    """Initial latent of a training rollout."""
    TRANSITION = 1
    """Noise of one stochastic denoising step."""
    PROMPT = 2
    """Perturbation of the token embedding."""
    POOLED = 3
    """Perturbation of the pooled embedding."""
    SUBSET = 4
    """The `random` subset rule."""
    ADAPTER = 5
    """Initial weights of the adapter."""
    PROMPT_ORDER = 6
    """Order of the prompts in an epoch."""
    TRAINED_STEPS = 7
    """The denoising steps that an update trains on, and the place of its window."""
    MINIBATCH = 8
    """Order of the transitions in an update."""
    EVALUATION = 9
    """Initial latent of evaluation and of `drift sample`."""
    DATA = 10
    """Batches of supervised pretraining."""
    BOOTSTRAP = 11
    """Resampling of seeds and prompts when runs are compared."""
    SHUFFLE = 12
    """The permutation of potentials in the shuffled control."""
    REWRITE = 13
    """Tokens of a prompt's variant, drawn from a language model."""
    VARIANT = 14
    """The samples of a group that are drawn for a variant of their prompt."""


@dataclass(frozen=True)
class Key:
    """Address of one draw: integers, update and step below 2**32, the others below 2**64."""

    seed: int
    purpose: Purpose
    update: int = 0
    prompt: int = 0
    sample: int = 0
    step: int = 0

    def at(self, **changes: int) -> "Key":
        """The same address with some parts changed."""
        return replace(self, **changes)


def generator(key: Key) -> np.random.Generator:
    """A numpy generator that starts at the key's own stream of 2**64 Philox blocks.

    Raises:
        ValueError: a part of the key is not an integer or out of its range.
    """
    seed, prompt, sample = (_word(key, part, 64) for part in ("seed", "prompt", "sample"))
    update, step = (_word(key, part, 32) for part in ("update", "step"))
    # The lowest counter word counts the blocks of the stream, so no two keys can overlap.
    counter = np.array([0, update << 32 | step, prompt, sample], dtype=np.uint64)
    words = np.array([seed, Purpose(key.purpose)], dtype=np.uint64)
    return np.random.Generator(np.random.Philox(counter=counter, key=words))


def normal(key: Key, shape: Sequence[int]) -> np.ndarray:
    """Standard normal draws: float32 of that shape."""
    return generator(key).standard_normal(tuple(shape), dtype=np.float32)


def normals(keys: Sequence[Key], shape: Sequence[int]) -> np.ndarray:
    """One draw per key, stacked: float32 [len(keys), *shape]."""
    out = np.empty((len(keys), *shape), dtype=np.float32)
    for row, key in zip(out, keys, strict=True):
        generator(key).standard_normal(dtype=np.float32, out=row)
    return out


def uniform(key: Key, shape: Sequence[int]) -> np.ndarray:
    """Uniform draws in [0, 1): float64 of that shape."""
    return generator(key).random(tuple(shape))


def permutation(key: Key, length: int) -> np.ndarray:
    """A random order of 0 .. length - 1: int64 [length]."""
    return generator(key).permutation(length)


def address(text: str) -> int:
    """A text as part of a key: the first 8 bytes of its SHA-256, little-endian."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little")


def fingerprint() -> str:
    """Hash of the first draws of a fixed key, to detect a numpy that draws other numbers."""
    key = Key(seed=2601, purpose=Purpose.INITIAL, update=12401)
    draws = normal(key, (64,)).tobytes() + uniform(key, (16,)).tobytes()
    return hashlib.sha256(draws + permutation(key, 64).tobytes()).hexdigest()[:16]


def _word(key: Key, part: str, bits: int) -> int:
    """A part of a key as a Python integer: numpy's would wrap in a shift, floats be truncated."""
    value = getattr(key, part)
    try:
        word = operator.index(value)
    except TypeError:
        raise ValueError(f"{part} of a noise key must be an integer, not {value!r}") from None
    if not 0 <= word < 2**bits:
        raise ValueError(f"{part} = {word} of a noise key must be in [0, 2**{bits})")
    return word
