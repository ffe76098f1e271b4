"""The attainable fronts of a comparison, and what share of their gap each method reaches."""

from collections.abc import Mapping, Sequence

from common.algorithm.pareto import ALIGNMENT
from common.comparison import gains
from common.comparison.gains import Curves
from common.evaluation.attainable_records import AxisLevels, Part, Solved

NOTHING, BEYOND = "nothing to win there", "better aligned than both fronts"


class Share(Part):
    """(value - kl) / (best - kl) of a method at equal alignment; null where there is none: `why`.

    share: of the baseline's gain in alignment. level: the alignment there.
    """

    method: str
    share: float
    level: float | None = None
    value: float | None = None
    kl: float | None = None
    best: float | None = None
    estimate: float | None = None
    why: str | None = None


class Attainable(Part):
    """Both fronts on the axes of a comparison, from N = samples images and c = ratio."""

    samples: int
    ratio: float
    left_out: int
    replicas: int
    confidence: float
    fronts: AxisLevels
    shares: list[Share]

    def share(self, method: str, share: float) -> Share:
        """One cell of the table; KeyError when there is none."""
        return {(each.method, each.share): each for each in self.shares}[method, share]


def attainable(
    front: Solved,
    alignment: str,
    curves: Mapping[str, Curves],
    baseline: str,
    shares: Sequence[float],
) -> Attainable:
    """The fronts, and each method's share at the alignments that gains are compared at."""
    axis = front.axes[alignment]
    return Attainable(
        samples=front.samples,
        ratio=front.ratio,
        left_out=front.left_out,
        replicas=front.replicas,
        confidence=front.confidence,
        fronts=axis,
        shares=[
            _share(axis, name, curve, share, gains.alignment_level(curves[baseline].points, share))
            for name, curve in curves.items()
            for share in shares
        ],
    )


def reached(axis: AxisLevels, alignment: float, diversity: float) -> float | None:
    """The share at a point; None where there is nothing to win, or beyond the fronts."""
    at = axis.between(alignment)
    if at is None or not at.clear:
        return None
    return (diversity - at.kl) / (at.best - at.kl)


def _share(
    axis: AxisLevels, method: str, curve: Curves, share: float, level: float | None
) -> Share:
    if level is None:
        return Share(method=method, share=share, why="the baseline gained nothing")
    point, at = curve.at(level, ALIGNMENT), axis.between(level)
    if point is None:
        return Share(method=method, share=share, level=level, why="not reached")
    value = float(point[1])
    if at is None:
        return Share(method=method, share=share, level=level, value=value, why=BEYOND)
    estimate = reached(axis, level, value)
    return Share(
        method=method,
        share=share,
        level=level,
        value=value,
        kl=at.kl,
        best=at.best,
        estimate=estimate,
        why=NOTHING if estimate is None else None,
    )
