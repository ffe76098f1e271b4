"""Numbers as they are stored."""

DIGITS = 6
"""Significant digits that are stored."""


def rounded(value: float) -> float:
    """Rounded to DIGITS significant digits."""
    return float(f"{value:.{DIGITS}g}")
