"""What a run has learned so far: read for a checkpoint, and put back from one."""

from collections.abc import Sequence

from common.backends import Backend, Optimizer, Policy
from common.learning.moving_average import MovingAverage
from common.runs.checkpoint import Snapshot
from common.runs.resuming import EVALUATED

__all__ = ["restore", "snapshot"]


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
            "ema_steps": 0 if average is None else average.steps,
            EVALUATED: list(evaluated),
        },
    )


def restore(
    saved: Snapshot, policy: Policy, optimizer: Optimizer, average: MovingAverage | None
) -> None:
    """Put a snapshot back.

    Raises ValueError where its arrays are not those that the policy or the optimizer has.
    """
    policy.load_parameters(saved.parameters)
    optimizer.load_state(saved.optimizer)
    if average is not None and saved.ema is not None:
        average.load(saved.ema, int(saved.state["ema_steps"]))
