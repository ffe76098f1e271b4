"""The inputs of a row, and the figures that it stores before it ends."""

import json
import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from common.runs import files

__all__ = ["Context", "Mode", "SkippedError", "spread", "to_json"]

Mode = Literal["full", "smoke", "tiny"]
"""full: the real thing. smoke: true widths, few layers and steps. tiny: small shapes on a CPU."""

PARTIAL, DONE = ".partial.json", ".json"


class SkippedError(Exception):
    """The row cannot be measured here; the message says what it needs."""


@dataclass(frozen=True)
class Context:
    """mode: how much work. backend: "cuda" or "cpu". folder: for what the row writes."""

    name: str
    mode: Mode
    backend: str
    folder: Path

    def pick(self, full: Any, smoke: Any, tiny: Any) -> Any:
        """The one of three values that belongs to the mode."""
        return {"full": full, "smoke": smoke, "tiny": tiny}[self.mode]

    def keep(self, figures: dict[str, Any]) -> None:
        """Put the figures so far on disk: they survive a row that is killed."""
        files.write_whole(self.folder / f"{self.name}{PARTIAL}", to_json(figures))

    def finish(self, outcome: dict[str, Any]) -> None:
        """Put the row's outcome on disk."""
        files.write_whole(self.folder / f"{self.name}{DONE}", to_json(outcome))

    def kept(self) -> dict[str, Any]:
        """The figures that were kept last; {} where none were."""
        return _read(self.folder / f"{self.name}{PARTIAL}") or {}

    def finished(self) -> dict[str, Any] | None:
        """The row's outcome, or None when its process ended before."""
        return _read(self.folder / f"{self.name}{DONE}")

    @property
    def log(self) -> Path:
        """The file that the row's process prints to."""
        return self.folder / f"{self.name}.log"


def spread(values: Sequence[float]) -> dict[str, float]:
    """Median, smallest and largest of repeats, and how many there were."""
    return {
        "median": statistics.median(values),
        "min": min(values),
        "max": max(values),
        "repeats": len(values),
    }


def to_json(value: Any) -> bytes:
    """A document of strict JSON: a number that is not finite becomes null."""
    return (json.dumps(_finite(value), indent=1, allow_nan=False) + "\n").encode()


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {str(key): _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return value


def _read(path: Path) -> dict[str, Any] | None:
    return json.loads(path.read_bytes()) if path.exists() else None
