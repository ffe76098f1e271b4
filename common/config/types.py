"""Types of the keys in a configuration: ranges of numbers, choices, and the base of a table."""

from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
)


def _plain(name: str) -> str:
    if not name.isprintable() or set("/\\") & set(name) or name.startswith(".") or len(name) > 100:
        raise ValueError(f"{name[:100]!r} is no plain name: no folder, no control character")
    return name


def _several(value: Any) -> Any:
    return (value,) if isinstance(value, str) else value


def distinct(names: tuple[str, ...]) -> tuple[str, ...]:
    """The names. ValueError where one is named twice."""
    for name in names:
        if names.count(name) > 1:
            raise ValueError(f"'{name}' is named twice")
    return names


def _as_written(names: tuple[str, ...]) -> str | list[str]:
    return names[0] if len(names) == 1 else list(names)


MOST_STEPS = 10_000
"""Denoising steps at most: ten times as many as any model was trained with."""

Positive = Annotated[int, Field(ge=1)]
Unit = Annotated[float, Field(ge=0.0, le=1.0)]
NonNegative = Annotated[float, Field(ge=0.0, allow_inf_nan=False)]
AboveZero = Annotated[float, Field(gt=0.0, allow_inf_nan=False)]
Finite = Annotated[float, Field(allow_inf_nan=False)]
Name = Annotated[str, AfterValidator(_plain)]
"""A name that may become part of a file's: it stays in its folder."""
ONE_OR_SEVERAL = BeforeValidator(_several)
"""Marks a list that may be written as its only value."""
Names = Annotated[
    tuple[str, ...],
    Field(min_length=1, strict=False),
    ONE_OR_SEVERAL,
    AfterValidator(distinct),
    PlainSerializer(_as_written),
]
"""One name or several, each once; one is written as a text, several as a list."""
Setting = bool | int | float | str
"""The value of an option of a scorer."""

GuidanceGradient = Literal["both", "conditional"]
"""The branches of classifier-free guidance that carry gradients."""

GuidanceBatch = Literal["split", "joined"]
"""Whether the branches of classifier-free guidance share a forward pass."""

OnError = Literal["fail", "drop"]
"""The treatment of a score that is not finite: stop the run, or drop the sample."""

Precision = Literal["float32", "bfloat16", "float16"]
"""The dtype of frozen weights."""


class Table(BaseModel):
    """Base of every table: frozen, no unknown keys, defaults validated, true is not 1."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True, strict=True)


def key(default: Any, description: str, **limits: Any) -> Any:
    """One key of a table: its default, its meaning in words, and pydantic's limits on it."""
    return Field(default=default, description=description, **limits)
