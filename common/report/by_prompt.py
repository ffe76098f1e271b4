"""The table of a report with a line for each prompt: the first evaluation against the last."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from common.report import words

MOST_ROWS = 500
"""Most prompts in the table; all are in evaluations.jsonl."""

MEASURES = {
    "reward_by_prompt": "Reward",
    "alignment_heldout_by_prompt": "Held-out alignment",
    "diversity_by_prompt": "Diversity",
}
"""Key of an evaluation -> heading of its column."""


@dataclass(frozen=True)
class Cell:
    """The base model's value, the tuned one's ("" without one), and their difference."""

    base: str
    tuned: str
    difference: str


@dataclass(frozen=True)
class PromptTable:
    """headings: of the measures. rows: (prompt, its cells). note: what is left out, or ""."""

    headings: list[str]
    rows: list[tuple[str, list[Cell]]]
    note: str


def table(base: Mapping[str, Any] | None, tuned: Mapping[str, Any] | None) -> PromptTable:
    """The table of two evaluations; without rows where they have no values by prompt."""
    base = base or {}
    prompts = [str(prompt) for prompt in base.get("prompts") or []]
    columns = {}
    for key, heading in MEASURES.items():
        before, after = (_values(record, key, prompts) for record in (base, tuned or {}))
        if np.isfinite(before).any():
            columns[heading] = _cells(before, after, whole=tuned is not None)
    rows = [
        (prompt, [cells[number] for cells in columns.values()])
        for number, prompt in enumerate(prompts[:MOST_ROWS] if columns else [])
    ]
    note = ""
    if len(prompts) > len(rows) > 0:
        note = f"The first {len(rows)} of {len(prompts)} prompts; all are in evaluations.jsonl."
    return PromptTable(list(columns), rows, note)


def _values(record: Mapping[str, Any], key: str, prompts: list[str]) -> np.ndarray:
    """One number for each prompt; NaN where there is none, or where it is of another prompt."""
    values = record.get(key)
    same = [str(prompt) for prompt in record.get("prompts") or []] == prompts
    if not same or not isinstance(values, list) or len(values) != len(prompts):
        return np.full(len(prompts), np.nan)
    numbers = [float(x) if isinstance(x, int | float) else math.nan for x in values]
    return np.array(numbers)


def _cells(before: np.ndarray, after: np.ndarray, *, whole: bool) -> list[Cell]:
    known = np.abs(before[np.isfinite(before)])
    places = words.places(float(np.median(known))) if len(known) else 3
    cells = []
    for old, new in zip(before.tolist(), after.tolist(), strict=True):
        tuned = words.number(new, places) if whole else ""
        change = words.number(new - old, places, signed=True) if whole else ""
        cells.append(Cell(words.number(old, places), tuned, change))
    return cells
