"""How far the card's numbers are from the CPU's and from float64: `drift parity`, as rows."""

import math
import runpy
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from common.backends import load
from common.config import Config
from common.parity import StageResult, compare
from common.parity.measure import Measured, between
from common.parity.model import WORK, ModelUnderTest, settings
from scripts.gpu_bench.context import Context

__all__ = ["emoji", "flux", "sd3", "sd15"]

ROOT = Path(__file__).parents[2]
DTYPES = ("float32", "bfloat16")
CHANGES = {
    "sd15": (),
    "sd3": ("model.max_tokens=20",),
    "flux": ("model.max_tokens=20", "model.resolution=32"),
}
SHORT = ("prompt encoder", "model", "adapter", "gradients", "transitions", "objective")
"""What a smoke run compares of the emoji model; a tiny one only the first."""


def emoji(context: Context) -> dict[str, Any]:
    """Every stage of the emoji model on the CPU and on the card, against float64."""
    names = ["cpu"] if context.backend == "cpu" else ["cpu", "cuda"]
    stages = compare(names, only=context.pick((), SHORT, SHORT[:1]))
    return {"dtypes": {"float32": summary(stages)}, "tf32": _tf32()}


def sd15(context: Context) -> dict[str, Any]:
    """A tiny SD 1.5 with guidance."""
    return family(context, "sd15")


def sd3(context: Context) -> dict[str, Any]:
    """A tiny SD 3.5 with guidance."""
    return family(context, "sd3", newer=True)


def flux(context: Context) -> dict[str, Any]:
    """A tiny FLUX.1-dev."""
    return family(context, "flux", guided=True)


def family(context: Context, name: str, **shape: Any) -> dict[str, Any]:
    """Every stage of a tiny pipeline, the card against the CPU, in float32 and in bfloat16.

    In float32 the toolkit's tolerances apply. In bfloat16 both sides round to 8 bits at every
    layer, so the errors say what that type costs: only what is not finite is over. A tiny run has
    no card and compares the CPU with itself.
    """
    builders = runpy.run_path(str(ROOT / "tests" / "torch" / "tiny.py"))["BUILDERS"]
    figures: dict[str, Any] = {"dtypes": {}, "tf32": _tf32()}
    with tempfile.TemporaryDirectory() as folder:
        torch.manual_seed(0)
        path = str(builders[name](Path(folder) / "model", **shape))
        for dtype in DTYPES:
            changes = (*CHANGES[name], f"model.dtype={dtype}", "model.tf32=never")
            config = settings(path, changes)
            cpu, card = (_stages(backend, config) for backend in ("cpu", context.backend))
            label = f"{context.backend} vs cpu"
            stages = [between(label, card[stage], cpu[stage]) for stage in cpu]
            if dtype != "float32":
                stages = [replace(s, ok=math.isfinite(s.max_abs_error)) for s in stages]
            figures["dtypes"][dtype] = summary(stages)
            context.keep(figures)
    return figures


def _stages(backend: str, config: Config) -> dict[str, Measured]:
    bench = ModelUnderTest(load(backend), config)
    return {result.stage: result for work in WORK.values() for result in work(bench)}


def summary(stages: Sequence[StageResult]) -> dict[str, Any]:
    """The worst stage, those over their tolerance, and all errors by stage."""
    listed = [
        {
            "stage": stage.stage,
            "backends": stage.backends,
            "relative_error": stage.relative_error,
            "tolerance": stage.tolerance,
            "ok": stage.ok,
        }
        for stage in stages
    ]
    over = [f"{stage.stage} ({stage.backends})" for stage in stages if not stage.ok]
    return {"stages": listed, "over": over, "worst": max(listed, key=_share, default=None)}


def _share(stage: dict[str, Any]) -> float:
    """An error as a part of its tolerance."""
    return stage["relative_error"] / stage["tolerance"] if stage["tolerance"] else 0.0


def _tf32() -> dict[str, Any]:
    return {
        "products": torch.get_float32_matmul_precision(),
        "convolutions": torch.backends.cudnn.allow_tf32,
    }
