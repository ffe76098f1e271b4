"""Run the study of docs/results.md: train, measure, compare, and store the comparisons.

    python -m scripts.run_study RUNS [--backend cpu] [--jobs 2] [PART...]
    python -m scripts.run_study RUNS low-rate --seeds 0,1,2 --updates 200
    python -m scripts.run_study RUNS neutral --rate 1e-3 --updates 24

Every part can be stopped and started again: finished runs and measured checkpoints stay. Test
prompts are measured here and nowhere else; strengths were chosen on validation prompts before.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import click
import numpy as np

from common.commands.sweep import Seeds
from common.evaluation import measured_runs
from common.runs.directory import RunDirectory
from scripts.low_rate_study import VARIABLE
from scripts.study_commands import OFTEN, SCALED, changes, drift, store

RESULTS = Path(__file__).parent.parent / "docs" / "results"

COMMON = (
    *OFTEN,
    "prompts.names=[]",
    "prompts.source=emoji-animals",
    "prompts.split=train",
    "prompts.held_out=[0.2,0.25]",
    "adapter.kind=full",
    "optimizer.learning_rate=5e-5",
    "optimizer.ema_decay=0.9",
    "optimizer.ema_every=1",
)
"""Animals, 41 of them to train on; full tuning, which reaches unseen prompts."""

LEVELS = ("--level", "0.25,0.5,0.75,0.9", "--diversity-level", "0.95,0.9,0.8,0.6")
EARLY = ("--level", "0.25,0.5,0.75", "--diversity-level", "0.95")
"""Levels at which runs of 40 updates can be compared: none of them reaches deeper ones."""

PROMPTS = {"test": (), "train": ("--prompts", 8)}
"""Prompts of a split to measure: all held-out ones, eight of the training ones."""


@dataclass(frozen=True)
class Sweep:
    """Runs of recipes that share their settings."""

    recipes: Sequence[str]
    seeds: str
    updates: int
    settings: Sequence[str] = ()
    over: str = ""
    """One key and its values: TABLE.KEY=V1,V2."""
    common: Sequence[str] = COMMON


@dataclass(frozen=True)
class Part:
    """Sweeps into one folder, and the comparisons made of them: name -> options, a split first."""

    folder: str
    sweeps: Sequence[Sweep]
    comparisons: dict[str, Sequence[str]]
    also: Sequence[str] = ()
    """Runs of other parts to compare with."""
    levels: Sequence[str] = LEVELS
    free: Sequence[Sequence[object]] = ()
    """Methods without further training: a recipe, and options of `drift eval` for its runs."""


FACTORIAL = (
    "emoji-subset",
    "emoji-noise",
    "emoji-shaping",
    "emoji-subset-shaping",
    "emoji-noise-shaping",
    "emoji-noise-subset",
)
CONTROLS = ("emoji-random", "emoji-strict", "emoji-shuffled")

JPEG = (
    "reward.terms={jpeg_compressibility=1.0,embedded=0.0}",
    # 1.3 standard deviations below the base model's mean: smooth, but still of the prompt.
    "reward.floors={embedded=0.42}",
)

KL = ("objective.kl_form=transition",)
"""As measured; the recipe has Flow-GRPO's form since."""

GARDO = ("drift.shaping.potential=mean_pairwise", "objective.statistics=subset")
"""As measured, but for the clip, which now comes after the weights."""

PARTS = {
    "main": Part(
        "main",
        [Sweep(["emoji-grpo"], "0,1,2,3,4", 80), Sweep(["emoji"], "0,1,2,3,4", 120)],
        {"main": ("--split", "test"), "main-train": ("--split", "train")},
        free=(
            ("emoji-grpo", *SCALED),
            ("emoji-grpo", "--checkpoint", 40, "--checkpoint", 80, "--prompt-noise", 0.1),
        ),
    ),
    "ablation": Part(
        "ablation",
        [
            Sweep([*FACTORIAL, "emoji-pods", *CONTROLS], "0", 40),
            Sweep(["emoji-kl"], "0", 40, KL),
            Sweep(["emoji-kl"], "0", 40, KL, over="objective.kl_weight=0.01,0.2"),
            Sweep(["emoji-gardo"], "0", 40, GARDO),
        ],
        {"ablation": ("--split", "test", "--until", "40")},
        also=["main/emoji-grpo-seed0", "main/emoji-seed0"],
        levels=EARLY,
    ),
    "jpeg": Part(
        "jpeg",
        [Sweep(["emoji-grpo", "emoji"], "0,1,2", 40, JPEG)],
        {"jpeg": ("--split", "test", "--axis", "reward")},
    ),
    "collapse": Part(
        "collapse",
        [
            Sweep(["emoji-grpo"], "0,1,2", 60, common=OFTEN),
            Sweep(["emoji"], "0,1,2", 80, common=OFTEN),
        ],
        {"collapse": ("--split", "train")},
        free=(("emoji-grpo", *SCALED), ("emoji", *SCALED)),
    ),
    "deeper": Part(
        "deeper",
        [Sweep(["emoji-grpo"], "0,1,2,3,4", 160), Sweep(["emoji"], "0,1,2,3,4", 200)],
        {"deeper": ("--split", "test")},
        free=(("emoji-grpo", *SCALED),),
    ),
    "rates": Part(
        "rates",
        [Sweep(["emoji-grpo", "emoji"], "0", 40, over="optimizer.learning_rate=2.5e-5,5e-5,1e-4")],
        {"rates": ("--split", "test", "--until", "40")},
        levels=EARLY,
    ),
}


LEVERS = {
    "upper": ("drift.subset.rule=upper",),
    "advantage-full": ("objective.statistics=full",),
    "shaping-subset": ("drift.shaping.statistics=subset",),
    "noise-fades": ("drift.noise.training_schedule=linear",),
    "shaping-fades": ("drift.shaping.training_schedule=linear",),
    "noise-half-group": ("drift.noise.share=0.5",),
    "noise-0.05": ("drift.noise.strength=0.05",),
}
"""Changes to the recipe `emoji` that might make the subset and the noise useful, measured on
validation prompts."""

CURVES = ("reward/mean", "diversity/group", "objective/gradient_norm")
POINT = ("alignment_heldout", "diversity")


def methods(part: Part, runs: Path, backend: str, jobs: int) -> None:
    """Train, measure and compare the runs of a part."""
    folder = runs / part.folder
    for sweep in part.sweeps:
        settings = (*sweep.common, f"run.updates={sweep.updates}", *sweep.settings)
        key = sweep.over.partition("=")[0]
        settings = [text for text in settings if text.partition("=")[0] != key]
        options = ["--seeds", sweep.seeds, "--out", folder, "--backend", backend]
        if sweep.over:
            options += ["--over", sweep.over]
        drift("sweep", *sweep.recipes, *options, "--jobs", jobs, *changes(*settings))
    trained = [path.parent for path in sorted(folder.glob("*/config.toml"))]
    splits = list(dict.fromkeys(options[1] for options in part.comparisons.values()))
    for split in splits:
        drift("eval", *trained, "--split", split, *PROMPTS[split])
    for recipe, *options in part.free:
        runs_of = sorted(folder.glob(f"{recipe}-seed*"))
        drift("eval", *runs_of, "--split", splits[0], *PROMPTS[splits[0]], *options)
    for comparison, options in part.comparisons.items():
        out = folder / f"compare-{comparison}"
        others = [runs / path for path in part.also]
        axis = () if "--axis" in options else ("--axis", "alignment_heldout")
        drift("compare", *trained, *others, *options, *axis, *part.levels, "--out", out)
        store(out / "compare.json", RESULTS, comparison)


def levers(runs: Path, backend: str, jobs: int) -> None:
    """LEVERS beside plain GRPO and DRIFT of the main part, on validation prompts."""
    seeds, updates = "0,1", 40
    compared = {"plain GRPO": "main/emoji-grpo", "emoji": "main/emoji"}
    for name, settings in LEVERS.items():
        folder = runs / "levers" / name
        options = ["--seeds", seeds, "--out", folder, "--backend", backend, "--jobs", jobs]
        drift("sweep", "emoji", *options, *changes(*COMMON, f"run.updates={updates}", *settings))
        compared[", ".join(settings)] = f"levers/{name}/emoji"
    read = {}
    for setting, method in compared.items():
        paths = [runs / f"{method}-seed{seed}" for seed in seeds.split(",")]
        options = ["--prompts", 0, "--checkpoint", 20, "--checkpoint", updates]
        options += ["--cache", runs / "main" / "evaluation-cache"]
        drift("eval", *paths, "--split", "validation", *options)
        read[setting] = measured_runs.read(paths, "validation", until=updates)
    points = {setting: means(each.runs) for setting, each in read.items()}
    protocol = read["plain GRPO"].protocol
    table = {
        "protocol": f"{len(protocol.prompts)} validation prompts, {protocol.images} images of each "
        f"along {protocol.steps} ODE steps, means of seeds {seeds.replace(',', ' and ')}.",
        "base": points["plain GRPO"][0],
        "baseline": "plain GRPO",
        "runs": [{"setting": name, "points": each[1:]} for name, each in points.items()],
    }
    (RESULTS / "levers.json").write_text(json.dumps(table, indent=1) + "\n")


def means(runs: Sequence[measured_runs.Run]) -> list[dict[str, float]]:
    """Checkpoints as points of a table, the base model first: means over runs and prompts."""
    shown = {
        "alignment": "alignment_heldout",
        "diversity": "diversity",
        "high_frequency": "high_frequency",
    }
    return [
        {"update": variant.update}
        | {
            name: round(float(np.mean([run.records[variant].mean(measure) for run in runs])), 4)
            for name, measure in shown.items()
        }
        for variant in sorted(runs[0].records)
    ]


def twins(runs: Path, _backend: str, _jobs: int) -> None:
    """The same run on MLX and on PyTorch: its curves, and its final alignment and diversity."""
    folder = runs / "backends"
    by_backend: dict[str, dict[str, Any]] = {}
    for backend in ("cpu", "mlx"):
        drift(
            "sweep",
            "emoji",
            "--seeds",
            0,
            "--out",
            folder / backend,
            "--backend",
            backend,
            *changes(*COMMON, "run.updates=20"),
        )
        run = folder / backend / "emoji-seed0"
        # One backend samples both, so that only the training differs.
        drift("eval", run, "--split", "test", "--checkpoint", "latest", "--backend", "cpu")
        rows = RunDirectory.open(run).metrics()
        (measured,) = measured_runs.read([run], "test").runs
        latest = next(r for v, r in measured.records.items() if v != measured_runs.BASE)
        by_backend[backend] = {
            "curves": {key: [row[key] for row in rows] for key in CURVES},
            "point": {key: float(np.mean(latest.by_prompt[key])) for key in POINT},
        }
    (RESULTS / "backends.json").write_text(json.dumps(by_backend, indent=1) + "\n")


OTHERS = {"levers": levers, "backends": twins}


@click.command()
@click.argument("runs", type=click.Path(path_type=Path))
@click.argument("parts", nargs=-1, type=click.Choice([*PARTS, *OTHERS, *VARIABLE]))
@click.option("--backend", default="auto", show_default=True)
@click.option(
    "--jobs", type=click.IntRange(min=1), default=2, show_default=True, help="Runs at a time."
)
@click.option("--seeds", type=Seeds(), help="Of neutral and low-rate, as 0,1 or 0-4.")
@click.option(
    "--updates", type=click.IntRange(min=1), help="Of plain GRPO in neutral and low-rate."
)
@click.option("--rate", type=click.FloatRange(0, 1, min_open=True), help="Of neutral.")
@click.option(
    "--results", type=click.Path(path_type=Path), default=RESULTS, help="Of neutral and low-rate."
)
def main(
    runs: Path,
    parts: Sequence[str],
    backend: str,
    jobs: int,
    seeds: tuple[int, ...] | None,
    updates: int | None,
    rate: float | None,
    results: Path,
) -> None:
    """Do PARTS in the folder RUNS, by default all but neutral and low-rate.

    These two have a length of their own choice; the other parts are fixed.
    """
    chosen = {"seeds": seeds, "updates": updates, "rate": rate}
    given = {name: value for name, value in chosen.items() if value is not None}
    check(parts, given)
    for name in parts or [*PARTS, *OTHERS]:
        if name in OTHERS:
            OTHERS[name](runs, backend, jobs)
        elif name in VARIABLE:
            do, length = VARIABLE[name]
            do(runs, backend, jobs, results, replace(length, **given))
        else:
            methods(PARTS[name], runs, backend, jobs)


def check(parts: Sequence[str], given: dict[str, Any]) -> None:
    """Raise click.UsageError for a length that one of the parts cannot have."""
    allowed = {"neutral": {"seeds", "updates", "rate"}, "low-rate": {"seeds", "updates"}}
    for name in parts or [*PARTS, *OTHERS]:
        if fixed := sorted(given.keys() - allowed.get(name, set())):
            raise click.UsageError(f"the protocol of {name} is fixed: it takes no --{fixed[0]}")


if __name__ == "__main__":
    main()
