"""A comparison as data: all numbers of its page and plots.

`drift compare --json` prints it and `compare.json` contains it. It has no paths and no pictures, so
it can be stored with a project, and tables and plots can be made from it again.
"""

import json
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from common.choices import Standing
from common.comparison.attainable_shares import Attainable
from common.comparison.gains import Reading
from common.comparison.noise import Noise
from common.errors import RequestError
from common.evaluation.records import FRECHET, FRECHET_REAL, MEASURES, Split, feature_name

FORMAT = 1
"""Version of the JSON; a reader refuses any other."""

ALL_MEASURES = (*MEASURES, FRECHET, FRECHET_REAL)
"""Every measure, without those in further features and by held-out rewards."""

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

    update: null for images made elsewhere.
    strength: number of its curve. measures: every measure's mean. by_seed: alignment and
    diversity, as chosen for the comparison, of each seed. front: on the method's Pareto front.
    attained: its share of what is possible at most, see `attainable_shares.reached`.
    """

    strength: int
    update: int | None
    scale: float
    prompt_noise: float
    aig: float = 0.0
    measures: dict[str, float]
    by_seed: dict[Literal["alignment", "diversity"], list[float]]
    front: bool
    attained: float | None = None


class MethodSummary(Part):
    """A method; its points in the order of its curves, without the base model.

    made_elsewhere: it is a folder of images, one point without runs and seeds.
    """

    name: str
    strengths: list[StrengthSummary]
    points: list[Point]
    made_elsewhere: bool = False


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
    more_features: list[str] = []
    real: str = ""

    @property
    def labels(self) -> dict[str, str]:
        """The features in words, by what ends the names of their measures; "" first."""
        return {"": self.features, **{feature_name(each): each for each in self.more_features}}


class Summary(Part):
    """A whole comparison.

    base: every measure of the model before tuning. settings: of the baseline (its first
    strength), by dotted key; other configurations list only their changes. shaped: the methods
    whose reward is shaped with the features that diversity is measured in. shaping: for each of
    them and of the others so shaped, the names of all such features. unmeasured: the standing
    baselines that a method lacks, by its name. attainable: the fronts of what is possible at most,
    where all runs have the same. unattainable: where only some runs have any, the names of the
    others. noise: what neutral runs move, where there are some.
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
    shaping: dict[str, list[str]] = {}
    unmeasured: dict[str, list[Standing]] = {}
    attainable: Attainable | None = None
    unattainable: list[str] = []
    noise: Noise | None = None

    @property
    def names(self) -> list[str]:
        """The methods, the baseline first."""
        return [method.name for method in self.methods]

    def gain_rows(self) -> list[dict[str, Any]]:
        """A row for each statistic of each method against the baseline."""
        return [gain.model_dump() for gain in self.gains]

    def point_rows(self) -> list[dict[str, Any]]:
        """A row for each measured point of each method, without the base model."""
        return [
            {
                "method": method.name,
                "configuration": method.strengths[point.strength].label,
                "update": point.update,
                "scale": point.scale,
                "prompt_noise": point.prompt_noise,
                "aig": point.aig,
                "front": point.front,
                **point.measures,
            }
            for method in self.methods
            for point in method.points
        ]

    @property
    def degradation(self) -> tuple[str, ...]:
        """The measures that rise when images degrade."""
        degraded = (gain.measure for gain in self.gains if gain.statistic == "degradation")
        return tuple(dict.fromkeys(measure for measure in degraded if measure is not None))

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


def to_json(summary: Part) -> str:
    """A summary as JSON: one line per key, and one line per object of a list."""
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
