"""Measured runs as methods: seeds, strengths, and the check that methods can be compared.

A method is a recipe. Its strengths are its distinct configurations, its seeds the runs of each.
Weights measured with another adapter scale, with AIG or with CADS at inference are methods of their
own.
"""

import shlex
from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from common import config as configuration
from common.choices import ALIGNMENTS, DIVERSITIES
from common.config import Config
from common.errors import existing
from common.evaluation import measured_runs, neutral_runs, suggested
from common.evaluation.families import measures_for
from common.evaluation.measured_runs import BASE, Images, Measured, Run, StudyError
from common.evaluation.records import (
    HELD_OUT,
    IN_FEATURES,
    Protocol,
    Split,
    Variant,
    in_features,
)
from common.runs import checkpoint
from common.runs.directory import may_change

IDENTITY = frozenset({"run.seed", "run.backend", "evaluate.features", "evaluate.features_options"})
"""Keys that may differ between runs of one configuration, besides those that change no numbers.

The features that a comparison is made in are those of its protocol.
"""


@dataclass(frozen=True)
class Strength:
    """One curve of a method: the same variants of runs that differ only in their seed.

    label: its difference from the method's other strengths; "" when it is the only one. runs: in
    the order of their seeds. variants: in the order of the curve, the base model first, if there
    is one. images: what was made elsewhere, which has no runs.
    """

    label: str
    runs: tuple[Run, ...]
    variants: tuple[Variant, ...]
    images: Images | None = None

    @property
    def config(self) -> Config | None:
        """The configuration of the run with the lowest seed; None where there are no runs."""
        return self.runs[0].directory.config if self.runs else None

    @property
    def measured(self) -> tuple[Run | Images, ...]:
        """What has the measurements: the runs, or the images made elsewhere."""
        return self.runs if self.images is None else (self.images,)


@dataclass(frozen=True)
class Method:
    """A method: its name and its strengths."""

    name: str
    strengths: tuple[Strength, ...]

    @property
    def measures(self) -> tuple[str, ...]:
        """The names of what was measured."""
        first = self.strengths[0]
        return first.measured[0].records[first.variants[0]].measures

    @property
    def made_elsewhere(self) -> bool:
        """Whether it is a folder of images: no curve, no seeds."""
        return self.strengths[0].images is not None

    def shaped(self, how: Protocol) -> dict[str, str]:
        """The features that shape a reward of it: their names by what ends their measures' names.

        "" ends those of the first features.
        """
        names = how.feature_names
        shaping: dict[str, str] = {}
        for config in (each.config for each in self.strengths if each.config is not None):
            measures = measures_for(config.model.family)
            those = measures.shaped(config, tuple(names.values()))
            shaping |= {
                suffix: name or measures.OWN_FEATURES
                for suffix, name in names.items()
                if name in those
            }
        return shaping

    def values(self, measures: Sequence[str]) -> np.ndarray:
        """Measures of every point: float64 [S seeds, P prompts, N, len(measures)].

        S is 1 for images made elsewhere.
        The points are those of the first strength, then of the second, and so on, as `curves`
        numbers them. A measure of all images together, as `frechet`, is the same for each prompt.
        """
        by_strength = [
            np.array(
                [
                    [[run.records[v].values(name) for name in measures] for v in curve.variants]
                    for run in curve.measured
                ]
            )
            for curve in self.strengths
        ]  # each [S, points, measures, P]
        return np.concatenate(by_strength, axis=1).transpose(0, 3, 1, 2)

    def curves(self) -> list[range]:
        """For each strength the numbers of its points in `values`."""
        ends = np.cumsum([len(strength.variants) for strength in self.strengths]).tolist()
        return [range(start, end) for start, end in zip([0, *ends], ends, strict=False)]


@dataclass(frozen=True)
class Study:
    """Methods that can be compared: the same protocol and the same seeds.

    seeds: those of the runs; () where there are only images made elsewhere. neutral: runs that only
    noise moved; they are no method, and any seeds are theirs.
    """

    protocol: Protocol
    seeds: tuple[int, ...]
    methods: tuple[Method, ...]
    neutral: tuple[Run, ...] = ()

    def alignment(self, name: str) -> str:
        """The measure of that name, or of the held-out scorer.

        Raises StudyError with the names of those that were measured.
        """
        there = self.methods[0].measures
        known = {each: each for each in ALIGNMENTS if each in there}
        known |= {HELD_OUT + scorer: HELD_OUT + scorer for scorer in self.protocol.scorers}
        known |= {scorer: HELD_OUT + scorer for scorer in self.protocol.scorers}
        return _measured(name, known)

    def diversity(self, name: str) -> str:
        """The measure of that name, or the mean distance in the features of that name.

        Raises StudyError with those that were measured.
        """
        there, how = self.methods[0].measures, self.protocol
        known = {each: each for each in DIVERSITIES if each in there}
        for suffix, features in how.feature_names.items():
            for measure in (each for each in DIVERSITIES if each in IN_FEATURES):
                known.setdefault(in_features(measure, suffix), in_features(measure, suffix))
            known.setdefault(features, in_features("diversity", suffix))
        return _measured(name, known)

    def method(self, name: str) -> Method:
        """The method of that name. Raises StudyError with the valid names."""
        for method in self.methods:
            if method.name == name:
                return method
        names = [method.name for method in self.methods]
        hint = configuration.closest(name, names)
        raise StudyError(f"no method '{name}' among the runs{hint}{existing(names)}")


def gather(paths: Iterable[Path], split: Split, until: int | None = None) -> Study:
    """Read the runs at these paths, or in folders below them, and sort them into methods.

    until: the last update that counts; all of them when None.

    Raises StudyError for runs that cannot be compared, RunError and RecordError for damaged ones;
    see `measured_runs.read`.
    """
    measured = measured_runs.read(paths, split, until)
    return sort(measured, neutral_runs.read(measured, until))


def sort(measured: Measured, neutral: Sequence[Run] = ()) -> Study:
    """The methods of what `measured_runs.read` gave. StudyError as for `gather`."""
    protocol, runs, elsewhere, _ = measured
    by_name: dict[str, list[tuple[list[Run], Family]]] = {}
    for same in _same_configuration(runs):
        for family in _families(same):
            by_name.setdefault(family.method, []).append((same, family))
    methods = [_method(name, curves) for name, curves in by_name.items()]
    seeds = _common_seeds(methods)
    for images in elsewhere:
        if any(method.name == images.name for method in methods):
            raise StudyError(
                f"two methods are called {images.name}, one of them the images of {images.path}: "
                "measure these again with another --name"
            )
        methods.append(Method(images.name, (Strength("", (), tuple(images.records), images),)))
    return Study(protocol, seeds, tuple(methods), tuple(neutral))


def plain(study: Study) -> Method:
    """The default baseline: the only method that trains with plain GRPO, or the first images.

    A KL penalty counts as plain where no method is without one, as in Flow-GRPO; images count only
    where there are no runs. Raises StudyError when there is no plain GRPO or several methods of it.
    """
    if all(method.made_elsewhere for method in study.methods):
        return study.methods[0]
    penalised = [
        method
        for method in study.methods
        if all(_is_plain(each.config) for each in method.strengths if each.config is not None)
        and not method.made_elsewhere
        and not any(variant.changes for variant in method.strengths[0].variants)
    ]
    candidates = [
        method
        for method in penalised
        if not any(each.config and each.config.objective.kl_weight for each in method.strengths)
    ] or penalised
    if len(candidates) != 1:
        names = ", ".join(shlex.quote(method.name) for method in candidates or study.methods)
        many = "several methods are" if candidates else "no method is"
        raise StudyError(f"{many} plain GRPO: say which is the baseline, --baseline NAME ({names})")
    return candidates[0]


def _measured(name: str, known: Mapping[str, str]) -> str:
    if name not in known:
        there = [each for each in known if each and not each.startswith(HELD_OUT)]
        raise StudyError(f"the runs were not measured with {name}; there are {', '.join(there)}")
    return known[name]


# --- methods, strengths and seeds -----------------------------------------------------------------


@dataclass(frozen=True)
class Family:
    """The variants of one configuration on one curve of one method; `detail` labels the curve."""

    method: str
    detail: str
    variants: tuple[Variant, ...]


def settings(config: Config) -> dict[str, Any]:
    """The settings that determine a run's numbers, by dotted key; without seed and backend."""
    flat = configuration.flatten(configuration.to_tables(config))
    free = may_change(config) | IDENTITY
    return {key: value for key, value in flat.items() if key not in free}


def _same_configuration(runs: Sequence[Run]) -> list[list[Run]]:
    """Groups of runs of one recipe that differ only in their seed, in the order of the seeds."""
    groups: dict[tuple[str, str], list[Run]] = {}
    for run in runs:
        config = run.directory.config
        key = (config.run.recipe, repr(sorted(settings(config).items())))
        groups.setdefault(key, []).append(run)
    for group in groups.values():
        group.sort(key=lambda run: run.seed)
        for one, other in pairwise(group):
            if one.seed == other.seed:
                raise StudyError(
                    f"{one.path} and {other.path} are the same method, configuration and seed "
                    f"({one.seed}): name one of them"
                )
            for has, lacks in ((one, other), (other, one)):
                if lacking := has.records.keys() - lacks.records.keys():
                    raise StudyError(_lacking(has, lacks, lacking))
    return list(groups.values())


def _lacking(has: Run, lacks: Run, variants: Set[Variant]) -> str:
    """What a run lacks, and the command that measures it, or what must come before."""
    text = f"{lacks.path} was not measured at {words(min(variants))}, as {has.path} was"
    there = {0, *checkpoint.updates(lacks.directory.checkpoints)}
    if absent := {variant.update for variant in variants} - there:
        last = max(there)
        until = f", or compare with --until {last}" if last else ""
        return f"{text}, and has no checkpoint after update {min(absent)}: train it further{until}"
    measured = [*lacks.records.values(), *has.records.values()]
    return f"{text}: run `{suggested.eval_run(lacks.directory, measured, variants)}`"


def words(variant: Variant) -> str:
    """A variant in words."""
    what = f"update {variant.update}" if variant.update else "the base model"
    return ", ".join([what, *variant.changes])


def _families(runs: Sequence[Run]) -> list[Family]:
    """The curves of runs of one configuration.

    As trained: over the updates. With another adapter scale: over the scales of one update, scale 1
    included. With AIG: over the exponents of one update, from the base model's side to 0, the tuned
    model. With CADS: over the updates at one strength.
    """
    recipe, variants = runs[0].directory.config.run.recipe, sorted(runs[0].records)
    curves: dict[tuple[str, str], list[Variant]] = {}
    for variant in variants:
        name, detail, whole = recipe, "", None
        if variant.scale != 1:
            whole = replace(variant, scale=1.0)
            name = ", ".join([recipe, "adapter scale", *whole.changes])
        elif variant.aig:
            whole = replace(variant, aig=0.0)
            name = ", ".join([recipe, "AIG", *whole.changes])
        elif variant.prompt_noise:
            name, detail = f"{recipe}, CADS", *variant.changes
        if whole is not None:
            detail = f"update {variant.update}"
        if variant != BASE:
            curve = curves.setdefault((name, detail), [])
            curve += [variant, *({whole} & runs[0].records.keys() - {*curve})]
    return [
        Family(name, detail, (BASE, *sorted(curve, key=lambda v: (v.update, v.scale, -v.aig))))
        for (name, detail), curve in curves.items()
    ]


def _method(name: str, curves: Sequence[tuple[list[Run], Family]]) -> Method:
    """A method from its curves, each labelled by the settings in which they differ."""
    each = [settings(runs[0].directory.config) for runs, _ in curves]
    varied = [
        key for key in sorted(set().union(*each)) if len({repr(one.get(key)) for one in each}) > 1
    ]
    strengths = []
    for (runs, family), one in zip(curves, each, strict=True):
        parts = [f"{key.rpartition('.')[2]} {_short(one.get(key))}" for key in varied]
        if family.detail and len({other.detail for _, other in curves}) > 1:
            parts.append(family.detail)
        strengths.append(Strength(", ".join(parts), tuple(runs), family.variants))
    return Method(name, tuple(strengths))


def _common_seeds(methods: Sequence[Method]) -> tuple[int, ...]:
    """The seeds of every strength of every method of runs. Raises StudyError where they differ."""
    curves = [(method, strength) for method in methods for strength in method.strengths]
    if not curves:
        return ()
    _, first = curves[0]
    expected = [run.seed for run in first.runs]
    for method, strength in curves:
        seeds = [run.seed for run in strength.runs]
        if seeds != expected:
            name = f"{methods[0].name}{_in_brackets(first.label)}"
            other = f"{method.name}{_in_brackets(strength.label)}"
            raise StudyError(
                f"methods are compared seed by seed, but {name} has the seeds {_listed(expected)} "
                f"and {other} has {_listed(seeds)}: run and measure those that are missing"
            )
    return tuple(expected)


def _is_plain(config: Config) -> bool:
    """Whether there is no mechanism but the KL penalty."""
    drift = config.drift
    return (
        drift.subset.rule == "none"
        and drift.noise.strength == drift.noise.pooled_strength == 0
        and drift.shaping.mode == "none"
    )


def _short(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, list | tuple):
        return " ".join(map(_short, value))
    return "none" if value is None else str(value)


def _in_brackets(text: str) -> str:
    return f" ({text})" if text else ""


def _listed(seeds: Sequence[int]) -> str:
    return ", ".join(map(str, seeds))
