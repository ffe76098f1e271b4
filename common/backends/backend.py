"""A tensor library on a device: the three groups of methods that a backend package fulfils."""

from typing import Protocol

from common.backends.arrays import Arrays
from common.backends.factory import Factory
from common.backends.machine import Machine
from common.backends.world import World


class Backend(Arrays, Factory, Machine, Protocol):
    """A tensor library on a device."""

    name: str
    """The name it was asked for: "cpu", "cuda" or "mlx"."""
    dtype: str
    """"float32", or "float64" for a reference run (torch CPU only)."""
    gpu: bool
    """Whether the device is a GPU."""
    world: World
    """The processes of the run; one until `connect` was called."""
    shares_memory: bool
    """Whether the device has no memory of its own but that of the host."""

    has_slices: bool
    """Whether it can spread the weights of a model over processes: see `model.shard`."""

    def connect(self) -> None:
        """Join the processes that the environment names, if it names several.

        Raises PeerError when they cannot be reached in time.
        """
        ...
