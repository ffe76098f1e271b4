"""The plot of a comparison: alignment against diversity, a curve for each method.

It is drawn from a summary: as inline SVG for a page, and as SVG and PNG files.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from common.algorithm.pareto import ALIGNMENT, DIVERSITY
from common.comparison.noise import NoisePoint
from common.comparison.summary import MethodSummary, Point, Summary
from common.evaluation.records import HELD_OUT, Variant
from common.report import attainable_plot, figure, noise_plot, words
from common.report.figure import HUES, PAGE, Colours

if TYPE_CHECKING:
    from matplotlib.axes import Axes

WIDE, NARROW, FILE = (9.6, 5.2), (4.4, 4.2), (8.4, 5.4)

BASE_MODEL = "base model"

SHAPES = (
    ("o", "M14 2a4 4 0 1 0 .01 0Z"),
    ("s", "M10.5 2.5h7v7h-7Z"),
    ("D", "M14 1l5 5-5 5-5-5Z"),
    ("^", "M14 1.5l4.7 8.5h-9.4Z"),
    ("v", "M14 10.5l-4.7-8.5h9.4Z"),
)
"""Markers: matplotlib's name, and its path in a 28 x 12 box for the page's legend."""

NAMES = {
    "alignment_heldout": "held-out alignment",
    "alignment_train": "alignment, training scorer",
    "reward": "reward",
    "diversity": "diversity",
    "vendi": "Vendi score",
    "pixel_distance": "pixel distance",
    "modes": "modes",
    "high_frequency": "high-frequency energy",
    "frechet": "Fréchet distance",
    "frechet_real": "Fréchet distance to real images",
    "recall": "recall",
    "coverage": "coverage",
}
"""Measures by their usual names."""


def measure_name(measure: str) -> str:
    """The usual name of a measure, and of its features where they are not the first ones."""
    if measure.startswith(HELD_OUT):
        return f"{measure.removeprefix(HELD_OUT)}, held out"
    name, _, features = measure.partition("/")
    return f"{NAMES[name]} in {features}" if features else NAMES[name]


@dataclass(frozen=True)
class Mark:
    """The look of a method. colour: a name of Colours. glyph: its marker in the legend."""

    name: str
    colour: str
    shape: str
    glyph: str
    dashed: bool


@dataclass(frozen=True)
class Spot:
    """A point of the plot with a tooltip. left, top: in [0, 1]. method: None is the base model."""

    left: float
    top: float
    method: int | None
    lines: list[str]


@dataclass(frozen=True)
class View:
    """The plot for one screen width."""

    kind: str
    svg: str
    spots: list[Spot]


def marks(summary: Summary) -> list[Mark]:
    """One for each method, in their order: the baseline in ink and dashed, the others in hues."""
    drawn = []
    others = 0
    for method in summary.methods:
        if method.name == summary.baseline:
            drawn.append(Mark(method.name, "ink", *SHAPES[0], dashed=True))
            continue
        shape = SHAPES[(others + others // HUES) % len(SHAPES)]
        drawn.append(Mark(method.name, f"hue-{others % HUES}", *shape, dashed=False))
        others += 1
    return drawn


def limit_marks(summary: Summary) -> list[tuple[str, str]]:
    """(name, dashes of SVG) of each attainable front, for the page's legend."""
    if summary.attainable is None:
        return []
    return [
        (name, " ".join(f"{2 * length:g}" for length in lengths))
        for name, (_, lengths) in attainable_plot.DASHES.items()
    ]


def noise_marks(summary: Summary) -> list[tuple[str, str]]:
    """(name, how many neutral runs) of noise alone, for the page's legend."""
    if summary.noise is None:
        return []
    return [(noise_plot.NAME, words.count(len(summary.noise.runs), "neutral run"))]


def views(summary: Summary) -> list[View]:
    """The plot as inline SVG for wide and for narrow screens, with the tooltips of its points."""
    places = [summary.origin]
    spots: list[tuple[int | None, list[str]]] = [(None, _base_tooltip(summary))]
    for number, method in enumerate(summary.methods):
        for point in method.points:
            places.append(summary.axes(point))
            spots.append((number, _tooltip(summary, method, point)))
    if summary.noise is not None:
        path = noise_plot.path(summary.noise, summary.alignment, summary.diversity)
        for place, point in zip(path, summary.noise.points, strict=True):
            places.append(place)
            spots.append((None, _noise_tooltip(summary, point)))
    drawn = []
    for kind, size in (("wide", WIDE), ("narrow", NARROW)):
        svg, shown = figure.inline_with_places(
            f"front-{kind}",
            alt_text(summary),
            lambda axes: _draw(axes, summary, PAGE),
            places,
            size=size,
        )
        pairs = zip(shown, spots, strict=True)
        drawn.append(View(kind, svg, [Spot(*place, *spot) for place, spot in pairs]))
    return drawn


def files(summary: Summary) -> dict[str, bytes]:
    """The plot with a legend as file contents, by suffix: svg and png."""

    def draw(axes: "Axes") -> None:
        _draw(axes, summary, figure.LIGHT)
        handles = dict(zip(*reversed(axes.get_legend_handles_labels()), strict=True))
        limits = attainable_plot.DASHES if summary.attainable else ()
        alone = [noise_plot.NAME] if summary.noise else []
        names = [*(method.name for method in summary.methods), BASE_MODEL, *limits, *alone]
        axes.legend(
            [handles[name] for name in names], names,
            loc="lower left", bbox_to_anchor=(0, 1.04), ncols=min(len(names), 3),
            labelcolor=figure.LIGHT["ink"],
        )  # fmt: skip

    return figure.files("front", draw, size=FILE)


def alt_text(summary: Summary) -> str:
    """The content of the plot in words, for screen readers."""
    parts = [
        f"Plot of {measure_name(summary.diversity)} against {measure_name(summary.alignment)}. "
        f"Base model at alignment {summary.origin[0]:.3g}, diversity {summary.origin[1]:.3g}."
    ]
    for method in summary.methods:
        best = max(method.points, key=lambda point: summary.axes(point)[0])
        alignment, diversity = summary.axes(best)
        parts.append(f"{method.name} reaches {alignment:.3g} at diversity {diversity:.3g}.")
    if summary.noise is not None:
        path = noise_plot.path(summary.noise, summary.alignment, summary.diversity)
        parts.append("Noise alone ends at {:.3g} at diversity {:.3g}.".format(*path[-1]))
    return " ".join(parts)


def point_name(method: MethodSummary, point: Point) -> str:
    """The name of a point: its strength and its checkpoint."""
    if point.update is None:
        return "images made elsewhere"
    label = method.strengths[point.strength].label
    parts = [label] if label else []
    if f"update {point.update}" not in parts:
        parts.append(f"update {point.update}")
    changes = Variant(point.update, point.scale, point.prompt_noise, point.aig).changes
    return ", ".join([*parts, *(words for words in changes if not label.endswith(words))])


# --- drawing --------------------------------------------------------------------------------------


def _draw(axes: "Axes", summary: Summary, colours: Colours) -> None:
    from matplotlib.ticker import MaxNLocator

    _guides(axes, summary, colours)
    if summary.attainable:
        attainable_plot.draw(axes, summary.attainable, colours, _most(summary))
    if summary.noise:
        measures = (summary.alignment, summary.diversity)
        noise_plot.draw(axes, summary.noise, summary.origin, measures, colours)
    pairs = list(zip(summary.methods, marks(summary), strict=True))
    for number, (method, mark) in reversed(list(enumerate(pairs))):  # the baseline on top
        look: dict[str, Any] = {
            "color": colours[mark.colour],
            "marker": mark.shape,
            "gid": f"class-m{number}",
        }
        if rest := [summary.axes(point) for point in method.points if not point.front]:
            axes.plot(*zip(*rest, strict=True), ls="", ms=3, alpha=0.4, **look)
        for i, line in enumerate(_lines(summary, method)):
            axes.plot(
                *zip(*line, strict=True),
                ls=":" if method.made_elsewhere else (0, (4, 2)) if mark.dashed else "-",
                ms=4.5,
                markevery=slice(
                    int(line[0] == summary.origin), None
                ),  # the base model has its own marker
                label=method.name if i == 0 else None,
                zorder=3,
                **look,
            )
    axes.plot(
        *([x] for x in summary.origin),
        marker="o", ms=10, mew=1.8, ls="", color=colours["ink"],
        markerfacecolor=colours["paper"], label=BASE_MODEL, zorder=4,
    )  # fmt: skip
    axes.set_xlabel(measure_name(summary.alignment))
    axes.set_ylabel(measure_name(summary.diversity))
    axes.xaxis.set_major_locator(MaxNLocator(6))
    axes.yaxis.set_major_locator(MaxNLocator(6))
    axes.margins(0.06, 0.08)


def _most(summary: Summary) -> float:
    """The alignment up to which the attainable fronts are shown: a little beyond the best point."""
    reached = [summary.axes(point)[0] for method in summary.methods for point in method.points]
    most = max([summary.origin[0], *reached])
    return most + 0.25 * (most - min([summary.origin[0], *reached]))


def _lines(summary: Summary, method: MethodSummary) -> Iterator[list[tuple[float, float]]]:
    """The lines that gains are read from: the front, or each strength's path from the base."""
    if summary.reading == "path":
        for number in range(len(method.strengths)):
            path = [summary.axes(point) for point in method.points if point.strength == number]
            yield [summary.origin, *path]
        return
    best = sorted(summary.axes(point) for point in method.points if point.front)
    beaten = any(a >= summary.origin[0] and d >= summary.origin[1] for a, d in best)
    yield best if beaten else [summary.origin, *best]


def _guides(axes: "Axes", summary: Summary, colours: Colours) -> None:
    """Draw the levels: shares of the baseline's gain (top), of the base's diversity (right).

    A level that no curve reaches is left out: its line would only stretch the plot.
    """
    levels = {(g.statistic, g.share): g.level for g in summary.gains if g.level is not None}
    points = [summary.axes(point) for method in summary.methods for point in method.points]
    values = np.array([summary.origin, *points])
    lowest, highest = values.min(axis=0), values.max(axis=0)
    line = {"color": colours["rule"], "lw": 0.9, "ls": (0, (1, 2)), "zorder": 1}
    text: dict[str, Any] = {"textcoords": "offset points", "fontsize": 7.5}
    inches = axes.figure.bbox.width / axes.figure.dpi
    label = 0.35 / inches * float(np.ptp(values[1:, 0]))
    labelled: list[float] = []
    for (statistic, share), level in levels.items():
        axis = {"diversity": ALIGNMENT, "alignment": DIVERSITY}.get(statistic)
        if axis is None or not lowest[axis] <= level <= highest[axis]:
            continue
        if axis == ALIGNMENT:
            axes.axvline(level, **line)
            if all(abs(level - other) > label for other in labelled):  # else the labels overlap
                labelled.append(level)
                above = {"xycoords": ("data", "axes fraction"), "ha": "center", "va": "bottom"}
                axes.annotate(f"{share:.0%}", (level, 1.0), (0, 2), **text, **above)
        else:
            axes.axhline(level, **line)
            right = {"xycoords": ("axes fraction", "data"), "ha": "left", "va": "center"}
            axes.annotate(f"{share:.0%}", (1.0, level), (3, 0), **text, **right)
    axes.grid(False)


# --- words ----------------------------------------------------------------------------------------


def _tooltip(summary: Summary, method: MethodSummary, point: Point) -> list[str]:
    """The tooltip of a point: method, point, the two values, and the other measures."""
    alignment, diversity = summary.axes(point)
    values = [
        f"{measure_name(axis)} {_value(value)}{_between(by_seed)}"
        for axis, value, by_seed in (
            (summary.alignment, alignment, point.by_seed["alignment"]),
            (summary.diversity, diversity, point.by_seed["diversity"]),
        )
    ]
    share = point.attained
    if share is not None:
        values[-1] += f", {share:.0%} of the attainable gain"
    return [method.name, point_name(method, point), *values, *_others(summary, point.measures)]


def _noise_tooltip(summary: Summary, point: NoisePoint) -> list[str]:
    shown = dict.fromkeys([summary.alignment, summary.diversity, *point.by_run])
    values = [
        f"{measure_name(name)} {_value(float(np.mean(by_run)))}{_between(by_run, 'runs')}"
        for name, by_run in ((name, point.by_run[name]) for name in shown)
    ]
    return [noise_plot.NAME, f"no reward, update {point.update}", *values]


def _base_tooltip(summary: Summary) -> list[str]:
    values = [
        f"{measure_name(axis)} {_value(summary.base[axis])}"
        for axis in (summary.alignment, summary.diversity)
    ]
    return [BASE_MODEL, "before tuning", *values, *_others(summary, summary.base)]


def _others(summary: Summary, measures: dict[str, float]) -> list[str]:
    shown = {summary.alignment, summary.diversity}
    return [f"{measure_name(key)} {_value(x)}" for key, x in measures.items() if key not in shown]


def _between(values: list[float], what: str = "seeds") -> str:
    if len(values) < 2:
        return ""
    return f" ({what} {_value(min(values))} to {_value(max(values))})"


def _value(value: float) -> str:
    return words.number(value, words.places(value))
