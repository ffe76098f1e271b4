"""The same work by several loops in turn, A B A B, and the time of its processor.

A machine that slows down does so for all of them. The processor's time of this process is the
figure: what others do on the machine counts in the wall time.
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from scripts.gpu_bench.context import spread

__all__ = ["Cost", "Phase", "costs", "in_turn", "ratios"]


@dataclass(frozen=True)
class Cost:
    """Seconds of work: cpu, of all threads of this process, and wall."""

    cpu: float
    wall: float

    @classmethod
    def now(cls) -> "Cost":
        """The clocks as they stand."""
        return cls(time.process_time(), time.perf_counter())

    def __sub__(self, other: "Cost") -> "Cost":
        return Cost(self.cpu - other.cpu, self.wall - other.wall)

    def __add__(self, other: "Cost") -> "Cost":
        return Cost(self.cpu + other.cpu, self.wall + other.wall)


NOTHING = Cost(0.0, 0.0)


class Phase:
    """Adds up the cost of the calls of one method of an object."""

    def __init__(self, owner: Any, name: str):
        self.cost, self._function = NOTHING, getattr(owner, name)
        setattr(owner, name, self._call)

    def taken(self) -> Cost:
        """The cost since the last time."""
        cost, self.cost = self.cost, NOTHING
        return cost

    def _call(self, *arguments: Any, **named: Any) -> Any:
        start = Cost.now()
        try:
            return self._function(*arguments, **named)
        finally:
            self.cost = self.cost + (Cost.now() - start)


def in_turn(
    steps: Mapping[str, Callable[[], Any]], before: Callable[[], None] = lambda: None
) -> Iterator[dict[str, Cost]]:
    """The cost of one step of each, round by round, without end. The first one is a warm-up.

    before: called before each step, and not timed.
    """
    while True:
        costs = {}
        for name, step in steps.items():
            before()
            start = Cost.now()
            step()
            costs[name] = Cost.now() - start
        yield costs


def costs(values: Sequence[Cost]) -> dict[str, Any]:
    """Medians and ranges of seconds."""
    return {
        "cpu": spread([cost.cpu for cost in values]),
        "wall": spread([cost.wall for cost in values]),
    }


def ratios(others: Sequence[Cost], ours: Sequence[Cost]) -> dict[str, Any]:
    """How many times as fast ours is, pair by pair."""
    pairs = list(zip(others, ours, strict=True))
    return {
        "cpu": spread([other.cpu / own.cpu for other, own in pairs]),
        "wall": spread([other.wall / own.wall for other, own in pairs]),
    }
