"""Measured runs made without a model: their curves are known, so what a comparison must say is too.

Loaded by tests with `runpy`, as they have no package in common.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from common import config, pictures, random
from common.evaluation import attainable_records, records
from common.evaluation.records import Protocol, Record, Variant
from common.random import Key, Purpose
from common.runs.directory import RunDirectory

PROMPTS = ("rose", "owl", "cat face", "rocket")
UPDATES = (0, 10, 20, 30, 40)
BASE = (5.0, 0.4)
"""(alignment, diversity) of the base model."""

PLAIN = "emoji-grpo"


def baseline_curve(done: float) -> tuple[float, float]:
    """Alignment rises by 2, diversity falls by 0.3."""
    return BASE[0] + 2 * done, BASE[1] - 0.3 * done


def better_curve(done: float) -> tuple[float, float]:
    """As fast, at half the price in diversity."""
    return BASE[0] + 2 * done, BASE[1] - 0.15 * done


def measures(alignment: float, diversity: float) -> dict[str, float]:
    """Every measure of a prompt, from two."""
    return {
        "reward": alignment + 0.1,
        "alignment_train": alignment + 0.1,
        "alignment_heldout": alignment,
        "diversity": diversity,
        "vendi": 1 + 10 * diversity,
        "pixel_distance": diversity / 2,
        "modes": 1 + 8 * diversity,
        "high_frequency": 0.04 + 0.001 * (alignment - BASE[0]),
        "recall": 0.9,
        "coverage": 0.95,
    }


def make_run(
    path: Path,
    curve: Any = baseline_curve,
    *,
    recipe: str = PLAIN,
    name: str | None = None,
    seed: int = 0,
    overrides: Sequence[str] = (),
    variants: Sequence[Variant] = tuple(Variant(update) for update in UPDATES),
    prompts: Sequence[str] = PROMPTS,
    split: str = "test",
    spread: float = 0.02,
    grids: bool = False,
    **protocol: Any,
) -> RunDirectory:
    """A run with records of its variants along a curve of the share of training done.

    recipe: whose configuration it has; name: what that is called, if not the recipe. spread: of
    seeds and of prompts around the curve; the base model has only that of the prompts. grids:
    also draw a picture for each record.
    """
    settings = config.load(recipe, [f"run.seed={seed}", f"run.updates={UPDATES[-1]}", *overrides])
    if name is not None:
        settings = settings.model_copy(
            update={"run": settings.run.model_copy(update={"recipe": name})}
        )
    run = RunDirectory.create(path, settings, {"backend": "cpu"})
    measured_by = Protocol(
        **{"images": 8, "steps": 20, "seed": 0, "model": "0" * 64}
        | protocol
        | {"split": split, "prompts": tuple(prompts)}
    )
    for variant in variants:
        records.append(run, _record(run, variant, measured_by, curve, seed, spread, grids))
    return run


def save_fronts(
    run: RunDirectory, *, samples: int = 256, ratio: float = 32.0, width: float = 0.01
) -> None:
    """Store fronts on the axes "alignment_heldout" and "reward" of a run's records, as lines.

    From BASE to alignment 7 diversity falls by 0.2 on the KL front and by 0.1 on the diversity
    front, in intervals of this half width.
    """
    done = np.linspace(0.0, 1.0, 41)

    def band(values: np.ndarray) -> attainable_records.Band:
        value, low, high = (
            attainable_records.numbers(values + shift) for shift in (0.0, -width, width)
        )
        return attainable_records.Band(value=value, low=low, high=high)

    kl, best = BASE[1] - 0.2 * done, BASE[1] + 0.03 - 0.13 * done
    axes = {
        name: attainable_records.AxisLevels(
            level=list(start + 2 * done),
            kl=band(kl), best=band(best), gain=band(best / kl - 1),
            halves=attainable_records.numbers(best / kl - 1),
        )
        for name, start in (("alignment_heldout", BASE[0]), ("reward", BASE[0] + 0.1))
    }  # fmt: skip
    how = records.load(run)[0].protocol
    stored = attainable_records.load(run)
    entry = stored.entry(attainable_records.images_of(run.config, how))
    front = attainable_records.Solved(
        samples=samples, ratio=ratio, features=how.features, rewards="reward",
        base={"reward": 5.1, "alignment_heldout": 5.0, "diversity": 0.4}, axes=axes, gap=1e-7,
        left_out=0, replicas=200, confidence=0.95,
    )  # fmt: skip
    whole = entry.model_copy(update={"fronts": [*entry.fronts, front]})
    attainable_records.save(run, stored.with_entry(whole))


def _record(
    run: RunDirectory,
    variant: Variant,
    protocol: Protocol,
    curve: Any,
    seed: int,
    spread: float,
    grids: bool,
) -> Record:
    done = variant.update / UPDATES[-1] * variant.scale
    alignment, diversity = curve(done)
    diversity += 0.05 * variant.prompt_noise + 0.02 * variant.aig
    own = spread * random.normal(Key(seed, Purpose.DATA), (2,)) * min(done, 1.0)
    each = [
        spread * random.normal(Key(0, Purpose.DATA, prompt=random.address(prompt)), (2,))
        for prompt in protocol.prompts
    ]
    rows = [
        measures(alignment + own[0] + one[0], diversity + 0.1 * (own[1] + one[1])) for one in each
    ]
    knobs = "-".join(f"{value:g}" for value in vars(variant).values())
    for row in rows:
        row |= {f"{records.HELD_OUT}{name}": row["reward"] / 10 for name in protocol.scorers}
        row |= {"reward": 0.5} if "coin" in run.config.reward.terms else {}
    label = f"{protocol.split}-{knobs}.png"
    if grids:
        picture = pictures.grid(images(len(rows), done))
        file = run.path / records.FILE.parent / label
        file.parent.mkdir(exist_ok=True)
        file.write_bytes(pictures.encode_png(picture))
    return Record(
        variant=variant,
        protocol=protocol,
        by_prompt={key: tuple(float(row[key]) for row in rows) for key in protocol.measures},
        frechet=0.2 + 0.01 * done,
        weights=f"{seed}-{variant}",
        grid=label if grids else None,
    )


def images(prompts: int, done: float, count: int = 4) -> np.ndarray:
    """Squares of one hue a prompt that change with training: uint8 [P, count, 32, 32, 3]."""
    shade = int(200 * min(done, 1.0))
    out = np.full((prompts, count, 32, 32, 3), 255, dtype=np.uint8)
    for p in range(prompts):
        out[p, :, 6:26, 6:26] = (shade, 40 * p % 256, 255 - shade)
    return out
