"""Methods of a study compared with one of them: the summary that tables and plots are made from."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from common import random
from common.algorithm import pareto
from common.algorithm.pareto import ALIGNMENT, DIVERSITY, Interval
from common.comparison import attainable, attainable_shares, gains, noise, standing
from common.comparison.digits import rounded
from common.comparison.gains import Curves, Levels, Name, Reading, Sample
from common.comparison.methods import Method, Strength, Study, settings
from common.comparison.summary import (
    FORMAT,
    Gain,
    MethodSummary,
    Point,
    Protocol,
    RunSummary,
    StrengthSummary,
    Summary,
)
from common.evaluation import measured_runs
from common.evaluation.attainable_records import AxisLevels
from common.evaluation.records import IMAGES, IN_FEATURES
from common.random import Key, Purpose

NO_GAIN = "the baseline gained nothing over the base model"


def summarise(
    study: Study,
    baseline: str,
    *,
    axis: str = "reward",
    diversity: str = "diversity",
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
        axis: the measure of alignment, see `Study.alignment`.
        diversity: the measure of diversity, see `Study.diversity`.
        gain_shares: of the baseline's gain in alignment.
        diversity_shares: of the base model's diversity.
        reading: how levels are read from points; see `common.comparison.gains`.
        confidence: coverage of the intervals.
        replicas: of the bootstrap.
    """
    first = study.method(baseline)
    axis, spread = study.alignment(axis), study.diversity(diversity)
    methods = [first, *(method for method in study.methods if method is not first)]
    drift = noise.noise(study, methods, axis, spread)
    alone: dict[str, Any] = {} if drift is None else {"noise": drift}
    degradation = ("high_frequency", *study.protocol.overall)
    levels = Levels(tuple(gain_shares), tuple(diversity_shares), degradation)
    measures = (axis, spread, *degradation)
    samples = {m.name: _sample(m, measures, max(len(study.seeds), 1)) for m in methods}
    config, source = first.strengths[0].config, first.strengths[0].measured[0]
    reference = {} if config is None else settings(config)
    reward = measured_runs.rewards(source.directory)
    reached = attainable.find(study, axis, spread)
    fronts = reached.front.axes[axis] if reached.front else None
    limits = _limits(reached, axis, samples, baseline, levels, reading)
    return Summary(
        format=FORMAT,
        protocol=Protocol.model_validate(study.protocol.values()),
        reward={name: weight for name, weight in reward.items() if name != "combine"},
        seeds=list(study.seeds),
        alignment=axis,
        diversity=spread,
        reading=reading,
        confidence=confidence,
        replicas=replicas,
        gain_shares=list(gain_shares),
        diversity_shares=list(diversity_shares),
        baseline=baseline,
        base=_means(first)[0],
        methods=[_method(m, samples[m.name].values, reference, fronts) for m in methods],
        gains=_gains(samples, baseline, levels, reading, confidence, replicas),
        settings=reference,
        **_notes(study, methods, spread),
        **limits,
        **alone,
    )


def _sample(method: Method, measures: Sequence[str], seeds: int) -> Sample:
    """The values of a method. Images made elsewhere, without a seed, are the same for every one."""
    values = method.values(measures)
    return Sample(np.repeat(values, seeds // len(values), axis=0), method.curves())


def _notes(study: Study, methods: Sequence[Method], spread: str) -> dict[str, Any]:
    """`shaped`, `shaping`, `unmeasured`: those that are not empty. spread: the diversity axis."""
    by_method = {m.name: names for m in methods if (names := m.shaped(study.protocol))}
    measure, _, suffix = spread.partition("/")
    counts = measure in IN_FEATURES
    parts: dict[str, Any] = {
        "shaped": [name for name, names in by_method.items() if counts and suffix in names],
        "shaping": {name: list(names.values()) for name, names in by_method.items()},
        "unmeasured": standing.unmeasured(methods),
    }
    return {key: value for key, value in parts.items() if value}


def _limits(
    reached: attainable.Found,
    axis: str,
    samples: Mapping[str, Sample],
    baseline: str,
    levels: Levels,
    reading: Reading,
) -> dict[str, Any]:
    """`attainable` or `unattainable` of a summary, if there is something to say."""
    if reached.front is None:
        names = [run.path.resolve().name for run in reached.missing]
        return {"unattainable": names} if names else {}
    curves = _curves(samples, reading)
    return {
        "attainable": attainable_shares.attainable(
            reached.front, axis, curves, baseline, levels.gains
        )
    }


# --- methods and points ---------------------------------------------------------------------------


def _means(method: Method) -> list[dict[str, float]]:
    """Every measure's mean over seeds and prompts, for each point."""
    names = method.measures
    means = method.values(names).mean(axis=(0, 1))
    return [dict(zip(names, map(rounded, point), strict=True)) for point in means]


def _method(
    method: Method,
    values: np.ndarray,
    reference: Mapping[str, Any],
    fronts: AxisLevels | None,
) -> MethodSummary:
    mean, by_seed, means = values.mean(axis=(0, 1)), values.mean(axis=1), _means(method)
    by_seed = by_seed[:1] if method.made_elsewhere else by_seed
    on_front = {tuple(point) for point in pareto.front(mean)[:, :2].tolist()}
    points = []
    for number, (strength, curve) in enumerate(zip(method.strengths, method.curves(), strict=True)):
        for variant, i in list(zip(strength.variants, curve, strict=True))[1:]:
            points.append(
                Point(
                    strength=number,
                    update=None if variant == IMAGES else variant.update,
                    scale=variant.scale,
                    prompt_noise=variant.prompt_noise,
                    **({"aig": variant.aig} if variant.aig else {}),
                    measures=means[i],
                    by_seed={
                        "alignment": [rounded(x) for x in by_seed[:, i, ALIGNMENT]],
                        "diversity": [rounded(x) for x in by_seed[:, i, DIVERSITY]],
                    },
                    front=tuple(mean[i, :2].tolist()) in on_front,
                    **_attained(fronts, *mean[i, :2].tolist()),
                )
            )
    strengths = [_strength(strength, reference) for strength in method.strengths]
    elsewhere = {"made_elsewhere": True} if method.made_elsewhere else {}
    return MethodSummary(name=method.name, strengths=strengths, points=points, **elsewhere)


def _attained(fronts: AxisLevels | None, alignment: float, diversity: float) -> dict[str, float]:
    share = attainable_shares.reached(fronts, alignment, diversity) if fronts else None
    return {} if share is None else {"attained": rounded(share)}


def _strength(strength: Strength, reference: Mapping[str, Any]) -> StrengthSummary:
    own = {} if strength.config is None else settings(strength.config)
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
        label=strength.label, changes={key: own.get(key) for key in keys if own}, runs=runs
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
    curves = _curves(samples, reading)
    return [_gain(name, interval, curves, baseline, levels) for name, interval in intervals.items()]


def _curves(samples: Mapping[str, Sample], reading: Reading) -> dict[str, Curves]:
    return {
        name: Curves.from_means(sample.values.mean(axis=(0, 1)), sample.curves, reading)
        for name, sample in samples.items()
    }


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
    short = {key: None if value is None else rounded(value) for key, value in numbers.items()}
    return Gain.model_validate(name._asdict() | short | {"why": why})


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
