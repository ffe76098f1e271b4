"""Pictures of runs side by side: the same prompts and noise, before and after.

    python scripts/make_figure.py GRPO_RUN DRIFT_RUN --out docs/collapse.png
    python scripts/make_figure.py GRPO_RUN DRIFT_RUN --at 60,120 --out docs/results/matched.png

Both runs must have the same prompts, seed and evaluation settings. Without --at the images are
those of the first and the last evaluation of each run; with it, those of `drift eval` on test
prompts, for the checkpoint after that update of each run.
"""

from dataclasses import dataclass
from pathlib import Path

import click
import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
from PIL import Image

from common.evaluation import measured_runs, records
from common.runs.directory import RunDirectory

CELL = 66
"""Pixels of one image in a run's grid: 32, enlarged twice, and its gap."""


@dataclass(frozen=True)
class Panel:
    """One picture: rows are prompts."""

    title: str
    file: Path
    prompts: tuple[str, ...]
    alignment: float
    diversity: float

    def caption(self) -> str:
        """The measures over all of its prompts."""
        return f"held-out alignment {self.alignment:.2f} · diversity {self.diversity:.2f}"


@click.command()
@click.argument("grpo", type=click.Path(exists=True, path_type=Path))
@click.argument("drift", type=click.Path(exists=True, path_type=Path))
@click.option("--at", help="Updates of the two runs' measured checkpoints, as 60,120.")
@click.option("--rows", default=5, show_default=True, help="Prompts shown.")
@click.option("--columns", default=6, show_default=True, help="Images of each prompt shown.")
@click.option("--out", default=Path("docs/collapse.png"), type=click.Path(path_type=Path))
def main(grpo: Path, drift: Path, at: str | None, rows: int, columns: int, out: Path) -> None:
    """Draw base, plain GRPO and DRIFT side by side."""
    if at is None:
        panels = [_own(grpo, "base model", 0), _own(grpo, "GRPO", -1), _own(drift, "DRIFT", -1)]
    else:
        first, second = (int(word) for word in at.split(","))
        panels = [
            _measured(grpo, "base model", 0),
            _measured(grpo, "GRPO", first),
            _measured(drift, "DRIFT", second),
        ]
    if len({panel.prompts for panel in panels}) > 1:
        raise click.UsageError("the two runs have different prompts")
    figure, axes = plt.subplots(1, 3, figsize=(13, 13 * rows / columns / 3 + 0.9), dpi=110)
    for axis, panel in zip(axes, panels, strict=True):
        with Image.open(panel.file) as image:
            axis.imshow(np.asarray(image)[: rows * CELL, : columns * CELL])
        axis.set_title(panel.title, fontsize=15, fontweight="bold")
        axis.set_xlabel(panel.caption(), fontsize=12.5, labelpad=8)
        axis.set(xticks=[], yticks=[])
        axis.spines[:].set_visible(False)
    axes[0].set_yticks([(row + 0.5) * CELL for row in range(rows)], panels[0].prompts[:rows])
    axes[0].tick_params(axis="y", length=0, labelsize=11)
    figure.tight_layout(w_pad=1.5)
    out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(out, facecolor="white", metadata={"Software": None})
    print(out)


def _own(path: Path, title: str, index: int) -> Panel:
    run = RunDirectory.open(path)
    record = run.evaluations()[index]
    return Panel(
        f"{title}, {record['update']} updates" if record["update"] else title,
        run.path / "samples" / record["grid"],
        tuple(record["prompts"]),
        record["alignment_heldout"],
        record["diversity"],
    )


def _measured(path: Path, title: str, update: int) -> Panel:
    (run,) = measured_runs.read([path], "test").runs
    record = run.records.get(records.Variant(update))
    if record is None or record.grid is None:
        raise click.UsageError(f"{path} has no measured checkpoint of update {update}")
    return Panel(
        f"{title}, {update} updates" if update else title,
        run.path / Path(records.FILE).parent / record.grid,
        record.protocol.prompts,
        record.mean("alignment_heldout"),
        record.mean("diversity"),
    )


if __name__ == "__main__":
    main()
