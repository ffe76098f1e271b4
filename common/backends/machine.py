"""The methods of a backend for its device: memory, compiling time, versions, advice."""

from typing import TYPE_CHECKING, Protocol

from common.backends.protocols import Policy
from common.backends.world import Copies

if TYPE_CHECKING:
    from common.config import Config


class Machine(Protocol):
    """Memory and description of the device, and what would make it faster."""

    def estimate(
        self, policy: Policy, config: "Config", prompt: str, processes: int = 1
    ) -> dict[str, int]:
        """Bytes on the device at the peak of each stage of an update; {} where it is unknown.

        Computes nothing. prompt: one that the policy can read. processes: over which the weights
        are spread, where `model.shard` says so.
        """
        ...

    def copies(self, size: int, lanes: int) -> Copies:
        """What a process has in memory while `size` processes exchange data."""
        ...

    def out_of_memory(self, error: BaseException) -> bool:
        """Whether an error says that the device, or this machine, has no more memory."""
        ...

    def device_memory(self) -> dict[str, int]:
        """Bytes: `peak` since the start of the process, `total` of the device, `active` if known.

        Of a GPU that shares the machine's memory, the total is what its maker recommends.
        """
        ...

    def compiling_seconds(self) -> float:
        """Seconds that compiling the model has taken in this process; 0 where it is not compiled.

        Compiling happens in the first calls of a kind, so those take that much longer.
        """
        ...

    def describe(self) -> dict[str, str]:
        """Library and device names, versions and numerical switches, for `environment.json`."""
        ...

    def advice(self) -> list[str]:
        """What would make this backend faster here, one sentence each; mostly empty."""
        ...

    def packages(self) -> dict[str, str]:
        """Packages that it can do without: what each is good for here, or why it does not work."""
        ...
