"""A comparison as data: all numbers of its page and plots.

`drift compare --json` prints it and `compare.json` contains it. It has no paths and no pictures, so
it can be stored with a project, and tables and plots can be made from it again.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from common import random
from common.algorithm import pareto
from common.algorithm.pareto import ALIGNMENT, DIVERSITY, Interval
from common.choices import Diversity
from common.comparison import gains
from common.comparison.gains import Curves, Levels, Name, Reading, Sample
from common.comparison.methods import Method, Strength, Study, settings
from common.errors import RequestError
from common.evaluation.records import MEASURES, Split
from common.random import Key, Purpose

FORMAT = 1
"""Version of the JSON; a reader refuses any other."""

DEGRADATION = ("high_frequency", "frechet")
"""Measures that rise when images degrade."""

ALL_MEASURES = (*MEASURES, "frechet")
DIGITS = 6
"""Significant digits that are stored."""

NO_GAIN = "the baseline gained nothing over the base model"

MATCHED = 0.75
"""Share of the baseline's gain at which pictures are compared."""


class SummaryError(RequestError):
    """A file that is no comparison; one line with the reason."""


class Part(BaseModel):
    """A frozen part of the summary; unknown keys are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class RunSummary(Part):
    """One run. name: of its folder. updates: as configured."""

    name: str
    seed: int
    backend: str
    updates: int


class StrengthSummary(Part):
    """One curve. changes: the settings that differ from the baseline's, null where absent."""

    label: str
    changes: dict[str, Any]
    runs: list[RunSummary]


class Point(Part):
    """One measured point of a method, mean over seeds and prompts.

    strength: number of its curve. measures: every measure's mean. by_seed: alignment and
    diversity, as chosen for the comparison, of each seed. front: on the method's Pareto front.
    """

    strength: int
    update: int
    scale: float
    prompt_noise: float
    aig: float = 0.0
    measures: dict[str, float]
    by_seed: dict[Literal["alignment", "diversity"], list[float]]
    front: bool


class MethodSummary(Part):
    """A method; its points in the order of its curves, without the base model."""

    name: str
    strengths: list[StrengthSummary]
    points: list[Point]


class Gain(Part):
    """One statistic of one method against the baseline.

    statistic: a key of `gains.STATISTICS`. share: of the baseline's gain or of the base model's
    diversity; null for hypervolumes. measure: for degradation. level: the alignment or diversity
    at that share. value, baseline: the two values that are compared. estimate: null means "not
    reached", and `why` has the reason. low, high: null with one seed. reached: share of the
    bootstrap's replicas in which the statistic exists.
    """

    method: str
    statistic: str
    share: float | None = None
    measure: str | None = None
    level: float | None = None
    value: float | None = None
    baseline: float | None = None
    estimate: float | None = None
    low: float | None = None
    high: float | None = None
    reached: float
    why: str | None = None


class Protocol(Part):
    """The protocol of all measurements; see `records.Protocol`."""

    split: Split
    prompts: list[str]
    images: int
    steps: int
    seed: int
    model: str
    features: str = ""
    sampler: str = ""
    scorers: list[str] = []


class Summary(Part):
    """A whole comparison.

    base: every measure of the model before tuning. settings: of the baseline (its first
    strength), by dotted key; other configurations list only their changes. shaped: the methods
    whose reward is shaped with the features that diversity is measured in.
    """

    format: Literal[1] = FORMAT
    protocol: Protocol
    reward: dict[str, float]
    seeds: list[int]
    alignment: str
    diversity: str
    reading: Reading
    confidence: float
    replicas: int
    gain_shares: list[float]
    diversity_shares: list[float]
    baseline: str
    base: dict[str, float]
    methods: list[MethodSummary] = Field(min_length=1)
    gains: list[Gain]
    settings: dict[str, Any]
    shaped: list[str] = []

    def method(self, name: str) -> MethodSummary:
        """The method of that name; KeyError when there is none."""
        return {method.name: method for method in self.methods}[name]

    def gain(
        self, method: str, statistic: str, share: float | None = None, measure: str | None = None
    ) -> Gain:
        """One number of the tables; KeyError when there is none."""
        key = (method, statistic, share, measure)
        return {(g.method, g.statistic, g.share, g.measure): g for g in self.gains}[key]

    def axes(self, point: Point) -> tuple[float, float]:
        """(alignment, diversity) of a point in the chosen measures."""
        return point.measures[self.alignment], point.measures[self.diversity]

    @property
    def origin(self) -> tuple[float, float]:
        """(alignment, diversity) of the base model."""
        return self.base[self.alignment], self.base[self.diversity]

    @property
    def gained(self) -> bool:
        """Whether the baseline is better aligned than the base model at any of its points."""
        points = self.method(self.baseline).points
        return any(self.axes(point)[0] > self.origin[0] for point in points)

    def matched(self, share: float = MATCHED) -> dict[str, Point]:
        """For each method the point nearest to the baseline's alignment at a share of its gain."""
        origin = self.origin[0]
        most = max(self.axes(p)[0] for p in self.method(self.baseline).points)
        level = (1 - share) * origin + share * max(most, origin)
        return {
            method.name: min(method.points, key=lambda p: abs(self.axes(p)[0] - level))
            for method in self.methods
        }


def to_json(summary: Summary) -> str:
    """The summary as JSON: one line per key, and one line per object of a list."""
    return _lines(summary.model_dump(mode="json", exclude_unset=True)) + "\n"


def from_json(text: str | bytes) -> Summary:
    """The inverse of `to_json`. Raises SummaryError with one line."""
    try:
        return Summary.model_validate_json(text)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "the file"
        raise SummaryError(
            f"not a comparison of `drift compare`: {where}: {first['msg']}"
        ) from None


def summarise(
    study: Study,
    baseline: str,
    *,
    alignment: str | None = None,
    diversity: Diversity = "diversity",
    gain_shares: Sequence[float] = (0.25, 0.5, 0.75, 0.9),
    diversity_shares: Sequence[float] = (0.8, 0.6),
    reading: Reading = "front",
    confidence: float = 0.95,
    replicas: int = 2000,
) -> Summary:
    """Compare the methods of a study with one of them; StudyError without it or without an axis.

    Args:
        study: the measured methods.
        baseline: name of the method to compare the others with.
        alignment: the measure of alignment, see `Study.alignment`.
        diversity: the measure of diversity.
        gain_shares: of the baseline's gain in alignment.
        diversity_shares: of the base model's diversity.
        reading: how levels are read from points; see `common.comparison.gains`.
        confidence: coverage of the intervals.
        replicas: of the bootstrap.
    """
    first = study.method(baseline)
    axis = study.alignment(alignment)
    methods = [first, *(method for method in study.methods if method is not first)]
    levels = Levels(tuple(gain_shares), tuple(diversity_shares), DEGRADATION)
    measures = (axis, study.diversity(diversity), *DEGRADATION)
    samples = {m.name: Sample(m.values(measures), m.curves()) for m in methods}
    config = first.strengths[0].config
    reference, shaped = settings(config), [m.name for m in methods if m.is_shaped]
    return Summary(
        format=FORMAT,
        protocol=Protocol.model_validate(study.protocol.values()),
        reward=config.reward.terms,
        seeds=list(study.seeds),
        alignment=axis,
        diversity=diversity,
        reading=reading,
        confidence=confidence,
        replicas=replicas,
        gain_shares=list(gain_shares),
        diversity_shares=list(diversity_shares),
        baseline=baseline,
        base=_means(first)[0],
        methods=[_method(m, samples[m.name].values, reference) for m in methods],
        gains=_gains(samples, baseline, levels, reading, confidence, replicas),
        settings=reference,
        **({"shaped": shaped} if shaped else {}),
    )


def _lines(value: Any, indent: str = "") -> str:
    """JSON with line breaks between objects; lists of numbers and small objects stay on a line."""
    inner = indent + " "
    if _has_objects(value):
        parts = f",\n{inner}".join(_lines(part, inner) for part in value)
        return f"[\n{inner}{parts}\n{indent}]"
    if isinstance(value, dict) and (not indent or any(map(_has_objects, value.values()))):
        rows = (f"{json.dumps(key)}: {_lines(part, inner)}" for key, part in value.items())
        return f"{{\n{inner}" + f",\n{inner}".join(rows) + f"\n{indent}}}"
    return json.dumps(value, ensure_ascii=False, allow_nan=False)


def _has_objects(value: Any) -> bool:
    return isinstance(value, list) and any(isinstance(part, dict) for part in value)


# --- methods and points ---------------------------------------------------------------------------


def _means(method: Method) -> list[dict[str, float]]:
    """Every measure's mean over seeds and prompts, for each point."""
    names = (*method.measures, "frechet")
    means = method.values(names).mean(axis=(0, 1))
    return [dict(zip(names, map(_rounded, point), strict=True)) for point in means]


def _method(method: Method, values: np.ndarray, reference: Mapping[str, Any]) -> MethodSummary:
    mean, by_seed, means = values.mean(axis=(0, 1)), values.mean(axis=1), _means(method)
    on_front = {tuple(point) for point in pareto.front(mean)[:, :2].tolist()}
    points = []
    for number, (strength, curve) in enumerate(zip(method.strengths, method.curves(), strict=True)):
        for variant, i in list(zip(strength.variants, curve, strict=True))[1:]:
            points.append(
                Point(
                    strength=number,
                    update=variant.update,
                    scale=variant.scale,
                    prompt_noise=variant.prompt_noise,
                    **({"aig": variant.aig} if variant.aig else {}),
                    measures=means[i],
                    by_seed={
                        "alignment": [_rounded(x) for x in by_seed[:, i, ALIGNMENT]],
                        "diversity": [_rounded(x) for x in by_seed[:, i, DIVERSITY]],
                    },
                    front=tuple(mean[i, :2].tolist()) in on_front,
                )
            )
    strengths = [_strength(strength, reference) for strength in method.strengths]
    return MethodSummary(name=method.name, strengths=strengths, points=points)


def _strength(strength: Strength, reference: Mapping[str, Any]) -> StrengthSummary:
    own = settings(strength.config)
    keys = sorted(
        key for key in own.keys() | reference.keys() if own.get(key) != reference.get(key)
    )
    runs = [
        RunSummary(
            name=run.path.resolve().name,
            seed=run.seed,
            backend=run.directory.config.run.backend,
            updates=run.directory.config.run.updates,
        )
        for run in strength.runs
    ]
    return StrengthSummary(
        label=strength.label, changes={key: own.get(key) for key in keys}, runs=runs
    )


# --- gains ----------------------------------------------------------------------------------------


def _gains(
    samples: Mapping[str, Sample],
    baseline: str,
    levels: Levels,
    reading: Reading,
    confidence: float,
    replicas: int,
) -> list[Gain]:
    """Every statistic of every method, with its interval and the two values behind it."""
    seeds, prompts = samples[baseline].values.shape[:2]
    draws = random.uniform(Key(0, Purpose.BOOTSTRAP), (replicas, seeds + prompts))
    intervals = gains.compare(
        samples, baseline, draws, levels=levels, reading=reading, confidence=confidence
    )
    curves = {
        name: Curves.from_means(sample.values.mean(axis=(0, 1)), sample.curves, reading)
        for name, sample in samples.items()
    }
    return [_gain(name, interval, curves, baseline, levels) for name, interval in intervals.items()]


def _gain(
    name: Name, interval: Interval, curves: Mapping[str, Curves], baseline: str, levels: Levels
) -> Gain:
    ours, theirs = curves[name.method], curves[baseline]
    base = theirs.points[0]
    numbers: dict[str, float | None] = interval._asdict()
    why = None
    if name.share is not None:
        at_alignment = name.statistic in ("diversity", "degradation")
        axis = ALIGNMENT if at_alignment else DIVERSITY
        level = (
            gains.alignment_level(theirs.points, name.share)
            if at_alignment
            else float(name.share * base[DIVERSITY])
        )
        column = 1 - axis if name.measure is None else 2 + levels.degradation.index(name.measure)
        points = {"value": ours.at(level, axis), "baseline": theirs.at(level, axis)}
        numbers |= {"level": level} | {
            key: None if point is None else float(point[column]) for key, point in points.items()
        }
        if interval.estimate is None:
            why = _why(ours, theirs, level, axis)
    elif interval.estimate is None:
        why = NO_GAIN
    rounded = {key: None if value is None else _rounded(value) for key, value in numbers.items()}
    return Gain.model_validate(name._asdict() | rounded | {"why": why})


def _why(ours: Curves, theirs: Curves, level: float | None, axis: int) -> str:
    """Why there is no ratio at a level, in words."""
    if level is None:
        return NO_GAIN
    for subject, curves in (("", ours), ("the baseline ", theirs)):
        if curves.at(level, axis) is None:
            what = ("aligned", "diverse")[axis]
            above = min(line[:, axis].min() for line in curves.lines) > level
            return f"{subject}{'stays more' if above else 'is never as'} {what}"
    return f"{NO_GAIN} there"


def _rounded(value: float) -> float:
    """Rounded to DIGITS significant digits."""
    return float(f"{value:.{DIGITS}g}")
