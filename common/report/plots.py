"""The plots of a report: from records of a run to inline SVG."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from common.report import figure
from common.report.figure import PAGE
from common.runs.directory import RunError

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Records = Sequence[Mapping[str, Any]]

INK, MUTED, ACCENT, PAPER = (PAGE[name] for name in ("ink", "muted", "accent", "paper"))

LINES: tuple[dict[str, Any], ...] = (
    {"color": ACCENT, "linestyle": "-"},
    {"color": INK, "linestyle": (0, (4, 2)), "linewidth": 1.2},
)

RATIO_TOLERANCE = 1e-6
"""Largest |ratio - 1| before the first optimizer step that float32 rounding explains."""
RATIO_FLOOR = 1e-9
"""Where a ratio deviation of exactly 0 is drawn on the logarithmic axis."""


@dataclass(frozen=True)
class Plot:
    """A plot with its title and caption. svg: one inline <svg> element."""

    name: str
    title: str
    caption: str
    svg: str


@dataclass(frozen=True)
class Curve:
    """One line: a key of metrics.jsonl, or of evaluations.jsonl when `evaluated`."""

    key: str
    label: str
    evaluated: bool = False
    band: str | None = None
    """Key of a standard deviation drawn around the line."""
    joined: bool = False
    """Whether a line joins the records that have a value: the others did not measure it."""


@dataclass(frozen=True)
class Panel:
    """Up to two curves over the updates of a run, in one unit. limit: drawn as a line."""

    name: str
    title: str
    caption: str
    curves: tuple[Curve, ...]
    floor: float | None = None
    """On a logarithmic axis smaller values are drawn at this one. None: the axis is linear."""
    limit: float | None = None


OUTCOMES = (
    Panel(
        "reward",
        "Reward",
        "Mean over the images of each update; the band is one standard deviation within a group.",
        (Curve("reward/mean", "mean", band="reward/std"),),
    ),
    Panel(
        "alignment",
        "Alignment",
        "Ten times the cosine of image and prompt, at evaluations. Only the first scorer is "
        "trained on; the held-out one shows whether the gain is real.",
        (
            Curve("alignment_train", "training scorer", evaluated=True),
            Curve("alignment_heldout", "held-out scorer", evaluated=True),
        ),
    ),
    Panel(
        "diversity",
        "Diversity",
        "Mean cosine distance between images of the same prompt. The two lines use different "
        "features: compare their shapes, not their heights.",
        (
            Curve("diversity/group", "groups in training"),
            Curve("diversity", "held-out, at evaluations", evaluated=True),
        ),
    ),
)

MECHANISMS = (
    Panel(
        "subset-size",
        "Subset size",
        "Samples of a group that are trained on.",
        (Curve("subset/size", "samples"),),
    ),
    Panel(
        "best-dropped",
        "Best sample dropped",
        "Share of groups whose best sample was left out of the subset.",
        (Curve("subset/best_dropped", "share of groups"),),
    ),
    Panel(
        "shaping",
        "Shaping",
        "How the diversity potential relates to the reward, and its share of the variance of "
        "the shaped reward.",
        (
            Curve("shaping/correlation", "correlation with the reward"),
            Curve("shaping/variance_share", "share of variance"),
        ),
    ),
    Panel(
        "clip-fraction",
        "Clipped ratios",
        "Share of transitions whose ratio left the clip range.",
        (Curve("objective/clip_fraction", "clip fraction"),),
    ),
    Panel(
        "kl",
        "Distance from the base model",
        "KL divergence to the reference, nats per latent element.",
        (Curve("objective/kl", "KL", joined=True),),
    ),
    Panel(
        "ratio",
        "Ratio deviation",
        "Largest |ratio − 1| before the first optimizer step: 0 (drawn at 1e-9) or rounding. "
        "Above the dashed line, rollout and update disagree.",
        (Curve("objective/ratio_max", "largest |ratio − 1|"),),
        floor=RATIO_FLOOR,
        limit=RATIO_TOLERANCE,
    ),
    Panel(
        "gradient-norm",
        "Gradient norm",
        "Before clipping.",
        (Curve("objective/gradient_norm", "norm"),),
    ),
    Panel(
        "gradient-agreement",
        "Gradient agreement",
        "Cosine of the gradients of two halves of an update: near 0, noise moves the model.",
        (Curve("objective/gradient_agreement", "cosine"),),
    ),
)


def plots(metrics: Records, evaluations: Records) -> list[Plot]:
    """The plots for which the records have finite values, in the order of the page."""
    outcomes = (*OUTCOMES, *_further(evaluations))
    drawn = [_panel(panel, metrics, evaluations) for panel in outcomes]
    drawn.append(_plane(evaluations))
    drawn += [_panel(panel, metrics, evaluations) for panel in MECHANISMS]
    drawn.append(_time(metrics, evaluations))
    return [plot for plot in drawn if plot is not None]


def _further(evaluations: Records) -> list[Panel]:
    """A panel for each held-out reward, and for diversity in each of the further features."""
    panels = []
    for key in dict.fromkeys(key for row in evaluations for key in row):
        kind, _, name = key.partition("/")
        curve = Curve(key, name, evaluated=True)
        place = f"{kind}-{len(panels)}"
        if kind == "heldout":
            caption = "Mean at evaluations of a reward that training does not maximise."
            panels.append(Panel(place, name, caption, (curve,)))
        elif kind == "diversity" and name and name != "group":
            caption = "Mean cosine distance between images of the same prompt, at evaluations."
            panels.append(Panel(place, f"Diversity, {name}", caption, (curve,)))
    return panels


def column(records: Records, key: str) -> np.ndarray:
    """One key of all records: float64 [n]; missing, null and non-finite values are NaN.

    Raises RunError for a value that is no number: the log was damaged.
    """
    array = np.array([_number(record, key) for record in records], dtype=np.float64)
    return np.where(np.isfinite(array), array, math.nan)


def _number(record: Mapping[str, Any], key: str) -> float:
    value = record.get(key)
    try:
        if value is None or isinstance(value, int | float):
            return math.nan if value is None else float(value)
    except OverflowError:  # a whole number that no float has room for
        pass
    raise RunError(f"the record of update {record.get('update')} is damaged: {key} is no number")


def _panel(panel: Panel, metrics: Records, evaluations: Records) -> Plot | None:
    lines = []
    for curve in panel.curves:
        records = evaluations if curve.evaluated else metrics
        x, y = column(records, "update"), column(records, curve.key)
        if curve.joined:
            known = np.isfinite(y)
            x, y = x[known], y[known]
        if np.isfinite(y).any():
            lines.append((curve, x, y, column(records, curve.band) if curve.band else None))
    if not lines:
        return None

    def draw(axes: "Axes") -> None:
        for style, (curve, x, y, band) in zip(LINES, lines, strict=False):
            shown = y if panel.floor is None else np.maximum(y, panel.floor)
            sparse = np.isfinite(y).sum() < 30
            axes.plot(x, shown, label=curve.label, marker="o" if sparse else "", ms=3, **style)
            if band is not None:
                axes.fill_between(x, y - band, y + band, color=style["color"], alpha=0.16, lw=0)
        if panel.limit is not None:
            axes.axhline(panel.limit, **LINES[1])
        _axis(axes, logarithmic=panel.floor is not None)
        if len(panel.curves) > 1:
            _legend(axes)

    alt_parts = [f"{curve.label}: {_in_words(x, y)}" for curve, x, y, _ in lines]
    alt = f"Line plot over the updates. {'; '.join(alt_parts)}."
    return Plot(panel.name, panel.title, panel.caption, figure.inline(panel.name, alt, draw))


def _plane(evaluations: Records) -> Plot | None:
    """The path of the run through (held-out alignment, held-out diversity)."""
    x, y = column(evaluations, "alignment_heldout"), column(evaluations, "diversity")
    known = np.isfinite(x) & np.isfinite(y)
    if not known.any():
        return None
    x, y, update = x[known], y[known], column(evaluations, "update")[known]

    def draw(axes: "Axes") -> None:
        axes.plot(x, y, marker="o", ms=3.5, **LINES[0])
        axes.plot(x[:1], y[:1], marker="o", ms=7, color=INK, markerfacecolor=PAPER, zorder=3)
        axes.plot(x[-1:], y[-1:], marker="o", ms=7, color=ACCENT, zorder=4)
        for i, name, side in ((0, "base", -5), (-1, "tuned", 5))[: len(x)]:
            point = (float(x[i]), float(y[i]))
            align = "right" if side < 0 else "left"
            axes.annotate(name, point, (side, 8), textcoords="offset points", ha=align, color=INK)
        axes.set_xlabel("held-out alignment")
        axes.set_ylabel("held-out diversity")
        axes.grid(True, axis="both")
        axes.margins(0.16, 0.2)

    alt = f"Path from alignment {x[0]:.3g}, diversity {y[0]:.3g} at update {update[0]:.0f}"
    if len(x) > 1:
        alt += f" to alignment {x[-1]:.3g}, diversity {y[-1]:.3g} at update {update[-1]:.0f}"
    caption = "Right is better aligned, up is more diverse."
    svg = figure.inline("plane", alt + ".", draw)
    return Plot("plane", "Alignment against diversity", caption, svg)


def _time(metrics: Records, evaluations: Records) -> Plot | None:
    """Seconds of each part of an update, of the rest, and of the evaluations."""

    def seconds(records: Records, key: str) -> float:
        return float(np.nansum(column(records, key)))

    parts = {name: seconds(metrics, f"time/{name}") for name in ("rollout", "reward", "update")}
    parts["other"] = max(seconds(metrics, "seconds") - sum(parts.values()), 0.0)
    parts["evaluation"] = seconds(evaluations, "seconds")
    total = sum(parts.values())
    if total <= 0:
        return None
    # Rollout and update both include the time of the noise: it is not added to the total.
    parts["noise"] = seconds(metrics, "time/noise")
    labels = [f"{part:,.1f} s, {part / total:.0%}" for part in parts.values()]
    colours = [ACCENT] * (len(parts) - 1) + [MUTED]

    def draw(axes: "Axes") -> None:
        bars = axes.barh(list(parts), list(parts.values()), color=colours, height=0.62)
        axes.bar_label(bars, labels, padding=4, color=INK)
        axes.invert_yaxis()
        axes.grid(False)
        axes.spines["bottom"].set_visible(False)
        axes.tick_params(bottom=False, labelbottom=False)
        axes.set_xlim(0, max(parts.values()) * 1.4)

    alt_parts = "; ".join(f"{name} {label}" for name, label in zip(parts, labels, strict=True))
    caption = (
        "Wall-clock seconds of the whole run. Rollout and update include the noise, "
        "which is drawn during both."
    )
    svg = figure.inline("time", f"Bar chart. {alt_parts}.", draw)
    return Plot("time", "Where the time went", caption, svg)


def _axis(axes: "Axes", *, logarithmic: bool) -> None:
    from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

    axes.set_xlabel("update")
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    if not logarithmic:
        axes.yaxis.set_major_locator(MaxNLocator(5))
        return
    axes.set_yscale("log")
    axes.yaxis.set_major_locator(LogLocator(numticks=6))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"1e{math.log10(value):.0f}"))


def _legend(axes: "Axes") -> None:
    axes.legend(
        loc="lower left", bbox_to_anchor=(0, 1), ncols=2, borderaxespad=0.2, handlelength=1.8
    )


def _in_words(x: np.ndarray, y: np.ndarray) -> str:
    """A line in words, for screen readers."""
    known = np.isfinite(y)
    x, y = x[known], y[known]
    if len(y) == 1:
        return f"{y[0]:.3g} at update {x[0]:.0f}"
    return (
        f"{y[0]:.3g} at update {x[0]:.0f}, {y[-1]:.3g} at update {x[-1]:.0f}, "
        f"lowest {y.min():.3g}, highest {y.max():.3g}"
    )
