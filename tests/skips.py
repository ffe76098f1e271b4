"""A pytest plugin: in CI a test is skipped for a reason that is listed here, or it fails.

A skip hides what a fresh machine lacks (a browser, a compiler, a package); where CI=true only what
no CI machine has is excused.
"""

import os
import re
from collections.abc import Iterator

import pytest

ALLOWED = (
    "no CUDA device",
    "needs a CUDA device",
    "float16 needs a GPU",
    "no bfloat16 in this library",  # of numpy and array_api_strict
    "only Linux's MLX needs OpenBLAS",
    "Windows has no fork and no SIGKILL",
    "this system has no user ids",
    "trackio is not installed",  # it wants an older Pillow than the tests
    "swanlab is not installed",  # it wants an older protobuf
)
"""Reasons, each the whole text of one; everything else that is skipped in CI is an error."""

IN_CI = os.environ.get("CI", "").lower() in ("true", "1")


def refusal(longrepr: object) -> str | None:
    """Why the skip that a report describes is an error in CI; None where it is allowed.

    longrepr: the (file, line, "Skipped: reason") of a report that says "skipped".
    """
    where, reason = "", str(longrepr)
    if isinstance(longrepr, tuple):
        where, reason = f"{longrepr[0]}:{longrepr[1]}: ", str(longrepr[2])
    reason = re.sub("^Skipped: ", "", reason)
    if reason in ALLOWED:
        return None
    return f"{where}skipped in CI, for a reason that tests/skips.py does not allow: {reason}"


def _checked(report: pytest.TestReport | pytest.CollectReport) -> None:
    if not (IN_CI and report.skipped) or hasattr(report, "wasxfail"):
        return
    if text := refusal(report.longrepr):
        report.outcome, report.longrepr = "failed", text


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Iterator[None]:
    """Turn a skip of a test into a failure."""
    report = yield
    _checked(report)
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Iterator[None]:
    """Turn a skip of a whole module into an error."""
    report = yield
    _checked(report)
    return report
