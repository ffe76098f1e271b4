"""Directories of runs that trained an adapter of FLUX.1, without a model: as exports read them."""

from pathlib import Path

import numpy as np

from common import config, pictures
from common.runs import checkpoint
from common.runs.checkpoint import Snapshot
from common.runs.directory import RunDirectory
from tests.common.synthetic_run import PROMPTS, emoji_images, evaluation_record, metrics_record

MODULES = ("transformer_blocks.0.attn.to_q", "single_transformer_blocks.3.proj_out")


def parameters(modules: tuple[str, ...] = MODULES, width: int = 6) -> dict[str, np.ndarray]:
    """Random A and B of rank 2."""
    rng = np.random.default_rng(0)
    values = {}
    for name in modules:
        values[f"{name}.lora_A.weight"] = rng.standard_normal((2, width)).astype(np.float32)
        values[f"{name}.lora_B.weight"] = rng.standard_normal((width, 2)).astype(np.float32)
    return values


def make_adapter(
    path: Path,
    *overrides: str,
    recipe: str = "flux-dev-pickscore-grpo",
    prompts: list[str] | None = None,
) -> RunDirectory:
    """A run of 9 updates with checkpoints after 4 and 9, evaluated at 0, 4 and 9."""
    changes = ("adapter.rank=2", "adapter.alpha=4.0", "run.updates=9", *overrides)
    run = RunDirectory.create(path, config.load(recipe, changes), {"library": "torch 2.13"})
    for update in range(1, 10):
        run.append_metrics(metrics_record(update, 9))
    for update in (0, 4, 9):
        grid = pictures.grid(emoji_images(PROMPTS, 8, diverse=update == 0))
        name = run.save_picture(f"{update:06d}", grid).name
        run.append_evaluation(
            evaluation_record(update / 9, update=update, grid=name, prompts=prompts or PROMPTS)
        )
    for update in (4, 9):
        values = parameters()
        snapshot = Snapshot(update, values, None, {}, {})
        checkpoint.save(run.checkpoints, snapshot, adapter=run.config.adapter, keep=0)
    return run
