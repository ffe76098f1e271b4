"""A machine is measured through the real classes, in a process of its own, within its memory.

Real families are tiny here; everything else is what `drift doctor --bench` does at full size.
"""

import os
import signal
from types import SimpleNamespace

import pytest

from common import backends
from common.backends import BackendUnavailableError, OutOfMemoryError
from common.config import ConfigError
from common.machine import bench
from common.machine.bench import Case
from common.pipelines import architectures

MADE = (
    "estimating memory",
    "making the model",
    "forward passes",
    "an update, to warm up",
    "update 1 of 3",
    "update 2 of 3",
    "update 3 of 3",
)
SMALL = (
    "rollout.prompts=2",
    "rollout.group_size=2",
    "rollout.steps=3",
    "rollout.window=0",
)
SHRUNK = ("model.resolution=32", "adapter.rank=2", "model.dtype=float32")


@pytest.fixture
def tiny(monkeypatch):
    """Makes the published models of both backends tiny."""
    pytest.importorskip("drift_mlx.backend", exc_type=ImportError)
    monkeypatch.setattr(architectures, "FULL", architectures.TINY)


def changes(model):
    return SHRUNK if model == "sd15" else (*SHRUNK, "model.max_tokens=20")


@pytest.mark.parametrize("backend", ["cpu", "mlx"])
@pytest.mark.parametrize(
    "model",
    [
        pytest.param(model, marks=pytest.mark.slow) if model == "sd15" else model
        for model in bench.REAL
    ],
)
def test_a_real_model_is_measured(model, backend, tiny):
    stages = []
    measured = bench.measure(Case(backend, model, changes(model)), stages.append)
    assert tuple(stages) == MADE
    assert (measured.backend, measured.model) == (backend, model)
    assert (measured.pixels, measured.batch, measured.images) == (32, 2, 2)
    assert (measured.dtype, measured.steps, measured.trained) == ("float32", 4, 2)
    assert measured.guidance == (5.0 if model == "sd15" else 1.0)
    assert 0 < measured.forward < measured.update  # which has forward passes in it
    assert measured.images_per_second == 2 / measured.update
    assert measured.peak > 1e4


@pytest.mark.parametrize("backend", ["cpu", "mlx"])
def test_what_does_not_fit_is_refused_before_it_is_made(backend, tiny, monkeypatch):
    made = []
    engine = backends.load(backend)
    monkeypatch.setattr(backends, "load", lambda name: engine)
    monkeypatch.setattr(engine, "device_memory", lambda: {"peak": 0, "total": 10_000})
    shape = engine.random_policy

    def random_policy(*arguments, weights=True):
        made.append(weights)
        return shape(*arguments, weights=weights)

    monkeypatch.setattr(engine, "random_policy", random_policy)
    with pytest.raises(bench.RefusedError) as caught:
        bench.measure(Case(backend, "sd35m", changes("sd35m")), print)
    assert str(caught.value).startswith(f"sd35m does not fit on {backend}: an estimated 0.0 GB, ")
    assert str(caught.value).endswith("90% of 0.0 GB may be used")
    assert made == [False]


def test_schnell_has_no_guidance_and_dev_has(tiny):
    from common import config as configuration

    for path, guided in (("FLUX.1-schnell", False), ("FLUX.1-dev", True)):
        settings = [f"model.path={path}", *changes("flux-schnell")]
        config = configuration.load("flux-schnell-mac64-grpo", settings)
        for name in ("cpu", "mlx"):
            made = backends.load(name).random_policy(config.model, config.adapter)
            sizes = made.module.config if name == "cpu" else made._config
            assert sizes.guidance_embeds is guided


def test_the_embedded_model_is_measured_in_a_process_of_its_own(monkeypatch):
    stages = []
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    measured = bench.measure_in_subprocess(Case("cpu", "embedded", SMALL), stages.append)
    assert tuple(stages) == ("starting", *MADE)
    assert len(stages) == bench.STAGES
    assert (measured.pixels, measured.images, measured.steps, measured.dtype) == (
        32,
        4,
        3,
        "float32",
    )
    assert measured.peak > 1e7


@pytest.mark.parametrize(
    ("error", "kind", "text"),
    [
        (ConfigError("no such\nkey"), "refused", "no such key"),
        (BackendUnavailableError("install it"), "refused", "install it"),
        (
            OutOfMemoryError("out of memory, update; a run goes on"),
            "failed",
            "out of memory, update",
        ),
        (ZeroDivisionError("by zero"), "failed", "ZeroDivisionError: by zero"),
    ],
)
def test_what_a_process_raises_is_reported_with_its_traceback(error, kind, text, monkeypatch):
    def measure(case, on_stage):
        on_stage("estimating memory")
        raise error

    sent = []
    monkeypatch.setattr(bench, "measure", measure)
    monkeypatch.setattr(bench.signal, "signal", lambda *_: None)
    monkeypatch.setattr(bench.warnings, "simplefilter", lambda _: None)
    bench._work(SimpleNamespace(send=sent.append), Case("cpu", "embedded"))
    assert sent[0] == ("stage", "estimating memory")
    assert sent[1][0] == kind
    assert sent[1][1][0] == text
    assert "raise error" in sent[1][1][1]


def test_a_process_that_is_killed_is_reported_and_none_is_left():
    def kill(_):
        (child,) = bench.multiprocessing.active_children()
        os.kill(child.pid, signal.SIGKILL)

    with pytest.raises(bench.FailedError, match="killed by SIGKILL, which is what a system does"):
        bench.measure_in_subprocess(Case("cpu", "embedded", SMALL), kill)
    assert not bench.multiprocessing.active_children()


def test_an_interruption_ends_the_process():
    def interrupt(_):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        bench.measure_in_subprocess(Case("cpu", "embedded", SMALL), interrupt)
    assert not bench.multiprocessing.active_children()
