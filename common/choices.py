"""Choices that the command line offers too. No imports: `drift --help` loads them at once."""

from typing import Literal, get_args

__all__ = ["READINGS", "SPLITS", "Reading", "Split"]

Split = Literal["train", "validation", "test"]
"""The part of a prompt set that a prompt belongs to."""

SPLITS: tuple[Split, ...] = get_args(Split)

Reading = Literal["front", "path"]
"""The curve that gains are measured on: see `common.comparison.gains`."""

READINGS: tuple[Reading, ...] = get_args(Reading)
