"""The command in this process, in a folder of its own, with runs of about a second."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from common import report
from common.cli import drift as command

SMALL = {
    "run.updates": "2",
    "prompts.names": '["rose", "owl"]',
    "rollout.prompts": "2",
    "rollout.group_size": "4",
    "rollout.steps": "3",
    "rollout.window": "0",
    "evaluate.images": "2",
    "evaluate.steps": "2",
    "checkpoint.every": "1",
}


def options(**changes: str) -> list[str]:
    """`--set` options of a small run; rollout__steps="4" changes rollout.steps."""
    values = SMALL | {key.replace("__", "."): value for key, value in changes.items()}
    return [word for key, value in values.items() for word in ("--set", f"{key}={value}")]


@pytest.fixture(scope="session")
def small() -> Callable[..., list[str]]:
    """Makes the options of a small run on the CPU."""
    return lambda **changes: ["--backend", "cpu", *options(**changes)]


@pytest.fixture
def drift(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    """Calls the command in an empty folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "100")
    return lambda *words: CliRunner().invoke(command, [str(word) for word in words])


@pytest.fixture
def refused(drift: Callable[..., Result]) -> Callable[..., str]:
    """Calls the command, which must fail with this exit code and one line; gives the line."""

    def call(code: int, *words: object) -> str:
        result = drift(*words)
        lines = result.stderr.splitlines()
        assert result.exit_code == code, result.output
        assert len(lines) == 1, result.stderr
        assert lines[0].startswith("drift: ")
        assert "Traceback" not in result.output
        return lines[0]

    return call


@pytest.fixture(scope="session")
def first(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Result]:
    """A run of two updates with a checkpoint after each, and what the command gave. Read only."""
    out = tmp_path_factory.mktemp("first") / "run"
    words = ["run", "--backend", "cpu", *options(), "--out", str(out)]
    result = CliRunner().invoke(command, words)
    assert result.exit_code == 0, result.output
    return out, result


@pytest.fixture
def finished(first: tuple[Path, Result], tmp_path: Path) -> Path:
    """A copy of that run, to do harm to."""
    return Path(shutil.copytree(first[0], tmp_path / "run"))


@pytest.fixture
def no_report(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leaves out the report, which takes longer than a small run."""
    monkeypatch.setattr(report, "build", lambda run: run.report)
