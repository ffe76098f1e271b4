"""How much of a Mac's memory MLX may use: limits that are set on Metal, and nowhere else.

macOS may swap out or compress what a process has not touched for a while, weights of a model too.
*Wired* memory stays where the GPU can read it. MLX wires nothing before a limit is set.
Never run on a Mac: what is called here is what MLX 0.32 documents.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

__all__ = ["MEMORY", "RECOMMENDED", "Limits", "describe", "limits", "set_limits"]

RECOMMENDED = "max_recommended_working_set_size"
MEMORY = "memory_size"
"""Keys of `mlx.core.device_info`: the memory that Metal may wire, and all memory of the machine."""

CACHED = 4
"""Freed memory that MLX keeps for its next arrays is wired as well, and so taken from every other
program: at most a quarter of the limit. This toolkit's choice."""


@dataclass(frozen=True)
class Limits:
    """Bytes: wired at most, cached at most, what Metal recommends to use, and all there are."""

    wired: int
    cached: int
    recommended: int
    total: int


def limits(info: Mapping[str, Any]) -> Limits | None:
    """The limits to ask for, by what `device_info` says; None where that is no Mac's GPU.

    The recommended working set is also the most that may be asked for. It follows
    `sudo sysctl iogpu.wired_limit_mb`, which may raise it up to all memory; MLX wants less.
    """
    recommended, total = int(info.get(RECOMMENDED, 0)), int(info.get(MEMORY, 0))
    if recommended <= 0 or total <= 0:
        return None
    wired = min(recommended, total - total // 16)
    return Limits(wired, wired // CACHED, recommended, total)


def set_limits(core: Any) -> Limits | None:
    """Set the limits where there is Metal; returns those in force now, None without Metal.

    core: `mlx.core`. A larger wired limit or a smaller cache limit that is set already is kept.
    A system that refuses keeps its own: then 0 is wired.
    """
    wanted = limits(core.device_info()) if core.metal.is_available() else None
    if wanted is None:
        return None
    cached = core.set_cache_limit(wanted.cached)
    if cached < wanted.cached:
        core.set_cache_limit(cached)
    try:
        wired = core.set_wired_limit(wanted.wired)
        if wired > wanted.wired:
            core.set_wired_limit(wired)
    except (RuntimeError, ValueError):  # before macOS 15, or the limit was lowered meanwhile
        return Limits(0, min(cached, wanted.cached), wanted.recommended, wanted.total)
    return Limits(
        max(wired, wanted.wired), min(cached, wanted.cached), wanted.recommended, wanted.total
    )


def describe(current: Limits) -> dict[str, str]:
    """The limits in words, for `drift doctor` and `environment.json`."""
    return {
        "wired limit": f"{_gb(current.wired)} of {_gb(current.recommended)} that Metal recommends",
        "cache limit": _gb(current.cached),
        "unified memory": _gb(current.total),
    }


def _gb(size: int) -> str:
    return f"{size / 1e9:.1f} GB"
