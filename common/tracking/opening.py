"""What a tracker is opened with, and what it must do."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

__all__ = ["Comparison", "Opening", "Tracker"]

Comparison = Mapping[str, Mapping[str, float]]
"""Measure -> its value of the base model, of the tuned one, and the change."""


@dataclass(frozen=True)
class Opening:
    """A start of a run, as a tracker sees it.

    folder: of the run, for what is written on this machine. project, name: there. identity: of the
    run, the same at each of its starts. update: finished updates at this start. offline: nothing
    may be sent. config: the nested tables of the configuration. text: the same as TOML.
    """

    folder: Path
    project: str
    name: str
    identity: str
    update: int
    offline: bool
    config: Mapping[str, Any]
    text: str


class Tracker(Protocol):
    """One run in a program that shows runs. Every method may raise anything."""

    def numbers(self, values: Mapping[str, float], update: int) -> None:
        """Add a point to each curve; values: finite numbers by "group/metric"."""
        ...

    def picture(self, name: str, file: Path, update: int) -> None:
        """Add a PNG file."""
        ...

    def result(self, rows: Comparison, report: Path) -> None:
        """Add what the run ends with: base against tuned, and the HTML report."""
        ...

    def close(self, *, failed: bool) -> None:
        """End this start of the run; returns when everything is written or sent."""
        ...
