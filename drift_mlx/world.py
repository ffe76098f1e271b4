"""The processes that mlx.launch or `drift run --processes` started."""

import os
import subprocess
import sys
import threading
import time
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager

import mlx.core as mx
import numpy as np

from common import launched
from common.backends import Parameters, world
from common.backends.lanes import halves_of_all, kept_by
from common.errors import PeerError, RequestError

__all__ = ["Processes", "connect", "copies"]

ENDED = " (DRIFT_TIMEOUT); what was saved is whole"
"""How a line ends that says why a process ends itself."""


def copies(size: int, lanes: int) -> world.Copies:
    """See `Machine.copies`.

    Gathered: rows of MLX, and each as bytes. Sent: the arrays, their messages, all of them joined,
    those as an array, the rows of all, and what comes. Gradients: the sums, each once more in what
    is sent, the rows of all, and two wholes.
    """
    rows = max(len(kept_by(rank, size, lanes, range(lanes))) for rank in range(size))
    return world.Copies(gathered=2, sent=5 + size, gradients=(3 + size) * rows + 4)


def connect() -> world.World:
    """The processes that the environment names; one process where it names none.

    Raises PeerError when MLX cannot reach the others.
    """
    if launched.size() < 2:
        return world.Alone()
    if "MLX_RANK" not in os.environ:
        raise RequestError("torchrun starts processes for --backend cpu or cuda; here: mlx.launch")
    seconds, name = launched.patience(), f"process {os.environ['MLX_RANK']}"
    try:
        with _watched(seconds, f"{name} waited {seconds:g} s for the others to start"):
            group = mx.distributed.init(strict=True)
    except (RuntimeError, ValueError) as error:
        raise PeerError(f"{name} cannot reach the others: {world.first_line(error)}") from None
    return Processes(group, seconds) if group.size() > 1 else world.Alone()


WATCH = """
import os, select, sys
seconds, process, line = float(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
if not select.select([0], [], [], seconds)[0]:
    sys.stderr.write(line)
    sys.stderr.flush()
    os.kill(process, 9)
"""
"""(seconds, process, line): end a process at that time, unless its end of the pipe was closed."""


@contextmanager
def _watched(seconds: float, message: str) -> Iterator[None]:
    """Within it another process ends this one with one line when the time is over.

    MLX keeps the lock of Python's threads while it waits for a peer to connect: none of this
    process could do it.
    """
    line = f"drift: {message}{ENDED}\n"
    words = [sys.executable, "-S", "-E", "-c", WATCH, str(seconds), str(os.getpid()), line]
    with subprocess.Popen(words, stdin=subprocess.PIPE, start_new_session=True):
        yield  # leaving closes the pipe


class _Patience:
    """Within it the process ends with one line when the time is over: MLX itself waits for ever.

    The main thread is inside of MLX then, where no exception can reach it.
    """

    def __init__(self, seconds: float, message: str) -> None:
        self._timer = threading.Timer(seconds, self._end)
        self._timer.daemon = True
        self._message = message

    def __enter__(self) -> None:
        self._timer.start()

    def __exit__(self, *_: object) -> None:
        self._timer.cancel()

    def _end(self) -> None:
        sys.stderr.write(f"drift: {self._message}{ENDED}\n")
        sys.stderr.flush()
        os._exit(1)


class Processes(world.Several):
    """MLX's global group; fulfils `common.backends.world.World`."""

    def __init__(self, group: mx.distributed.Group, seconds: float) -> None:
        super().__init__()
        self._group, self._seconds = group, seconds
        self.rank, self.size = group.rank(), group.size()

    def close(self) -> None:
        """Nothing to end: the sockets close with the process."""

    def _sizes(self, own: Sequence[int], what: str) -> list[list[int]]:
        return self._all(mx.array(own, dtype=mx.int64), what).tolist()  # type: ignore[return-value]

    def _gathered(self, content: bytes, sizes: Sequence[int], what: str) -> list[bytes]:
        rows = self._rows([content], max(sizes), what)
        return [row[:size].tobytes() for row, size in zip(rows, sizes, strict=True)]

    def _exchanged(
        self, contents: Sequence[bytes], sizes: Sequence[Sequence[int]], what: str
    ) -> list[bytes]:
        """All get all, and keep what is theirs: MLX has no exchange of unequal parts."""
        rows = self._rows(contents, max(sum(row) for row in sizes), what)
        starts = [sum(row[: self.rank]) for row in sizes]
        return [
            whole[start : start + row[self.rank]].tobytes()
            for whole, start, row in zip(rows, starts, sizes, strict=True)
        ]

    def _rows(self, contents: Sequence[bytes], longest: int, what: str) -> np.ndarray:
        """The joined contents of every process, padded: uint8 [size, longest], not a copy."""
        padded = np.zeros(longest, dtype=np.uint8)  # rows of unequal length come back wrong
        start = 0
        for content in contents:
            padded[start : start + len(content)] = np.frombuffer(content, dtype=np.uint8)
            start += len(content)
        return np.asarray(self._all(mx.array(padded), what))

    def total(
        self, sums: world.GradientSums, used: Collection[int], like: Parameters
    ) -> tuple[Parameters | None, Parameters | None]:
        """All sums go to every process, which adds them up in the tree."""
        start, lanes = time.perf_counter(), sums.lanes
        kept = [kept_by(rank, self.size, lanes, used) for rank in range(self.size)]
        length = sum(p.size for p in like.values())
        rows = max(sum(nodes.values()) for nodes in kept)
        own = [_flat(sums.nodes[node], like) for node, there in kept[self.rank].items() if there]
        sent = mx.stack([*own, *[mx.zeros(length)] * (rows - len(own))])
        received = self._all(sent, "the update")
        halves = halves_of_all(kept, received, lanes, mx.add)
        lower, upper = (_named(half, like) for half in halves)
        self.seconds["reduce"] += time.perf_counter() - start
        return lower, upper

    def _all(self, array: mx.array, what: str) -> mx.array:
        """[size, *shape]: every process's array; on the CPU, where the sockets are."""
        late = f"process {self.rank} of {self.size} waited {self._seconds:g} s for the others at"
        try:
            with _Patience(self._seconds, f"{late} {what}"):
                rows = mx.distributed.all_gather(array[None], stream=mx.cpu)
                mx.eval(rows)
        except RuntimeError as error:  # of the ring: a peer is gone
            raise world.lost(self.rank, self.size, what, error) from None
        return rows


def _flat(values: Parameters | None, like: Parameters) -> mx.array:
    assert values is not None  # the node has something
    return mx.concatenate([values[name].reshape(-1) for name in like])


def _named(flat: mx.array | None, like: Parameters) -> Parameters | None:
    if flat is None:
        return None
    ends = np.cumsum([p.size for p in like.values()])[:-1].tolist()
    parts = zip(like.items(), mx.split(flat, ends), strict=True)
    named = {name: part.reshape(p.shape) for (name, p), part in parts}
    mx.eval(named)
    return named
