"""The order in which the gradients of an update are added up, whatever the number of processes.

Micro-batches are dealt to lanes, neighbours to the same one. A lane adds up its own in order; two
lanes side by side are added up, then two such pairs, and so on: a binary tree of fixed shape. The
number of processes says only which one computes a lane, so the sums have the same bytes on any.
"""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Generic, TypeVar

__all__ = ["Node", "Sums", "halves_of_all", "kept_by", "lane_of", "lanes_of", "process_of"]

T = TypeVar("T")

Node = tuple[int, int]
"""A node of the tree: its first lane, and the number of lanes below it, a power of 2."""


def lane_of(index: int, count: int, lanes: int) -> int:
    """The lane of micro-batch `index` of `count`: in [0, lanes), rising with the index."""
    return index * lanes // count


def lanes_of(rank: int, size: int, lanes: int) -> range:
    """The lanes that process `rank` of `size` computes: neighbours; none where size > lanes."""
    return range(rank * lanes // size, (rank + 1) * lanes // size)


def process_of(lane: int, size: int, lanes: int) -> int:
    """The process that computes a lane: the inverse of `lanes_of`."""
    return next(rank for rank in range(size) if lane in lanes_of(rank, size, lanes))


class Sums(Generic[T]):
    """Sums below the root of the tree, added up as soon as both sides of a node are there.

    Nodes may come in any order; the order of additions is that of the tree. Where lanes come from
    the first to the last, at most log2(lanes) sums are kept beside the newest one.
    """

    def __init__(self, lanes: int, plus: Callable[[T, T], T]):
        """lanes: a power of 2. plus: adds the sum on the left and that on the right."""
        if lanes < 1 or lanes & (lanes - 1):
            raise ValueError(f"{lanes} lanes: the number must be a power of 2")
        self.lanes, self._plus = lanes, plus
        self.nodes: dict[Node, T | None] = {}
        """The sums that wait for their other side; None where no lane below has anything."""

    def add(self, node: Node, value: T | None) -> None:
        """Put in the sum of a node, None for nothing, and add up what is complete by it."""
        top = max(self.lanes // 2, 1)
        while node[1] < top and (other := (node[0] ^ node[1], node[1])) in self.nodes:
            beside = self.nodes.pop(other)
            left, right = (value, beside) if node < other else (beside, value)
            both = self._plus(left, right) if left is not None and right is not None else None
            value = both if both is not None else right if left is None else left
            node = (min(node[0], other[0]), 2 * node[1])
        self.nodes[node] = value

    def halves(self) -> tuple[T | None, T | None]:
        """The sums of the lower and of the upper half of the lanes, once all lanes were put in."""
        values = [self.nodes[node] for node in sorted(self.nodes)]
        return values[0], values[1] if len(values) > 1 else None


def kept_by(rank: int, size: int, lanes: int, used: Collection[int]) -> dict[Node, bool]:
    """The nodes that the sums of a process have, from left to right, and whether with anything.

    used: the lanes that have something, on any process.
    """
    sums: Sums[bool] = Sums(lanes, lambda left, right: True)
    for lane in lanes_of(rank, size, lanes):
        sums.add((lane, 1), True if lane in used else None)
    return {node: bool(sums.nodes[node]) for node in sorted(sums.nodes)}


def halves_of_all(
    kept: Sequence[Mapping[Node, bool]],
    rows: Iterable[Iterable[T]],
    lanes: int,
    plus: Callable[[T, T], T],
) -> tuple[T | None, T | None]:
    """`Sums.halves` over all processes.

    Args:
        kept: by process, what `kept_by` gives.
        rows: by process, the sums of its nodes with anything, in that order; more is padding.
        lanes: a power of 2.
        plus: as for `Sums`.
    """
    sums = Sums(lanes, plus)
    for nodes, values in zip(kept, rows, strict=True):
        remaining = iter(values)
        for node, there in nodes.items():
            sums.add(node, next(remaining) if there else None)
    return sums.halves()
