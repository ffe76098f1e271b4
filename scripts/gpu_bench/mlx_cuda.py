"""MLX on CUDA, where its wheels are installed: the same numbers, and its speed beside PyTorch's."""

import os
from typing import Any

os.environ["MLX_ENABLE_TF32"] = "0"  # MLX reads it when it loads

import tempfile
import threading
from pathlib import Path

import drift_mlx  # noqa: F401  # before MLX: it loads OpenBLAS first where there is one
from common import config as configuration
from common.backends import load
from common.parity import compare
from common.progress import NullObserver
from common.runs.directory import RunDirectory
from common.trainer import Trainer
from scripts.gpu_bench.context import Context, SkippedError, spread
from scripts.gpu_bench.parity import summary

__all__ = ["mlx"]

TINY = (
    *('prompts.names=["rose", "owl"]', "rollout.prompts=2", "rollout.group_size=2"),
    *("rollout.steps=4", "rollout.window=0", "evaluate.images=2"),
)


def mlx(context: Context) -> dict[str, Any]:
    """Parity of the emoji model, and seconds of an update on both libraries."""
    import mlx.core as mx

    on_card = mx.default_device().type == mx.DeviceType.gpu
    if context.backend == "cuda" and not on_card:
        raise SkippedError("the MLX that is installed has no CUDA: mlx[cuda13] has")
    only = context.pick((), ("model",), ("time features",))
    stages = compare([context.backend, "mlx"], only=only)
    figures: dict[str, Any] = {"parity": summary(stages), "update_s": {}}
    for name in (context.backend, "mlx"):
        figures["update_s"][name] = spread(_updates(name, context))
        context.keep(figures)
    return figures


def _updates(backend: str, context: Context) -> list[float]:
    """Seconds of updates of the emoji recipe, the first left out."""
    config = configuration.load("emoji", context.pick((), (), TINY))
    with tempfile.TemporaryDirectory() as folder:
        run = RunDirectory.create(Path(folder) / "run", config, {})
        trainer = Trainer(
            config, load(backend), run, observer=NullObserver(), stop=threading.Event()
        )
        rows = [trainer.step() for _ in range(context.pick(6, 3, 2))]
    return [row["seconds"] for row in rows[1:]]
