"""Tensor libraries on devices: their protocols, their registry, advice when memory runs out.

`backend` composes the protocol `Backend` of three groups: `arrays` (arrays and gradients),
`factory` (what it makes) and `machine` (the device). `protocols` has the protocols of what it
makes, `registry` finds a backend by its name, `memory` advises when memory runs out. `world` is
the processes of a run, with `lanes` (the order of sums) and `messages` between them. The backends
themselves are the packages `drift_torch` and `drift_mlx`.
"""

from common.backends.arrays import Arrays
from common.backends.backend import Backend
from common.backends.factory import Factory
from common.backends.machine import Machine
from common.backends.memory import OutOfMemoryError
from common.backends.protocols import (
    Array,
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
from common.backends.world import Alone, World

__all__ = [
    "Alone",
    "Array",
    "Arrays",
    "Backend",
    "BackendUnavailableError",
    "Block",
    "Conditioning",
    "DiffusionSchedule",
    "Factory",
    "FlowSchedule",
    "LossFunction",
    "Machine",
    "Optimizer",
    "OutOfMemoryError",
    "Parameters",
    "Policy",
    "Prediction",
    "Scorer",
    "World",
    "best",
    "load",
    "names",
    "probe",
]
