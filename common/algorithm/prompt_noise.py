"""Noise on the prompt embedding, which widens what a group is conditioned on.

Every sample has its own noise, and the noise is an argument: the rollout and the update pass the
same noise, so that both compute log-probs under the same conditioning. The caller perturbs neither
the null prompt of guidance nor the prompt that rewards get.
"""

import math
from typing import Any, Literal

from array_api_compat import array_namespace

from common.algorithm.choice import check_choice

Array = Any

__all__ = ["Form", "perturb"]

Form = Literal["additive", "cads"]
"""The formula by which noise enters an embedding."""


def perturb(
    embedding: Array,
    noise: Array,
    *,
    strength: float,
    intensity: Array | float,
    form: Form,
    mix: float = 1.0,
) -> Array:
    """A noisy version of the embedding y with noise n, strength s and intensity u = 1 - g.

    `additive`  y + s std(y) sqrt(u) n
    `cads`      y' = sqrt(1 - u) y + s sqrt(u) n;  y'' = y' with the mean and std of y;
                result psi y'' + (1 - psi) y'  (CADS, arXiv:2310.17347)

    They differ: at u = 1 `cads` with psi = 1 erases the prompt whatever s > 0 is.
    mean and std are population statistics of one sample over tokens and channels, in float32
    (float64 for a float64 embedding). std is treated as data: nothing is differentiated here on
    purpose and nothing is detached, since text encoders are not trained.

    Args:
        embedding: y, float [B, L, D] or [B, D].
        noise: n, standard normal, of the same shape.
        strength: s >= 0; at 0 the embedding comes back bit for bit.
        intensity: u in [0, 1], a float or [B]; where it is 0 the embedding comes back bit for bit.
        form: one of the names above.
        mix: psi in [0, 1], of `cads`.

    Returns:
        An array like the embedding.

    Raises:
        ValueError: unknown form, misshapen noise or intensity, or a number outside its range.

    Example:
        >>> embedding, noise = np.array([[1.0, 3.0]]), np.array([[1.0, -1.0]])
        >>> perturb(embedding, noise, strength=0.5, intensity=1.0, form="additive").tolist()
        [[1.5, 2.5]]
    """
    _check(embedding, noise, strength, intensity, form, mix)
    if strength == 0:
        return embedding
    xp = array_namespace(embedding)
    wide = embedding.dtype if embedding.dtype == xp.float64 else xp.float32
    y, n = xp.astype(embedding, wide), xp.astype(noise, wide)
    u = _column(intensity, y)
    centre, scale = _statistics(y)
    if form == "additive":
        noisy = y + strength * scale * xp.sqrt(u) * n
    else:
        mixed = xp.sqrt(1.0 - u) * y + strength * xp.sqrt(u) * n
        own_centre, own_scale = _statistics(mixed)
        rescaled = (mixed - own_centre) / xp.where(own_scale > 0, own_scale, 1.0) * scale + centre
        noisy = mix * rescaled + (1.0 - mix) * mixed
    return xp.where(u == 0, embedding, xp.astype(noisy, embedding.dtype))


def _statistics(y: Array) -> tuple[Array, Array]:
    """Mean and population std of each sample: [B, 1, ...]."""
    xp = array_namespace(y)
    axes = tuple(range(1, y.ndim))
    total = xp.sum(y, axis=axes, keepdims=True)
    count = xp.zeros_like(total) + math.prod(y.shape[1:])  # CUDA rounds a division by a number
    centre = total / count
    deviation = y - centre
    return centre, xp.sqrt(xp.sum(deviation * deviation, axis=axes, keepdims=True) / count)


def _column(intensity: Array | float, y: Array) -> Array:
    """Intensity u of each sample, to broadcast against y: [B or 1, 1, ...]."""
    xp = array_namespace(y)
    if isinstance(intensity, int | float):
        first = y[:1, :1, :1] if y.ndim == 3 else y[:1, :1]
        return xp.zeros_like(first) + float(intensity)  # made from y: on y's device
    return xp.reshape(xp.astype(intensity, y.dtype), (-1,) + (1,) * (y.ndim - 1))


def _check(
    embedding: Array, noise: Array, strength: float, intensity: Any, form: str, mix: float
) -> None:
    shape = tuple(embedding.shape)
    check_choice("prompt noise form", form, Form)
    if len(shape) not in (2, 3):
        raise ValueError(f"an embedding must be [B, L, D] or [B, D], not of shape {shape}")
    if tuple(noise.shape) != shape:
        raise ValueError(f"noise of shape {tuple(noise.shape)} for an embedding of shape {shape}")
    if not strength >= 0:
        raise ValueError(f"strength = {strength} of prompt noise must be at least 0")
    if not 0 <= mix <= 1:
        raise ValueError(f"mix = {mix} of prompt noise is outside [0, 1]")
    if isinstance(intensity, int | float):
        if not 0 <= intensity <= 1:
            raise ValueError(f"intensity = {intensity} of prompt noise is outside [0, 1]")
    elif tuple(intensity.shape) != shape[:1]:
        raise ValueError(f"intensity must be a float or [{shape[0]}], not {intensity.shape}")
