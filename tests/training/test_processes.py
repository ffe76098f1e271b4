"""A run over several processes gives the bytes of one process, and one that fails ends all.

Quick tests use threads in place of processes, which is the same code but for the library that
carries bytes; slow ones start processes.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import tomli_w
import torch

from common import backends, config as configuration
from common.config import ConfigError, to_tables
from common.errors import PeerError
from common.evaluation import measure
from common.evaluation.records import Variant
from common.learning import shares
from common.machine import cores
from common.progress import NullObserver
from common.rewards import RewardError
from common.runs.directory import RunDirectory
from common.trainer import Trainer
from common.workflows import processes
from tests.common.processes import together

SEVERAL = (
    "rollout.batch_size=3",
    "objective.micro_batch=3",
    "optimizer.ema_decay=0.5",
    "optimizer.ema_every=1",
    "objective.optimizer_steps=2",
)
MEASURED = {}
"""The records of the first number of processes."""

WHOLE_PARTS = {}
"""Of the run of one process: what each stage counts in all, at its last time."""

DRIFT = (sys.executable, "-P", "-c", "from common.cli import main; main()")


def trained(config, path, size, stop_after=None, advanced=lambda rank, *event: None, passes=None):
    """Train on so many threads; returns the results of `Trainer.run`, and the run.

    advanced: called with the number of the process and each of its events of progress. passes: by
    process, the forward passes of the policy, each whether it has a gradient; all make the same.
    """
    if not path.exists():
        RunDirectory.create(path, config, {})
    run = RunDirectory.open(path)

    def one(world):
        backend = backends.load("cpu")
        backend.world, stop, observer = world, threading.Event(), NullObserver()
        trainer = Trainer(config, backend, run, observer=observer, stop=stop)
        if passes is not None:
            world.lockstep, own, predict = True, passes[world.rank], trainer.policy.predict

            def counted(*arguments, **options):
                own.append(torch.is_grad_enabled())
                return predict(*arguments, **options)

            trainer.policy.predict = counted

        def updated(row):
            if row["update"] == stop_after and world.rank == size - 1:
                stop.set()

        observer.updated = updated
        observer.advanced = lambda *event: advanced(world.rank, *event)
        return trainer.run()

    return together(size, one), run


def without_times(rows):
    return [
        {k: v for k, v in row.items() if not k.startswith("time/") and k != "seconds"}
        for row in rows
    ]


@pytest.fixture(scope="module")
def whole(tiny, train):
    """A run of one process."""
    config = tiny(*SEVERAL)
    run, record, _ = train(config, backends.load("cpu"))
    WHOLE_PARTS.update({stage: total for stage, _, total in record.parts})
    return config, run


@pytest.mark.parametrize("size", [2, 3])
def test_the_bytes_are_those_of_one_process(size, whole, final_bytes, tmp_path):
    config, alone = whole
    last = {}

    def advanced(rank, stage, done, total):
        last[stage, rank] = done, total

    finished, run = trained(config, tmp_path / "run", size, advanced=advanced)
    for stage in ("sampling", "training", "evaluating"):
        counts = [last[stage, rank] for rank in range(size)]
        assert all(done == own for done, own in counts), "each counts its own work to its end"
        assert sum(done for done, _ in counts) == WHOLE_PARTS[stage]
    assert finished == [True] * size
    assert final_bytes(run) == final_bytes(alone)
    for file in ("optimizer.safetensors", "ema.safetensors"):
        ours, theirs = (each.checkpoints / "000002" / file for each in (run, alone))
        if theirs.exists():
            assert ours.read_bytes() == theirs.read_bytes()
    key = json.dumps  # NaN is not equal to itself
    assert key(without_times(run.metrics())) == key(without_times(alone.metrics()))
    assert key(without_times(run.evaluations())) == key(without_times(alone.evaluations()))
    assert run.metrics()[0]["time/world/wait"] >= 0


def test_it_stops_for_any_of_them_and_goes_on_with_another_number(whole, final_bytes, tmp_path):
    config, alone = whole
    finished, run = trained(config, tmp_path / "run", 3, stop_after=1)
    assert finished == [False] * 3
    assert len(run.metrics()) == 1
    finished, run = trained(config, tmp_path / "run", 2)
    assert finished == [True] * 2
    assert final_bytes(run) == final_bytes(alone)


@pytest.mark.filterwarnings("ignore:fewer batches than the 4 processes")
@pytest.mark.parametrize("lockstep", [False, True])
def test_more_processes_than_batches(lockstep, tiny, whole, final_bytes, tmp_path):
    passes = [[] for _ in range(4)] if lockstep else None
    config = tiny(*SEVERAL, "run.updates=1")
    finished, run = trained(config, tmp_path / "run", 4, passes=passes)
    assert finished == [True] * 4
    assert final_bytes(run) == final_bytes(whole[1], 1)
    (row,), (same, _) = without_times(run.metrics()), without_times(whole[1].metrics())
    assert row == same
    if lockstep:
        first, *others = passes
        assert others == [first] * 3
        assert {*first} == {True, False}


def test_a_reward_that_fails_in_one_ends_all(tiny, tmp_path, monkeypatch):
    code = "def score(images, prompts, metadata): raise OSError('no scorer here')"
    (tmp_path / "failing_reward.py").write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    config = tiny(*SEVERAL, "reward.terms={'failing_reward:score' = 1.0}", "evaluate.every=1000")
    (first, second), _ = trained(config, tmp_path / "run", 2)
    assert isinstance(first, RewardError)
    assert isinstance(second, PeerError)
    assert str(second).startswith("process 0 of 2 failed at measuring: RewardError: reward 'fail")


def test_other_weights_in_one_are_seen_before_a_checkpoint_is_saved(tiny, tmp_path):
    config = tiny(*SEVERAL, "run.updates=1")
    RunDirectory.create(tmp_path / "run", config, {})
    run = RunDirectory.open(tmp_path / "run")

    def one(world):
        backend = backends.load("cpu")
        backend.world = world
        trainer = Trainer(config, backend, run, observer=NullObserver(), stop=threading.Event())
        if world.rank == 1:
            values = trainer.policy.parameters()
            name = max(values)
            changed = {key: backend.to_numpy(value) for key, value in values.items()}
            changed[name] = changed[name] + 1e-3
            trainer.policy.load_parameters(changed)
        return trainer.run()

    errors = together(2, one)
    assert [str(error) for error in errors] == [
        "process 1 of 2 has other weights than process 0 after update 1: their hardware or "
        "libraries differ"
    ] * 2
    assert not list(run.checkpoints.glob("0*"))


@pytest.mark.parametrize("size", [1, 2, 3])
def test_a_measurement_is_the_same_on_any_number(size, whole, tmp_path):
    _, alone = whole
    how = measure.protocol(alone, "train", prompts=2, images=4, steps=2, seed=0)
    copy = RunDirectory.open(Path(shutil.copytree(alone.path, tmp_path / "run")))
    asked = []

    def one(world):
        backend = backends.load("cpu")
        backend.world = world
        if world.rank:
            return measure.help_process_0(copy, backend)
        shown = lambda record, is_new: asked.append(is_new)  # noqa: E731
        variants = [Variant(0), Variant(2), Variant(2, prompt_noise=0.3)]
        cache = tmp_path / "cache"
        return measure.evaluate(copy, backend, [how], variants, cache=cache, on_record=shown)

    first, *others = together(size, one)
    assert first.images == 4 * 2 * 4  # with those of the base to compare with
    assert others == [None] * (size - 1)
    assert asked == [True] * 3
    content = (copy.path / "evaluation" / "records.jsonl").read_bytes()
    MEASURED.setdefault("content", content)
    assert content == MEASURED["content"]


def test_more_processes_than_lanes_or_batches(tiny):
    shares.check(tiny(), 8)
    with pytest.raises(ConfigError, match=r"9 processes, but objective.lanes = 8.*lanes=16"):
        shares.check(tiny(), 9)
    with pytest.raises(ConfigError, match=r"2 processes, but objective.lanes = 1.*lanes=2,"):
        shares.check(tiny("adapter.kind=full"), 2)
    with pytest.raises(ConfigError, match=r"65 processes.*, and 64 with the most lanes that"):
        shares.check(tiny("objective.lanes=64"), 65)
    config = tiny("rollout.batch_size=8", "objective.micro_batch=4")
    assert shares.advice(config, 1, 16) == ""
    assert shares.advice(config, 2, 16) == (
        "fewer batches than the 2 processes: rollout.batch_size = 8 makes 1 of 8 images (one for "
        "each: 4)"
    )
    assert "micro_batch = 4 makes 2 of 8 transitions (one for each: 2)" in shares.advice(
        config, 4, 8
    )
    assert shares.advice(tiny("rollout.batch_size=3", "objective.micro_batch=3"), 2, 16) == ""


def test_slices_are_for_several_processes_of_pytorch():
    set_to = configuration.load("sd35m-pickscore-grpo", ["model.shard=fsdp"])
    line = "model.shard = 'fsdp' has no effect in one process"
    assert shares.advice(set_to, 1, 16) == line
    assert line not in shares.advice(set_to, 2, 10**6)
    shares.check_slices(set_to, backends.load("cpu"))
    with pytest.raises(ConfigError, match=r"'fsdp' is for PyTorch; on --backend mlx: none or auto"):
        shares.check_slices(set_to, backends.load("mlx"))


@pytest.mark.parametrize(("given", "threads"), [("", str(max(cores() // 2, 1))), ("7", "7")])
def test_processes_find_the_toolkit_and_each_other(given, threads, tmp_path, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", given)
    first, second = processes._environments(2, tmp_path)
    for rank, own in enumerate((first, second)):
        assert own["PYTHONPATH"].split(os.pathsep)[0] == str(Path(__file__).parents[2])
        assert own["OMP_NUM_THREADS"] == threads
        assert own["RANK"] == own["LOCAL_RANK"] == own["MLX_RANK"] == str(rank)
    hosts = json.loads(Path(first["MLX_HOSTFILE"]).read_text())
    ports = [first["MASTER_PORT"], *(host.rpartition(":")[2] for (host,) in hosts)]
    assert len({*ports}) == 3


# --- processes -----------------------------------------------------------------------------------


@pytest.fixture
def start(tiny, tmp_path):
    """Starts `drift run` of a tiny recipe with more words."""
    started = []

    def run(*words, changes=()):
        recipe = tmp_path / "tiny.toml"
        recipe.write_text(tomli_w.dumps(to_tables(tiny(*SEVERAL, *changes))))
        environment = os.environ | {"DRIFT_TIMEOUT": "60", "OMP_NUM_THREADS": "1"}
        process = subprocess.Popen(
            [*DRIFT, "run", *([] if "--resume" in words else [str(recipe)]), *map(str, words)],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment,
        )  # fmt: skip
        started.append(process)
        return process

    yield run
    for process in started:
        process.kill()


def children(process):
    """The processes of the run, by their number."""
    listed = subprocess.run(
        ["ps", "-o", "pid=", "--ppid", str(process.pid)],
        capture_output=True,
        text=True,
        check=False,
    )
    return [int(pid) for pid in listed.stdout.split()]


@pytest.mark.slow
@pytest.mark.parametrize(("backend", "size"), [("cpu", 2), ("mlx", 2), ("mlx", 3)])
def test_processes_give_the_same_bytes(backend, size, start, final_bytes, tmp_path):
    alone, out = tmp_path / "alone", tmp_path / "run"
    _, errors = start("--backend", backend, "--out", alone).communicate()
    assert errors == ""
    words, tracked = ("--processes", size, "--backend", backend), ('track.to=["tensorboard"]',)
    output, errors = start(*words, "--out", out, changes=tracked).communicate()
    assert "report" in output, errors
    assert errors == ""
    assert len(list(out.glob("track/tensorboard/*"))) == 1  # of process 0
    assert final_bytes(RunDirectory.open(out)) == final_bytes(RunDirectory.open(alone))


@pytest.mark.slow
def test_a_wrong_request_is_one_line(start, tmp_path):
    process = start("--processes", 2, "--set", "objective.lanes=1", "--out", tmp_path / "run")
    _, errors = process.communicate(timeout=120)
    (line,) = errors.splitlines()
    assert line.startswith("drift: 2 processes, but objective.lanes = 1: at most 1 can share")
    assert process.returncode == 2
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_eval_in_processes_gives_the_same_records(whole, tmp_path):
    contents = []
    for count in (1, 2):
        run = shutil.copytree(whole[1].path, tmp_path / str(count) / "run")
        words = [run, "--processes", count, "--split", "train", "--images", 3, "--steps", 2]
        done = subprocess.run(
            [*DRIFT, "eval", *map(str, words)], capture_output=True, text=True, check=False
        )
        assert (done.returncode, done.stderr) == (0, "")
        assert "records" in done.stdout
        contents.append((run / "evaluation" / "records.jsonl").read_bytes())
    assert contents[0] == contents[1]


@pytest.mark.slow
def test_a_signal_to_the_command_saves_and_the_run_goes_on(start, tmp_path):
    out = tmp_path / "run"
    process = start(
        "--processes", 2, "--backend", "cpu", "--out", out, changes=("run.updates=1000",)
    )
    for line in process.stdout:
        if line.startswith("update 1/"):
            break
    process.send_signal(signal.SIGTERM)
    output, errors = process.communicate(timeout=120)
    assert process.returncode == 128 + signal.SIGTERM
    assert errors.splitlines()[0].startswith("drift: finishing this update")
    assert len(errors.splitlines()) == 1
    assert f"drift run --resume --out {out}" in output
    done = len(RunDirectory.open(out).metrics())
    words = ("--resume", "--out", out, "--set", f"run.updates={done + 1}")
    again = start(*words)
    _, errors = again.communicate(timeout=120)
    assert (again.returncode, errors) == (0, "")


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["cpu", "mlx"])
@pytest.mark.parametrize("victim", [0, 1])
def test_a_process_that_is_killed_ends_the_run(backend, victim, start, tmp_path):
    out = tmp_path / "run"
    process = start(
        "--processes", 2, "--backend", backend, "--out", out, changes=("run.updates=1000",)
    )
    for line in process.stdout:
        if line.startswith("update 1/"):
            break
    os.kill(children(process)[victim], signal.SIGKILL)
    began = time.monotonic()
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 1
    assert time.monotonic() - began < 60
    assert f"drift: process {victim} of 2 was ended by SIGKILL; what was saved" in errors
    assert len([line for line in errors.splitlines() if not line.startswith("[ring]")]) <= 2
    assert not children(process)
