"""`drift run`: its output for programs, its short options, and completion in shells."""

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest
from click.testing import CliRunner

from common.cli import drift as command
from common.runs.directory import METRICS, RunDirectory
from common.workflows.json_lines import JsonLines


@pytest.mark.usefixtures("no_report")
def test_json_prints_the_rows_of_the_log_and_nothing_else(drift, small, tmp_path, monkeypatch):
    (tmp_path / "loud.py").write_text(
        "def loud(images, prompts, metadata):\n"
        "    print('scoring')\n"
        "    return [float(image.mean()) for image in images]\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    words = ["--set", "reward.terms.loud:loud=1.0", "--json", "--out", "run"]
    result = drift("run", *small(), *words)
    assert result.exit_code == 0, result.output
    assert result.stdout == Path("run", METRICS).read_text()
    assert [json.loads(line)["update"] for line in result.stdout.splitlines()] == [1, 2]
    assert "scoring" in result.stderr


def test_a_reader_that_leaves_does_not_end_the_run():
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "w") as stream:
        lines = JsonLines(stream)
        with pytest.warns(UserWarning, match="nobody reads the lines of JSON any more"):
            lines.updated({"update": 1})
        lines.updated({"update": 2})


@pytest.mark.usefixtures("no_report")
def test_quiet_prints_nothing_and_the_short_forms_set_their_keys(drift, small):
    words = [word for word in small() if word not in ("--set", "run.updates=2")]
    sets = [part for word in words[2:] for part in ("--set", word)]
    named = ("--seed", 3, "--updates", 1, "--quiet", "--out", "run")
    result = drift("run", *words[:2], *sets, *named)
    assert (result.exit_code, result.output) == (0, "")
    settings = RunDirectory.open(Path("run")).config.run
    assert (settings.seed, settings.updates) == (3, 1)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("run --seed 3 --set run.seed=3", "--seed 3 and --set run.seed set one key"),
        ("run --updates 3 --set run.updates=4", "--updates 3 and --set run.updates set one key"),
        ("run --backend cpu --set run.backend=mlx", "--backend cpu and --set run.backend"),
        ("sweep emoji --out x --updates 3 --set run.updates=4", "--updates 3 and --set"),
        ("sweep emoji --out x --updates 3 --over run.updates=4,5", "run.updates is given by"),
        ("run --quiet --json", "leave out --quiet"),
        ("run --dry-run --json", "leave out --quiet and --json"),
        ("run --dry-run --quiet", "leave out --quiet and --json"),
    ],
)
def test_two_values_for_one_thing_are_refused(refused, tmp_path, words, says):
    assert says in refused(2, *words.split())
    assert not list(tmp_path.iterdir())


def test_a_sweep_has_updates_too_and_names_them_when_it_stops(drift):
    from common.commands.sweep import _words, sweep

    result = drift("sweep", "emoji", "--updates", 5, "--out", "x", "--dry-run")
    assert "run.updates=5" in result.stdout
    given = sweep.make_context("sweep", ["emoji", "--updates", "5", "--out", "x"]).params
    assert _words(given)[3:5] == ["--updates", "5"]


def test_seeds_and_updates_have_limits(drift):
    assert "not in the range" in drift("run", "--updates", 0).stderr
    assert "not in the range" in drift("run", "--seed", -1).stderr
    assert "not in the range" in drift("run", "--seed", 2**63).stderr


def completed(shell, typed):
    """What the command answers to a shell after Tab."""
    words = typed.split(" ")
    environment = {"_DRIFT_COMPLETE": f"{shell}_complete", "COMP_WORDS": typed}
    last = words[-1] if shell == "fish" else str(len(words) - 1)
    return (
        CliRunner()
        .invoke(command, [], prog_name="drift", env={**environment, "COMP_CWORD": last})
        .stdout
    )


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
@pytest.mark.parametrize(
    ("typed", "offered"),
    [
        ("drift ru", "runs"),
        ("drift run emoji-k", "emoji-kl"),
        ("drift run --set rollout.st", "rollout.steps="),
        ("drift run --backend c", "cpu"),
        ("drift config rollout.gr", "rollout.group_size"),
        ("drift runs --sort div", "diversity"),
        ("drift sweep emoji --up", "--updates"),
    ],
)
def test_every_shell_is_offered_commands_recipes_keys_and_choices(shell, typed, offered):
    assert offered in completed(shell, typed)


def test_a_path_is_completed_by_the_shell():
    assert completed("bash", "drift run ./my") == "file,./my\n"
    assert completed("bash", "drift report ru").startswith("file,")


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_script_of_each_shell_has_no_error(shell, tmp_path):
    source = CliRunner().invoke(
        command, [], prog_name="drift", env={"_DRIFT_COMPLETE": f"{shell}_source"}
    )
    assert f"_DRIFT_COMPLETE={shell}_complete" in source.stdout
    if program := shutil.which(shell):
        (tmp_path / "script").write_text(source.stdout)
        subprocess.run([program, "-n", tmp_path / "script"], check=True)


@pytest.mark.usefixtures("no_report")
def test_a_run_is_tracked_from_its_start_to_its_result(drift, small):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    track = ["--set", "track.to=tensorboard", "--set", "track.project=cats"]
    result = drift("run", *small(), *track, "--quiet", "--out", "run")
    assert (result.exit_code, result.output) == (0, "")
    events = EventAccumulator("run/track/tensorboard")
    events.Reload()
    assert [point.step for point in events.Scalars("reward/mean")] == [1, 2]
    assert [point.step for point in events.Scalars("evaluation/reward")] == [0, 2]
    assert set(events.Tags()["tensors"]) == {"run/configuration", "run/result"}
