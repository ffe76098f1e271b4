"""Arrays on the host: checks of shapes and values, digests, the embedding of a timestep.

Host only: numpy in, numpy out.
"""

import difflib
import hashlib
from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np

from common.errors import NotFiniteError

__all__ = ["HasShape", "check_finite", "check_shapes", "digest", "sinusoid"]


class HasShape(Protocol):
    """An array of any library."""

    @property
    def shape(self) -> Any:
        """The sizes of its axes."""
        ...


def check_finite(finite: np.ndarray, what: str) -> None:
    """Raise NotFiniteError, with their number, for those of B things that are not finite.

    Args:
        finite: bool [B].
        what: the things, in the plural.
    """
    if not finite.all():
        count = int((~finite).sum())
        raise NotFiniteError(f"{count} of {len(finite)} {what} are not finite")


def check_shapes(
    given: Mapping[str, HasShape], expected: Mapping[str, tuple[int, ...]], what: str
) -> None:
    """Compare the names and shapes of arrays with the expected ones.

    Args:
        given: arrays by name.
        expected: shapes by name.
        what: the first words of an error message.

    Raises:
        ValueError: names the first missing, extra or misshapen array.
    """
    for name in sorted(expected.keys() - given.keys()):
        raise ValueError(f"{what}: '{name}' is missing")
    for name in sorted(given.keys() - expected.keys()):
        near = difflib.get_close_matches(name, expected, n=1)
        hint = f"; the nearest one that belongs there is '{near[0]}'" if near else ""
        raise ValueError(f"{what}: '{name}' is surplus{hint}")
    for name in sorted(expected):
        if tuple(given[name].shape) != tuple(expected[name]):
            shapes = f"{list(given[name].shape)}, not {list(expected[name])}"
            raise ValueError(f"{what}: '{name}' has shape {shapes}")


def sinusoid(t: np.ndarray, width: int) -> np.ndarray:
    """The embedding of timesteps: cos(t w_j), then sin(t w_j), with w_j = exp(-ln(10^4) j / J).

    Ho et al. 2020, arXiv:2006.11239.

    Args:
        t: timesteps, float64 [B].
        width: 2 J.

    Returns:
        Float64 [B, width]: in float32 the angle alone would be off by 5e-5 at t = 950.
    """
    J = width // 2
    w = np.exp(-np.log(1e4) * np.arange(J, dtype=np.float64) / J)
    angle = np.asarray(t, dtype=np.float64)[:, None] * w
    return np.concatenate([np.cos(angle), np.sin(angle)], axis=-1)


def digest(arrays: Mapping[str, np.ndarray], *before: str) -> str:
    """SHA-256 of arrays by name and of texts that belong to them; the order of names is free."""
    whole = hashlib.sha256("\n".join(before).encode())
    for name in sorted(arrays):
        array = arrays[name]
        whole.update(f"\n{name} {array.dtype.str} {array.shape}\n".encode())
        whole.update(np.ascontiguousarray(array).tobytes())
    return whole.hexdigest()
