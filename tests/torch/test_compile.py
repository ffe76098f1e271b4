"""A compiled denoiser trains like any other, and tells how long compiling took.

Dynamo traces and guards as ever here; only the code that it would generate is left out, which takes
a C++ compiler minutes.
"""

import threading

import pytest
from torch import nn

from common import backends, config as configuration
from common.console import RunDisplay
from common.progress import NullObserver
from common.runs.directory import RunDirectory
from common.trainer import Trainer

TINY = (
    *("run.updates=2", "rollout.prompts=2", "rollout.group_size=2", "rollout.steps=2"),
    *("rollout.window=0", "rollout.batch_size=4", "objective.micro_batch=4"),
    *("reward.terms={jpeg_compressibility=1.0}", "objective.kl_weight=0.01"),
    "objective.zero_advantage=keep",  # dropped samples change the shapes, which compiles again
)
FLUX = (
    *("model.family=flux", "model.max_tokens=20", "model.resolution=32"),
    *("prompts.source=animals", "prompts.names=[]"),
)


@pytest.mark.parametrize("family", ["embedded", pytest.param("flux", marks=pytest.mark.slow)])
def test_compiling_is_reported_with_the_update_that_waited_for_it(
    family, checkpoint, tmp_path, monkeypatch, capsys
):
    compile_ = nn.Module.compile
    monkeypatch.setattr(nn.Module, "compile", lambda self: compile_(self, backend="eager"))
    backend, rows = backends.load("cpu"), {}
    model = (f"model.path={checkpoint('flux')}", *FLUX) if family == "flux" else ()
    for on in ("true", "false"):
        config = configuration.load("emoji-grpo", [*model, *TINY, f"model.compile={on}"])
        run = RunDirectory.create(tmp_path / on, config, {})
        trainer = Trainer(config, backend, run, observer=NullObserver(), stop=threading.Event())
        rows[on] = [trainer.step(), trainer.step()]
        if on == "true":
            assert trainer.memory()["update"] > 0  # which takes no compiler
    first, second = rows["true"]
    assert first["time/compile"] > 0.05
    assert second["time/compile"] < first["time/compile"] / 2
    assert first["time/compile"] < first["seconds"]
    for row, plain in zip(rows["true"], rows["false"], strict=True):
        assert "time/compile" not in plain
        assert row["objective/ratio_max"] < 1e-6
        assert row["objective/gradient_norm"] == pytest.approx(
            plain["objective/gradient_norm"], rel=1e-3
        )
    display = RunDisplay(2, threading.Event(), {})
    display.updated({**first, "time/compile": 41.4})
    display.updated(second)
    said = capsys.readouterr().out
    assert said.count("compiling the model took 41 s") == 1
