"""`drift sweep` plans, runs, tells failures, stops and goes on; the runs are real ones."""

import os
import re
import shlex
import signal
import subprocess
import sys

import pytest

from common import console as console_module
from common.runs.directory import RunDirectory
from common.sweep import cluster, jobs
from common.sweep.board import EVALUATING, Board
from common.sweep.jobs import Step, Task

COMMAND = [sys.executable, "-c", "from common.cli import main; main()"]


@pytest.fixture
def fake(monkeypatch, tmp_path):
    """Replaces `drift run` and `drift eval` by a program that gets their words."""

    def call(program):
        script = tmp_path / "fake.py"
        script.write_text(program)
        monkeypatch.setattr(jobs, "DRIFT", (sys.executable, "-S", str(script)))
        monkeypatch.setattr(jobs, "POLL", 0.01)

    return call


# --- plans ---------------------------------------------------------------------------------------


def test_a_dry_run_shows_states_and_command_lines_and_does_nothing(drift, finished, small):
    runs = finished.parent / "runs"
    runs.mkdir()
    finished.rename(runs / "emoji-updates=2-seed0")
    options = [word for word in small() if word not in ("--backend", "cpu")]
    at = options.index("run.updates=2")
    del options[at - 1 : at + 1]
    words = ("emoji", "--over", "run.updates=2,3", "--out", "runs", *options)
    result = drift("sweep", *words, "--eval-options", "--images 2 --split validation", "--dry-run")
    assert result.exit_code == 0, result.output
    lines = result.output.splitlines()
    assert [line.split() for line in lines[:3]] == [
        ["name", "state", "updates"],
        ["emoji-updates=2-seed0", "complete", "2/2"],
        ["emoji-updates=3-seed0", "missing", "0/3"],
    ]
    assert lines[3] == "drift eval runs/emoji-updates=2-seed0 --images 2 --split validation"
    assert lines[4].startswith("drift run emoji --out runs/emoji-updates=3-seed0 --set ")
    assert lines[4].endswith(" --set run.updates=3")
    assert lines[5].startswith("drift eval runs/emoji-updates=3-seed0 ")
    assert [path.name for path in runs.iterdir()] == ["emoji-updates=2-seed0"]


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["emojy"], "no recipe 'emojy'; did you mean 'emoji'?"),
        (["emoji", "--over", "run.updates"], "--over run.updates: write table.key=v1,v2"),
        (["emoji", "--over", "run.updates=1,0"], "run.updates = 0: input should be greater"),
        (["emoji", "--set", "run.seed=1"], "run.seed is set by --seeds"),
        (["emoji", "--backend", "cdua"], "--backend cdua: no such backend; did you mean 'cuda'?"),
        (["emoji", "--eval-options", "--split x"], "--eval-options --split x: Invalid value for"),
        (["emoji", "--eval-options", "X"], "'X' is no option of drift eval"),
        (["emoji", "--eval-options", "'X"], "--eval-options 'X: no closing quotation"),
    ],
)
def test_a_wrong_request_is_one_line(refused, tmp_path, words, says):
    assert says in refused(2, "sweep", *words, "--out", "runs")
    assert not (tmp_path / "runs").exists()


def test_a_folder_with_another_configuration_is_refused(refused, finished):
    (finished.parent / "runs").mkdir()
    finished.rename(finished.parent / "runs" / "emoji-seed0")
    line = refused(2, "sweep", "emoji", "--out", "runs", "--set", "run.updates=2")
    assert "runs/emoji-seed0 holds a run of another configuration: " in line
    assert "rollout.group_size: 4 -> 24" in line


@pytest.mark.parametrize("seeds", ["a", "1,,2", "-1", "1.5", ""])
def test_seeds_that_are_none(drift, seeds):
    result = drift("sweep", "emoji", "--out", "runs", "--seeds", seeds)
    assert result.exit_code == 2
    assert f"'{seeds}': write whole numbers, as 0,1,2" in result.stderr


@pytest.mark.parametrize("seeds", ["4-0", "0-1000"])
def test_a_range_of_seeds_that_is_none(drift, seeds):
    result = drift("sweep", "emoji", "--out", "runs", "--seeds", seeds)
    assert result.exit_code == 2
    assert f"'{seeds}': write a range as 0-4, lowest first" in result.stderr


def test_a_range_of_seeds(drift):
    result = drift("sweep", "emoji", "--out", "runs", "--seeds", "0-2, 7", "--dry-run")
    assert result.exit_code == 0
    named = {n for n in range(9) if f"emoji-seed{n} " in result.stdout}
    assert named == {0, 1, 2, 7}


# --- running -------------------------------------------------------------------------------------

FAILS_ON_ONE = """
import sys
print(*sys.argv[1:])
if "run.seed=1" in sys.argv and sys.argv[1] == "run":
    sys.exit("drift: it broke")
"""


def test_a_failure_is_reported_with_its_log_and_the_others_go_on(drift, fake, tmp_path):
    fake(FAILS_ON_ONE)
    result = drift("sweep", "emoji", "--seeds", "0,1,2", "--out", "runs", "--eval", "--jobs", "2")
    assert result.exit_code == 1
    lines = result.output.splitlines()
    assert re.sub(r"0:\d\d", "TIME", "\n".join(sorted(lines[: lines.index("")]))).splitlines() == [
        "done emoji-seed0 after TIME",
        "done emoji-seed2 after TIME",
        "evaluating emoji-seed0",
        "evaluating emoji-seed2",
        "failed emoji-seed1 after TIME: drift: it broke",
        "started emoji-seed0",
        "started emoji-seed1",
        "started emoji-seed2",
    ]
    assert lines[-1] == ("failed: emoji-seed1: drift: it broke (log: runs/logs/emoji-seed1.log)")
    assert [line.split()[:2] for line in lines[-4:-1]] == [
        ["emoji-seed0", "done"],
        ["emoji-seed1", "failed"],
        ["emoji-seed2", "done"],
    ]
    log = (tmp_path / "runs" / "logs" / "emoji-seed0.log").read_text().splitlines()
    assert log == [
        "run emoji --out runs/emoji-seed0 --set run.seed=0",
        "eval runs/emoji-seed0",
    ]


@pytest.mark.slow
def test_stopped_it_lets_runs_save_and_names_the_command_that_goes_on(tmp_path, small, drift):
    changes = {"run__updates": "1000", "evaluate__every": "1000", "checkpoint__every": "1000"}
    words = ["sweep", "emoji", "emoji-kl", "--seeds", "0", "--out", "runs", *small(**changes)]
    process = subprocess.Popen(
        [*COMMAND, *words],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONUNBUFFERED": "1"},
    )
    log = tmp_path / "runs" / "logs" / "emoji-seed0.log"
    try:
        assert process.stdout.readline() == "started emoji-seed0\n"
        while "update 1/" not in log.read_text():
            assert process.poll() is None
        process.send_signal(signal.SIGTERM)
        output, errors = process.communicate(timeout=300)
    finally:
        process.kill()
        process.communicate()
    assert process.returncode == 143
    assert errors == f"drift: {Board.STOPPING}\n"
    assert "stopped emoji-seed0 after" in output
    assert re.search(r"\nemoji-kl-seed0 +waiting +0/1000\n", output)
    stopped, command = output.splitlines()[-2:]
    assert stopped == "stopped; go on with"
    assert command.split()[:2] == ["drift", "sweep"]
    done = len(RunDirectory.open(tmp_path / "runs" / "emoji-seed0").metrics())
    assert done >= 1
    # One more update of the first run alone, by the words it named.
    again = [word for word in shlex.split(command)[1:] if word != "emoji-kl"]
    again[again.index("run.updates=1000")] = f"run.updates={done + 1}"
    result = drift(*again)
    assert result.exit_code == 0, result.output
    assert result.output.splitlines()[0] == "resumed emoji-seed0"
    metrics = RunDirectory.open(tmp_path / "runs" / "emoji-seed0").metrics()
    assert [record["update"] for record in metrics] == list(range(1, done + 2))
    result = drift(*again)  # and nothing is left to do
    assert result.exit_code == 0
    assert result.output.splitlines()[0] == "1 of 1 runs are done"


# --- what a terminal shows -----------------------------------------------------------------------


def test_the_board_shows_what_is_running(finished):
    tasks = [
        Task(name, (Step("started", (), finished), Step(EVALUATING, (), finished)))
        for name in ("run", "other", "third")
    ]
    board = Board(tasks, dict.fromkeys(("run", "other", "third", "old"), 4), finished.parent)

    def shown():
        with console_module.console.capture() as captured:
            console_module.console.print(board)
        return captured.get()

    assert "1 done, 3 waiting" in shown()
    board.started(tasks[0], tasks[0].steps[0])
    metrics = RunDirectory.open(finished).metrics()
    assert re.search(rf"run .* 2/4 +reward {metrics[-1]['reward/mean']:.2f} ", shown())
    board.started(tasks[0], tasks[0].steps[1])
    assert EVALUATING in shown()
    board.started(tasks[1], tasks[1].steps[0])
    assert re.search(r"other .* 0/4 ", shown())
    board.ended(tasks[0], "done", "", 3.0)
    board.ended(tasks[1], "failed", "no", 3.0)
    board.stopping = True
    assert "2 done, 1 failed, 1 waiting" in shown()
    assert board.STOPPING in " ".join(shown().split())
    assert board.failures == {"other": "no"}


# --- jobs of a queue -----------------------------------------------------------------------------


def test_steps_become_jobs_and_a_stop_names_the_command_that_goes_on(drift, fake, monkeypatch):
    """What starts a step is replaced by one that starts it here, and asks the sweep to stop."""
    fake("import time; time.sleep(60)")
    settings, started = [], []

    def launcher(folder, values):
        settings.append((folder.name, values))

        def launch(step):
            started.append(step.words)
            os.kill(os.getpid(), signal.SIGTERM)
            return jobs._start(step, os.environ)

        return launch

    monkeypatch.setattr(cluster, "launcher", launcher)
    words = ["emoji", "--seeds", "0-1", "--out", "runs", "--launcher", "slurm"]
    words += ["--slurm", "partition=gpu", "--slurm", "gpus_per_node=1"]
    result = drift("sweep", *words)
    assert result.exit_code == 128 + signal.SIGTERM, result.output
    assert settings == [("logs", {"slurm_partition": "gpu", "gpus_per_node": 1})]
    assert [each[:2] for each in started] == [("run", "emoji")]
    assert "--launcher slurm --slurm partition=gpu --slurm gpus_per_node=1" in result.output


def test_settings_of_jobs_need_a_queue(drift):
    alone = drift("sweep", "emoji", "--out", "runs", "--slurm", "partition=gpu")
    assert (alone.exit_code, "it needs --launcher slurm" in alone.output) == (2, True)
    wrong = drift("sweep", "emoji", "--out", "runs", "--launcher", "slurm", "--slurm", "gpu")
    assert (wrong.exit_code, "--slurm gpu: write KEY=VALUE" in wrong.output) == (2, True)
    plan = drift("sweep", "emoji", "--out", "runs", "--launcher", "slurm", "--dry-run")
    assert plan.exit_code == 0, plan.output
