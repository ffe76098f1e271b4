"""The attainable fronts as dashed curves with their intervals, in the plot of a comparison."""

from typing import TYPE_CHECKING, Any

import numpy as np

from common.comparison.attainable_shares import Attainable
from common.report.figure import Colours

if TYPE_CHECKING:
    from matplotlib.axes import Axes

KL_NAME, BEST_NAME = "KL front", "diversity front"

DASHES = {KL_NAME: (0, (1.5, 1.5)), BEST_NAME: (0, (6, 2.5))}
"""Matplotlib's dashes of each front; the page's legend has the same."""


def draw(axes: "Axes", attainable: Attainable, colours: Colours, most: float) -> None:
    """Draw both fronts up to an alignment `most`, under the curves of the methods."""
    fronts = attainable.fronts
    for name, band in ((KL_NAME, fronts.kl), (BEST_NAME, fronts.best)):
        level, value, low, high = (
            np.array([np.nan if x is None else x for x in numbers])
            for numbers in (fronts.level, band.value, band.low, band.high)
        )
        shown = level <= most
        look: dict[str, Any] = {"color": colours["muted"], "zorder": 2}
        axes.plot(level[shown], value[shown], ls=DASHES[name], lw=1.3, label=name, **look)
        axes.fill_between(
            level[shown], low[shown], high[shown], color=colours["rule"], alpha=0.6, lw=0, zorder=1
        )
