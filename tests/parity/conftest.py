"""Imports the MLX backend's package before any test imports MLX, so that OpenBLAS comes first."""

import drift_mlx  # noqa: F401
