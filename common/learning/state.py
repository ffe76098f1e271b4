"""What a run has learned so far: read for a checkpoint, and put back from one."""

from collections.abc import Sequence

from common.arrays import check_shapes
from common.backends import Backend, Optimizer, Policy
from common.learning.moving_average import MovingAverage
from common.runs.checkpoint import Snapshot
from common.runs.resuming import EVALUATED

__all__ = ["restore", "snapshot"]

EMA_STEPS = "ema_steps"
"""Key of a checkpoint's state: the updates that the moving average has seen."""


def snapshot(
    backend: Backend,
    policy: Policy,
    optimizer: Optimizer,
    average: MovingAverage | None,
    *,
    update: int,
    evaluated: Sequence[int],
) -> Snapshot:
    """The trained arrays, their moving average and the optimizer's moments, on the host.

    update: the number of updates done. evaluated: the updates whose evaluations are logged.
    """
    parameters = policy.parameters()
    return Snapshot(
        update=update,
        parameters={name: backend.to_numpy(value) for name, value in parameters.items()},
        ema=None if average is None else average.values,
        optimizer=optimizer.state(),
        state={
            EMA_STEPS: 0 if average is None else average.steps,
            EVALUATED: list(evaluated),
        },
    )


def restore(
    saved: Snapshot, policy: Policy, optimizer: Optimizer, average: MovingAverage | None
) -> None:
    """Put a snapshot back.

    Raises ValueError where its arrays are not those that the policy or the optimizer has, or its
    state is damaged.
    """
    policy.load_parameters(saved.parameters)
    optimizer.load_state(saved.optimizer)
    if average is not None and saved.ema is not None:
        steps = saved.state.get(EMA_STEPS)
        if type(steps) is not int or steps < 0:
            raise ValueError(f"{EMA_STEPS} in the state of the checkpoint is no number of updates")
        shapes = {name: value.shape for name, value in average.values.items()}
        check_shapes(saved.ema, shapes, "moving average")
        average.load(saved.ema, steps)
