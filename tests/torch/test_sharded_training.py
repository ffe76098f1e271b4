"""A run with its frozen weights in slices has the bytes of a whole one, and each goes on as other.

The mechanism is in `tests/torch/test_sharding.py`.
"""

import json
import threading

import pytest
from click.testing import CliRunner

from common import backends, config as configuration
from common.cli import drift
from common.progress import NullObserver
from common.runs.directory import RunDirectory
from common.trainer import Trainer
from tests.torch.gloo import together
from tests.torch.test_diffusion_training import DRIFT, RUNS, TINY
from tests.torch.test_sharding import stored

pytestmark = pytest.mark.slow

UNEVEN = ("rollout.batch_size=2", "objective.micro_batch=3")
"""Batches that two processes cannot share evenly."""

AVERAGED = ("optimizer.ema_decay=0.5", "optimizer.ema_every=1", "evaluate.every=1")
SPARED = ("dtype=bfloat16", "gradient_checkpointing=true", "offload=true")
CHANGES = {"sd15": (), "sd3": (), "flux": tuple(f"model.{change}" for change in SPARED)}
FILES = ("adapter_model.safetensors", "ema.safetensors", "optimizer.safetensors")


def train(config, backend, path, stop_after=None):
    """Begin a run or go on with it; gives the bytes of the weights that are here."""

    def opened():
        if path.exists():
            RunDirectory.open(path).check_resumable(config)
        else:
            RunDirectory.create(path, config, {})

    backend.world.lead(opened, "opening the run")
    run, stop, observer = RunDirectory.open(path), threading.Event(), NullObserver()

    def updated(row):
        if row["update"] == stop_after:
            stop.set()

    observer.updated = updated
    trainer = Trainer(config, backend, run, observer=observer, stop=stop)
    assert trainer.run() == (stop_after is None)
    return stored(trainer.policy.module)


def with_shard(config, shard):
    return configuration.changed(config, {"model.shard": shard})


def runs_of_both(backend, configs, folder):
    """Each run in slices and, by process 0, whole; two that change at half; gives bytes by name."""
    here, whole = {}, {}
    alone = backends.load("cpu") if backend.world.rank == 0 else None
    for name, config in configs.items():
        here[name] = train(with_shard(config, "fsdp"), backend, folder / "slices" / name)
        if alone:
            whole[name] = train(config, alone, folder / "whole" / name)
    config = configs["sd3"]
    train(with_shard(config, "fsdp"), backend, folder / "slices-whole", stop_after=1)
    if alone:
        train(config, alone, folder / "slices-whole")
        train(config, alone, folder / "whole-slices", stop_after=1)
    backend.world.lead(lambda: None, "waiting")
    train(with_shard(config, "fsdp"), backend, folder / "whole-slices")
    return here, whole


@pytest.fixture(scope="module")
def configs(checkpoint, tmp_path_factory):
    prompts = tmp_path_factory.mktemp("prompts") / "prompts.txt"
    prompts.write_text("a red fox\nan owl in the snow\ntwo blue cubes\n")
    loaded = {}
    for name, changes in CHANGES.items():
        family, shape, own = RUNS[name]
        model = [f"model.family={family}", f"model.path={checkpoint(family, **shape)}"]
        if family != "sd15":
            model.append("model.max_tokens=20")
        every = [*TINY, f"prompts.source={prompts}", *model, *DRIFT, *own, *UNEVEN, *AVERAGED]
        loaded[name] = configuration.load("emoji-grpo", [*every, *changes])
    return loaded


@pytest.fixture(scope="module")
def made(configs, tmp_path_factory):
    """The folder of the runs, and by process the bytes that it had of the weights of each."""
    folder = tmp_path_factory.mktemp("sharded")
    results = together(2, runs_of_both, configs, folder)
    for result in results:
        assert not isinstance(result, str), result
    return folder, results


def files(path):
    return {name: (path / "checkpoints" / "000002" / name).read_bytes() for name in FILES}


def rows(path):
    run = RunDirectory.open(path)
    return json.dumps(
        [
            {k: v for k, v in row.items() if not k.startswith("time/") and k != "seconds"}
            for row in [*run.metrics(), *run.evaluations()]
        ]
    )


@pytest.mark.parametrize("name", CHANGES)
def test_the_bytes_are_those_of_whole_weights(name, made):
    folder, _ = made
    assert files(folder / "slices" / name) == files(folder / "whole" / name)
    assert rows(folder / "slices" / name) == rows(folder / "whole" / name)


@pytest.mark.parametrize("name", CHANGES)
def test_each_process_keeps_half_of_the_frozen_weights(name, made):
    _, ((here, whole), (there, _)) = made
    trained, frozen = whole[name]
    assert here[name][0] == there[name][0] == trained
    for kept in (here[name][1], there[name][1]):
        assert frozen / 2 <= kept < 0.51 * frozen  # rows of odd numbers are padded


@pytest.mark.parametrize("how", ["slices-whole", "whole-slices"])
def test_a_run_goes_on_with_the_other(how, made):
    folder, _ = made
    assert files(folder / how) == files(folder / "whole" / "sd3")


def test_such_a_run_is_exported_as_any_other(made, tmp_path):
    folder, _ = made
    contents = []
    for kind in ("slices", "whole"):
        words = ["export", str(folder / kind / "sd3"), "--out", str(tmp_path / kind)]
        result = CliRunner().invoke(drift, words)
        assert result.exit_code == 0, result.output
        contents.append((tmp_path / kind / "pytorch_lora_weights.safetensors").read_bytes())
    assert contents[0] == contents[1]
