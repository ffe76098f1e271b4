"""A picture of methods beside the base model: the same prompts, the same noise, equal alignment."""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure

from common import pictures
from common.evaluation.measured_runs import BASE, Run
from common.evaluation.records import FILE, Record, Variant

ROWS, COLUMNS = 5, 6
"""Prompts, and images of each, that are shown at most."""


@dataclass(frozen=True)
class Panel:
    """One method. strips: uint8 [H, W, 3], a row of images, by prompt."""

    title: str
    caption: str
    strips: dict[str, np.ndarray]


def nearest(run: Run, alignment: float, axis: str) -> Variant:
    """The checkpoint of a run whose alignment is nearest; the base model is none."""
    plain = [variant for variant in run.records if variant.update and not variant.changes]
    return min(plain, key=lambda variant: abs(run.records[variant].mean(axis) - alignment))


def panels(methods: Sequence[tuple[str, Run, Variant]], axis: str) -> list[Panel]:
    """The base model, then each method: its name, a run, and which of its checkpoints.

    Raises pictures.PictureError for a record whose picture is missing or damaged.
    """
    _, first, _ = methods[0]
    return [
        _panel("base model", first, BASE, axis),
        *(_panel(f"{name}, {at.update} updates", run, at, axis) for name, run, at in methods),
    ]


def _panel(title: str, run: Run, variant: Variant, axis: str) -> Panel:
    record: Record = run.records[variant]
    prompts = record.protocol.prompts
    picture = pictures.load_inside(run.path / Path(FILE).parent, record.grid)
    strips = dict(zip(prompts, pictures.rows(picture, len(prompts)), strict=True))
    caption = f"{axis} {record.mean(axis):.2f} · diversity {record.mean('diversity'):.2f}"
    return Panel(title, caption, strips)


def draw(shown: Sequence[Panel]) -> bytes:
    """The panels side by side: the first ROWS prompts, COLUMNS images of each, as a PNG."""
    labels = list(shown[0].strips)[:ROWS]
    height, width, _ = next(iter(shown[0].strips.values())).shape
    wide = min(width, COLUMNS * (height + 2) - 2)
    with mpl.rc_context(mpl.rcParamsDefault):
        figure = Figure(figsize=(13, 13 * len(labels) * height / wide / len(shown) + 1.0), dpi=110)
        axes = np.atleast_1d(figure.subplots(1, len(shown)))
        for axis, panel in zip(axes, shown, strict=True):
            axis.imshow(np.concatenate([panel.strips[label][:, :wide] for label in labels]))
            axis.set_title(panel.title, fontsize=15, fontweight="bold")
            axis.set_xlabel(panel.caption, fontsize=12.5, labelpad=8)
            axis.set(xticks=[], yticks=[])
            axis.spines[:].set_visible(False)
        axes[0].set_yticks([(row + 0.5) * height for row in range(len(labels))], labels)
        axes[0].tick_params(axis="y", length=0, labelsize=11)
        figure.tight_layout(w_pad=1.5)
        content = io.BytesIO()
        figure.savefig(content, format="png", facecolor="white", metadata={"Software": None})
    return content.getvalue()
