"""How faithful one set of images is to another: Frechet distance, recall, coverage, modes.

The caller chooses the sets and their features or labels. Float64 numpy on the host.
"""

import numpy as np

__all__ = ["coverage", "frechet_distance", "mode_count", "recall"]


def frechet_distance(a: np.ndarray, b: np.ndarray) -> float:
    """Squared Frechet distance of the Gaussians fitted to two sets of features, at least 0.

    d^2 = |mu_a - mu_b|^2 + tr(C_a) + tr(C_b) - 2 tr((C_a^1/2 C_b C_a^1/2)^1/2), with the unbiased
    covariances C (Heusel et al. 2017, eq. 6, arXiv:1706.08500).

    With X = (a - mu_a) / sqrt(N - 1), Y likewise, C_a = X^T X and C_b = Y^T Y, so the last trace
    is the sum of the singular values of X Y^T. That is an N x M matrix: nothing of size D x D is
    ever made, covariances of fewer samples than dimensions need no care, and no eigenvalue is
    squared and rooted again. It is biased upwards by few samples: compare equal N and M only.

    Args:
        a: [N, D], finite, N >= 2.
        b: [M, D], finite, M >= 2.

    Raises:
        ValueError: another shape, fewer than 2 samples, or a value that is not finite.

    Example:
        >>> features = np.array([[0.0], [2.0]])
        >>> round(frechet_distance(features, features + 3.0), 6)
        9.0
    """
    a, b = _samples(a, "a"), _samples(b, "b")
    if a.shape[1] != b.shape[1]:
        raise ValueError(f"features of {a.shape[1]} and of {b.shape[1]} numbers cannot be compared")
    (mean_a, X), (mean_b, Y) = _gaussian(a), _gaussian(b)
    cross = np.linalg.svd(X @ Y.T, compute_uv=False).sum()
    squared = np.sum((mean_a - mean_b) ** 2) + np.sum(X * X) + np.sum(Y * Y) - 2.0 * cross
    return max(float(squared), 0.0)


def recall(real: np.ndarray, fake: np.ndarray, k: int) -> np.ndarray:
    """Share of the real samples that lie within the fake ones' manifold: float64 [...] in [0, 1].

    A real r is within it when |r - f| <= the distance of f to its k-th nearest other fake, for at
    least one f (Kynkaanniemi et al. 2019, eq. 1 and 2, arXiv:1904.06991).

    Args:
        real: [..., n, D], the leading axes being groups, each compared with its own.
        fake: [..., m, D].
        k: neighbours, in [1, m - 1].

    Raises:
        ValueError: shapes that do not fit, or k out of range.

    Example:
        >>> real, fake = np.array([[0.0], [1.0], [9.0]]), np.array([[0.5], [1.5], [2.0]])
        >>> round(float(recall(real, fake, k=1)), 3)
        0.667
    """
    real, fake = _groups(real, fake)
    radius = _radius(fake, k, "fake")
    return _mean_any(_squared_distances(real, fake) <= radius[..., None, :])


def coverage(real: np.ndarray, fake: np.ndarray, k: int) -> np.ndarray:
    """Share of the real samples that have a fake one near: float64 [...] in [0, 1].

    Near is within the distance of the real sample to its k-th nearest other real one (Naeem et
    al. 2020, eq. 8, arXiv:2002.09797). Between two sets of n from one distribution its mean is
    1 - prod_{i=1}^{k} (n - i) / (2n - i): 0.90 for n = 16 and k = 3.

    Args:
        real: [..., n, D], the leading axes being groups, each compared with its own.
        fake: [..., m, D].
        k: neighbours, in [1, n - 1].

    Raises:
        ValueError: shapes that do not fit, or k out of range.

    Example:
        >>> real, fake = np.array([[0.0], [1.0], [9.0]]), np.array([[0.5], [1.5], [2.0]])
        >>> round(float(coverage(real, fake, k=1)), 3)
        1.0
    """
    real, fake = _groups(real, fake)
    radius = _radius(real, k, "real")
    return _mean_any(_squared_distances(real, fake) <= radius[..., :, None])


def mode_count(labels: np.ndarray, classes: int) -> np.ndarray:
    """How many different classes each group's labels hold: int64 [...] in [0, classes].

    Args:
        labels: int [..., n], each in [0, classes), or -1 for a sample of no class.
        classes: how many there are.

    Raises:
        ValueError: a label that is no integer or out of range.

    Example:
        >>> mode_count(np.array([[0, 2, 2, -1], [1, 1, 1, 1]]), classes=3).tolist()
        [2, 1]
    """
    labels = np.asarray(labels)
    if labels.dtype.kind not in "iu" or labels.ndim == 0:
        raise ValueError(f"labels must be int [..., n], not {labels.dtype} {list(labels.shape)}")
    if labels.size and not -1 <= labels.min() <= labels.max() < classes:
        raise ValueError(f"labels from {labels.min()} to {labels.max()} for {classes} classes")
    return (labels[..., None] == np.arange(classes)).any(axis=-2).sum(axis=-1)


def _samples(values: np.ndarray, name: str) -> np.ndarray:
    values = np.asarray(values, dtype=np.float64)
    if values.ndim != 2 or len(values) < 2:
        raise ValueError(f"{name} must be [N, D] with N >= 2, not {list(values.shape)}")
    if not np.isfinite(values).all():
        raise ValueError(f"{name} holds features that are not finite")
    return values


def _gaussian(samples: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean [D], and X [N, D] with X^T X = the unbiased covariance."""
    mean = samples.mean(axis=0)
    return mean, (samples - mean) / np.sqrt(len(samples) - 1)


def _groups(real: np.ndarray, fake: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    real, fake = (np.asarray(values, dtype=np.float64) for values in (real, fake))
    fits = real.ndim >= 2 and real.ndim == fake.ndim and real.shape[-1] == fake.shape[-1]
    if not fits or real.shape[:-2] != fake.shape[:-2]:
        shapes = f"{list(real.shape)} and {list(fake.shape)}"
        raise ValueError(f"real and fake must be [..., n, D] and [..., m, D], not {shapes}")
    return real, fake


def _radius(samples: np.ndarray, k: int, name: str) -> np.ndarray:
    """Squared distance of every sample to its k-th nearest other one: [..., n]."""
    n = samples.shape[-2]
    if not 1 <= k <= n - 1:
        raise ValueError(f"k = {k} is outside [1, {n - 1}] for {n} {name} samples")
    # The nearest of all is the sample itself, at 0.
    return np.partition(_squared_distances(samples, samples), k, axis=-1)[..., k]


def _squared_distances(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """|a_i - b_j|^2, [..., n, m]; what is within the rounding of a dot product is 0."""
    sizes = np.sum(a * a, axis=-1)[..., :, None] + np.sum(b * b, axis=-1)[..., None, :]
    squared = sizes - 2.0 * (a @ np.swapaxes(b, -1, -2))
    return np.where(squared <= 16 * np.finfo(np.float64).eps * sizes, 0.0, squared)


def _mean_any(within: np.ndarray) -> np.ndarray:
    """Share of the rows of bool [..., n, m] that hold a True: [...]."""
    return within.any(axis=-1).mean(axis=-1)
