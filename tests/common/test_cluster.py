"""Steps of a sweep as jobs of a queue: submitted, asked to stop, cancelled, found again, lost."""

import signal
import subprocess
import sys
import threading
import time
from types import SimpleNamespace

import pytest

from common.errors import RequestError
from common.sweep import cluster, jobs
from common.sweep.cluster import Launcher, Work
from common.sweep.jobs import Step, Task

WAITING = "import signal, sys, time; signal.signal(15, lambda *_: sys.exit(143)); time.sleep(60)"


class Job:
    """A job of a queue that is not there."""

    def __init__(self, number, folder, state="RUNNING"):
        self.job_id, self.state, self.cancelled = number, state, 0
        self.paths = SimpleNamespace(stderr=folder / "job.stderr")

    def cancel(self, check=True):
        self.cancelled += 1
        self.state = "CANCELLED by 0"


@pytest.fixture
def queue(tmp_path, monkeypatch):
    """A launcher of such jobs, the jobs that it submitted, and a step."""
    monkeypatch.setattr(cluster, "ASKED", 0.0)
    submitted = []

    def submit(work, *arguments):
        submitted.append((Job(str(len(submitted) + 1), tmp_path), arguments))
        return submitted[-1][0]

    def known(number):
        jobs_of = [job for job, _ in submitted if job.job_id == number]
        return jobs_of[0] if jobs_of else Job(number, tmp_path, "UNKNOWN")

    step = Step("started", ("run", "emoji", "--out", "x"), tmp_path / "logs" / "a.log")
    return Launcher(submit, known), submitted, step


def test_a_job_ends_with_the_code_in_its_file(queue):
    launch, submitted, step = queue
    process = launch(step)
    _, (words, log, stop, code) = submitted[0]
    assert (words, log) == (step.words, str(step.log))
    assert process.poll() is None
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(0.0)
    step.log.with_suffix(".code").write_text("3")
    assert process.poll() == process.wait() == 3
    assert [path.name for path in step.log.parent.iterdir()] == ["a.log"], (stop, code)


def test_a_first_request_lets_it_save_and_a_second_one_cancels(queue):
    launch, submitted, step = queue
    process = launch(step)
    process.terminate()
    assert step.log.with_suffix(".stop").exists()
    assert submitted[0][0].cancelled == 0
    process.terminate()
    assert submitted[0][0].cancelled == 1
    submitted[0][0].state = "FINISHED"  # as a job of one machine says
    assert process.poll() == -signal.SIGTERM


def test_a_job_that_waits_is_cancelled_at_once(queue):
    launch, submitted, step = queue
    process = launch(step)
    submitted[0][0].state = "PENDING"
    process.terminate()
    assert process.wait(1.0) == -signal.SIGTERM


def test_a_job_that_is_lost_says_how(queue):
    launch, submitted, step = queue
    process = launch(step)
    submitted[0][0].state = "OUT_OF_MEMORY"
    submitted[0][0].paths.stderr.write_text("slurmstepd: killed\n")
    assert process.poll() == 1
    last = "drift: job 1 ended as out_of_memory: slurmstepd: killed"
    assert jobs.last_line(step.log) == last
    again = launch(step)
    submitted[1][0].state = "COMPLETED"
    assert again.poll() is None, "its file may still be on its way"


def test_a_sweep_that_was_killed_finds_its_jobs(queue):
    launch, submitted, step = queue
    launch(step)
    found = launch(step)
    assert len(submitted) == 1
    step.log.with_suffix(".code").write_text("0")
    assert found.poll() == 0
    launch(step)
    assert len(submitted) == 2
    submitted[1][0].state = "TIMEOUT"
    step.log.with_suffix(".job").write_text("../2")
    launch(step)
    assert len(submitted) == 3


def test_a_queue_that_refuses_is_one_line(queue):
    launch, _, step = queue

    def refuse(*_):
        raise OSError("sbatch: error: no such\npartition")

    refused = Launcher(refuse, launch._known)
    with pytest.raises(RequestError, match="queue refused a: sbatch: error: no such partition"):
        refused(step)


def test_work_asks_its_process_to_end_when_the_file_is_there(tmp_path, monkeypatch):
    monkeypatch.setattr(jobs, "DRIFT", (sys.executable, "-c", WAITING))
    monkeypatch.setattr(cluster, "POLL", 0.02)
    log, stop, code = (tmp_path / name for name in ("log", "stop", "code"))
    work = Work()
    job = threading.Thread(target=work, args=(("run",), str(log), str(stop), str(code)))
    job.start()
    while work._process is None:
        time.sleep(0.01)
    time.sleep(0.3)  # its handler is there by then, or the signal ends it as well
    stop.touch()
    job.join(20)
    assert code.read_text() in ("143", "-15")


def test_a_job_whose_time_is_over_goes_on_with_what_it_saved(tmp_path):
    pytest.importorskip("submitit")
    words = ("run", "emoji", "--out", str(tmp_path))
    assert Work().checkpoint(words, "log", "stop", "code").args == (words, "log", "stop", "code")
    (tmp_path / "config.toml").touch()
    later = Work().checkpoint(words, "log", "stop", "code")
    assert later.args[0] == (*words, "--resume")
    assert cluster.going_on(later.args[0]) == later.args[0]
    assert cluster.going_on(("eval", "x")) == ("eval", "x")


@pytest.mark.parametrize("text", ["partition", "=gpu", "partition=", "a b=1", "nodes=2"])
def test_settings_that_are_none_are_refused(text):
    with pytest.raises(RequestError, match=r"^--slurm"):
        cluster.settings([text])


def test_settings_have_the_names_of_submitit():
    texts = ["partition=gpu", "gpus_per_node=1", "timeout_min=600", "slurm_qos=high", "mem_gb=1.5"]
    assert cluster.settings(texts) == {
        "slurm_partition": "gpu",
        "gpus_per_node": 1,
        "timeout_min": 600,
        "slurm_qos": "high",
        "mem_gb": 1.5,
    }


def test_without_slurm_or_submitit_the_request_is_refused(tmp_path, monkeypatch):
    pytest.importorskip("submitit")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(RequestError, match="--launcher slurm: Could not detect"):
        cluster.launcher(tmp_path, {})
    monkeypatch.setitem(sys.modules, "submitit", None)
    with pytest.raises(RequestError, match="needs submitit: pip install"):
        cluster.launcher(tmp_path, {})


class Events:
    """An observer that remembers."""

    def __init__(self):
        self.all = []

    def started(self, task, step):
        self.all.append((task.name, step.verb))

    def ended(self, task, outcome, reason, seconds):
        self.all.append((task.name, outcome, reason))


@pytest.mark.slow
def test_jobs_run_through_submitit(tmp_path):
    """Its executor for this machine, with the files and processes of its jobs of SLURM."""
    pytest.importorskip("submitit")
    log = tmp_path / "logs" / "a.log"
    tasks = [
        Task("a", (Step("started", ("recipes",), log), Step("evaluating", ("recipes",), log))),
        Task("b", (Step("started", ("run", "nothing"), log.with_name("b.log")),)),
    ]
    launch, events = cluster.launcher(tmp_path / "logs", {}, cluster="local"), Events()
    submitted, submit = [], launch._submit

    def remembered(*words):
        submitted.append(submit(*words))
        return submitted[-1]

    launch._submit = remembered
    outcomes = jobs.run(tasks, at_once=2, observer=events, asked=lambda: 0, launch=launch)
    for job in submitted:
        job._process.wait(30)  # its own process ends after that of the step
    assert outcomes == {"a": "done", "b": "failed"}
    assert log.read_text().count("sd35m-pickscore-grpo") >= 2
    assert [e for e in events.all if e[0] == "b"][-1][2].startswith("drift: ")
