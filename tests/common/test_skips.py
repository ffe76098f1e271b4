"""In CI a skip fails unless its reason is on the list; elsewhere it is a skip."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
MODULE = """
import pytest
def test_allowed(): pytest.skip("no CUDA device")
@pytest.mark.skipif(True, reason="no browser")
def test_marked(): pass
@pytest.mark.xfail(reason="known")
def test_expected(): assert 0
def test_good(): pass
"""


@pytest.mark.parametrize(("ci", "code"), [("true", 1), ("", 0)])
def test_a_skip_that_ci_must_not_have_fails(tmp_path, ci, code):
    (tmp_path / "test_some.py").write_text(MODULE)
    (tmp_path / "test_whole.py").write_text("import pytest\npytest.importorskip('no_such_module')")
    done = subprocess.run(
        [*(sys.executable, "-m", "pytest", "-q", "-p", "tests.skips", "-p", "no:cacheprovider"),
         *("-p", "no:xdist", "--continue-on-collection-errors", f"--rootdir={tmp_path}", tmp_path)],
        cwd=ROOT, env=os.environ | {"CI": ci, "PYTHONPATH": str(ROOT)}, capture_output=True,
        text=True, check=False,
    )  # fmt: skip
    last = done.stdout.splitlines()[-1]
    assert done.returncode == code, done.stdout
    if ci:
        assert "1 passed, 1 skipped, 1 xfailed, 2 errors" in last
        assert "does not allow: no browser" in done.stdout
        assert "does not allow: could not import 'no_such_module'" in done.stdout
    else:
        assert "1 passed, 3 skipped, 1 xfailed" in last
