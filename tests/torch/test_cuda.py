"""What only a card can show: half types, determinism, memory, compiling, and the same numbers.

They run on CUDA. DRIFT_TEST_DEVICE=cpu runs those that a CPU can, which keeps them from rotting.
"""

import os
import threading

import numpy as np
import pytest
import torch

from common import backends
from common.progress import NullObserver
from common.runs import checkpoint as checkpoints
from common.runs.directory import RunDirectory
from common.trainer import Trainer
from tests.shapes import FAMILIES, settings_of

pytestmark = pytest.mark.gpu

TINY = (
    *("run.updates=2", "checkpoint.every=1", "evaluate.every=2", "evaluate.images=2"),
    *("evaluate.steps=2", "evaluate.prompts=1", "rollout.prompts=2", "rollout.group_size=2"),
    *("rollout.steps=3", "rollout.window=0", "rollout.batch_size=4", "objective.micro_batch=4"),
    *("adapter.rank=2", "reward.terms={jpeg_compressibility=1.0}"),
    *("prompts.source=animals", "prompts.names=[]"),
    "objective.zero_advantage=keep",  # JPEG sizes of two tiny images may be equal
)


@pytest.fixture(scope="module")
def card():
    name = os.environ.get("DRIFT_TEST_DEVICE", "cuda")
    if name == "cuda" and not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    return backends.load(name)


@pytest.fixture(scope="module")
def cuda(card):
    if card.name != "cuda":
        pytest.skip("needs a CUDA device")
    return card


@pytest.fixture
def train(checkpoint, tmp_path):
    """(backend, shape, folder, *changes) -> rows of two updates, and the trained arrays."""

    def run(backend, shape, folder, *changes):
        config = settings_of(checkpoint, shape, *TINY, *changes)
        directory = RunDirectory.create(tmp_path / folder, config, {})
        stop = threading.Event()
        Trainer(config, backend, directory, observer=NullObserver(), stop=stop).run()
        newest = checkpoints.latest(directory.checkpoints)
        return directory.metrics(), checkpoints.load(newest).parameters

    return run


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("shape", FAMILIES)
def test_every_family_trains_in_every_type(shape, dtype, card, train):
    if dtype == "float16" and card.name == "cpu":
        pytest.skip("float16 needs a GPU")
    rows, parameters = train(card, shape, "run", f"model.dtype={dtype}")
    assert all(np.isfinite(row["objective/gradient_norm"]) for row in rows)
    assert all(row["objective/gradient_norm"] > 0 for row in rows)
    assert all(value.dtype == np.float32 for value in parameters.values())
    if dtype == "float32":
        assert max(row["objective/ratio_max"] for row in rows) < 1e-6


@pytest.mark.parametrize("shape", FAMILIES)
def test_a_run_that_is_repeated_gives_the_same_bytes(shape, card, train):
    _, first = train(card, shape, "first")
    _, second = train(card, shape, "second")
    assert all(first[name].tobytes() == second[name].tobytes() for name in first)


def test_two_updates_agree_with_the_cpu(card, train):
    """What five updates of `drift parity` may differ by: a thousandth of the parameters."""
    _, here = train(card, "sd35", "here", "model.tf32=never")
    _, there = train(backends.load("cpu"), "sd35", "there")
    a, b = (
        np.concatenate([values[name].ravel() for name in sorted(values)])
        for values in (here, there)
    )
    assert np.linalg.norm(a - b) <= 1e-3 * np.linalg.norm(b)


def test_running_out_of_memory_is_recognised(cuda):
    total = cuda.device_memory()["total"]
    with pytest.raises(torch.OutOfMemoryError) as caught:
        torch.empty(2 * total, dtype=torch.uint8, device=cuda.device)
    assert cuda.out_of_memory(caught.value)


def test_the_peak_is_below_the_estimate(cuda, checkpoint, tmp_path):
    """The estimate counts tensors, so kernels' own memory is allowed: 64 MB for these sizes."""
    config = settings_of(checkpoint, "sd35", *TINY)
    directory = RunDirectory.create(tmp_path / "run", config, {})
    trainer = Trainer(config, cuda, directory, observer=NullObserver(), stop=threading.Event())
    estimate = max(trainer.memory().values())
    torch.cuda.reset_peak_memory_stats()
    trainer.step()
    assert torch.cuda.max_memory_allocated() < estimate + 64e6


def test_a_compiled_model_gives_the_same_numbers(cuda, train):
    plain, _ = train(cuda, "sd35", "plain")
    compiled, _ = train(cuda, "sd35", "compiled", "model.compile=true")
    for a, b in zip(plain, compiled, strict=True):
        assert b["objective/gradient_norm"] == pytest.approx(a["objective/gradient_norm"], rel=1e-3)
