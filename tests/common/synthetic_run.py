"""Directories of runs whose numbers are made up, so that what a page must show is known."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np

from common import config, pictures
from common.embedded.model import FOLDER as EMOJI
from common.runs.directory import RunDirectory

PROMPTS = ["strawberry", "cat face", "rose", "hamburger"]
ENVIRONMENT = {"backend": "cpu", "python": "3.11.9", "torch": {"version": "2.13.0", "tf32": False}}


def emoji_images(names: list[str], count: int, *, diverse: bool) -> np.ndarray:
    """Emoji of each name, uint8 [P, count, 32, 32, 3]: of all styles, or of one."""
    with np.load(EMOJI / "emoji32.npz") as data:
        images, name_index = data["images"], data["name_index"]
    known = json.loads((EMOJI / "names.json").read_text())["names"]
    drawings = [images[name_index == known.index(name.replace(" ", "-"))] for name in names]
    return np.stack([x[np.arange(count) % (len(x) if diverse else 2)] for x in drawings])


def metrics_record(update: int, updates: int) -> dict[str, Any]:
    """One healthy update; every curve has a wobble of its own."""
    done, wobble = update / updates, math.sin(2.4 * update)
    return {
        "update": update,
        "seconds": 4.0 + 0.1 * wobble,
        "images": 96.0,
        "reward/mean": 5.4 + 0.8 * done + 0.12 * wobble,
        "reward/std": 0.7 - 0.2 * done,
        "subset/size": 21.0 + wobble,
        "subset/best_dropped": 0.1 + 0.1 * abs(wobble),
        "subset/fallback": 0.0,
        "group/zero_std": 0.0,
        "group/invalid": 0.0,
        "diversity/group": 0.36 - 0.04 * done + 0.01 * wobble,
        "shaping/correlation": -0.2 + 0.1 * wobble,
        "shaping/variance_share": 0.12 + 0.02 * wobble,
        "objective/clip_fraction": 0.3 + 0.1 * done,
        "objective/ratio_mean": 4e-8,
        "objective/ratio_max": 0.0 if update % 5 == 0 else 2.4e-7,
        "objective/kl": 1e-4 * done,
        "objective/gradient_norm": 0.02 + 0.005 * wobble,
        "time/noise": 0.05,
        "time/rollout": 1.1,
        "time/reward": 0.2,
        "time/reward/embedded": 0.16,
        "time/update": 2.5,
    }


def evaluation_record(done: float, **changes: Any) -> dict[str, Any]:
    """An evaluation of a healthy run; the base model's numbers at done = 0."""
    return {
        "update": 0,
        "reward": 5.42 + 0.55 * done,
        "alignment_train": 5.42 + 0.55 * done,
        "alignment_heldout": 5.77 + 0.46 * done,
        "diversity": 0.392 - 0.02 * done,
        "diversity_train": 0.41 - 0.03 * done,
        "high_frequency": 0.0412 + 0.0008 * done,
        "seconds": 3.2,
        "prompts": PROMPTS,
        "images": 16,
        "columns": 8,
        "weights": "policy",
    } | changes


def make_run(
    path: Path,
    *,
    updates: int = 60,
    done: int = 60,
    evaluated: tuple[int, ...] = (0, 20, 40, 60),
    prompts: list[str] | None = None,
    overrides: tuple[str, ...] = (),
) -> RunDirectory:
    """A run that got as far as `done` of `updates`. prompts: what the emoji are said to be."""
    settings = config.load("emoji", [f"run.updates={updates}", *overrides])
    run = RunDirectory.create(path, settings, ENVIRONMENT)
    for update in range(1, done + 1):
        run.append_metrics(metrics_record(update, updates))
    for update in evaluated:
        grid = pictures.grid(emoji_images(PROMPTS, 8, diverse=update == 0))
        name = run.save_picture(f"{update:06d}", grid).name
        record = evaluation_record(
            update / updates, update=update, grid=name, prompts=prompts or PROMPTS
        )
        run.append_evaluation(record)
    return run


ENDS_ONLY: dict[str, Any] = {"done": 0, "evaluated": (0, 60)}
"""What a run needs to have pictures, and little to draw."""
