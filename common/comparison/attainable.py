"""Finds the attainable fronts that all runs of a comparison have: of the same images, N and c."""

from collections.abc import Set
from dataclasses import dataclass

from common.comparison.methods import Study
from common.evaluation import attainable_records
from common.evaluation.attainable_records import REWARD, Solved
from common.evaluation.measured_runs import Run


@dataclass(frozen=True)
class Found:
    """front: what all runs have. missing: the runs without it, if others have one.

    wanted: N and c of the fronts that the others have, or the first run where all have some.
    """

    front: Solved | None
    missing: tuple[Run, ...] = ()
    wanted: tuple[int, float] | None = None


def find(study: Study, alignment: str, diversity: str) -> Found:
    """The fronts that all runs of a study have on these axes; the ones of most images.

    Raises RecordError for a file of fronts that is damaged.
    """
    measure, _, suffix = diversity.partition("/")
    if measure != "diversity":  # the fronts are of the mean distance
        return Found(None)
    labels = zip(study.protocol.feature_names, study.protocol.feature_labels, strict=True)
    features = dict(labels)[suffix]
    runs = _runs(study)
    if not runs:
        return Found(None)
    by_run = [_fronts(run, study, features, alignment) for run in runs]
    without = [run for run, fronts in zip(runs, by_run, strict=True) if not fronts]
    if len(without) == len(runs):
        return Found(None)
    first, *others = [fronts for fronts in by_run if fronts]
    shared = set(first).intersection(*others)
    if without or not shared:
        return Found(None, tuple(without or runs), _best(shared or set(first)))
    return Found(first[_best(shared)])


def _best(fronts: Set[tuple[int, float]]) -> tuple[int, float]:
    """The N and c of most images; of several c the default."""
    return max(fronts, key=lambda key: (key[0], key[1] == key[0] / 8, key[1]))


def _runs(study: Study) -> list[Run]:
    runs = [
        run for method in study.methods for strength in method.strengths for run in strength.runs
    ]
    return list({run.path.resolve(): run for run in runs}.values())


def _fronts(
    run: Run, study: Study, features: str, alignment: str
) -> dict[tuple[int, float], Solved]:
    """The fronts of a run on these axes, by N and c."""
    images = attainable_records.images_of(run.directory.config, study.protocol)
    entry = attainable_records.load(run.directory).entry(images)
    return {
        (front.samples, front.ratio): front
        for front in entry.fronts
        if front.rewards == REWARD and front.features == features and alignment in front.axes
    }
