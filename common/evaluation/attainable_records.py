"""What `drift eval --attainable` stores of a run: RUN/evaluation/attainable.json.

`drift compare` and the report read it. One entry for each set of base images: what they were made
from, their scores, and the fronts that were solved on them. It is written whole, so that a kill
loses nothing that was there.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from common import reading
from common.choices import Split
from common.config import Config
from common.evaluation.records import Protocol, RecordError
from common.runs import files
from common.runs.directory import RunDirectory

FILE = Path("evaluation") / "attainable.json"
"""Path within a run directory."""

REWARD = "reward"
"""The measure that is a run's own reward."""

SHARES = (0.25, 0.5, 0.75, 0.9)
"""Of the reward's range above the base model, where tables show the fronts."""

ROUNDING = 1e-9
"""Differences of diversity below it are rounding, also where there is no spread at all."""

Numbers = list[float | None]
"""None where there is no number."""


class Part(BaseModel):
    """A frozen part of the file; unknown keys and numbers that are not finite are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Band(Part):
    """Values at levels and their intervals."""

    value: Numbers
    low: Numbers
    high: Numbers


class AxisLevels(Part):
    """Both fronts at levels of one measure of alignment, from the base model's to their highest.

    kl, best: diversity on the KL front and on the diversity front. gain: best / kl - 1. halves: the
    gain that each half of the images gives alone, their mean. No levels: the measure does not rise.
    """

    level: list[float]
    kl: Band
    best: Band
    gain: Band
    halves: Numbers

    @model_validator(mode="after")
    def _check(self) -> "AxisLevels":
        bands = [
            part for band in (self.kl, self.best, self.gain) for part in band.model_dump().values()
        ]
        if {len(part) for part in (*bands, self.halves)} != {len(self.level)}:
            raise ValueError("a front needs one value for each level")
        if self.level != sorted(set(self.level)):
            raise ValueError("levels must rise")
        return self

    def between(self, level: float) -> "Between | None":
        """Both fronts at any alignment, linear between the levels; None beyond the last one.

        Below the base model's alignment they are what they are there.
        """
        if not self.level or level > self.level[-1]:
            return None
        pairs = {
            "kl": self.kl.value,
            "best": self.best.value,
            "kl_high": self.kl.high,
            "best_low": self.best.low,
        }
        values = {
            name: _interpolated(level, self.level, numbers) for name, numbers in pairs.items()
        }
        kl, best, high, low = values.values()
        if kl is None or best is None:
            return None
        return Between(kl, best, _is_clear(low, high))

    def at(self, share: float) -> int:
        """The number of the level nearest to a share of the range."""
        return round(share * (len(self.level) - 1))

    def clear(self, number: int) -> bool:
        """Whether the fronts are further from each other than their intervals at a level."""
        return _is_clear(self.best.low[number], self.kl.high[number])


class Between(NamedTuple):
    """Diversity on both fronts; clear: the gap between them is larger than their intervals."""

    kl: float
    best: float
    clear: bool


def _is_clear(low: float | None, high: float | None) -> bool:
    """Whether the lower end of the diversity front is above the upper end of the KL front."""
    return low is not None and high is not None and low > high + ROUNDING


def _interpolated(at: float, levels: list[float], values: Numbers) -> float | None:
    """The value at a level; None where a neighbour has none."""
    known = np.array([np.nan if value is None else value for value in values])
    value = float(np.interp(at, levels, known))
    return value if np.isfinite(value) else None


class Solved(Part):
    """Both fronts of N images of each prompt, with no image more than c times as likely.

    samples, ratio: N and c. features: as a protocol names them. rewards: the measure that the
    weights were chosen by. base: every axis and "diversity" at even weights. axes: the fronts by
    measure of alignment. gap: largest duality gap, in ranges of the rewards of a prompt. left_out:
    images that have no such reward. replicas, confidence: of the intervals.
    """

    samples: int
    ratio: float
    features: str
    rewards: str
    base: dict[str, float]
    axes: dict[str, AxisLevels]
    gap: float
    left_out: int
    replicas: int
    confidence: float


class Images(Part):
    """Everything that determines the base images and the reward that weights are chosen by."""

    model: str
    split: Split
    prompts: list[str]
    steps: int
    seed: int
    sampler: str
    reward: dict[str, Any]


class Entry(Part):
    """scores: of each image, [P][N], by "reward/TERM", "heldout/NAME" or the measure's name."""

    images: Images
    scores: dict[str, list[Numbers]]
    fronts: list[Solved]

    @model_validator(mode="after")
    def _check(self) -> "Entry":
        for name, rows in self.scores.items():
            lengths = {len(row) for row in rows}
            if len(rows) != len(self.images.prompts) or len(lengths) > 1:
                raise ValueError(f"'{name}' needs equally many scores of each prompt")
        return self

    def front(self, samples: int, ratio: float, features: str, rewards: str) -> Solved | None:
        """The fronts that were solved so, if they are there."""
        wanted = (samples, ratio, features, rewards)
        for front in self.fronts:
            if (front.samples, front.ratio, front.features, front.rewards) == wanted:
                return front
        return None


class Stored(Part):
    """The whole file."""

    format: Literal[1] = 1
    entries: list[Entry] = Field(default_factory=list)

    def entry(self, images: Images) -> Entry:
        """The entry of these images; an empty one where there is none."""
        for entry in self.entries:
            if entry.images == images:
                return entry
        return Entry(images=images, scores={}, fronts=[])

    def adopted(self, other: "Stored") -> "Stored":
        """The same file with the other's entries of images that it has none of."""
        own = [entry.images for entry in self.entries]
        return Stored(entries=[*self.entries, *(e for e in other.entries if e.images not in own)])

    def with_entry(self, entry: Entry) -> "Stored":
        """The same file with the entry in the place of the one of its images."""
        others = [other for other in self.entries if other.images != entry.images]
        return Stored(entries=[*others, entry])


def images_of(config: Config, how: Protocol) -> Images:
    """What a run's base images are made from under a protocol."""
    reward = config.reward.model_dump(
        mode="json", include={"terms", "combine", "floors", "ceilings", "options"}
    )
    return Images(
        model=how.model,
        split=how.split,
        prompts=list(how.prompts),
        steps=how.steps,
        seed=how.seed,
        sampler=how.sampler,
        reward=reward,
    )


def load(run: RunDirectory) -> Stored:
    """What is stored of a run; nothing where there is no file. RecordError where it is damaged."""
    path = run.path / FILE
    try:
        with files.os_errors_as(f"read {path}", RecordError):
            content = reading.content(path)
        return Stored.model_validate(reading.json_document(content))
    except RecordError as error:
        if not path.exists() and not path.is_symlink():
            return Stored()
        raise error
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "the file"
        reason = f"{where}: {first['msg']}"
    except ValueError as error:
        reason = str(error)
    raise RecordError(
        f"{path}: not what `drift eval --attainable` stores ({reason}); remove it and run that "
        "command again"
    )


def save(run: RunDirectory, stored: Stored) -> None:
    """Write or replace the file. Raises files.WriteError; the old one is then still there."""
    path = run.path / FILE
    text = json.dumps(stored.model_dump(mode="json"), allow_nan=False)
    with files.os_errors_as(f"write {path}"):
        files.write_whole(path, text.encode())


def numbers(values: Sequence[float] | np.ndarray) -> Numbers:
    """Numbers as JSON has them, None for what is not finite."""
    return [float(value) if np.isfinite(value) else None for value in values]


def array(values: Sequence[Numbers]) -> np.ndarray:
    """The inverse for rows of numbers, float64 with NaN for None."""
    return np.array([[np.nan if v is None else v for v in row] for row in values], dtype=np.float64)
