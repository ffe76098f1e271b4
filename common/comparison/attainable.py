"""Finds the attainable fronts that all runs of a comparison have: of the same images, N and c."""

from dataclasses import dataclass

from common.comparison.methods import Study
from common.evaluation import attainable_records
from common.evaluation.attainable_records import REWARD, Solved
from common.evaluation.measured_runs import Run


@dataclass(frozen=True)
class Found:
    """front: what all runs have. missing: names of the runs without it, if others have one."""

    front: Solved | None
    missing: tuple[str, ...] = ()


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
    names = [run.path.resolve().name for run in runs]
    without = [name for name, fronts in zip(names, by_run, strict=True) if not fronts]
    if without:
        return Found(None, tuple(without) if len(without) < len(runs) else ())
    first, *others = by_run
    shared = set(first).intersection(*others)
    if not shared:
        return Found(None, tuple(names))
    best = max(shared, key=lambda key: (key[0], key[1] == key[0] / 8, key[1]))
    return Found(first[best])


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
