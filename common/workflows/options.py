"""The options of evaluating, comparing and sampling, with their limits; the commands' are equal."""

from typing import Annotated, Any, TypeVar

from pydantic import Field, ValidationError

from common.choices import EXPONENT, SCALE, STRENGTH, Reading, Split, Standing
from common.config import Table, errors, key
from common.config.types import Positive
from common.errors import RequestError

Seed = Annotated[int, Field(ge=0, lt=2**63)]
Share = Annotated[float, Field(gt=0.0, le=1.0)]
Scale = Annotated[float, Field(ge=SCALE[0], le=SCALE[1], allow_inf_nan=False)]
Strength = Annotated[float, Field(ge=STRENGTH[0], le=STRENGTH[1], allow_inf_nan=False)]
Exponent = Annotated[float, Field(ge=EXPONENT[0], le=EXPONENT[1], allow_inf_nan=False)]


class MeasuringOptions(Table):
    """What `drift eval` takes with and without --attainable."""

    splits: tuple[Split, ...] = key(("train", "test"), "which prompts", strict=False)
    prompts: Annotated[int, Field(ge=0)] = key(24, "of each split, at most; 0 = all")
    steps: Positive = key(20, "of the ODE")
    seed: Seed = key(0, "of the initial noise")
    scorers: tuple[str, ...] = key(
        (), "held-out rewards; () = the run's evaluate.scorers", strict=False
    )
    features: tuple[str, ...] = key(
        (), "image features; () = the run's evaluate.features", strict=False
    )

    @property
    def asked(self) -> tuple[str, ...]:
        """What the user names, written as `consent.required_for` takes it."""
        scorers = (f"evaluate.scorers={name}" for name in self.scorers)
        return (*scorers, *(f"evaluate.features={name}" for name in self.features))


class EvaluateOptions(MeasuringOptions):
    """Options of `drift.evaluate` and `drift eval`."""

    images: Annotated[int, Field(ge=2)] = key(16, "of each prompt")
    scales: tuple[Scale, ...] = key((1.0,), "factors on the trained weights", strict=False)
    prompt_noise: tuple[Strength, ...] = key((0.0,), "strengths of CADS at inference", strict=False)
    aig: tuple[Exponent, ...] = key(
        (0.0,), "exponents of annealed importance guidance; 0 = none", strict=False
    )
    real: str | None = key(None, "a folder of real images; None = the run's evaluate.real")


class AttainableOptions(MeasuringOptions):
    """Options of `drift.attainable` and `drift eval --attainable`."""

    samples: Positive = key(256, "N, images of each prompt")
    ratio: Annotated[float, Field(gt=1.0, allow_inf_nan=False)] | None = key(
        None, "c, how much more likely an image may become; None = N/8"
    )


class SampleOptions(Table):
    """Options of `drift.sample` and `drift sample`."""

    prompts: tuple[str, ...] = key((), "one row of images each", strict=False, min_length=1)
    count: Positive = key(16, "images of each prompt")
    seed: Seed | None = key(None, "of the initial noise; None = the run's")
    scale: Scale = key(1.0, "factor on the trained weights")
    prompt_noise: Strength = key(0.0, "strength of CADS at inference")
    aig: Exponent = key(0.0, "exponent of annealed importance guidance; 0 = none")


class CompareOptions(Table):
    """Options of `drift.compare` and `drift compare`."""

    split: Split = key("test", "which prompts count")
    until: Positive | None = key(None, "leave out what was measured after more updates")
    axis: str = key("reward", "which alignment counts")
    diversity: str = key("diversity", "which diversity counts, or the features it is in")
    gain_shares: tuple[Share, ...] = key(
        (0.25, 0.5, 0.75, 0.9), "of the baseline's gain", strict=False, min_length=1
    )
    diversity_shares: tuple[Share, ...] = key(
        (0.8, 0.6), "of the base model's diversity", strict=False, min_length=1
    )
    curve: Reading = key("front", "the best points, or the checkpoints in order")
    standing: tuple[Standing, ...] = key(
        (), "standing baselines that are measured first", strict=False
    )
    replicas: Annotated[int, Field(ge=100)] = key(2000, "draws of the bootstrap")


_Options = TypeVar("_Options", bound=Table)


def checked(kind: type[_Options], **values: Any) -> _Options:
    """The options of that kind. Raises RequestError, which names the first one that is wrong."""
    try:
        return kind(**values)
    except ValidationError as error:
        raise RequestError(errors.explain(error, kind)) from None
