"""A run of a real model that runs out of memory says what would help, and goes on afterwards."""

import threading

import pytest
import torch
from click.testing import CliRunner

from common import backends, config as configuration, report
from common.backends import OutOfMemoryError
from common.cli import drift
from common.progress import NullObserver
from common.runs.directory import RunDirectory
from common.trainer import Trainer
from drift_torch.embedded import EmbeddedPolicy
from drift_torch.sd3 import SD3Policy

FULL = "CUDA out of memory. Tried to allocate 2.50 GiB. GPU 0 has a total capacity of 23.6 GiB"
TINY = (
    *("run.updates=2", "checkpoint.every=1", "evaluate.every=2", "evaluate.images=2"),
    *("evaluate.steps=1", "rollout.prompts=2", "rollout.group_size=2", "rollout.steps=2"),
    *("rollout.batch_size=4", "rollout.window=0", "objective.micro_batch=4"),
)
TRAINED = "checkpoints/000002/adapter_model.safetensors"


def fail(monkeypatch, kind, *, training, after):
    """Let predictions with (training) or without gradients fail, once that many have worked."""
    original, calls = kind.predict, []

    def predict(self, *arguments, **how):
        calls.append(0) if torch.is_grad_enabled() is training else None
        if len(calls) > after and torch.is_grad_enabled() is training:
            raise torch.OutOfMemoryError(FULL)
        return original(self, *arguments, **how)

    monkeypatch.setattr(kind, "predict", predict)


@pytest.mark.parametrize(("stage", "training"), [("update", True), ("evaluation", False)])
def test_stage_size_and_three_settings_are_reported(
    stage, training, checkpoint, tmp_path, monkeypatch
):
    model = (f"model.path={checkpoint('sd3')}", "model.family=sd3", "model.max_tokens=20")
    reward = (
        "reward.terms={jpeg_compressibility=1.0}",
        "objective.zero_advantage=keep",  # JPEG sizes of two tiny images may be equal
        "prompts.source=animals",
        "prompts.names=[]",
    )
    whole = ("model.vae_slicing=false", "evaluate.prompts=2", *reward)
    config = configuration.load("emoji-grpo", [*model, *TINY, *whole])
    run = RunDirectory.create(tmp_path / "run", config, {})
    trainer = Trainer(
        config, backends.load("cpu"), run, observer=NullObserver(), stop=threading.Event()
    )
    fail(monkeypatch, SD3Policy, training=training, after=0)
    with pytest.raises(OutOfMemoryError) as caught:
        trainer.step() if training else trainer.run()
    line = str(caught.value)
    assert line.startswith(f"out of memory, {stage}: 2.68 GB more were asked for; these lower it")
    asked = {"update": ("objective.micro_batch = 2", "model.gradient_checkpointing = true")}
    for setting in asked.get(stage, ("rollout.batch_size = 2",)):
        assert setting in line
    assert "model.offload = true" in line
    assert "\n" not in line


def test_the_run_goes_on_as_if_nothing_had_happened(tmp_path, monkeypatch):
    monkeypatch.setattr(report, "build", lambda run: run.report)
    own = ('prompts.names=["rose", "owl"]', *TINY)
    words = [word for text in own for word in ("--set", text)]
    whole, broken = str(tmp_path / "whole"), str(tmp_path / "broken")
    start = ["run", "emoji-grpo", "--backend", "cpu", *words, "--out"]
    assert CliRunner().invoke(drift, [*start, whole]).exit_code == 0
    with monkeypatch.context() as patched:
        fail(patched, EmbeddedPolicy, training=True, after=1)  # in the second update
        result = CliRunner().invoke(drift, [*start, broken])
    assert result.exit_code == 1
    (line,) = result.stderr.splitlines()
    assert "drift: out of memory, update: 2.68 GB more were asked for" in line
    assert "objective.micro_batch = 2" in line
    assert not RunDirectory.open(tmp_path / "broken").checkpoints.joinpath("000002").exists()
    command = line.partition("go on with: ")[2].split()
    assert command[:5] == ["drift", "run", "--resume", "--out", broken]
    result = CliRunner().invoke(drift, command[1:5])  # with the same settings: the same bytes
    assert result.exit_code == 0, result.output
    assert (tmp_path / "whole" / TRAINED).read_bytes() == (
        tmp_path / "broken" / TRAINED
    ).read_bytes()


def test_what_is_out_of_memory_and_what_is_not():
    backend = backends.load("cpu")
    with pytest.raises(RuntimeError) as caught:
        torch.empty(1 << 44)
    assert backend.out_of_memory(caught.value)
    assert backend.out_of_memory(torch.OutOfMemoryError(FULL))
    assert backend.out_of_memory(MemoryError())
    assert not backend.out_of_memory(RuntimeError("something else"))
