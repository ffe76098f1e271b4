"""Drift by noise alone: how far neutral runs move what is measured, beside what each method moves.

A neutral run has the settings of the baseline and a control as its reward. It is no competitor:
nothing is claimed of it against a method.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from pydantic import Field

from common.choices import ALIGNMENTS
from common.comparison.digits import rounded
from common.comparison.methods import Method, Strength, Study, settings
from common.errors import listed
from common.evaluation.attainable_records import Part
from common.evaluation.measured_runs import BASE, Run, StudyError, training_prompts
from common.evaluation.records import HELD_OUT, Variant

FIT, AIM = 0.25, 0.1
"""Noise that moves less than this share of what the baseline moves leaves a setting fit for
claims, and what to aim at; this toolkit's choice."""

REWARD = "reward."
"""Begins the keys in which a neutral run differs from the baseline."""


class NoisePoint(Part):
    """All measures of each neutral run after an update, in the order of `Noise.runs`."""

    update: int
    by_run: dict[str, list[float]]


class Drift(Part):
    """What noise moves one measure by, from the base model on.

    mean, low, high: of the neutral runs. size: the mean of the movements' absolute values.
    """

    measure: str
    mean: float
    low: float
    high: float
    size: float


class Moved(Part):
    """What a method moves one measure by, after as many updates as the neutral runs have.

    strength: number of its curve. moved: null where it was not measured then. share: `Drift.size`
    as a share of it; null where it did not move.
    """

    method: str
    strength: int
    measure: str
    moved: float | None = None
    share: float | None = None


class Noise(Part):
    """Neutral runs beside methods, all after the same number of updates.

    runs: their names. updates: their length. points: over their updates, without the base model.
    moved: by each curve of each method that was trained here, the baseline's first.
    """

    runs: list[str] = Field(min_length=1)
    updates: int
    points: list[NoisePoint] = Field(min_length=1)
    drift: list[Drift]
    moved: list[Moved]

    @property
    def measures(self) -> list[str]:
        """The names of the measures: reward, alignments, diversity."""
        return [each.measure for each in self.drift]

    def shares(self, method: str) -> dict[str, float | None]:
        """What noise moves as a share of what a method moves: of its curves the largest share."""
        by_measure: dict[str, float | None] = {}
        for name in self.measures:
            these = [m.share for m in self.moved if (m.method, m.measure) == (method, name)]
            known = [share for share in these if share is not None]
            by_measure[name] = max(known) if known and len(known) == len(these) else None
        return by_measure

    def fit(self, method: str, most: float = FIT) -> bool:
        """Whether noise moves every measure by less than a share of what a method moves it by."""
        return all(share is not None and share < most for share in self.shares(method).values())


def check(study: Study, baseline: Method) -> None:
    """Raise StudyError for neutral runs that are no control of a baseline.

    They have the settings of one of its configurations but for the reward, and its length; no two
    are the same coin and seed.
    """
    if not study.neutral:
        return
    first, *others = study.neutral
    strength = _strength(first, baseline)
    for run in others:
        if differing := _differing(run, first):
            raise StudyError(
                f"the neutral runs {first.path} and {run.path} differ in more than the reward: "
                f"{_listed(differing)}"
            )
    seen: dict[str, Run] = {}
    for run in study.neutral:
        reward = run.directory.config.reward
        which = repr((run.seed, sorted(reward.terms.items()), sorted(reward.options.items())))
        if which in seen:
            raise StudyError(
                f"{seen[which].path} and {run.path} are the same neutral run, with the same coin "
                f"and seed ({run.seed}): name one of them"
            )
        seen[which] = run
        _check_length(run, baseline, strength)


def axes(study: Study, alignment: str, diversity: str) -> list[str]:
    """The measures that can drift: the reward, each held-out alignment, and the chosen axes.

    Raises StudyError when the alignment does not exist for the neutral runs.
    """
    there = [*study.neutral[0].records[BASE].by_prompt]
    if alignment not in there:
        raise StudyError(_missing(study.neutral[0], there))
    held_out = [name for name in there if name.startswith(HELD_OUT)]
    known = dict.fromkeys(["reward", "alignment_heldout", *held_out, alignment, diversity])
    return [name for name in known if name in there]


def noise(study: Study, methods: Sequence[Method], alignment: str, diversity: str) -> Noise | None:
    """What neutral runs move and what methods move; None where there are no neutral runs.

    Args:
        study: measured runs.
        methods: the methods of the study, the baseline first.
        alignment: a measure.
        diversity: a measure.

    Raises:
        StudyError: as for `check` and `axes`.
    """
    if not study.neutral:
        return None
    check(study, methods[0])
    names = axes(study, alignment, diversity)
    updates = _length(study.neutral[0].records)
    moves = {
        name: np.array([_moved([run], updates, name) for run in study.neutral]) for name in names
    }
    return Noise(
        runs=[run.path.resolve().name for run in study.neutral],
        updates=updates,
        points=_points(study.neutral, names),
        drift=[_drift(name, each) for name, each in moves.items()],
        moved=[
            _beside(method.name, number, strength, updates, name, moves[name])
            for method in methods
            for number, strength in enumerate(method.strengths)
            if strength.runs and not any(variant.changes for variant in strength.variants)
            for name in names
        ],
    )


def _points(runs: Sequence[Run], names: Sequence[str]) -> list[NoisePoint]:
    shared = set.intersection(*({*run.records} for run in runs)) - {BASE}
    return [
        NoisePoint(
            update=variant.update,
            by_run={
                name: [rounded(run.records[variant].mean(name)) for run in runs] for name in names
            },
        )
        for variant in sorted(shared)
    ]


def _drift(measure: str, moves: np.ndarray) -> Drift:
    return Drift(
        measure=measure,
        mean=rounded(float(moves.mean())),
        low=rounded(float(moves.min())),
        high=rounded(float(moves.max())),
        size=rounded(float(np.abs(moves).mean())),
    )


def _beside(
    method: str, number: int, strength: Strength, updates: int, measure: str, drift: np.ndarray
) -> Moved:
    """What a curve moves a measure by, and noise as a share of it."""
    known: dict[str, float] = {}
    if Variant(updates) in strength.variants:
        moved = _moved(strength.runs, updates, measure)
        known["moved"] = rounded(moved)
        if moved:
            known["share"] = rounded(float(np.abs(drift).mean() / abs(moved)))
    return Moved(method=method, strength=number, measure=measure, **known)


def _moved(runs: Sequence[Run], updates: int, measure: str) -> float:
    """How far a measure moved from the base model on: mean over runs and prompts."""
    ends = [run.records[Variant(updates)].mean(measure) for run in runs]
    return float(np.mean(ends) - np.mean([run.records[BASE].mean(measure) for run in runs]))


def _length(records: Mapping[Variant, Any]) -> int:
    """The last update that was measured as it was trained."""
    return max(variant.update for variant in records if not variant.changes)


# --- refusals -------------------------------------------------------------------------------------


def _strength(run: Run, baseline: Method) -> Strength:
    """The configuration of the baseline that a neutral run is the control of."""
    trained = [each for each in baseline.strengths if each.runs]
    if not trained:
        raise StudyError(
            f"{run.path} is a neutral run, and the baseline {baseline.name} was not trained here: "
            "choose a baseline that was, --baseline NAME"
        )
    by_strength = [_differing(run, strength.runs[0]) for strength in trained]
    for strength, differing in zip(trained, by_strength, strict=True):
        if not differing:
            return strength
    nearest = min(range(len(trained)), key=lambda n: len(by_strength[n]))
    raise StudyError(
        f"the neutral run {run.path} and {baseline.name} ({trained[nearest].runs[0].path}) differ "
        f"in more than the reward: {_listed(by_strength[nearest])}; a neutral run has the settings "
        "of the baseline, --baseline NAME"
    )


def _differing(run: Run, other: Run) -> list[str]:
    """The settings beside the reward in which two runs differ, as "KEY is A and B"."""
    one, two = (settings(each.directory.config) for each in (run, other))
    keys = [key for key in sorted(one.keys() | two.keys()) if not key.startswith(REWARD)]
    differing = [
        f"{key} is {_shown(one.get(key))} and {_shown(two.get(key))}"
        for key in keys
        if one.get(key) != two.get(key)
    ]
    if not differing and training_prompts(run.directory) != training_prompts(other.directory):
        return ["the file of prompts has another content (prompts.source)"]
    return differing


def _check_length(run: Run, baseline: Method, strength: Strength) -> None:
    ours, theirs = _length(run.records), _length(strength.runs[0].records)
    if ours != theirs:
        raise StudyError(
            f"the neutral run {run.path} was measured up to update {ours} and {baseline.name} up "
            f"to {theirs}: train and measure it up to there, or compare with "
            f"--until {min(ours, theirs)}"
        )


def _missing(run: Run, there: Sequence[str]) -> str:
    """Only the reward can be missing, as it alone is not measured by the protocol."""
    others = [name for name in there if name in ALIGNMENTS or name.startswith(HELD_OUT)]
    instead = f"choose another --axis: {listed(name.removeprefix(HELD_OUT) for name in others)}"
    return (
        f"the neutral run {run.path} has no reward to compare: what the others maximise has "
        "options, limits or a worst term, so that no held-out scorers add up to it; "
        f"{instead if others else 'measure all runs with a --scorer and choose it as the --axis'}"
    )


def _shown(value: object, most: int = 60) -> str:
    """A value on one line, as much of it as a message bears."""
    text = "unset" if value is None else repr(value)
    return text if len(text) <= most else f"{text[:most]}..."


def _listed(differing: Sequence[str], most: int = 3) -> str:
    more = f" and {len(differing) - most} more" if len(differing) > most else ""
    return "; ".join(differing[:most]) + more
