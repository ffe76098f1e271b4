"""A run whose checkpoints or logs were damaged stops and says what is whole; nothing is lost."""

import shutil
import threading
from dataclasses import replace

import pytest

from common import backends, config as configuration
from common.learning import state
from common.learning.moving_average import MovingAverage
from common.progress import NullObserver
from common.runs import checkpoint, resuming
from common.runs.checkpoint import CheckpointError
from common.runs.directory import RunDirectory, RunError
from common.runs.resuming import snapshot_to_resume
from common.trainer import Trainer


@pytest.fixture(scope="module")
def whole(tiny_settings, tmp_path_factory):
    """A run of four updates with a checkpoint after each."""
    config = configuration.load("emoji-grpo", [*tiny_settings, "run.updates=4"])
    run = RunDirectory.create(tmp_path_factory.mktemp("whole") / "run", config, {})
    train(run)
    return run.path


@pytest.fixture
def run(whole, tmp_path):
    shutil.copytree(whole, tmp_path / "run")
    return RunDirectory.open(tmp_path / "run")


def train(run, resume_from=None):
    trainer = Trainer(
        run.config,
        backends.load("cpu"),
        run,
        observer=NullObserver(),
        stop=threading.Event(),
        resume_from=resume_from,
    )
    return trainer.run()


def refused(run, error=RunError):
    before = {path: path.read_bytes() for path in run.path.rglob("*") if path.is_file()}
    with pytest.raises(error) as caught:
        train(run)
    assert {path: path.read_bytes() for path in run.path.rglob("*") if path.is_file()} == before
    assert "\n" not in str(caught.value)
    return str(caught.value)


def cut_lines(path, *numbers):
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(line for n, line in enumerate(lines) if n not in numbers))


def test_a_whole_run_goes_on(run):
    assert snapshot_to_resume(run).update == 4
    assert train(run)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"state": {"evaluated": [0, "x"]}}, "evaluated in its state is no list of updates"),
        ({"state": {"evaluated": 3}}, "evaluated in its state is no list of updates"),
        ({"state": {"evaluated": [0], "ema_steps": "x"}}, "ema_steps in the state of the check"),
        ({"state": {"evaluated": [0]}}, "ema_steps in the state of the checkpoint is no number"),
        ({"ema": {}}, "moving average: '.*lora_A.weight' is missing"),
    ],
)
def test_another_state_in_a_checkpoint_with_the_right_hashes(change, says, whole):
    """A manifest protects from accidents: what can write a file can write its hash too."""
    run = RunDirectory.open(whole)
    snapshot = snapshot_to_resume(run)
    good = {"ema": dict(snapshot.parameters), "state": {"evaluated": [0], "ema_steps": 4}}
    restored(run, replace(snapshot, **good))
    with pytest.raises(ValueError, match=says) as caught:
        restored(run, replace(snapshot, **good | change))
    assert "\n" not in str(caught.value)


def restored(run, snapshot):
    """Check the snapshot against the logs, then put it back with a moving average."""
    resuming._check_logs(run, snapshot)
    backend = backends.load("cpu")
    policy = backend.policy(run.config.model, run.config.adapter, seed=0)
    optimizer = backend.optimizer(policy, run.config.optimizer)
    average = MovingAverage(backend, policy, decay=0.5, every=1)
    state.restore(snapshot, policy, optimizer, average)


@pytest.mark.parametrize("damage", ["no manifest", "no folder"])
def test_the_newest_checkpoint_is_missing(damage, run):
    """Going back without a word would throw away an update, and with `keep = 1` the whole run."""
    newest = run.checkpoints / "000003"
    shutil.rmtree(run.checkpoints / "000004")
    (newest / "manifest.json").unlink()
    if damage == "no folder":
        shutil.rmtree(newest)
    said = refused(run)
    assert str(newest) in said
    assert "(whole: 0, 1, 2)" in said
    assert said.endswith(f"drift run --resume --out {run.path} --from 2")


@pytest.mark.parametrize("kind", ["folder", "link"])
def test_something_else_is_where_the_manifest_was(kind, run):
    manifest = run.checkpoints / "000004" / "manifest.json"
    manifest.unlink()
    manifest.mkdir() if kind == "folder" else manifest.symlink_to("nowhere")
    with pytest.raises(CheckpointError) as caught:
        snapshot_to_resume(run)
    assert "--from 3" in str(caught.value)


def test_a_damaged_newest_checkpoint_names_the_whole_ones(run):
    for name in ("000004", "000002"):
        file = run.checkpoints / name / "optimizer.safetensors"
        file.write_bytes(file.read_bytes()[:-1] + b"x")
    said = refused(run, CheckpointError)
    assert "optimizer.safetensors is damaged" in said
    assert "(whole: 0, 1, 3)" in said
    assert said.endswith("--from 3")


def test_a_hole_in_the_metrics(run):
    cut_lines(run.path / "metrics.jsonl", 1, 2)
    said = refused(run)
    assert "metrics.jsonl has no record of update 2 to 3" in said
    assert said.endswith("--from 1")


@pytest.mark.parametrize("lost", ["file", "content", "first line", "last line"])
def test_a_lost_evaluation(lost, run):
    """The gate `above_base` would take another evaluation for that of the base model."""
    path = run.path / "evaluations.jsonl"
    if lost == "file":
        path.unlink()
    elif lost == "content":
        path.write_bytes(b"")
    else:
        lines = path.read_bytes().count(b"\n")
        cut_lines(path, 0 if lost == "first line" else lines - 1)
    if lost == "last line":  # logged after the last checkpoint: it is measured again
        assert train(run)
        assert run.evaluations()[-1]["update"] == 4
        return
    assert "evaluations.jsonl has no record of update 0" in refused(run)


def test_going_back_on_purpose_loses_nothing_and_ends_with_the_same_bytes(run, whole):
    file = run.checkpoints / "000004" / "optimizer.safetensors"
    file.write_bytes(b"damaged")
    assert train(run, resume_from=2)
    assert [row["update"] for row in run.metrics()] == [1, 2, 3, 4]
    for name in ("adapter_model.safetensors", "optimizer.safetensors"):
        again = (run.checkpoints / "000004" / name).read_bytes()
        assert again == (whole / "checkpoints" / "000004" / name).read_bytes()
    aside = run.checkpoints / "set-aside-1"
    assert sorted(path.name for path in aside.iterdir()) == ["000003", "000004"]
    assert (aside / "000004" / "optimizer.safetensors").read_bytes() == b"damaged"
    assert checkpoint.updates(run.checkpoints) == [1, 2, 3, 4]


def test_going_back_to_what_is_not_there(run):
    with pytest.raises(RunError, match=r"no checkpoint after update 7; there are 1, 2, 3, 4"):
        train(run, resume_from=7)
    assert train(run, resume_from=0)


def test_a_run_without_a_checkpoint_starts_again(tiny_settings, tmp_path):
    """Killed before its first checkpoint: the logs do not go beyond it."""
    changes = [*tiny_settings, "run.updates=4", "checkpoint.every=3"]
    run = RunDirectory.create(tmp_path / "run", configuration.load("emoji-grpo", changes), {})
    train(run)
    shutil.rmtree(run.checkpoints)
    cut_lines(run.path / "metrics.jsonl", 3)  # as if killed while the first one was saved
    assert snapshot_to_resume(run) is None
