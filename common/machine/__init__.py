"""This machine: how many cores it has, what it is called, and (in `bench`) how fast it is."""

from common.machine.cores import cores
from common.machine.description import (
    DISTRIBUTION,
    chip,
    facts,
    installed,
    memory_bytes,
    resident_bytes,
)

__all__ = ["DISTRIBUTION", "chip", "cores", "facts", "installed", "memory_bytes", "resident_bytes"]
