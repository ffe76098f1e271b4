"""The processes that torchrun, accelerate, SLURM or `drift run --processes` started."""

import os
import time
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh

from common import launched
from common.backends import Parameters, world
from common.backends.lanes import halves_of_all, kept_by
from common.errors import PeerError, RequestError

__all__ = ["Processes", "connect", "copies"]


def copies(size: int, lanes: int) -> world.Copies:
    """See `Machine.copies`.

    Gathered: padded rows, and each as bytes. Sent: the arrays, their messages, all of them joined,
    what comes, and that as bytes. Gradients: the sums, what is sent and comes, and two wholes.
    """
    rows = max(len(kept_by(rank, size, lanes, range(lanes))) for rank in range(size))
    return world.Copies(gathered=2, sent=5, gradients=3 * rows + 4)


def connect(device: torch.device) -> world.World:
    """The processes that the environment names; one process where it names none.

    Raises PeerError when the others do not come in time.
    """
    if launched.size() < 2:
        return world.Alone()
    if "WORLD_SIZE" not in os.environ:
        raise RequestError("mlx.launch starts processes for --backend mlx; here: torchrun")
    seconds = launched.patience()
    if not dist.is_initialized():
        # What is on the host goes over gloo; gradients go where they are.
        backends = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
        try:
            dist.init_process_group(backends, timeout=timedelta(seconds=seconds))
        except (RuntimeError, ValueError) as error:  # no port, no peers, no address
            raise PeerError(
                f"process {os.environ.get('RANK', '?')} of {os.environ['WORLD_SIZE']} cannot reach "
                f"the others: {world.first_line(error)}"
            ) from None
    return Processes()


class Processes(world.Several):
    """PyTorch's default process group; fulfils `common.backends.world.World`."""

    def __init__(self) -> None:
        super().__init__()
        self.rank, self.size = dist.get_rank(), dist.get_world_size()
        self._mesh: DeviceMesh | None = None

    def mesh(self, device: torch.device) -> DeviceMesh:
        """All processes in a row, with connections of their own for weights on such a device."""
        if self._mesh is None:
            with self._connected("loading the model"):
                own = dist.new_group(
                    backend="nccl" if device.type == "cuda" else "gloo",
                    timeout=timedelta(seconds=launched.patience()),
                )
            assert isinstance(own, dist.ProcessGroup)  # this process is in it
            self._mesh = DeviceMesh.from_group(own, device.type)
        return self._mesh

    def _as_peer_error(self, error: Exception, what: str) -> Exception:
        of_library = isinstance(error, dist.DistError) or "/gloo/" in str(error)
        return world.lost(self.rank, self.size, what, error) if of_library else error

    def close(self) -> None:
        """End the connections: the threads of gloo must not outlive the interpreter."""
        if dist.is_initialized():  # engines of several runs have one group
            dist.destroy_process_group()

    def _sizes(self, own: Sequence[int], what: str) -> list[list[int]]:
        mine = torch.tensor(own, dtype=torch.int64)
        rows = [torch.zeros_like(mine) for _ in range(self.size)]
        with self._connected(what):
            dist.all_gather(rows, mine)
        return [row.tolist() for row in rows]

    def _gathered(self, content: bytes, sizes: Sequence[int], what: str) -> list[bytes]:
        padded = torch.zeros(max(sizes), dtype=torch.uint8)
        padded[: len(content)] = torch.frombuffer(bytearray(content), dtype=torch.uint8)
        rows = [torch.empty_like(padded) for _ in sizes]
        with self._connected(what):
            dist.all_gather(rows, padded)
        return [row[:size].numpy().tobytes() for row, size in zip(rows, sizes, strict=True)]

    def _exchanged(
        self, contents: Sequence[bytes], sizes: Sequence[Sequence[int]], what: str
    ) -> list[bytes]:
        incoming = [row[self.rank] for row in sizes]
        sent = torch.frombuffer(bytearray(b"".join(contents)), dtype=torch.uint8)
        received = torch.empty(sum(incoming), dtype=torch.uint8)
        with self._connected(what):
            dist.all_to_all_single(received, sent, incoming, [len(each) for each in contents])
        return [part.numpy().tobytes() for part in received.split(incoming)]

    def total(
        self, sums: world.GradientSums, used: Collection[int], like: Parameters
    ) -> tuple[Parameters | None, Parameters | None]:
        """Process k adds up slice k of every node in the tree, and all gather the slices.

        The traffic is that of a ring, twice the gradient, and the order of additions is the tree's.
        """
        start, lanes = time.perf_counter(), sums.lanes
        kept = [kept_by(rank, self.size, lanes, used) for rank in range(self.size)]
        length, first = sum(p.numel() for p in like.values()), next(iter(like.values()))
        width = -(-length // self.size)
        rows = max(sum(nodes.values()) for nodes in kept)
        sent = first.new_zeros(self.size, rows, width)
        own = [node for node, there in kept[self.rank].items() if there]
        for row, node in enumerate(own):
            whole = first.new_zeros(self.size * width)
            whole[:length] = _flat(sums.nodes[node], like)
            sent[:, row] = whole.view(self.size, width)
        received = torch.empty_like(sent)
        with self._connected("the update"):
            dist.all_to_all_single(received, sent)
        halves = halves_of_all(kept, received, lanes, torch.add)
        lower, upper = (self._whole(half, length, like) for half in halves)
        self.seconds["reduce"] += time.perf_counter() - start
        return lower, upper

    def _whole(self, part: Tensor | None, length: int, like: Parameters) -> Parameters | None:
        """The arrays of a sum of which each process has a slice."""
        if part is None:
            return None
        slices = [torch.empty_like(part) for _ in range(self.size)]
        with self._connected("the update"), torch.no_grad():
            dist.all_gather(slices, part.contiguous())
        parts = torch.cat(slices)[:length].split([p.numel() for p in like.values()])
        return {name: each.view_as(p) for (name, p), each in zip(like.items(), parts, strict=True)}

    @contextmanager
    def _connected(self, what: str) -> Iterator[None]:
        try:
            yield
        except RuntimeError as error:  # of gloo and NCCL: a peer is gone, or did not answer
            raise world.lost(self.rank, self.size, what, error) from None


def _flat(values: Parameters | None, like: Parameters) -> Tensor:
    assert values is not None  # the node has something
    return torch.cat([values[name].reshape(-1) for name in like])
