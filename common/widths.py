"""The widths of a table's columns on a terminal, such that no name and no word is cut off."""

import textwrap
from collections.abc import Sequence

from rich.cells import cell_len

Rows = Sequence[Sequence[str]]
"""The cells of each row, as many as there are headings."""


def full(headings: Sequence[str], cells: Rows) -> list[int]:
    """The width of each column with every cell on one line."""
    return [max(map(cell_len, column)) for column in zip(headings, *cells, strict=True)]


def least(headings: Sequence[str], cells: Rows) -> list[int]:
    """The width of each column that cuts no word, and in the first column no name."""
    columns = list(zip(headings, *cells, strict=True))
    words = [[cell_len(word) for cell in column for word in cell.split()] for column in columns]
    names = max(map(cell_len, columns[0]))
    return [names, *(max(lengths, default=0) for lengths in words[1:])]


def shared_out(least: Sequence[int], full: Sequence[int], spare: int) -> list[int]:
    """Widths from least to full that use `spare` more, in proportion to what each lacks."""
    lacking = [most - width for width, most in zip(least, full, strict=True)]
    if sum(lacking) <= spare:
        return list(full)
    return [
        width + spare * lack // sum(lacking) for width, lack in zip(least, lacking, strict=True)
    ]


def paragraph(headings: Sequence[str], cells: Sequence[str], width: int) -> list[str]:
    """Lines with the cells that are not empty, each after its heading; words stay whole."""
    parts = [
        f"{heading}: {cell}" if heading else cell
        for heading, cell in zip(headings, cells, strict=True)
        if cell
    ]
    return textwrap.wrap(
        "; ".join(parts), max(width, 1), break_long_words=False, break_on_hyphens=False
    )
