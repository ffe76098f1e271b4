"""How different the images of a group are: distances, their mean, and spectral entropies.

The caller chooses the features, and keeps some of them for evaluation only. Distances are small
[G, G] matrices, computed in float64 on the host.
"""

import math
from typing import Any

from array_api_compat import array_namespace

Array = Any

__all__ = [
    "cosine_distances",
    "euclidean_distances",
    "mean_pairwise",
    "vendi",
    "vendi_of_distances",
]


def cosine_distances(features: Array) -> Array:
    """D_ij = 1 - cos(f_i, f_j), in [0, 2]: symmetric, with a diagonal of exact zeros.

    A distance within the rounding of a dot product is 0, so that identical images are at 0. A
    zero vector is at distance 1 from all others. Non-finite features are the caller's to leave
    out: they make their own row and column NaN and touch no others.

    Args:
        features: float [..., G, D]; the norm of a feature does not matter.

    Returns:
        float [..., G, G].

    Example:
        >>> cosine_distances(np.array([[1.0, 0.0], [0.0, 2.0], [3.0, 0.0]])).tolist()
        [[0.0, 1.0, 0.0], [1.0, 0.0, 1.0], [0.0, 1.0, 0.0]]
    """
    xp = array_namespace(features)
    # By the largest entry first: the squares of tiny or huge features stay representable.
    f = _divided(features, xp.max(xp.abs(features), axis=-1, keepdims=True))
    f = _divided(f, xp.sqrt(xp.sum(f * f, axis=-1, keepdims=True)))
    cosine = xp.matmul(f, xp.matrix_transpose(f))
    distance = 1.0 - 0.5 * (cosine + xp.matrix_transpose(cosine))
    rounding = 16 * float(xp.finfo(features.dtype).eps)
    distance = xp.where(distance < rounding, 0.0, xp.clip(distance, 0.0, 2.0))
    return xp.where(_diagonal(distance), 0.0, distance)


def euclidean_distances(features: Array) -> Array:
    """D_ij = |f_i - f_j|: symmetric, exactly 0 between equal features and on the diagonal.

    Args:
        features: float [..., G, D], finite.

    Returns:
        float [..., G, G].

    Example:
        >>> euclidean_distances(np.array([[0.0, 0.0], [3.0, 4.0]])).tolist()
        [[0.0, 5.0], [5.0, 0.0]]
    """
    xp = array_namespace(features)
    # Row by row: the expanded square would lose half of the digits of small distances.
    rows = [features - features[..., i : i + 1, :] for i in range(features.shape[-2])]
    return xp.stack([xp.sqrt(xp.sum(row * row, axis=-1)) for row in rows], axis=-2)


def mean_pairwise(distances: Array, *, valid: Array | None = None) -> Array:
    """Mean of D_ij over ordered pairs i != j of valid samples; 0 with fewer than two.

    For cosine distances of unit features this is Rao's quadratic entropy of the group, unbiased.

    Args:
        distances: float [..., G, G]; rows and columns of invalid samples may be anything.
        valid: bool [..., G]; None means all.

    Returns:
        float [...].

    Example:
        >>> distances = np.array([[0.0, 0.5, 1.0], [0.5, 0.0, 0.9], [1.0, 0.9, 0.0]])
        >>> round(float(mean_pairwise(distances)), 3)
        0.8
        >>> round(float(mean_pairwise(distances, valid=np.array([True, True, False]))), 3)
        0.5
    """
    xp = array_namespace(distances)
    pairs = _both(distances, valid) & ~_diagonal(distances)
    total = xp.sum(xp.where(pairs, distances, 0.0), axis=(-2, -1))
    count = xp.sum(xp.astype(pairs, distances.dtype), axis=(-2, -1))
    return total / xp.clip(count, 1.0, xp.inf)


def vendi(features: Array, *, order: float = 1) -> Array:
    """Vendi score with the cosine kernel: the effective number of different images, in [1, n].

    exp of the Renyi entropy of the eigenvalues l of K/n, K_ij = cos(f_i, f_j): for order q = 1
    exp(-sum l ln l), else (sum l^q)^(1/(1 - q)); q = inf gives 1/max l. Friedman and Dieng 2023
    (arXiv:2210.02410); orders, Pasarkar and Dieng 2024 (arXiv:2310.12952).

    Args:
        features: float [..., n, D].
        order: q > 0. Small orders count rare images, large ones count the common ones.

    Returns:
        float [...].

    Raises:
        ValueError: the order is not above 0.

    Example:
        >>> round(float(vendi(np.array([[1.0, 0.0], [0.0, 1.0], [0.0, 1.0]]))), 3)
        1.89
    """
    return vendi_of_distances(cosine_distances(features), order=order)


def vendi_of_distances(distances: Array, *, order: float = 1, valid: Array | None = None) -> Array:
    """`vendi` from cosine distances, over the valid samples; 0 where there are none.

    Args:
        distances: float [..., G, G], as `cosine_distances` gives them.
        order: q > 0.
        valid: bool [..., G]; None means all.

    Returns:
        float [...].

    Raises:
        ValueError: the order is not above 0.

    Example:
        >>> round(float(vendi_of_distances(1.0 - np.eye(3))), 3)
        3.0
    """
    if not order > 0:
        raise ValueError(f"the order of a Vendi score must be above 0, not {order}")
    xp = array_namespace(distances)
    spectrum = _spectrum(distances, valid)
    if order == 1:
        score = xp.exp(_entropy(spectrum))
    elif order == math.inf:
        largest = xp.max(spectrum, axis=-1)
        score = 1.0 / xp.where(largest > 0, largest, 1.0)
    else:
        power = xp.where(spectrum > 0, xp.where(spectrum > 0, spectrum, 1.0) ** order, 0.0)
        total = xp.sum(power, axis=-1)
        score = xp.where(total > 0, total, 1.0) ** (1.0 / (1.0 - order))
    return xp.where(xp.max(spectrum, axis=-1) > 0, score, 0.0)


def _spectrum(distances: Array, valid: Array | None) -> Array:
    """Eigenvalues of K/n in ascending order, [..., G]; rounding below 0 and near 0 becomes 0."""
    xp = array_namespace(distances)
    both = _both(distances, valid)
    kernel = xp.where(both, 1.0 - xp.where(both, distances, 0.0), 0.0)
    members = xp.astype(both & _diagonal(distances), distances.dtype)
    n = xp.sum(members, axis=(-2, -1))[..., None, None]
    eigenvalues = _eigenvalues(kernel / xp.clip(n, 1.0, xp.inf))
    rounding = 4 * distances.shape[-1] * float(xp.finfo(distances.dtype).eps)
    return xp.where(eigenvalues > rounding, eigenvalues, 0.0)


def _eigenvalues(symmetric: Array) -> Array:
    xp = array_namespace(symmetric)
    if xp.__name__ == "mlx.core":  # which has eigenvalues on its CPU stream only
        return xp.linalg.eigvalsh(symmetric, stream=xp.cpu)
    return xp.linalg.eigvalsh(symmetric)


def _entropy(shares: Array) -> Array:
    """-sum l ln l over the last axis, with 0 ln 0 = 0."""
    xp = array_namespace(shares)
    return -xp.sum(shares * xp.log(xp.where(shares > 0, shares, 1.0)), axis=-1)


def _divided(f: Array, by: Array) -> Array:
    xp = array_namespace(f)
    return f / xp.where(by > 0, by, 1.0)


def _both(distances: Array, valid: Array | None) -> Array:
    """Pairs of valid samples: bool [..., G, G]."""
    xp = array_namespace(distances)
    if valid is None:
        return xp.zeros_like(distances) == 0
    return valid[..., :, None] & valid[..., None, :]


def _diagonal(square: Array) -> Array:
    """True on the diagonal: bool [G, G]."""
    xp = array_namespace(square)
    index = xp.arange(square.shape[-1])
    return index[:, None] == index[None, :]
