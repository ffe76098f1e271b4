"""Tensor libraries on devices: what they promise, how one is found, what to do without memory.

The protocols are in `protocols`, finding a backend by name in `registry`, advice on memory in
`memory`. The backends themselves are the packages `drift_torch` and `drift_mlx`.
"""

from common.backends.memory import OutOfMemoryError
from common.backends.protocols import (
    Array,
    Backend,
    BackendUnavailableError,
    Block,
    Conditioning,
    DiffusionSchedule,
    FlowSchedule,
    LossFunction,
    Optimizer,
    Parameters,
    Policy,
    Prediction,
    Scorer,
)
from common.backends.registry import best, load, names, probe

__all__ = [
    "Array",
    "Backend",
    "BackendUnavailableError",
    "Block",
    "Conditioning",
    "DiffusionSchedule",
    "FlowSchedule",
    "LossFunction",
    "Optimizer",
    "OutOfMemoryError",
    "Parameters",
    "Policy",
    "Prediction",
    "Scorer",
    "best",
    "load",
    "names",
    "probe",
]
