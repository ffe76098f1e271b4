"""Tasks as real processes: limited in number, chains, reported failures, one signal per stop."""

import os
import sys

import pytest

from common.sweep import jobs
from common.sweep.jobs import Step, Task


class Watch:
    def __init__(self):
        self.events, self.running, self.most, self.reasons = [], 0, 0, {}

    def started(self, task, step):
        self.events.append(f"{step.verb} {task.name}")
        if step is task.steps[0]:
            self.running += 1
        self.most = max(self.most, self.running)

    def ended(self, task, outcome, reason, seconds):
        self.events.append(f"{outcome} {task.name}")
        self.reasons[task.name] = reason
        self.running -= 1
        assert seconds >= 0


@pytest.fixture
def make(tmp_path, monkeypatch):
    """Makes tasks whose steps are pieces of Python."""
    monkeypatch.setattr(jobs, "DRIFT", (sys.executable, "-S", "-c"))
    monkeypatch.setattr(jobs, "POLL", 0.01)

    def call(name, *programs):
        log = tmp_path / "logs" / f"{name}.log"
        steps = [Step(f"step{n}", (program,), log) for n, program in enumerate(programs)]
        return Task(name, tuple(steps))

    return call


def run(tasks, at_once=1, asked=lambda: 0):
    watch = Watch()
    outcomes = jobs.run(tasks, at_once=at_once, observer=watch, asked=asked)
    return outcomes, watch


def test_a_failure_is_reported_by_its_last_line_and_the_others_go_on(make, tmp_path):
    tasks = [
        make("good", "print('fine')"),
        make(
            "bad", "print('first'); import sys; print('drift: no\\n', file=sys.stderr); sys.exit(2)"
        ),
        make("mute", "raise SystemExit(3)"),
        make("shot", "print('so far', flush=True); import os; os.kill(os.getpid(), 9)"),
        make("after", "print('too')"),
    ]
    outcomes, watch = run(tasks)
    assert outcomes == {
        **{"good": "done", "bad": "failed", "mute": "failed"},
        **{"shot": "failed", "after": "done"},
    }
    assert watch.reasons == {
        "good": "",
        "bad": "drift: no",
        "mute": "exit code 3, and an empty log",
        "shot": "killed by SIGKILL; its log ends with: so far",
        "after": "",
    }
    assert (tmp_path / "logs" / "good.log").read_text() == "fine\n"


def test_no_more_than_asked_for_at_a_time_in_their_order(make):
    tasks = [make(str(n), "import time; time.sleep(0.05)") for n in range(5)]
    _, watch = run(tasks, at_once=2)
    assert watch.most == 2
    assert [e for e in watch.events if e.startswith("step0")] == [f"step0 {n}" for n in range(5)]


def test_a_chain_goes_on_only_after_success_and_logs_are_kept(make, tmp_path):
    tasks = [make("a", "print(1)", "print(2)"), make("b", "raise SystemExit(1)", "print('never')")]
    outcomes, watch = run(tasks, at_once=2)
    assert outcomes == {"a": "done", "b": "failed"}
    assert "step1 b" not in watch.events
    run([make("a", "print(3)")])
    assert (tmp_path / "logs" / "a.log").read_text() == "1\n2\n3\n"


SAVES = """
import signal, time
def save(*_):
    print("saved", flush=True)
    raise SystemExit(143)
signal.signal(signal.SIGTERM, save)
print("ready", flush=True)
time.sleep(600)
"""


def test_a_stop_lets_the_running_ones_save_and_starts_no_more(make, tmp_path):
    tasks = [make("one", SAVES, "print('no')"), make("two", SAVES), make("three", SAVES)]
    logs = [tmp_path / "logs" / f"{name}.log" for name in ("one", "two")]

    def asked():
        return int(all(log.exists() and "ready" in log.read_text() for log in logs))

    outcomes, watch = run(tasks, at_once=2, asked=asked)
    assert outcomes == {"one": "stopped", "two": "stopped"}
    assert watch.reasons == {"one": "", "two": ""}
    assert [log.read_text() for log in logs] == ["ready\nsaved\n"] * 2


STUBBORN = """
import signal, time
signals = []
def record(*_):
    signals.append(print("signalled", flush=True))
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
signal.signal(signal.SIGTERM, record)
print("ready", flush=True)
while not signals:
    time.sleep(0.01)
time.sleep(0.3)
print("alive", flush=True)
time.sleep(600)
"""


def test_each_request_is_passed_on_once(make, tmp_path):
    log = tmp_path / "logs" / "one.log"

    def asked():  # the second request comes well after the first was heard
        text = log.read_text() if log.exists() else ""
        return ("ready" in text) + ("alive" in text)

    outcomes, _ = run([make("one", STUBBORN)], asked=asked)
    assert outcomes == {"one": "stopped"}
    # Alive until then: the pool looked many times and passed the first request on once.
    assert log.read_text() == "ready\nsignalled\nalive\n"


def test_an_error_leaves_no_process_behind(make, tmp_path):
    class Broken(Watch):
        def started(self, task, step):
            if task.name == "two":
                raise RuntimeError("broken")

    pid = tmp_path / "pid"
    program = f"import os, time; open({str(pid)!r}, 'w').write(str(os.getpid())); time.sleep(600)"
    with pytest.raises(RuntimeError, match="broken"):
        jobs.run(
            [make("one", program), make("two", "print()")],
            at_once=2,
            observer=Broken(),
            asked=lambda: 0,
        )
    if pid.exists() and pid.read_text():  # it may have been ended before it wrote
        with pytest.raises(ProcessLookupError):
            os.kill(int(pid.read_text()), 0)


def test_processes_have_their_share_of_threads_and_a_session_of_their_own(
    make, tmp_path, monkeypatch
):
    monkeypatch.setattr(jobs, "cores", lambda: 7)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    program = "import os; print(os.environ['OMP_NUM_THREADS'], os.getsid(0) == os.getpid())"
    run([make("one", program)], at_once=2)
    assert (tmp_path / "logs" / "one.log").read_text() == "3 True\n"
    assert (jobs.threads_each(1), jobs.threads_each(9)) == (7, 1)
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    assert (jobs.threads_each(2), jobs.threads_each(7)) == (2, 1)
    monkeypatch.setenv("OMP_NUM_THREADS", "4,2")
    assert jobs.threads_each(2) == 3


def test_it_is_this_very_installation_that_runs(tmp_path, monkeypatch):
    (tmp_path / "common").mkdir()
    (tmp_path / "common" / "__init__.py").write_text("raise RuntimeError('the wrong one')")
    monkeypatch.chdir(tmp_path)
    log = tmp_path / "log"
    outcomes, _ = run([Task("v", (Step("asks", ("--version",), log),))])
    assert outcomes == {"v": "done"}
    assert log.read_text().startswith("drift ")
