"""The report of a run: one HTML file that needs nothing but a browser."""

from common.report.page import build

__all__ = ["build"]
