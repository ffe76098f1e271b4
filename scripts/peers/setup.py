"""Trainers of models with random weights, and the configurations that are measured on a CPU."""

import tempfile
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from common import config as configuration
from common.backends import Backend
from common.config import Config
from common.pipelines.architectures import Size
from common.progress import NullObserver
from common.runs.directory import RunDirectory
from common.trainer import Trainer

__all__ = ["CASES", "EVERY", "SIZES", "case", "trained"]

EVERY = (
    "reward.terms={jpeg_compressibility = 1.0}",
    "prompts.source=animals",
    "evaluate.every=1000000",
    "rollout.prompts=1",
    "objective.zero_advantage=keep",  # two equal rewards must not leave the update out
)
"""What every measured configuration has: a reward that costs nothing, and no evaluation."""

CASES = {
    "sd3": ("sd35m-fast-grpo", "rollout.steps=4", "rollout.window=2"),
    "sd3-guided": ("sd35m-pickscore-grpo", "rollout.steps=4", "rollout.trained_steps=2"),
    "sd15-guided": ("sd15-aesthetic-ddpo", "rollout.steps=4", "rollout.trained_steps=2"),
}
"""Recipe and changes: Flow-GRPO-Fast without guidance, Flow-GRPO at 4.5, and DDPO at 5."""

SIZES: dict[Size, tuple[str, ...]] = {
    "tiny": (
        "model.resolution=32",
        "adapter.rank=2",
        *("rollout.group_size=8", "rollout.batch_size=8", "objective.micro_batch=8"),
    ),
    "middle": (
        "model.resolution=256",
        *("rollout.group_size=2", "rollout.batch_size=2", "objective.micro_batch=2"),
    ),
}


def case(name: str, size: Size, changes: Sequence[str] = ()) -> Config:
    """The configuration of a case, in float32 and with one optimizer step an update."""
    recipe, *own = CASES[name]
    kind = ["model.dtype=float32", "objective.optimizer_steps=1", "optimizer.ema_decay=0"]
    if not recipe.startswith("sd15"):
        kind.append("model.max_tokens=20")
    return configuration.load(recipe, [*EVERY, *own, *kind, *SIZES[size], *changes])


@contextmanager
def trained(config: Config, backend: Backend, size: Size) -> Iterator[Trainer]:
    """The trainer of a configuration; weights are random but for those of the embedded model."""
    with tempfile.TemporaryDirectory() as folder:
        run = RunDirectory.create(Path(folder) / "run", config, {})
        yield Trainer(
            config,
            backend,
            run,
            observer=NullObserver(),
            stop=threading.Event(),
            policy=_policy(config, backend, size),
        )


def _policy(config: Config, backend: Any, size: Size) -> Any:
    if config.model.family == "embedded":
        return None
    if backend.name == "mlx":
        from drift_mlx import full_size

        return full_size.policy(config.model, config.adapter, size=size)
    from drift_torch import full_size as full_size_torch

    return full_size_torch.policy(config.model, config.adapter, device=backend.device, size=size)
