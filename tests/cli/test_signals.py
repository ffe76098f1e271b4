"""SIGTERM, SIGHUP and SIGUSR1 finish the update and save; a second signal ends it at once."""

import multiprocessing
import os
import signal
import subprocess
import sys
import time

import pytest

from common.runs.directory import RunDirectory
from common.workflows import interrupts

COMMAND = [sys.executable, "-c", "from common.cli import main; main()"]

SLOW = "import time\ndef slow(images, prompts, metadata):\n    time.sleep(3600)\n"


@pytest.fixture
def start(tmp_path, small):
    """Starts `drift run` as a process of its own; it is gone when the test ends."""
    started = []

    def call(**changes):
        process = subprocess.Popen(
            [*COMMAND, "run", *small(**changes), "--out", "run"],
            cwd=tmp_path,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=os.environ | {"PYTHONUNBUFFERED": "1"},
        )
        started.append(process)
        return process

    yield call
    for process in started:
        process.kill()
        process.communicate()


@pytest.mark.usefixtures("no_report")
@pytest.mark.parametrize(
    "number",
    [
        signal.SIGTERM,
        pytest.param(signal.SIGHUP, marks=pytest.mark.slow),
        pytest.param(signal.SIGUSR1, marks=pytest.mark.slow),
    ],
)
def test_a_signal_saves_and_the_command_it_names_goes_on(number, start, drift, tmp_path):
    """SIGHUP is a lost terminal, SIGUSR1 what SLURM may send before its limit."""
    process = start(run__updates="1000", evaluate__every="1000", checkpoint__every="1000")
    for line in process.stdout:
        if line.startswith("update 1/"):
            break
    process.send_signal(number)
    output, errors = process.communicate(timeout=300)
    assert process.returncode == 128 + number
    assert errors.startswith("drift: finishing this update")
    assert len(errors.splitlines()) == 1
    stopped, how = output.splitlines()[-2:]
    done = int(stopped.split()[3])
    assert how.split() == ["drift", "run", "--resume", "--out", "run"]
    result = drift(*how.split()[1:], "--set", f"run.updates={done + 1}")
    assert result.exit_code == 0, result.output
    metrics = RunDirectory.open(tmp_path / "run").metrics()
    assert [record["update"] for record in metrics] == list(range(1, done + 2))


def test_a_second_signal_ends_it_at_once(start, tmp_path):
    (tmp_path / "slow_rewards.py").write_text(SLOW)
    process = start(**{"reward__terms__slow_rewards:slow": "1"})
    while "forwards per image" not in process.stdout.readline():
        pass
    process.send_signal(signal.SIGINT)
    assert "a second signal aborts at once" in process.stderr.readline()
    process.send_signal(signal.SIGINT)
    process.wait(timeout=300)  # the reward would go on for an hour
    assert process.returncode == -signal.SIGINT


def test_a_signal_that_is_ignored_stays_ignored():
    """nohup starts a process with SIGHUP ignored: the run outlives its terminal."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with interrupts.of_the_command().caught("stopping", lambda: False):
            assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
            assert signal.getsignal(signal.SIGUSR1) is not signal.SIG_DFL
    finally:
        signal.signal(signal.SIGHUP, before)


@pytest.fixture
def forked():
    """Forks a worker as a reward may, within a run; it runs when the call returns."""
    context, workers = multiprocessing.get_context("fork"), []

    def call():
        here, there = context.Pipe()
        worker = context.Process(target=lambda: (there.send("runs"), time.sleep(60)), daemon=True)
        worker.start()
        workers.append(worker)
        assert here.poll(30)
        return worker

    yield call
    for worker in workers:
        worker.kill()
        worker.join()


def test_a_worker_that_a_reward_forks_ends_when_its_pool_ends_it(forked):
    """A pool ends its workers with SIGTERM and waits for them."""
    signals = interrupts.of_the_command()
    with signals.caught("stopping", lambda: False):
        worker = forked()
        worker.terminate()
        worker.join(30)
    assert worker.exitcode == -signal.SIGTERM
    assert not signals.stop.is_set()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGHUP, signal.SIGUSR1])
def test_a_forked_worker_goes_on_after_the_first_signal_of_the_terminal(number, forked, capfd):
    """The update that is finished after Ctrl-C still needs its rewards."""
    with interrupts.of_the_command().caught("stopping", lambda: False):
        worker = forked()
        os.kill(worker.pid, number)
        worker.join(0.2)
        assert worker.is_alive()
        os.kill(worker.pid, number)
        worker.join(30)
    assert worker.exitcode == -number
    assert capfd.readouterr().err == ""
