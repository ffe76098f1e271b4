"""Recipes of real models through the toolkit's own trainer: images a second, memory, and shares.

A model has the published shapes and random weights, which are drawn on the device; a smoke run
keeps two layers of each network. Everything else is the recipe's: only the number of prompts of
an update, the reward (JPEG size, which costs nothing; equal ones are kept) and the evaluations
differ.
"""

import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch

from common import config as configuration
from common.backends import load
from common.config import Config
from common.pipelines.architectures import Size
from common.trainer import Trainer
from scripts.gpu_bench.context import Context, spread
from scripts.peers import setup

__all__ = [
    "configured",
    "flux",
    "sd3_24gb",
    "sd3_fast",
    "sd3_fast_compiled",
    "sd3_grpo",
    "sd3_grpo_compiled",
    "sd15_24gb",
    "trained",
]

SMOKE = ("rollout.group_size=4",)
TINY = (
    *("model.dtype=float32", "model.resolution=32", "adapter.rank=2"),
    *("rollout.group_size=2", "rollout.batch_size=2", "objective.micro_batch=2"),
)
STEPS = {"ddim": "rollout.steps=4", "flow_sde": "rollout.steps=4", "cps": "rollout.steps=8"}
"""Denoising steps of a smoke and a tiny run; CPS needs a window in their first half."""

UPDATES = 3
"""Updates of a full run, the first of which warms up."""


def sd3_fast(context: Context) -> dict[str, Any]:
    """SD 3.5 medium without guidance, CPS, three trained steps."""
    return recipe(context, "sd35m-fast-grpo")


def sd3_grpo(context: Context) -> dict[str, Any]:
    """SD 3.5 medium, ten steps with guidance and a KL."""
    return recipe(context, "sd35m-pickscore-grpo")


def sd3_fast_compiled(context: Context) -> dict[str, Any]:
    """`sd3_fast` under torch.compile."""
    return recipe(context, "sd35m-fast-grpo", "model.compile=true")


def sd3_grpo_compiled(context: Context) -> dict[str, Any]:
    """`sd3_grpo` under torch.compile."""
    return recipe(context, "sd35m-pickscore-grpo", "model.compile=true")


def sd15_24gb(context: Context) -> dict[str, Any]:
    """SD 1.5, 50 steps with guidance: a sixth of an update of 256 images is enough."""
    return recipe(context, "sd15-24gb-ddpo", f"rollout.group_size={context.pick(8, 4, 2)}")


def sd3_24gb(context: Context) -> dict[str, Any]:
    """SD 3.5 medium with gradient checkpointing and offloading."""
    return recipe(context, "sd35m-24gb-grpo")


def flux(context: Context) -> dict[str, Any]:
    """FLUX.1-dev with gradient checkpointing and offloading."""
    return recipe(
        context, "flux-dev-pickscore-grpo", f"rollout.group_size={context.pick(12, 4, 2)}"
    )


def recipe(context: Context, name: str, *changes: str) -> dict[str, Any]:
    """Speed, peak memory and shares of a recipe; figures are kept as soon as they are known."""
    config = configured(context, name, *changes)
    figures: dict[str, Any] = {
        "recipe": name,
        "settings": list(changes),
        "dtype": config.model.dtype,
        "resolution": config.model.resolution,
        "group_size": config.rollout.group_size,
    }
    start = time.perf_counter()
    with trained(context, config) as trainer:
        figures["made_s"] = time.perf_counter() - start
        figures["estimate_bytes"] = estimated(trainer)
        plan = trainer.plan()
        figures["forwards_per_image"] = plan["forwards_per_image"]
        figures["trained_parameters"] = plan["trained_parameters"]
        context.keep(figures)
        reset_peak_memory(context)
        first = trainer.step()
        figures["first_update_s"] = first["seconds"]
        figures["compile_s"] = first.get("time/compile", 0.0)
        context.keep(figures)
        rows = []
        for left in reversed(range(context.pick(UPDATES - 1, 1, 1))):
            inside = clocked(trainer, context.backend) if not left else None
            rows.append(trainer.step())
            if inside:
                figures["outside_the_model"] = max(1.0 - inside[0] / rows[-1]["seconds"], 0.0)
            figures |= rates(rows)
            figures["peak_bytes"] = peak(context)
            context.keep(figures)
    return figures


def rates(rows: list[dict[str, float]]) -> dict[str, Any]:
    """Seconds of updates, and images a second sampled and trained, and sampled alone."""
    images = rows[0]["images"]
    update = spread([row["seconds"] for row in rows])
    sampled = spread([row["time/rollout"] for row in rows])
    scored = [sum(v for k, v in row.items() if k.startswith("time/reward/")) for row in rows]
    return {
        "images_per_update": images,
        "update_s": update,
        "rollout_s": sampled,
        "scored_s": spread(scored),
        "trained_s": spread([row["time/update"] for row in rows]),
        "images_per_s": images / update["median"],
        "sampled_per_s": images / sampled["median"],
    }


def configured(context: Context, name: str, *changes: str) -> Config:
    """The recipe's configuration as it is measured."""
    config = configuration.load(name, setup.EVERY)
    own: tuple[str, ...] = ()
    if context.mode != "full":
        own = (STEPS[config.rollout.kernel], *context.pick((), SMOKE, TINY))
    if context.mode == "tiny" and config.model.family != "sd15":
        own = (*own, "model.max_tokens=20")
    return configuration.load(name, [*setup.EVERY, *own, *changes])


@contextmanager
def trained(context: Context, config: Config) -> Iterator[Trainer]:
    """The trainer of a configuration, whose model has random weights."""
    # In a tiny run compiling a network takes longer than all rows together.
    tiny = context.mode == "tiny"
    eager = torch.compiler.set_stance("force_eager") if tiny else nullcontext()
    size: Size = context.pick("full", "shallow", "tiny")
    with eager, setup.trained(config, load(context.backend), size) as trainer:
        yield trainer


def estimated(trainer: Trainer) -> dict[str, int] | None:
    """What `--dry-run` says of memory; None, with the reason in the log, where it cannot say.

    A card on which the estimate fails is still worth measuring.
    """
    try:
        return trainer.memory()
    except Exception:
        traceback.print_exc()
        return None


def reset_peak_memory(context: Context) -> None:
    """Wait for the device and reset the count of its peak memory."""
    if context.backend == "cuda":
        torch.cuda.synchronize()
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def peak(context: Context) -> dict[str, int] | None:
    """Bytes of tensors at the peak, and with what the allocator keeps; None on a CPU."""
    if context.backend != "cuda":
        return None
    return {
        "tensors": torch.cuda.max_memory_allocated(),
        "reserved": torch.cuda.max_memory_reserved(),
    }


def clocked(
    trainer: Any, backend: str, now: Callable[[], float] = time.perf_counter
) -> list[float]:
    """From now on the seconds inside the model and its gradients add up in the one item.

    The device is waited for around each call, which a model of real size does not notice.
    """
    inside, depth = [0.0], [0]

    def settle() -> None:
        if backend == "cuda":
            torch.cuda.synchronize()

    def timed(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **named: Any) -> Any:
            settle()
            start = now()
            depth[0] += 1
            try:
                return function(*arguments, **named)
            finally:
                settle()
                depth[0] -= 1
                if not depth[0]:  # a prediction inside a gradient is counted there
                    inside[0] += now() - start

        return call

    policy, learner = trainer.policy, trainer.learner
    for name in ("predict", "encode", "decode"):
        setattr(policy, name, timed(getattr(policy, name)))
    learner.gradients = timed(learner.gradients)
    return inside
