"""Methods against a baseline: gains at equal alignment and at equal diversity, with intervals.

A method is an array [S seeds, P prompts, N points, C measures], the first two measures being
alignment and diversity, the others measures to compare at matched alignment. Everything is
computed on the curve of the means over seeds and prompts.

A curve can be read in two ways.

* `front`, the default: the Pareto front over all checkpoints and strengths, linear between its
  points. Each replica of the bootstrap chooses its own front, so the intervals include the
  choice; but a front of noisy points is biased upwards, and more so with more points.
* `path`: the checkpoints of each strength in the order of training, dominated ones included; a
  level counts where the path first reaches it, as with early stopping. There is no choice within a
  strength, so no bias; of several strengths the best one counts.

A level outside a curve is "not reached": nothing is extrapolated.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from common.algorithm import pareto
from common.algorithm.pareto import ALIGNMENT, DIVERSITY, Interval
from common.choices import Reading
from common.errors import existing

STATISTICS = {
    "diversity": "D/D_b - 1 where the baseline has made that share of its gain in alignment",
    "alignment": "(A - A_0)/(A_b - A_0) - 1 at that share of the base model's diversity A_0, D_0",
    "alignment_units": "A - A_b at that diversity, in units of alignment",
    "hypervolume": "area above (A_0, 0) in units of (highest A_b - A_0) D_0",
    "hypervolume_gain": "that area against the baseline's: H/H_b - 1",
    "degradation": "X/X_b - 1 of a measure X that rises when images degrade, as for diversity",
}


class Name(NamedTuple):
    """The key of a number: method, statistic, share and measure."""

    method: str
    statistic: str
    share: float | None = None
    measure: str | None = None


@dataclass(frozen=True)
class Sample:
    """values: float [S, P, N, C]. curves: for each strength its points in order, base first."""

    values: np.ndarray
    curves: Sequence[range]


@dataclass(frozen=True)
class Levels:
    """The levels at which curves are compared.

    gains: shares of the baseline's gain in alignment. diversities: shares of the base model's
    diversity. degradation: names of the measures after the first two.
    """

    gains: tuple[float, ...] = (0.25, 0.5, 0.75, 0.9)
    diversities: tuple[float, ...] = (0.8, 0.6)
    degradation: tuple[str, ...] = ()


@dataclass(frozen=True)
class Curves:
    """The curve of a method, or one curve for each strength.

    points: [N, C], all points. lines: each [M, C] in order.
    """

    points: np.ndarray
    lines: tuple[np.ndarray, ...]

    @classmethod
    def from_means(cls, mean: np.ndarray, curves: Sequence[range], reading: Reading) -> "Curves":
        """The curves of means [N, C] of all points."""
        if reading == "front":
            return cls(mean, (pareto.front(mean),))
        return cls(mean, tuple(mean[curve.start : curve.stop] for curve in curves))

    def at(self, level: float | None, axis: int) -> np.ndarray | None:
        """The point [C] at a level, if there is one; of several strengths the best one there."""
        if level is None:
            return None
        crossings = [pareto.crossing(line, level, axis=axis) for line in self.lines]
        reached = [point for point in crossings if point is not None]
        return max(reached, key=lambda point: point[1 - axis], default=None)


def alignment_level(baseline: np.ndarray, share: float) -> float | None:
    """The alignment at which the baseline [N, C], base model first, has that share of its gain.

    None where it gained nothing.
    """
    base, most = baseline[0, ALIGNMENT], baseline[:, ALIGNMENT].max()
    return float((1 - share) * base + share * most) if most > base else None


def gains(means: Mapping[str, Curves], baseline: str, levels: Levels) -> dict[Name, float | None]:
    """Every statistic of every method, from the curves of one replica or of the data.

    None where a curve does not reach a level, or the baseline's value allows no ratio.
    """
    b = means[baseline]
    base = b.points[0]
    at_gain = {share: alignment_level(b.points, share) for share in levels.gains}
    at_diversity = {share: float(share * base[DIVERSITY]) for share in levels.diversities}
    b_gain = {share: b.at(level, ALIGNMENT) for share, level in at_gain.items()}
    b_diversity = {share: b.at(level, DIVERSITY) for share, level in at_diversity.items()}
    unit = float((b.points[:, ALIGNMENT].max() - base[ALIGNMENT]) * base[DIVERSITY])
    area_b = pareto.hypervolume(b.points, (base[ALIGNMENT], 0.0))
    statistics: dict[Name, float | None] = {}
    for method, m in means.items():
        area = pareto.hypervolume(m.points, (base[ALIGNMENT], 0.0))
        statistics[Name(method, "hypervolume")] = area / unit if unit > 0 else None
        if method == baseline:
            continue
        statistics[Name(method, "hypervolume_gain")] = pareto.relative(area, area_b)
        for share, level in at_gain.items():
            ours, theirs = m.at(level, ALIGNMENT), b_gain[share]
            statistics[Name(method, "diversity", share)] = _ratio(ours, theirs, DIVERSITY)
            for column, measure in enumerate(levels.degradation, start=2):
                name = Name(method, "degradation", share, measure)
                statistics[name] = _ratio(ours, theirs, column)
        for share, level in at_diversity.items():
            ours, theirs = m.at(level, DIVERSITY), b_diversity[share]
            statistics[Name(method, "alignment", share)] = _ratio(
                ours, theirs, ALIGNMENT, float(base[ALIGNMENT])
            )
            statistics[Name(method, "alignment_units", share)] = (
                None if ours is None or theirs is None else float(ours[0] - theirs[0])
            )
    return statistics


def compare(
    samples: Mapping[str, Sample],
    baseline: str,
    draws: np.ndarray,
    *,
    levels: Levels,
    reading: Reading = "front",
    confidence: float = 0.95,
) -> dict[Name, Interval]:
    """Every statistic of every method with its interval by the hierarchical bootstrap.

    Seeds are drawn, then prompts, the same for all methods, the baseline and the base model; see
    `pareto.bootstrap_all`. With one seed the estimates come without intervals.

    Args:
        samples: methods by name; the first point of each is the base model.
        baseline: the name of one of them.
        draws: uniform in [0, 1), [replicas, S + P].
        levels: where curves are compared; `degradation` names the measures after the first two.
        reading: how levels are read from the points, see the module's text.
        confidence: coverage of the intervals.

    Raises:
        ValueError: samples of other shapes, or no such baseline.
    """
    if baseline not in samples:
        raise ValueError(f"no method '{baseline}'{existing(samples)}")

    def statistics(*means: np.ndarray) -> dict[Name, float | None]:
        curves = {
            name: Curves.from_means(mean, sample.curves, reading)
            for (name, sample), mean in zip(samples.items(), means, strict=True)
        }
        return gains(curves, baseline, levels)

    values = [sample.values for sample in samples.values()]
    return pareto.bootstrap_all(statistics, values, draws, level=confidence)


def _ratio(
    ours: np.ndarray | None, theirs: np.ndarray | None, column: int, base: float = 0.0
) -> float | None:
    if ours is None or theirs is None:
        return None
    return pareto.relative(float(ours[column]), float(theirs[column]), base=base)
