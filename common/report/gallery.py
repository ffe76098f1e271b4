"""The pictures of a report: every evaluation's, cut into a strip for each prompt."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from common import pictures
from common.report import words
from common.report.plots import column
from common.runs.directory import RunDirectory

MOST_ROWS = 24
"""Most prompts with pictures on the page; the others are in the run's samples/."""

MOST_NUMBERS = 24_000_000
"""Numbers of the pictures between the first and the last; above it they are made smaller."""


@dataclass(frozen=True)
class Row:
    """Pictures of one prompt as data URIs; of all prompts if the picture has no equal rows."""

    label: str
    base: str | None
    tuned: str | None


@dataclass(frozen=True)
class Gallery:
    """rows: the pictures. notes: the reason for each missing picture."""

    rows: list[Row]
    notes: list[str]


@dataclass(frozen=True)
class Evaluation:
    """Pictures of an evaluation between the first and the last. title: its update and numbers."""

    title: str
    rows: list[tuple[str, str]]
    notes: list[str]


def gallery(
    run: RunDirectory, base: Mapping[str, Any] | None, tuned: Mapping[str, Any] | None
) -> Gallery:
    """The pictures of the first and the last evaluation, a row for each prompt."""
    notes: list[str] = []
    before, after = (_strips(run, record, notes) for record in (base, tuned))
    labels = list(dict.fromkeys([*before, *after]))
    if len(labels) > MOST_ROWS:
        notes.append(f"The first {MOST_ROWS} of {len(labels)} prompts; all are in samples/.")
    rows = [
        Row(label, *(words.data_uri(x[label]) if label in x else None for x in (before, after)))
        for label in labels[:MOST_ROWS]
    ]
    return Gallery(rows, notes)


def _strips(
    run: RunDirectory, record: Mapping[str, Any] | None, notes: list[str]
) -> dict[str, np.ndarray]:
    """The picture of an evaluation, cut into one strip a prompt; {} and a note if unreadable."""
    if record is None:
        return {}
    name, prompts = str(record.get("grid")), [str(text) for text in record.get("prompts") or []]
    try:
        picture = pictures.load_inside(run.path / "samples", name)
    except pictures.PictureError as error:
        notes.append(
            f"The pictures of update {record['update']} cannot be shown: samples/{name} {error}."
        )
        return {}
    try:
        return dict(zip(prompts, pictures.rows(picture, len(prompts)), strict=True))
    except ValueError:
        return {", ".join(prompts) or "all prompts": picture}


def earlier(
    run: RunDirectory, records: Sequence[Mapping[str, Any]], measures: Sequence[tuple[str, str]]
) -> list[Evaluation]:
    """The pictures of the evaluations between the first and the last, small where there are many.

    measures: (key of a record, name) of the numbers in the title.
    """
    shown: list[tuple[str, list[tuple[str, np.ndarray]], list[str]]] = []
    for record in records:
        notes: list[str] = []
        strips = list(_strips(run, record, notes).items())[:MOST_ROWS]
        numbers = []
        for key, name in measures:
            value = float(column([record], key)[0])
            numbers.append(
                f"{name[0].lower()}{name[1:]} {words.number(value, words.places(value))}"
            )
        shown.append((f"Update {record['update']}: {', '.join(numbers)}", strips, notes))
    size = sum(strip.size for _, strips, _ in shown for _, strip in strips)
    factor = 1
    while size / factor**2 > MOST_NUMBERS:
        factor += 1
    return [
        Evaluation(
            title, [(name, words.data_uri(_smaller(x, factor))) for name, x in strips], notes
        )
        for title, strips, notes in shown
    ]


def _smaller(picture: np.ndarray, factor: int) -> np.ndarray:
    if factor == 1:
        return picture
    from PIL import Image

    return np.asarray(Image.fromarray(picture).reduce(factor))
