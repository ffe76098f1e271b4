"""What the tables of a configuration are made of: limits of numbers, and one key."""

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

Positive = Annotated[int, Field(ge=1)]
Unit = Annotated[float, Field(ge=0.0, le=1.0)]
NonNegative = Annotated[float, Field(ge=0.0, allow_inf_nan=False)]
AboveZero = Annotated[float, Field(gt=0.0, allow_inf_nan=False)]
Finite = Annotated[float, Field(allow_inf_nan=False)]
Setting = bool | int | float | str
"""What an option of a scorer may be."""


class Table(BaseModel):
    """Base of every table: frozen, no unknown keys, defaults validated, true is not 1."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True, strict=True)


def key(default: Any, description: str, **limits: Any) -> Any:
    """One key of a table: its default, what it means in words, and pydantic's limits on it."""
    return Field(default=default, description=description, **limits)
