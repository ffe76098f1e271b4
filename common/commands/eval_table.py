"""The tables of `drift eval`: a row for each record, a table for each of the features."""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from common.evaluation.records import Record

COLUMNS = {
    "alignment_heldout": ("held-out", 2),
    "reward": ("reward", 2),
    "diversity": ("diversity", 3),
    "vendi": ("Vendi", 2),
    "modes": ("modes", 2),
    "frechet": ("Frechet", 3),
    "frechet_real": ("to real", 3),
    "high_frequency": ("high freq.", 4),
    "recall": ("recall", 2),
    "coverage": ("coverage", 2),
}
"""Measures of the table, those that a record has: head and least decimals."""


def show(measured: Sequence["Record"]) -> None:
    """Print the records of one protocol, the base model's first where there is one."""
    from common.console import say, table

    for rows in _fitting([_row(record, measured[0]) for record in measured]):
        table(rows, right=rows[0])
    for name in measured[0].protocol.more_names:
        say(f"\nin the features {name}:\n")
        for rows in _fitting([_features_row(record, measured[0], name) for record in measured]):
            table(rows, right=rows[0])


def _fitting(rows: list[dict[str, str]]) -> list[list[dict[str, str]]]:
    """The rows as one table, or as two where a terminal is too narrow for all columns.

    Scale, noise and AIG are left out where every row has the default.
    """
    from common.console import console

    usual = {"scale": "1", "noise": "0", "AIG": "0"}
    plain = [key for key, value in usual.items() if all(row[key] == value for row in rows)]
    names = [key for key in ("update", *usual) if key not in plain]
    measures = [key for key in rows[0] if key not in ("update", *usual)]
    width = sum(3 + max(len(key), *(len(row[key]) for row in rows)) for key in [*names, *measures])
    parts = [measures]
    if console.is_terminal and width - 3 > console.width:
        parts = [measures[: len(measures) // 2 + 1], measures[len(measures) // 2 + 1 :]]
    return [[{key: row[key] for key in [*names, *part]} for row in rows] for part in parts]


def _row(record: "Record", base: "Record") -> dict[str, str]:
    from common.evaluation.records import HELD_OUT

    row = _variant(record)
    for name, (head, decimals) in COLUMNS.items():
        for scorer in record.protocol.scorers if name == "diversity" else ():
            value, start = (each.mean(HELD_OUT + scorer) for each in (record, base))
            row[scorer] = f"{value:.{_places(start, 2)}f}"
        if name not in record.measures:
            continue
        places = _places(base.mean(name), decimals) if name == "reward" else decimals
        row[head] = f"{record.mean(name):.{places}f}"
        if name == "diversity":
            row |= _share(record, base, name)
    return row


def _features_row(record: "Record", base: "Record", features: str) -> dict[str, str]:
    """What was measured in further features."""
    from common.evaluation.records import in_features

    row = _variant(record)
    for name, (head, decimals) in COLUMNS.items():
        measure = in_features(name, features)
        if measure in record.measures:
            row[head] = f"{record.mean(measure):.{decimals}f}"
        if name == "diversity":
            row |= _share(record, base, measure)
    return row


def _variant(record: "Record") -> dict[str, str]:
    from common.evaluation.records import IMAGES

    variant = record.variant
    update = "images" if variant == IMAGES else str(variant.update)
    return {
        "update": update if variant.update else "base",
        "scale": f"{variant.scale:g}",
        "noise": f"{variant.prompt_noise:g}",
        "AIG": f"{variant.aig:g}",
    }


def _share(record: "Record", base: "Record", measure: str) -> dict[str, str]:
    """A measure as a share of the base model's, if there is one."""
    if not record.protocol.has_base:
        return {}
    start = base.mean(measure)
    return {"of base": f"{record.mean(measure) / start:.0%}" if start else "-"}


def _places(value: float, least: int) -> int:
    """Decimals that show three digits of a value, and at least so many."""
    if value == 0 or not math.isfinite(value):
        return least
    return max(least, min(2 - math.floor(math.log10(abs(value))), 6))
