"""Noise alone in the plots of a comparison: grey, and no curve that gains are read from."""

from typing import TYPE_CHECKING, Any

import numpy as np

from common.comparison.noise import Noise
from common.report.figure import Colours

if TYPE_CHECKING:
    from matplotlib.axes import Axes

NAME = "noise alone"

SHAPE = "X"
"""Its marker, by matplotlib's name."""


def path(noise: Noise, alignment: str, diversity: str) -> list[tuple[float, float]]:
    """The mean of the neutral runs after each of their updates, without the base model."""
    means = (
        [float(np.mean(point.by_run[name])) for name in (alignment, diversity)]
        for point in noise.points
    )
    return [(a, d) for a, d in means]


def draw(
    axes: "Axes",
    noise: Noise,
    origin: tuple[float, float],
    measures: tuple[str, str],
    colours: Colours,
    size: float = 4.5,
) -> None:
    """Draw the mean over the updates as a line, and pale where each neutral run ends.

    origin: the base model. measures: of alignment and diversity. size: of the markers.
    """
    look: dict[str, Any] = {"color": colours["muted"], "marker": SHAPE, "gid": "class-noise"}
    end = noise.points[-1].by_run
    axes.plot(*(end[name] for name in measures), ls="", ms=size, alpha=0.35, mew=0, **look)
    line = [origin, *path(noise, *measures)]
    places = zip(*line, strict=True)
    axes.plot(
        *places, ls="-", lw=1.1, ms=size, mew=0, markevery=slice(1, None), label=NAME, zorder=2,
        **look,
    )  # fmt: skip
