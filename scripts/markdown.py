"""Tables of the pages, and their cells."""

from collections.abc import Mapping, Sequence

__all__ = ["span", "table"]


def table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table, without the end of its last line."""
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def span(value: Mapping[str, float], name: str = "", *, unit: float = 1, digits: int = 2) -> str:
    """Median and range of repeats: "1.06 x (1.03 to 1.10)".

    value: `median`, `min` and `max`. name: of the unit. unit: what the values are divided by.
    """
    median, least, most = (f"{value[key] / unit:.{digits}f}" for key in ("median", "min", "max"))
    return " ".join(filter(None, (median, name, f"({least} to {most})")))
