"""Keep adapters of measured runs as those of `drift showcase`.

    python -m scripts.make_showcase GRPO:60,100 SHAPING:140,240 DRIFT:120,240

The runs are those of `python -m scripts.run_study RUNS low-rate`. What only training needs, the
optimizer and the weights beside their moving average, is left out, so they cannot be resumed.
"""

import json
import shutil
from pathlib import Path

import click

from common.runs import checkpoint
from common.runs.checkpoint import Snapshot
from common.runs.directory import CONFIG, ENVIRONMENT, STARTS, RunDirectory
from common.workflows.showcase import RUNS

KEPT = (
    *("update", "backend", "drift", "python", "numpy", "library", "device", "dtype", "threads"),
    "deterministic",
)
"""What is kept of each start: what the numbers depend on, and not the machine."""


@click.command()
@click.argument("chosen", metavar="RUN:UPDATE,UPDATE...", nargs=-1, required=True)
def main(chosen: tuple[str, ...]) -> None:
    """Replace the adapters of the showcase by those of the named checkpoints."""
    shutil.rmtree(RUNS, ignore_errors=True)
    for word in chosen:
        path, _, updates = word.rpartition(":")
        keep(RunDirectory.open(Path(path)), [int(update) for update in updates.split(",")])


def keep(run: RunDirectory, updates: list[int]) -> None:
    """Store checkpoints of a run, with the weights that evaluations use and nothing else."""
    folder = RUNS / run.config.run.recipe
    for update in updates:
        snapshot = checkpoint.load(run.checkpoints / f"{update:06d}")
        alone = Snapshot(update, snapshot.weights, None, {}, {})
        checkpoint.save(folder / "checkpoints", alone, adapter=run.config.adapter, keep=0)
    shutil.copy(run.path / CONFIG, folder / CONFIG)
    facts = run.environment()
    facts[STARTS] = [{key: each[key] for key in KEPT if key in each} for each in facts[STARTS]]
    (folder / ENVIRONMENT).write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")
    size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
    print(f"{folder.name}: updates {', '.join(map(str, updates))}, {size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
