"""The plot of docs/noise.md: what noise alone and a reward move over the updates of a run."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from common.comparison.noise import Noise
from common.comparison.summary import Summary
from common.report import figure, noise_plot, words
from common.report.figure import LIGHT, Draw
from common.report.front import measure_name

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SIZE = (9.0, 3.1)


def files(summary: Summary, noise: Noise) -> dict[str, bytes]:
    """The plot as file contents, by suffix: a panel for each measure that can drift."""
    return figure.panel_files("noise", drawings(summary, noise), size=SIZE)


def drawings(summary: Summary, noise: Noise) -> list[Draw]:
    """The panels; the first has the legend."""
    return [_panel(summary, noise, name, first=n == 0) for n, name in enumerate(noise.measures)]


def alt_text(summary: Summary, noise: Noise) -> str:
    """The plot in words, for screen readers."""
    ends = []
    for name in noise.measures:
        line = of_baseline(summary, name)
        each = np.array(of_neutral(summary, noise, name))[:, -1]
        low, high = (_signed(summary, name, value) for value in (each.min(), each.max()))
        moved = _signed(summary, name, line[-1])
        ends.append(f"{measure_name(name)} {moved} with a reward and {low} to {high} without")
    updates = words.count(noise.updates, "update")
    return f"Movement over {updates} of {summary.baseline} and of noise alone: {'; '.join(ends)}."


def of_baseline(summary: Summary, measure: str) -> list[float]:
    """The movement of the baseline's first curve after each update that was measured, from 0 on."""
    points = [p for p in summary.method(summary.baseline).points if p.strength == 0]
    return [0.0, *(point.measures[measure] - summary.base[measure] for point in points)]


def of_neutral(summary: Summary, noise: Noise, measure: str) -> list[list[float]]:
    """The movement of each neutral run after each update that all were measured at, from 0 on."""
    base = summary.base[measure]
    return [
        [0.0, *(point.by_run[measure][number] - base for point in noise.points)]
        for number in range(len(noise.runs))
    ]


def _panel(summary: Summary, noise: Noise, measure: str, *, first: bool) -> Draw:
    def draw(axes: "Axes") -> None:
        from matplotlib.ticker import MaxNLocator

        updates = [0, *(point.update for point in noise.points)]
        lines = of_neutral(summary, noise, measure)
        grey: dict[str, Any] = {"color": LIGHT["muted"]}
        for line in lines:
            axes.plot(updates, line, lw=0.9, alpha=0.45, **grey)
        name = f"{noise_plot.NAME}, {words.count(len(lines), 'coin')}"
        mean = np.mean(lines, axis=0)
        axes.plot(updates, mean, marker=noise_plot.SHAPE, ms=4.5, mew=0, label=name, **grey)
        axes.plot(
            _updates(summary), of_baseline(summary, measure), ls=(0, (4, 2)), marker="o", ms=4,
            color=LIGHT["ink"], label=summary.baseline,
        )  # fmt: skip
        axes.axhline(0.0, color=LIGHT["rule"], lw=1.0, zorder=1)
        axes.set_title(measure_name(measure), loc="left", color=LIGHT["ink"])
        axes.set_xlabel("updates")
        axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
        if first:
            axes.set_ylabel("movement from the base model")
            handles, names = axes.get_legend_handles_labels()
            whole = axes.get_figure(root=True)
            assert whole is not None, "these axes are drawn in a figure"
            whole.legend(handles, names, loc="outside upper left", ncols=2, labelcolor=LIGHT["ink"])

    return draw


def _updates(summary: Summary) -> Sequence[int]:
    points = [p for p in summary.method(summary.baseline).points if p.strength == 0]
    return [0, *(point.update or 0 for point in points)]


def _signed(summary: Summary, measure: str, value: float) -> str:
    return words.number(value, words.places(summary.base[measure]), signed=True)
