"""A dry run: everything is loaded, nothing is left on disk; its sizes, its memory and its time."""

import math
import threading
import warnings
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from common import machine
from common.backends import Backend
from common.config import Config, Overrides, changed
from common.console import console
from common.errors import preparing
from common.learning import shares
from common.learning.footprint import FLOAT
from common.learning.footprint_several import Share
from common.learning.shares import number_of_lanes
from common.progress import NullObserver, clock
from common.prompts import load as load_prompts
from common.rewards import hosts
from common.runs.directory import RunDirectory
from common.trainer import Trainer
from common.workflows.train import RECIPE, Recipe, consent_required, create, reward_terms_text

PEAK = "memory at its peak"
"""The row of the most that a process has at once."""


def rehearse(
    recipe: Recipe | None,
    overrides: Overrides,
    *,
    trust: bool,
    out: Path | None = None,
    timed: bool = False,
    processes: int = 1,
) -> dict[str, Any]:
    """Load all that a run needs, and give its sizes and its memory; nothing is left on disk.

    out: the folder that the run would get, which must be free.
    timed: also compute two updates of some of the prompts, and estimate the time from the second.
    processes: estimate the memory of each of so many; only this one is there.
    """
    if out is not None:
        RunDirectory.check_free(out)
    with (
        hosts.named_in(overrides),
        consent_required(recipe, overrides, None, trust),
        TemporaryDirectory(prefix="drift-dry-run-") as folder,
    ):
        with preparing(), console.status("loading"):
            directory, engine, config = create(recipe, overrides, Path(folder) / "run")
            shares.check(config, processes)
            trainer = _trainer(config, engine, directory)
        plan = trainer.plan()
        transitions = plan["transitions_per_update"]
        if line := shares.advice(config, processes, transitions):
            warnings.warn(line, stacklevel=2)
        with console.status("estimating memory"):
            memory = _memory_of_all(config, engine, trainer, processes)
        times: dict[str, str] = {}
        if timed:
            with console.status("timing an update"):
                times = _times(config, engine, Path(folder) / "timed", trainer)
    del plan["update"]
    head = {
        "recipe": config.run.recipe,
        "backend": engine.name,
        "reward_terms": reward_terms_text(recipe or RECIPE, config),
    }
    return {**head, **plan, **memory, **times}


def _trainer(config: Config, engine: Backend, directory: RunDirectory, **more: Any) -> Trainer:
    stop = threading.Event()
    return Trainer(config, engine, directory, observer=NullObserver(), stop=stop, **more)


# --- memory ---------------------------------------------------------------------------------------


def _memory_of_all(
    config: Config, engine: Backend, trainer: Trainer, processes: int
) -> dict[str, str]:
    """Rows of the only process; or of process 0 and of each other one, where these differ."""
    if processes == 1:
        process = machine.resident_bytes()  # before what estimating loads
        rows = _memory(engine, trainer.memory(), trainer.host_memory(), process)
        return {name: _size(size) for name, size in rows.items()}
    copies = engine.copies(processes, number_of_lanes(config))
    process = machine.resident_bytes()  # with the library that connects processes
    device = trainer.memory(processes=processes)
    if device:
        device["evaluation"] = device["rollout"]
        trained = sum(FLOAT * math.prod(p.shape) for p in trainer.policy.parameters().values())
        device["adding gradients"] = min(device.values()) + copies.gradients * trained
    first, other = (
        _memory(engine, device, trainer.host_memory(Share(processes, leads, copies)), process)
        for leads in (True, False)
    )
    shown = {name: _two_sizes(size, other[name]) for name, size in first.items()}
    if engine.shares_memory and (peak := first.get(PEAK)):
        shown[f"memory of all {processes}"] = _size(peak + (processes - 1) * other[PEAK])
    return shown


def _two_sizes(first: int, other: int) -> str:
    """The memory of process 0, and that of each other one."""
    shown, others = _size(first), _size(other)
    return f"{shown} in each process" if shown == others else f"{shown}, in each other {others}"


def _memory(
    engine: Backend, device: Mapping[str, int], host: Mapping[str, int], process: int
) -> dict[str, int]:
    """Rows of bytes. process: memory of this process with the weights loaded.

    Where the device and the host share their memory, the rows are sums, and so is the peak, since
    an allocator keeps for the update's arrays what the credit had.
    """
    if not device:
        return {f"memory of the samples, {stage}": size for stage, size in host.items()}
    if not engine.shares_memory:
        rows = {f"memory, {stage}": size for stage, size in device.items()}
        peaks = {PEAK: max(device.values())}
        return {**rows, **peaks, "memory of the host, samples and credit": max(host.values())}
    weights = min(device.values())
    stages = {**device, **{stage: weights for stage in host if stage not in device}}
    rows = {stage: size + host.get(stage, 0) for stage, size in stages.items()}
    peak = max(*rows.values(), rows["credit"] + device["update"] - weights)
    # A library that computes late has less of the weights in memory than they take.
    libraries = max(process - engine.device_memory().get("active", weights), 0)
    return {
        **{f"memory, {stage}": size for stage, size in rows.items()},
        "memory, Python and libraries": libraries,
        PEAK: libraries + peak,
    }


def _size(size: int) -> str:
    return f"{size / 1e9:.2f} GB"


# --- time -----------------------------------------------------------------------------------------


def _times(config: Config, engine: Backend, folder: Path, trainer: Trainer) -> dict[str, str]:
    """The time of an update, an evaluation and the run, from a measured update.

    It has as many prompts as fill a batch; the first one, which compiles and warms up, does not
    count. An evaluation is estimated from the speed of the rollout.
    """
    rollout = config.rollout
    prompts = min(rollout.prompts, -(-rollout.batch_size // rollout.group_size))
    fewer = changed(config, {"rollout.prompts": prompts, "reward.cache": None, "audit.every": 0})
    directory = RunDirectory.create(folder, fewer, {})
    texts = [prompt.text for prompt in load_prompts(config.prompts)]
    # The gate "above_base" asks for the rewards of the base model.
    directory.append_evaluation(
        {"update": 0, "prompts": texts, "reward_by_prompt": [0.0] * len(texts)}
    )
    timed = _trainer(fewer, engine, directory, policy=trainer.policy)
    timed.step()
    record = timed.step()
    update = record["seconds"] * rollout.prompts / prompts
    settings, updates = config.evaluate, config.run.updates
    images = (min(settings.prompts or len(texts), len(texts))) * settings.images
    steps = images * settings.steps / (record["images"] * rollout.steps)
    evaluation = record["time/rollout"] * steps
    evaluations = 1 + -(-updates // settings.every)
    return {
        "timed": f"an update of {prompts} of its {rollout.prompts} prompts",
        "time of an update": _seconds(update),
        "time of an evaluation": f"about {_seconds(evaluation)}",
        "time of the run": f"about {clock(updates * update + evaluations * evaluation)}",
    }


def _seconds(seconds: float) -> str:
    return f"{seconds:.1f} s" if seconds < 60 else clock(seconds)
