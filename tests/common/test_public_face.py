"""`import drift`: light, complete, and clear where another module is called `common`."""

import subprocess
import sys
from pathlib import Path

import pytest

import drift

HEAVY = ["numpy", "pydantic", "torch", "mlx", "matplotlib", "rich", "PIL", "jinja2"]


def python(code, folder, **environment):
    import os

    return subprocess.run(
        [sys.executable, "-c", code],
        cwd=folder,
        capture_output=True,
        text=True,
        env=os.environ | environment,
    )


def test_importing_it_loads_nothing_heavy(tmp_path):
    code = f"import sys, drift; dir(drift); print([m for m in {HEAVY!r} if m in sys.modules])"
    done = python(code, tmp_path)
    assert (done.stdout.strip(), done.stderr) == ("[]", "")


@pytest.mark.parametrize("name", drift.__all__)
def test_every_name_is_there_and_described(name):
    assert getattr(drift, name).__doc__


def test_what_is_listed_is_what_can_be_imported():
    assert sorted(drift._PLACES) == drift.__all__ == sorted(drift.__all__)
    with pytest.raises(AttributeError, match="no attribute 'trian'"):
        drift.trian  # noqa: B018


@pytest.mark.parametrize("file", ["common.py", "common/__init__.py"])
def test_a_module_of_the_users_called_common_is_named_in_one_line(file, tmp_path):
    path = tmp_path / file
    path.parent.mkdir(exist_ok=True)
    path.write_text("raise SystemExit('the user\\'s module was run')\n")
    done = python("import drift", tmp_path)
    last = done.stderr.splitlines()[-1]
    assert done.returncode == 1
    assert last.startswith(f"ImportError: {path} has the name of the toolkit's package 'common'")
    assert "rename" in last


def test_a_module_called_common_that_is_loaded_already_is_named_too(tmp_path):
    (tmp_path / "common.py").write_text("")
    last = python("import common, drift", tmp_path).stderr.splitlines()[-1]
    assert last.startswith(f"ImportError: {tmp_path / 'common.py'} has the name")


def test_a_folder_called_common_that_is_no_package_is_in_nobodys_way(tmp_path):
    (tmp_path / "common").mkdir()
    done = python("import drift; print(drift.load_config('emoji').run.recipe)", tmp_path)
    assert (done.stdout, done.stderr) == ("emoji\n", "")


def test_the_package_is_beside_common():
    assert Path(drift.__file__).parents[1] == Path(sys.modules["common"].__file__).parents[1]
