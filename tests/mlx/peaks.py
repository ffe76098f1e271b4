"""How much memory a piece of work takes in MLX."""

import gc
from collections.abc import Callable
from typing import Any

import mlx.core as mx


def active_memory() -> int:
    """Bytes of living arrays. What earlier tests left in reference cycles is freed before."""
    gc.collect()
    return mx.get_active_memory()


def peak_of(work: Callable[[], Any]) -> tuple[int, Any]:
    """Bytes beyond those held before, at the most; and what the work returns."""
    before = active_memory()
    mx.clear_cache()
    mx.reset_peak_memory()
    result = work()
    return mx.get_peak_memory() - before, result
