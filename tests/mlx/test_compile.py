"""`model.compile` on MLX: the same updates, traced once for each set of shapes.

On a CPU MLX compiles with g++, half a second for each kernel that it has not made before.
"""

import shutil
import threading

import numpy as np
import pytest

drift = pytest.importorskip("drift_mlx.backend", exc_type=ImportError)

import mlx.core as mx  # noqa: E402

from common import backends, config as configuration  # noqa: E402
from common.config import AdapterConfig, ModelConfig  # noqa: E402
from common.progress import NullObserver  # noqa: E402
from common.runs.directory import RunDirectory  # noqa: E402
from common.trainer import Trainer  # noqa: E402
from drift_mlx.compiling import compiled, spent  # noqa: E402

TINY = (
    *(
        "run.updates=4",
        "rollout.prompts=2",
        "rollout.group_size=3",
        "rollout.steps=3",
        "rollout.window=0",
    ),
    *("rollout.batch_size=6", "objective.micro_batch=4", "objective.optimizer_steps=2"),
    *("objective.kl_weight=0.1", "evaluate.every=9", "optimizer.learning_rate=0.01"),
)

FULL = ("adapter.kind=full", "optimizer.learning_rate=1e-3")


@pytest.fixture
def trainer_of(tmp_path):
    def make(*changes):
        config = configuration.load("emoji-grpo", [*TINY, *changes])
        run = RunDirectory.create(tmp_path / str(config.model.compile), config, {})
        backend = backends.load("mlx")
        return Trainer(config, backend, run, observer=NullObserver(), stop=threading.Event())

    return make


def apart(ours, theirs):
    """Relative error of all parameters as one vector."""
    difference = sum(float(mx.square(ours[name] - theirs[name]).sum()) for name in theirs)
    return (difference / sum(float(mx.square(array).sum()) for array in theirs.values())) ** 0.5


@pytest.mark.usefixtures("quick_compiler")
@pytest.mark.parametrize(
    "changes",
    [pytest.param((), id="lora"), pytest.param(FULL, id="full", marks=pytest.mark.slow)],
)
def test_updates_are_the_same_and_only_the_first_is_compiled(trainer_of, changes):
    """12 pairs an update, in optimizer steps of 6, in micro-batches of 4 and 2."""
    plain, fast = trainer_of(*changes), trainer_of("model.compile=true", *changes)
    start = plain.policy.parameters()
    before, seconds = spent.traces, spent.seconds
    rows, traces = [], []
    for _ in range(2):
        expected, row = plain.step(), fast.step()
        rows.append(row)
        traces.append(spent.traces - before)
        for name in ("objective/loss", "objective/kl", "objective/gradient_norm"):
            assert row[name] == pytest.approx(expected[name], rel=1e-5, abs=1e-9), name
        assert row["objective/ratio_max"] < 1e-6
    after = plain.policy.parameters()
    assert apart(after, start) > 0.01
    assert apart(fast.policy.parameters(), after) < 1e-3
    # prediction; reference of 4 and of 2; gradient of 4, and of 2 onto it; norm; AdamW
    assert traces == [7, 7]
    assert "time/compile" not in expected
    assert rows[0]["time/compile"] > 0 == rows[1]["time/compile"]
    assert spent.seconds - seconds == pytest.approx(rows[0]["time/compile"])


@pytest.mark.usefixtures("quick_compiler")
def test_what_is_a_result_may_be_computed_twice():
    """As the ratio is: MLX's compiler alone loses one of the two."""

    def both(w, x):
        loss, ratio = mx.value_and_grad(lambda w: mx.exp(w * x).sum())(w), mx.exp(w * x)
        return loss, {"ratio": ratio, "again": mx.exp(w * x)}

    w, x = mx.array([0.5, -1.0]), mx.array([1.0, 2.0])
    (value, gradient), found = compiled(both)(w, x)
    expected = np.exp([0.5, -2.0])
    np.testing.assert_allclose(found["ratio"], expected, rtol=1e-6)
    np.testing.assert_allclose(found["again"], expected, rtol=1e-6)
    np.testing.assert_allclose(gradient, expected * np.array([1, 2]), rtol=1e-6)
    assert value.item() == pytest.approx(expected.sum(), rel=1e-6)


@pytest.mark.usefixtures("quick_compiler")
def test_a_function_inside_of_another_is_a_part_of_it():
    inner = compiled(lambda x: x + 1)
    before = spent.traces
    outer = compiled(lambda x: [inner(x), inner(2 * x)])
    for _ in range(2):
        np.testing.assert_array_equal(outer(mx.ones(3))[1], 3 * np.ones(3))
    assert spent.traces == before + 1
    outer(mx.ones(4))
    assert spent.traces == before + 2


@pytest.mark.usefixtures("quick_compiler")
def test_a_step_that_is_not_finite_changes_nothing():
    backend, settings = backends.load("mlx"), configuration.load("emoji-grpo").optimizer
    adapter = AdapterConfig(rank=2, targets=("o",))
    policy = backend.policy(ModelConfig(compile=True), adapter, seed=0)
    optimizer, held = backend.optimizer(policy, settings), policy.parameters()
    gradients = {name: mx.full(array.shape, np.inf) for name, array in held.items()}
    with pytest.raises(FloatingPointError, match="the gradient norm is inf; nothing was updated"):
        optimizer.step(gradients)
    assert all(array is held[name] for name, array in policy.parameters().items())
    assert optimizer.state()["step"] == 0


def test_without_a_compiler_the_line_names_it(monkeypatch):
    monkeypatch.setattr(mx, "default_device", lambda: mx.Device(mx.cpu))
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(
        ValueError, match=r"^model\.compile = true: MLX compiles on a CPU with g\+\+"
    ):
        backends.load("mlx").policy(ModelConfig(compile=True), AdapterConfig(), seed=0)
    backends.load("mlx").policy(ModelConfig(), AdapterConfig(), seed=0)
