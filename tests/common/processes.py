"""Processes as threads of one: what they send goes through a list that all can see."""

import threading
from collections.abc import Callable, Collection, Sequence
from typing import Any, TypeVar

from common.backends import Parameters
from common.backends.lanes import Sums
from common.backends.world import GradientSums, Several

T = TypeVar("T")


class Threads(Several):
    """One of several threads; `common.backends.world.World` without a library."""

    def __init__(self, rank: int, board: list[Any], barrier: threading.Barrier) -> None:
        super().__init__()
        self.rank, self.size = rank, len(board)
        self._board, self._barrier = board, barrier

    def close(self):
        """Nothing to end."""

    def _all(self, own: Any) -> list[Any]:
        self._barrier.wait(60)
        self._board[self.rank] = own
        self._barrier.wait(60)
        return list(self._board)

    def _sizes(self, own: Sequence[int], what: str) -> list[list[int]]:
        return self._all(list(own))

    def _gathered(self, content: bytes, sizes: Sequence[int], what: str) -> list[bytes]:
        received = self._all(content)
        assert [len(each) for each in received] == list(sizes)
        return received

    def _exchanged(
        self, contents: Sequence[bytes], sizes: Sequence[Sequence[int]], what: str
    ) -> list[bytes]:
        received = [each[self.rank] for each in self._all(list(contents))]
        assert [len(each) for each in received] == [row[self.rank] for row in sizes]
        return received

    def total(
        self, sums: GradientSums, used: Collection[int], like: Parameters
    ) -> tuple[Parameters | None, Parameters | None]:
        """Merged as they are: the arrays belong to all threads."""
        tree: GradientSums = Sums(sums.lanes, lambda a, b: {name: a[name] + b[name] for name in a})
        for nodes in self._all(dict(sums.nodes)):
            for node, value in nodes.items():
                tree.add(node, value)
        return tree.halves()


def together(size: int, work: Callable[[Threads], T]) -> list[T | Exception]:
    """What the work gives on each of so many threads, or raises there."""
    results: list[Any] = [None] * size
    board: list[Any] = [None] * size
    barrier = threading.Barrier(size)

    def one(rank: int) -> None:
        try:
            results[rank] = work(Threads(rank, board, barrier))
        except Exception as error:
            results[rank] = error

    threads = [threading.Thread(target=one, args=(rank,)) for rank in range(size)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results
