"""How an update is shared among processes, and when some would have nothing to do."""

from common.config import Config, ConfigError
from common.learning.update import number_of_lanes

__all__ = ["advice", "check"]

MOST = 64
"""The largest `objective.lanes`."""


def check(config: Config, size: int) -> None:
    """Raise ConfigError where there are more processes than lanes: some would train nothing."""
    lanes = number_of_lanes(config)
    if size > lanes:
        wanted = 1 << (size - 1).bit_length()
        more = f"; for more: --set objective.lanes={wanted}, which adds in another order"
        raise ConfigError(
            f"{size} processes, but objective.lanes = {lanes}: at most {lanes} can share an update"
            f"{more if wanted <= MOST else f', and {MOST} with the most lanes that there are'}"
        )


def advice(config: Config, size: int, transitions: int) -> str:
    """One line where processes have nothing to do in part of an update; or "".

    size: the number of processes. transitions: pairs of a sample and a step in an update.
    """
    rollout, objective = config.rollout, config.objective
    images = rollout.prompts * rollout.group_size
    batches = -(-images // rollout.batch_size)
    pairs = -(-transitions // objective.optimizer_steps)
    micro = -(-pairs // objective.micro_batch)
    idle = []
    if batches < size:
        idle.append(
            f"rollout.batch_size = {rollout.batch_size} makes {batches} of {images} images "
            f"(one for each: {images // size})"
        )
    if micro < size:
        idle.append(
            f"objective.micro_batch = {objective.micro_batch} makes {micro} of {pairs} transitions "
            f"(one for each: {pairs // size})"
        )
    return f"fewer batches than the {size} processes: {'; '.join(idle)}" if idle else ""
