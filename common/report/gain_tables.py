"""The tables of a comparison as text, for the page, the terminal and the project's own pages."""

from collections.abc import Mapping
from dataclasses import dataclass

from common.comparison.summary import MATCHED, Gain, Summary
from common.report import attainable, front, noise, words

TRUSTED = 0.95
"""Below this share of replicas in which a gain exists, its cell states the share."""


@dataclass(frozen=True)
class Cell:
    """A number of a table and the line below it. missing: there is no number."""

    text: str
    detail: str
    missing: bool

    @property
    def line(self) -> str:
        """Both on one line, the detail in brackets."""
        return f"{self.text} ({self.detail})" if self.detail else self.text


@dataclass(frozen=True)
class TableRow:
    """A method's line of a table."""

    method: str
    cells: list[Cell]


@dataclass(frozen=True)
class Table:
    """Gains of every method other than the baseline."""

    title: str
    meaning: str
    columns: list[str]
    rows: list[TableRow]


def tables(summary: Summary) -> list[Table]:
    """The gains as text, for the page and the terminal.

    The baseline alone has no gains, only its share of what is possible at most. Neutral runs have
    a table of their own, and no gains.
    """
    if len(summary.methods) == 1:
        return [*shares(summary), *drift(summary)]
    alignment, diversity = (
        front.measure_name(summary.alignment),
        front.measure_name(summary.diversity),
    )
    matched = min(summary.gain_shares, key=lambda share: abs(share - MATCHED))
    at_gain = [f"at {share:.0%}" for share in summary.gain_shares]
    return [
        _table(
            summary,
            f"More {diversity} at equal alignment",
            f"where {summary.baseline} has made that share of its gain in {alignment}",
            {n: ("diversity", s, None) for n, s in zip(at_gain, summary.gain_shares, strict=True)},
        ),
        _table(
            summary,
            "More gain in alignment at equal diversity",
            f"at that share of the base model's {diversity}; relative to {summary.baseline}'s gain "
            "over the base model there, and in units of alignment",
            {
                f"at {share:.0%}{unit}": (statistic, share, None)
                for share in summary.diversity_shares
                for statistic, unit in (("alignment", ""), ("alignment_units", ", units"))
            },
        ),
        _table(
            summary,
            "Hypervolume",
            "area above the base model's alignment and diversity 0, in units of the highest gain "
            f"of {summary.baseline} times the base model's diversity",
            {
                "area": ("hypervolume", None, None),
                f"against {summary.baseline}": ("hypervolume_gain", None, None),
            },
        ),
        _table(
            summary,
            "Degradation at equal alignment",
            f"against {summary.baseline}; below 0 is better",
            {
                f"{front.measure_name(measure)} at {matched:.0%}": ("degradation", matched, measure)
                for measure in summary.degradation
            },
        ),
        *shares(summary),
        *drift(summary),
    ]


def _table(
    summary: Summary,
    title: str,
    meaning: str,
    columns: Mapping[str, tuple[str, float | None, str | None]],
) -> Table:
    rows = [
        TableRow(method.name, [cell(summary.gain(method.name, *key)) for key in columns.values()])
        for method in summary.methods
        if method.name != summary.baseline
    ]
    return Table(title, meaning, list(columns), rows)


def shares(summary: Summary) -> list[Table]:
    """The table of what share of the attainable gain each method has, if there are fronts."""
    limit = summary.attainable
    if limit is None:
        return []
    columns = {f"at {share:.0%}": share for share in summary.gain_shares}
    rows = []
    for method in summary.methods:
        reached = [limit.share(method.name, share) for share in columns.values()]
        cells = [
            Cell(*attainable.share_texts(each), missing=each.estimate is None) for each in reached
        ]
        rows.append(TableRow(method.name, cells))
    meaning = (
        f"where {summary.baseline} has made that share of its gain; 0% is the KL front, 100% the "
        f"diversity front there; {attainable.basis(limit)}"
    )
    return [Table("Share of the attainable gain", meaning, list(columns), rows)]


def drift(summary: Summary) -> list[Table]:
    """The table of what noise alone moves, beside each method, if there are neutral runs."""
    if summary.noise is None:
        return []
    rows = [
        TableRow(name, [Cell(*texts, missing=texts[0] == noise.NONE) for texts in cells])
        for name, cells in noise.rows(summary, summary.noise)
    ]
    columns = [front.measure_name(name) for name in summary.noise.measures]
    return [Table(*noise.title(summary.noise), columns, rows)]


def cell(gain: Gain) -> Cell:
    """A gain as text, its interval below it."""
    if gain.estimate is None:
        return Cell("not reached", gain.why or "", missing=True)
    relative = gain.statistic not in ("hypervolume", "alignment_units")

    def number(value: float) -> str:
        if relative:
            return words.percent(value)
        signed = gain.statistic == "alignment_units"
        return words.number(value, 2, signed=signed)

    detail = (
        f"{number(gain.low)} to {number(gain.high)}"
        if gain.low is not None and gain.high is not None
        else ""
    )
    if gain.reached < TRUSTED:
        detail += f"{', ' if detail else ''}reached in {gain.reached:.0%} of draws"
    return Cell(number(gain.estimate), detail, missing=False)
