"""Folders of images side by side, without a base model: every measure, and its differences."""

from typing import Any, Literal

import numpy as np
from pydantic import Field

from common import random
from common.algorithm import pareto
from common.comparison.digits import rounded
from common.comparison.methods import Study
from common.comparison.summary import Part, Protocol
from common.random import Key, Purpose

FORMAT = 1
"""Version of the JSON."""


class Difference(Part):
    """A measure of a method minus the baseline's, mean over the prompts.

    low, high: bootstrap interval over the prompts; null for one prompt, and for measures of all
    images together.
    """

    method: str
    measure: str
    estimate: float
    low: float | None = None
    high: float | None = None


class SideBySide(Part):
    """All numbers of such a comparison. methods: each measure's mean, by method, baseline first."""

    format: Literal[1] = FORMAT
    protocol: Protocol
    baseline: str
    confidence: float
    replicas: int
    methods: dict[str, dict[str, float]] = Field(min_length=1)
    differences: list[Difference]

    @property
    def names(self) -> list[str]:
        """The methods, the baseline first."""
        return [*self.methods]

    def gain_rows(self) -> list[dict[str, Any]]:
        """A row for each difference."""
        return [difference.model_dump() for difference in self.differences]

    def point_rows(self) -> list[dict[str, Any]]:
        """A row of measures for each method."""
        return [{"method": name, **each} for name, each in self.methods.items()]

    @property
    def measures(self) -> tuple[str, ...]:
        """The names of what was measured."""
        return tuple(self.methods[self.baseline])


def summarise(
    study: Study, baseline: str, *, confidence: float = 0.95, replicas: int = 2000
) -> SideBySide:
    """Compare images without a base model; StudyError without a method of the baseline's name.

    Args:
        study: methods that are images alone.
        baseline: name of the method to compare the others with.
        confidence: coverage of the intervals.
        replicas: of the bootstrap.
    """
    first = study.method(baseline)
    methods = [first, *(method for method in study.methods if method is not first)]
    names = first.measures
    values = {method.name: method.values(names)[0, :, 0] for method in methods}  # [P, measures]
    return SideBySide(
        format=FORMAT,
        protocol=Protocol.model_validate(study.protocol.values()),
        baseline=baseline,
        confidence=confidence,
        replicas=replicas,
        methods={
            name: dict(zip(names, map(rounded, each.mean(axis=0)), strict=True))
            for name, each in values.items()
        },
        differences=[
            _difference(name, measure, column, confidence, replicas)
            for name, each in values.items()
            if name != baseline
            for measure, column in zip(names, (each - values[baseline]).T, strict=True)
        ],
    )


def _difference(
    method: str, measure: str, by_prompt: np.ndarray, confidence: float, replicas: int
) -> Difference:
    """by_prompt: [P]. The interval widens as Student's does, as for seeds in `bootstrap_all`."""
    numbers: dict[str, float | None] = {"estimate": float(by_prompt.mean())}
    if np.ptp(by_prompt) > 0:
        draws = random.uniform(Key(0, Purpose.BOOTSTRAP), (replicas, len(by_prompt) + 1))
        interval = pareto.bootstrap(float, [by_prompt[:, None]], draws, level=confidence)
        numbers |= {"low": interval.low, "high": interval.high}
    kept = {key: rounded(value) for key, value in numbers.items() if value is not None}
    return Difference.model_validate({"method": method, "measure": measure, **kept})
