"""A user's own module called `common` beside the work: it works, or one line says what to do."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

COMMAND = Path(sys.executable).with_name("drift")
ROOT = Path(__file__).parents[2]
THEIRS = ["common.py", "common/__init__.py"]
SCORE = "def score(images, prompts, metadata):\n    return images.mean(axis=(1, 2, 3))\n"
HELPED = "def score(images, prompts, metadata):\n    return [common.VALUE for _ in images]\n"


@pytest.fixture(params=THEIRS)
def theirs(request, tmp_path):
    """A file called `common` in an empty folder; running it would end the process."""
    path = tmp_path / request.param
    path.parent.mkdir(exist_ok=True)
    path.write_text("raise SystemExit('the module of the user was run')\n")
    return path


def command(folder, *words):
    """The console script as a user starts it: its own folder is first on the import path."""
    assert COMMAND.is_file()
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONSAFEPATH"}
    return subprocess.run(
        [sys.executable, COMMAND, *words],
        cwd=folder,
        capture_output=True,
        text=True,
        env=environment | {"PYTHONPATH": str(ROOT)},
    )


def rehearsal(small, reward):
    words = small(**{f"reward__terms__{reward}": "1"}, reward__terms__embedded="0")
    return ["run", "--dry-run", *words]


def test_the_command_works(theirs, tmp_path):
    done = command(tmp_path, "recipes")
    assert done.returncode == 0, done.stderr
    assert "emoji-grpo" in done.stdout


def test_a_reward_beside_it_works(theirs, tmp_path, small):
    (tmp_path / "brightness.py").write_text(f"from common import random\n{SCORE}")
    done = command(tmp_path, *rehearsal(small, "brightness:score"))
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("theirs", "imports"),
    [
        pytest.param("common.py", "import common", marks=pytest.mark.slow),
        ("common/__init__.py", "from common import VALUE"),
        pytest.param(
            "common/__init__.py", "from common.helpers import VALUE", marks=pytest.mark.slow
        ),
    ],
    indirect=["theirs"],
)
def test_a_reward_that_wants_it_is_refused_in_one_line(theirs, tmp_path, small, imports):
    (tmp_path / "helped.py").write_text(f"{imports}\n{HELPED}")
    done = command(tmp_path, *rehearsal(small, "helped:score"))
    (line,) = done.stderr.splitlines()
    assert done.returncode == 2
    assert f"reward 'helped:score': cannot import 'helped': ImportError: {theirs} has" in line
    assert line.endswith("rename it")


def test_a_reward_in_it_is_refused_in_one_line(theirs, tmp_path, small):
    done = command(tmp_path, *rehearsal(small, "common:score"))
    (line,) = done.stderr.splitlines()
    assert done.returncode == 2
    assert f"{theirs} has the name of the toolkit's package 'common'" in line


def test_a_users_own_package_called_drift_does_not_disturb_the_command(tmp_path):
    (tmp_path / "drift.py").write_text("raise SystemExit('the module of the user was run')\n")
    (tmp_path / "drift").mkdir()
    assert command(tmp_path, "recipes").returncode == 0
