"""The picture at the top of the README: the same prompts and noise, before and after.

    python scripts/make_figure.py GRPO_RUN DRIFT_RUN --out docs/collapse.png

Both runs must have the same prompts, seed and evaluation settings. The base model's images are
those of the first evaluation, the tuned ones those of the last.
"""

from pathlib import Path
from typing import Any

import click
import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
from PIL import Image

from common.run_directory import RunDirectory

CELL = 66
"""Pixels of one image in a run's grid: 32, enlarged twice, and its gap."""


@click.command()
@click.argument("grpo", type=click.Path(exists=True, path_type=Path))
@click.argument("drift", type=click.Path(exists=True, path_type=Path))
@click.option("--rows", default=5, show_default=True, help="Prompts shown.")
@click.option("--columns", default=6, show_default=True, help="Images of each prompt shown.")
@click.option("--out", default=Path("docs/collapse.png"), type=click.Path(path_type=Path))
def main(grpo: Path, drift: Path, rows: int, columns: int, out: Path) -> None:
    """Draw base, plain GRPO and DRIFT side by side."""
    baseline, ours = RunDirectory.open(grpo), RunDirectory.open(drift)
    before, plain = baseline.evaluations()[0], baseline.evaluations()[-1]
    shaped = ours.evaluations()[-1]
    if before["prompts"] != shaped["prompts"]:
        raise click.UsageError("the two runs have different prompts")
    panels = [
        ("base model", baseline, before),
        (f"GRPO, {plain['update']} updates", baseline, plain),
        (f"DRIFT, {shaped['update']} updates", ours, shaped),
    ]
    figure, axes = plt.subplots(1, 3, figsize=(13, 13 * rows / columns / 3 + 0.9), dpi=110)
    for axis, (title, run, record) in zip(axes, panels, strict=True):
        axis.imshow(_crop(run, record, rows, columns))
        axis.set_title(title, fontsize=15, fontweight="bold")
        axis.set_xlabel(_caption(record), fontsize=12.5, labelpad=8)
        axis.set(xticks=[], yticks=[])
        axis.spines[:].set_visible(False)
    axes[0].set_yticks([(row + 0.5) * CELL for row in range(rows)], before["prompts"][:rows])
    axes[0].tick_params(axis="y", length=0, labelsize=11)
    figure.tight_layout(w_pad=1.5)
    out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(out, facecolor="white", metadata={"Software": None})
    print(out)


def _crop(run: RunDirectory, record: dict[str, Any], rows: int, columns: int) -> np.ndarray:
    with Image.open(run.path / "samples" / record["grid"]) as image:
        return np.asarray(image)[: rows * CELL, : columns * CELL]


def _caption(record: dict[str, Any]) -> str:
    alignment, diversity = record["alignment_heldout"], record["diversity"]
    return f"held-out alignment {alignment:.2f} · diversity {diversity:.2f}"


if __name__ == "__main__":
    main()
