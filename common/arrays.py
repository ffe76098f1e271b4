"""What several networks need around their arrays: the check of their shapes, a timestep's features.

Host only: numpy in, numpy out.
"""

import difflib
from collections.abc import Mapping

import numpy as np

__all__ = ["check_shapes", "sinusoid"]


def check_shapes(
    given: Mapping[str, np.ndarray], expected: Mapping[str, tuple[int, ...]], what: str
) -> None:
    """Raise ValueError that names the first missing, extra or misshapen array of `given`."""
    for name in sorted(expected.keys() - given.keys()):
        raise ValueError(f"{what}: '{name}' is missing")
    for name in sorted(given.keys() - expected.keys()):
        near = difflib.get_close_matches(name, expected, n=1)
        hint = f"; the nearest one it has is '{near[0]}'" if near else ""
        raise ValueError(f"{what}: it has no '{name}'{hint}")
    for name in sorted(expected):
        if tuple(given[name].shape) != tuple(expected[name]):
            shapes = f"{list(given[name].shape)}, not {list(expected[name])}"
            raise ValueError(f"{what}: '{name}' has shape {shapes}")


def sinusoid(t: np.ndarray, width: int) -> np.ndarray:
    """cos(t w_j), then sin(t w_j), with w_j = exp(-ln(10^4) j / J), J = width / 2: [B, width].

    The timestep input of networks (Ho et al. 2020, arXiv:2006.11239). t: float64 [B]. Returns
    float64: in float32 the angle alone would be off by 5e-5 at t = 950.
    """
    J = width // 2
    w = np.exp(-np.log(1e4) * np.arange(J, dtype=np.float64) / J)
    angle = np.asarray(t, dtype=np.float64)[:, None] * w
    return np.concatenate([np.cos(angle), np.sin(angle)], axis=-1)
