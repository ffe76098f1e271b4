"""The names that a run's records have in trackers: "group/metric", whatever the tracker."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from common.tracking.opening import Comparison

__all__ = ["COLUMNS", "PICTURES", "cells", "comparison", "markdown", "of_evaluation", "of_update"]

PICTURES = "evaluation/pictures"

NO_MEASURE = ("update", "columns")
"""Numbers of a record that are about the record itself."""

COLUMNS = ("measure", "base", "tuned", "change")
"""Of the table of what a run ends with."""


def of_update(record: Mapping[str, Any]) -> dict[str, float]:
    """A row of `metrics.jsonl`; what has no group there is in the group "update"."""
    return {
        key if "/" in key else f"update/{key}": value for key, value in _numbers(record).items()
    }


def of_evaluation(record: Mapping[str, Any]) -> dict[str, float]:
    """A row of `evaluations.jsonl`, in the group "evaluation"."""
    return {f"evaluation/{key}": value for key, value in _numbers(record).items()}


def comparison(evaluations: Sequence[Mapping[str, Any]]) -> Comparison:
    """The first evaluation against the last one; {} where there are no two."""
    if len(evaluations) < 2:
        return {}
    base, tuned = _numbers(evaluations[0]), _numbers(evaluations[-1])
    return {
        key: {"base": base[key], "tuned": tuned[key], "change": tuned[key] - base[key]}
        for key in base
        if key in tuned and key != "seconds"
    }


def cells(rows: Comparison) -> list[list[Any]]:
    """The table of a comparison, with COLUMNS."""
    return [[name, *(row[column] for column in COLUMNS[1:])] for name, row in rows.items()]


def markdown(rows: Comparison) -> str:
    """The same as Markdown."""
    lines = [" | ".join(["", *COLUMNS, ""]).strip(), "|---|---|---|---|"]
    for name, *values in cells(rows):
        base, tuned, change = values
        lines.append(f"| {name} | {base:.4g} | {tuned:.4g} | {change:+.4g} |")
    return "\n".join(lines)


def _numbers(record: Mapping[str, Any]) -> dict[str, float]:
    """The finite measures of a record; a curve has a gap where there is none."""
    numbers = {}
    for key, value in record.items():
        if key in NO_MEASURE or isinstance(value, bool) or not isinstance(value, int | float):
            continue
        if math.isfinite(value):
            numbers[key] = float(value)
    return numbers
