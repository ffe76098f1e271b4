"""The project's own tests on the card: golden values of the algorithm, and those marked `gpu`."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from scripts.gpu_bench.context import Context

__all__ = ["golden", "marked"]

ROOT = Path(__file__).parents[2]
GOLDEN = tuple(
    f"tests/common/test_{name}.py"
    for name in ("kernels", "objective", "diversity", "shaping", "subset", "advantage", "quality")
)
"""Tests whose expected values are worked by hand or come from other projects."""


def golden(context: Context) -> dict[str, Any]:
    """The algorithm's tests with PyTorch's arrays on the card."""
    files = context.pick(GOLDEN, GOLDEN, GOLDEN[:2])
    return _pytest(context, [*files, "-k", "torch"], {"DRIFT_TEST_DEVICE": context.backend})


def marked(context: Context) -> dict[str, Any]:
    """Tests that are skipped where there is no GPU; a tiny run runs some of them on the CPU."""
    few = context.pick([], [], ["-k", "repeated and sd35"])
    files = [
        str(path.relative_to(ROOT))
        for path in sorted((ROOT / "tests" / "torch").glob("test_*.py"))
        if "mark.gpu" in path.read_text(encoding="utf-8")  # others may need more than is here
    ]
    words = [*files, "-m", "gpu", *few]
    return _pytest(context, words, {"DRIFT_TEST_DEVICE": context.backend})


def _pytest(context: Context, words: list[str], environment: dict[str, str]) -> dict[str, Any]:
    """Run them in a process; raises RuntimeError naming the first that failed."""
    report = context.folder / f"{context.name}.xml"
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--no-header"]
    done = subprocess.run(
        [*command, f"--junitxml={report}", *words],
        cwd=ROOT,
        env=os.environ | environment,
        check=False,
    )
    if not report.exists():
        raise RuntimeError(f"pytest ended with {done.returncode} and no report")
    suite = next(ElementTree.parse(report).getroot().iter("testsuite"))
    counts = {key: int(suite.attrib[key]) for key in ("tests", "failures", "errors", "skipped")}
    failed = [
        f"{case.attrib['classname']}::{case.attrib['name']}"
        for case in suite.iter("testcase")
        if case.find("failure") is not None or case.find("error") is not None
    ]
    context.keep({**counts, "failed": failed})
    if failed or not counts["tests"]:
        first = failed[0] if failed else "no test was found"
        raise RuntimeError(f"{len(failed)} of {counts['tests']} tests failed; first: {first}")
    return {**counts, "failed": failed}
