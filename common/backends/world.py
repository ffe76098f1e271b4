"""The processes of a run: which of them computes what, and how they agree.

A unit of work, a rollout batch or a micro-batch, has the same shape on any number of processes,
and results are put together in the order of the units. Only the process that computes a unit
changes.
"""

import re
import time
from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from common import reading
from common.backends import messages
from common.backends.lanes import Sums
from common.backends.protocols import Parameters
from common.errors import PeerError

__all__ = [
    "Alone",
    "Copies",
    "GradientSums",
    "PeerError",
    "Several",
    "World",
    "dealt",
    "first_line",
    "in_order",
    "lost",
]

T = TypeVar("T")

GradientSums = Sums[Parameters]


@dataclass(frozen=True)
class Copies:
    """What a process has in memory at most while a library moves data between processes.

    gathered: copies of what all give, within `World.share`. sent: copies of what one process
    sends and gets, within `World.exchange`. gradients: arrays of the size of the gradient, within
    `World.total`.
    """

    gathered: int
    sent: int
    gradients: int


class World(Protocol):
    """The processes of a run, and which of them this one is."""

    rank: int
    """Number of this process, from 0; process 0 leads: it alone writes files and prints."""
    size: int
    seconds: dict[str, float]
    """Time between the processes: `wait` for the slowest, `move` of results, `reduce`."""
    lockstep: bool
    """Whether all must make the same forward passes, since each pass gathers weights from all."""

    def share(self, work: Callable[[], T], what: str, *, passes: bool = False) -> list[T]:
        """Every process does its work, and all get the results of all, in the order of ranks.

        Results are trees that `messages.encode` takes. What one process raises is raised there,
        and PeerError everywhere else.

        Args:
            work: of this process.
            what: the work, for an error: "sampling".
            passes: the work makes forward passes of the policy, for which see `lockstep`.
        """
        ...

    def lead(self, work: Callable[[], T], what: str) -> T:
        """Process 0 does the work, and all get its result; errors are those of `share`."""
        ...

    def exchange(self, parcels: Sequence[Any], what: str) -> list[Any]:
        """Send a tree to each process; returns what each has sent to this one, by rank."""
        ...

    def total(
        self, sums: GradientSums, used: Collection[int], like: Parameters
    ) -> tuple[Parameters | None, Parameters | None]:
        """Gradients of the lower and of the upper half of the lanes, over all processes.

        Args:
            sums: those of the lanes of this process.
            used: the lanes that have gradients, on any process.
            like: arrays of the same names and shapes.
        """
        ...

    def close(self) -> None:
        """Leave the others; afterwards nothing can be shared."""
        ...


class Alone:
    """One process."""

    rank, size, lockstep = 0, 1, False

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    def share(self, work: Callable[[], T], what: str, *, passes: bool = False) -> list[T]:
        """The work's result."""
        return [work()]

    def lead(self, work: Callable[[], T], what: str) -> T:
        """The work's result."""
        return work()

    def exchange(self, parcels: Sequence[Any], what: str) -> list[Any]:
        """The only parcel."""
        return list(parcels)

    def total(
        self, sums: GradientSums, used: Collection[int], like: Parameters
    ) -> tuple[Parameters | None, Parameters | None]:
        """The sums of this process."""
        return sums.halves()

    def close(self) -> None:
        """Nothing to leave."""


class Several(ABC):
    """Several processes; the class of a library moves bytes and gradients between them."""

    rank: int
    size: int

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self.lockstep = False

    @abstractmethod
    def total(
        self, sums: GradientSums, used: Collection[int], like: Parameters
    ) -> tuple[Parameters | None, Parameters | None]:
        """See `World.total`."""

    @abstractmethod
    def close(self) -> None:
        """See `World.close`."""

    @abstractmethod
    def _sizes(self, own: Sequence[int], what: str) -> list[list[int]]:
        """The numbers that each process gives, equally many, by rank; waits for all."""

    @abstractmethod
    def _gathered(self, content: bytes, sizes: Sequence[int], what: str) -> list[bytes]:
        """What every process gives, of those sizes, by rank."""

    @abstractmethod
    def _exchanged(
        self, contents: Sequence[bytes], sizes: Sequence[Sequence[int]], what: str
    ) -> list[bytes]:
        """What every process gives to this one; sizes[i][k]: bytes from process i to k."""

    def _as_peer_error(self, error: Exception, what: str) -> Exception:
        """An error of the work, as PeerError where another process is its cause."""
        return error

    def share(self, work: Callable[[], T], what: str, *, passes: bool = False) -> list[T]:
        """See `World.share`."""
        failed: Exception | None = None
        try:
            content = messages.encode([None, work()])
        except Exception as error:  # raised below, once the others know
            if passes and self.lockstep:  # they wait for weights, not for a message
                raise self._as_peer_error(error, what) from error.__cause__
            failed = error
            text = reading.printable(f"{type(error).__name__}: {error}")
            content = messages.encode([text, None])
        start = time.perf_counter()
        sizes = [size for (size,) in self._sizes([len(content)], what)]
        waited = time.perf_counter()
        results = [messages.decode(each) for each in self._gathered(content, sizes, what)]
        self.seconds["wait"] += waited - start
        self.seconds["move"] += time.perf_counter() - waited
        if failed is not None:
            raise failed
        for rank, (failure, _) in enumerate(results):
            if failure is not None:
                raise PeerError(f"process {rank} of {self.size} failed at {what}: {failure}")
        return [result for _, result in results]

    def lead(self, work: Callable[[], T], what: str) -> T:
        """See `World.lead`."""
        results = self.share(lambda: work() if self.rank == 0 else None, what)
        return results[0]  # type: ignore[return-value]  # process 0 did the work

    def exchange(self, parcels: Sequence[Any], what: str) -> list[Any]:
        """See `World.exchange`."""
        contents = [messages.encode(parcel) for parcel in parcels]
        start = time.perf_counter()
        sizes = self._sizes([len(content) for content in contents], what)
        received = self._exchanged(contents, sizes, what)
        self.seconds["move"] += time.perf_counter() - start
        return [messages.decode(each) for each in received]


def dealt(units: Sequence[T], world: World) -> list[tuple[T, bool]]:
    """The units that this process works on, dealt out one by one, and whether each one counts.

    In lockstep a process that has fewer than another repeats the first of all; its result does
    not count.
    """
    own = [(unit, True) for unit in units[world.rank :: world.size]]
    if world.lockstep and len(own) < -(-len(units) // world.size):
        own.append((units[0], False))
    return own


def lost(rank: int, size: int, what: str, error: BaseException) -> PeerError:
    """The error of a process that no longer hears from the others."""
    return PeerError(
        f"process {rank} of {size} lost the others at {what}: {first_line(error)}; what was saved "
        "is whole, and can be gone on with (DRIFT_TIMEOUT is how long one waits for another)"
    )


def first_line(error: BaseException) -> str:
    """The first sentence of a library's error, without the file that it comes from."""
    lines = (re.sub(r"^\[\S*/\S*\]", "", line.strip()).strip() for line in str(error).splitlines())
    return next((line for line in lines if line), type(error).__name__).split(". ")[0][:200]


def in_order(results: Sequence[Sequence[T]]) -> list[T]:
    """Results of units that were dealt out one by one, in the order of the units.

    results: by process; process r has those of units r, r + size, r + 2 size, ...
    """
    count = sum(map(len, results))
    return [results[n % len(results)][n // len(results)] for n in range(count)]
