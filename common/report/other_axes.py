"""Small plots beside that of a comparison: the same diversity against the other alignments."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from common.algorithm import pareto
from common.comparison.summary import Summary
from common.evaluation.records import HELD_OUT
from common.report import figure, front, noise_plot
from common.report.figure import PAGE

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SIZE = (3.6, 2.9)


def plots(summary: Summary) -> list[str]:
    """Inline SVG for the reward and each held-out alignment that is not the chosen one.

    The lines are the Pareto fronts of the methods on that axis.
    """
    held_out = [name for name in summary.base if name.startswith(HELD_OUT)]
    others = [
        name
        for name in ("reward", "alignment_heldout", *held_out)
        if name in summary.base and name != summary.alignment
    ]
    return [
        figure.inline(f"axis-{n}", _alt_text(summary, name), _drawing(summary, name), size=SIZE)
        for n, name in enumerate(others)
    ]


def _drawing(summary: Summary, measure: str) -> "Callable[[Axes], None]":
    def draw(axes: "Axes") -> None:
        from matplotlib.ticker import MaxNLocator

        origin = (summary.base[measure], summary.base[summary.diversity])
        if summary.noise and measure in summary.noise.measures:
            measures = (measure, summary.diversity)
            noise_plot.draw(axes, summary.noise, origin, measures, PAGE, size=3.5)
        pairs = list(zip(summary.methods, front.marks(summary), strict=True))
        for method, mark in reversed(pairs):  # the baseline on top
            points = [(p.measures[measure], p.measures[summary.diversity]) for p in method.points]
            best = pareto.front(np.array([origin, *points]))
            look: dict[str, Any] = {"color": PAGE[mark.colour], "marker": mark.shape}
            axes.plot(*zip(*points, strict=True), ls="", ms=2.5, alpha=0.4, **look)
            axes.plot(*best.T, ls=(0, (4, 2)) if mark.dashed else "-", ms=3.5, **look)
        axes.plot(
            *([x] for x in origin), marker="o", ms=7, mew=1.5, ls="", color=PAGE["ink"],
            markerfacecolor=PAGE["paper"], zorder=4,
        )  # fmt: skip
        axes.set_xlabel(front.measure_name(measure))
        axes.set_ylabel(front.measure_name(summary.diversity))
        axes.xaxis.set_major_locator(MaxNLocator(4))
        axes.yaxis.set_major_locator(MaxNLocator(4))
        axes.grid(False)

    return draw


def _alt_text(summary: Summary, measure: str) -> str:
    name, diversity = front.measure_name(measure), front.measure_name(summary.diversity)
    best = [
        f"{method.name} reaches {max(p.measures[measure] for p in method.points):.3g}"
        for method in summary.methods
    ]
    start = f"Plot of {diversity} against {name}. Base model at {summary.base[measure]:.3g}."
    return f"{start} {', '.join(best)}."
