"""A pytest plugin: `--slow none`, `all` or `K/N` says which of the tests marked `slow` run.

A slow test takes whole runs or processes, and a quicker test has its mechanism. `make test` leaves
them out, `make test SLOW=all` runs them, and CI runs the share K of N that its commit picks, so
that N landings run all of them.
"""

import re
from collections.abc import Collection

import pytest

MLX_SLOW = pytest.mark.parametrize(
    "backend", ["cpu", pytest.param("mlx", marks=pytest.mark.slow)], indirect=True
)
"""For long tests of what both backends share: on MLX it is slow, and parity covers the numbers."""


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--slow", default="all", help="which slow tests: none, all, or share K/N")


def share(text: str) -> tuple[int, int]:
    """The numbers K and N of a value of `--slow`: "2/4" is 2, 4; "none" is 0, 1; "all" is 1, 1.

    Raises:
        pytest.UsageError: another text, or K outside 1 to N.
    """
    if text in ("none", "all"):
        return int(text == "all"), 1
    matched = re.fullmatch(r"(\d{1,3})/(\d{1,3})", text)
    number, count = map(int, matched.groups()) if matched else (0, 0)
    if not 1 <= number <= count:
        raise pytest.UsageError(f"--slow {text}: valid are none, all, and K/N with K from 1 to N")
    return number, count


def picked(files: Collection[str], number: int, count: int) -> set[str]:
    """Of the files with slow tests, whole ones as their tests share fixtures, share K of N."""
    return {file for k, file in enumerate(sorted(files)) if k % count + 1 == number}


def leave_out(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Take the slow tests that are not picked out of the collected ones."""
    slow = [item for item in items if item.get_closest_marker("slow")]
    files = picked({str(item.path) for item in slow}, *share(config.getoption("--slow")))
    left_out = {item for item in slow if str(item.path) not in files}
    if left_out:
        config.hook.pytest_deselected(items=list(left_out))
        items[:] = [item for item in items if item not in left_out]
