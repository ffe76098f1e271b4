"""The tables of what is measured: `[reward]`, `[audit]` and `[evaluate]`."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from common.algorithm.combine import Combination
from common.config.types import (
    MOST_STEPS,
    AboveZero,
    Finite,
    Names,
    OnError,
    Positive,
    Setting,
    Table,
    Unit,
    key,
)


class RewardConfig(Table):
    """`[reward]`: the scores that are maximised."""

    terms: dict[str, Finite] = key({"embedded": 10.0}, "reward name -> weight")
    combine: Combination = key(
        "weighted_sum",
        "group_zscore scales each term within its group first (GDPO); minimum = the worst term",
    )
    floors: dict[str, Finite] = key(
        {}, "reward name -> a sample below it gets the lowest reward of its group"
    )
    ceilings: dict[str, Finite] = key({}, "reward name -> scores above it count as equal to it")
    options: dict[str, dict[str, Setting]] = key(
        {}, "reward name -> its own settings, which `drift rewards NAME` lists"
    )
    cache: str | None = key(
        None, "SQLite file that keeps scores of exact rewards between runs; unset = memory only"
    )
    timeout: AboveZero = key(300.0, "seconds that one call of a reward may take")
    on_error: OnError = key("fail", "a score that is not finite stops the run, or drops the sample")

    @model_validator(mode="after")
    def _check(self) -> "RewardConfig":
        if not self.terms or all(weight == 0 for weight in self.terms.values()):
            raise ValueError("terms needs at least one reward with a weight other than 0")
        for table in ("floors", "ceilings", "options"):
            if strange := sorted(getattr(self, table).keys() - self.terms.keys()):
                raise ValueError(
                    f"{table}.{strange[0]}: no such term; terms has {', '.join(sorted(self.terms))}"
                )
        return self

    @property
    def summary(self) -> str:
        """The terms with their weights, and how they are combined, in a few words."""
        terms = ", ".join(f"{name} = {weight:g}" for name, weight in self.terms.items())
        plain = self.combine == "weighted_sum" or len(self.terms) == 1
        return terms if plain else f"{terms} (combine = {self.combine})"


class AuditConfig(Table):
    """`[audit]`: measuring scorers that are not maximised, during the run."""

    every: Annotated[int, Field(ge=0)] = key(0, "updates between two audits; 0 = none")
    images: Annotated[int, Field(ge=2)] = key(8, "images of each prompt")
    scorers: tuple[str, ...] = key(
        (),
        "held-out rewards to watch; [] = evaluate.scorers, or without any the embedded held-out "
        "scorer",
        strict=False,
    )
    tolerance: AboveZero = key(
        0.3, "a fall below the base model by more standard deviations within a prompt is an alarm"
    )
    action: Literal["warn", "stop", "weaken"] = key(
        "warn", "action at an alarm; weaken lowers the weight of the term that rose most"
    )
    factor: Unit = key(0.5, "what `weaken` multiplies that weight by")


class EvaluateConfig(Table):
    """`[evaluate]`: measuring the policy on fixed initial noise as it trains."""

    every: Positive = key(
        20, "updates between two evaluations; before the first and after the last update too"
    )
    images: Annotated[int, Field(ge=2)] = key(16, "images of each prompt")
    steps: Annotated[int, Field(ge=1, le=MOST_STEPS)] = key(20, "ODE steps")
    prompts: Annotated[int, Field(ge=0)] = key(0, "number of prompts, the first ones; 0 = all")
    grid: Positive = key(8, "images of each prompt in the picture")
    features: Names = key(
        ("embedded_heldout",),
        "image features that diversity is measured with, one name or several; not those of shaping",
    )
    features_options: dict[str, Setting | dict[str, Setting]] = key(
        {},
        "settings of the features, as the path of their weights; of several features by their "
        "names, as `features_options.clip.path`",
    )
    scorers: tuple[str, ...] = key(
        (), "held-out rewards that the images are scored with, each an axis of its own",
        strict=False,
    )  # fmt: skip
    real: str | None = key(
        None, "folder of real images: `drift eval` measures the Frechet distance to them too"
    )

    @model_validator(mode="after")
    def _check(self) -> "EvaluateConfig":
        for name, value in self.features_options.items():
            named = isinstance(value, dict)
            if named and name not in self.features:
                raise ValueError(
                    f"features_options.{name}: no such features; features has "
                    f"{', '.join(self.features)}"
                )
            if not named and len(self.features) > 1:
                raise ValueError(
                    f"features_options.{name}: of which features? Write "
                    f"features_options.NAME.{name}, with one of {', '.join(self.features)}"
                )
        return self

    def options_of(self, features: str) -> dict[str, Setting]:
        """The settings of the features of that name; {} where there are none."""
        options: dict[str, Setting] = {}
        named = self.features_options.get(features)
        if isinstance(named, dict):
            options |= named
        if features == self.features[0]:
            options |= {k: v for k, v in self.features_options.items() if not isinstance(v, dict)}
        return options
