"""How the cost of an update grows with the group size, the prompts and the denoising steps."""

from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

from common import config as configuration
from common.backends import load
from scripts.gpu_bench.context import spread
from scripts.peers.setup import trained
from scripts.peers.turns import in_turn

__all__ = ["AXES", "Axis", "growth"]

OWN = ("evaluate.every=1000000", "evaluate.images=2", "drift.subset.rule=none")
"""The recipe `emoji` with a fixed number of trained samples."""


@dataclass(frozen=True)
class Axis:
    """A setting whose values are measured. counts: "images", or "image-steps", of an update."""

    key: str
    values: tuple[int, ...]
    changes: tuple[str, ...]
    counts: str = "images"


AXES = {
    "group": Axis("rollout.group_size", (4, 8, 16, 24, 48, 96), ("rollout.prompts=1",)),
    "prompts": Axis("rollout.prompts", (1, 2, 4, 8), ("rollout.group_size=4",)),
    "steps": Axis(
        "rollout.steps",
        (4, 8, 16, 32),
        ("rollout.prompts=1", "rollout.group_size=4", "rollout.window=0"),
        counts="image-steps",
    ),
}


def growth(axis: str, rounds: int) -> dict[str, Any]:
    """Processor seconds of an update at each value, in turn.

    Result: key, counts, and for each value its `units` and the spread of `cpu` seconds.
    """
    chosen, backend = AXES[axis], load("cpu")
    with ExitStack() as stack:
        trainers = {}
        for value in chosen.values:
            changes = [*OWN, *chosen.changes, f"{chosen.key}={value}"]
            config = configuration.load("emoji", changes)
            trainers[value] = stack.enter_context(trained(config, backend, "tiny"))
        turns = in_turn({str(value): each.step for value, each in trainers.items()})
        next(turns)  # a warm-up
        measured = [next(turns) for _ in range(rounds)]
        points = []
        for value, trainer in trainers.items():
            plan = trainer.plan()
            units = plan["images_per_update"]
            if chosen.counts == "image-steps":
                units *= value
            points.append(
                {
                    "value": value,
                    "units": units,
                    "cpu": spread([one[str(value)].cpu for one in measured]),
                }
            )
    return {"key": chosen.key, "counts": chosen.counts, "points": points}
