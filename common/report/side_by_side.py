"""The page of images that are compared without a base model: a table of measures, and pictures."""

from pathlib import Path

from common.comparison.methods import Study
from common.comparison.side_by_side import Difference, SideBySide
from common.comparison.summary import to_json
from common.evaluation.records import HELD_OUT, IMAGES
from common.report import comparison, front, words
from common.report.gain_tables import Cell, Table, TableRow

NOTE = (
    "There is no base model: no reward, no recall, coverage and distance to its images, no front. "
    "`drift eval RUN --folder DIR` measures images like those of a run, with all of them."
)
"""What is missing, in one line."""


def build(summary: SideBySide, study: Study, out: Path) -> list[Path]:
    """Write compare.json and compare.html into a folder.

    Returns their paths, the page last. Raises files.WriteError when they cannot be written.
    """
    panels = [
        comparison.panel(name, "", study.method(name).strengths[0].measured[0], IMAGES)
        for name in summary.methods
    ]
    page = words.template("side_by_side.html.j2").render(
        style=words.style("report.css", "compare.css"),
        summary=summary,
        facts=_facts(summary),
        tables=tables(summary),
        reading=_reading(summary),
        note=NOTE,
        panels=panels,
    )
    contents = {"compare.json": to_json(summary).encode(), "compare.html": page.encode()}
    return comparison.write(contents, out)


def tables(summary: SideBySide) -> list[Table]:
    """Every measure of every method, as text for the page and the terminal."""
    differences = {(each.method, each.measure): each for each in summary.differences}
    rows = [
        TableRow(
            _name(measure),
            [
                _cell(each[measure], differences.get((name, measure)))
                for name, each in summary.methods.items()
            ],
        )
        for measure in summary.measures
    ]
    meaning = f"mean over the prompts, and the difference from {summary.baseline}"
    return [Table("Measures", meaning, list(summary.methods), rows)]


def _name(measure: str) -> str:
    """The usual name of a measure; a score has that of its scorer, since nothing was trained."""
    scorer = measure.removeprefix(HELD_OUT)
    return front.measure_name(measure) if scorer == measure else f"score by {scorer}"


def _cell(value: float, difference: Difference | None) -> Cell:
    """A measure, and its difference from the baseline's with as many decimals."""
    places = max(words.places(value), 2)
    detail = ""
    if difference is not None:
        detail = words.number(difference.estimate, places, signed=True)
        if difference.low is not None and difference.high is not None:
            ends = (words.number(x, places, signed=True) for x in (difference.low, difference.high))
            detail += f", {' to '.join(ends)}"
    return Cell(words.number(value, places), detail, missing=False)


def _facts(summary: SideBySide) -> list[str]:
    protocol = summary.protocol
    return [
        f"baseline {summary.baseline}",
        words.count(len(protocol.prompts), "prompt"),
        f"{words.count(protocol.images, 'image')} of each",
        protocol.sampler,
        f"features {', '.join(protocol.labels.values())}",
    ]


def _reading(summary: SideBySide) -> str:
    if len(summary.protocol.prompts) == 1:
        return "One prompt: the spread over prompts is unknown, so there are no intervals."
    return (
        f"After a difference its {summary.confidence:.0%} interval: {summary.replicas:,} bootstrap "
        "draws of prompts, widened for their small number. A distance of all images together has "
        "none. More high-frequency energy and a larger Fréchet distance are worse."
    )
