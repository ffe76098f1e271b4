"""How an update is shared among processes, and when some would have nothing to do."""

from typing import NamedTuple

from common.backends import Backend, World
from common.backends.lanes import lane_of, lanes_of, process_of
from common.config import Config, ConfigError

__all__ = ["Work", "advice", "check", "check_slices", "number_of_lanes", "own_work", "processes_of"]

MOST = 64
"""The largest `objective.lanes`."""


class Work(NamedTuple):
    """The micro-batches of an optimizer step that a process computes, in order.

    lanes: those of the process. places: the lane of every micro-batch of the step. numbers: of
    those that this process computes. counting: so many of them count; the others are repeats, see
    `World.lockstep`.
    """

    lanes: range
    places: list[int]
    numbers: list[int]
    counting: int

    def of_lane(self, lane: int) -> list[int]:
        """The positions in `numbers` of those that count, of one lane."""
        return [k for k in range(self.counting) if self.places[self.numbers[k]] == lane]

    @property
    def repeats(self) -> range:
        """The positions in `numbers` of those that do not count."""
        return range(self.counting, len(self.numbers))


def number_of_lanes(config: Config) -> int:
    """The leaves of the tree that gradients are added up in: see `objective.lanes`."""
    return config.objective.lanes or (8 if config.adapter.kind == "lora" else 1)


def processes_of(count: int, lanes: int, size: int) -> list[int]:
    """Which of `size` processes computes each of `count` micro-batches."""
    return [process_of(lane_of(n, count, lanes), size, lanes) for n in range(count)]


def own_work(count: int, lanes: int, world: World) -> Work:
    """What this process computes of `count` micro-batches; in lockstep all compute equally many."""
    places = [lane_of(n, count, lanes) for n in range(count)]
    processes = processes_of(count, lanes, world.size)
    own = [n for n, process in enumerate(processes) if process == world.rank]
    most = max(processes.count(rank) for rank in range(world.size))
    repeats = [own[0] if own else 0] * (most - len(own)) if world.lockstep else []
    return Work(lanes_of(world.rank, world.size, lanes), places, own + repeats, len(own))


def check_slices(config: Config, backend: Backend) -> None:
    """Raise ConfigError for `model.shard` on a backend that has no slices."""
    if config.model.shard == "fsdp" and not backend.has_slices:
        raise ConfigError(
            f"model.shard = 'fsdp' is for PyTorch; on --backend {backend.name}: none or auto"
        )


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
    """One line where a setting has no effect, or processes have nothing to do; or "".

    size: the number of processes. transitions: pairs of a sample and a step in an update.
    """
    if size == 1 and config.model.shard == "fsdp":
        return "model.shard = 'fsdp' has no effect in one process"
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
