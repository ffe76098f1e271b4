"""Two backends and float64 agree in every stage of an update, and a planted fault is found.

The comparison runs once, as the command that users run; every test but the last group reads it.
"""

import json
from typing import get_args

import numpy as np
import pytest
from click.testing import CliRunner

from common import backends
from common.algorithm import kernels, objective, potential, prompt_noise, shaping
from common.backends import BackendUnavailableError
from common.cli import drift as command
from common.parity import StageResult, compare
from common.parity.losses import GUIDED, LOSSES
from common.parity.measure import CHANGE, EXACT, ROLLOUT, SINGLE, UPDATES, Measured, between
from common.parity.whole import CREDITS, METRICS, NOISES, RUNS

pytest.importorskip("torch")
# Before mlx.core: MLX multiplies matrices with the BLAS that is loaded first.
mlx_embedded = pytest.importorskip("drift_mlx.embedded")
mlx_backend = pytest.importorskip("drift_mlx.backend")
mlx_lora = pytest.importorskip("drift_mlx.lora")
mx = pytest.importorskip("mlx.core")

LOSS_STAGES = [f"{name} {what}" for name in LOSSES for what in ("loss", "ratio", "KL", "gradients")]
LOSS_STAGES.remove("objective of cps KL")
GUIDED_STAGES = [name for name in LOSS_STAGES if "guidance" in name and "gradients" in name]

STAGES = {
    SINGLE: (
        "prompt encoder", "time features", "prompt noise", "model context", "model time",
        "model blocks.0", "model blocks.1", "model blocks.2", "model blocks.3", "model blocks.4",
        "model blocks.5", "model velocity", "velocity, adapter on", "velocity, adapter off",
        "gradients, lora", "gradients, full", "adamw gradient norm", "adamw moments",
        "adamw parameters", "train scorer features", "train scorer scores",
        "heldout scorer features", "heldout scorer scores", "potentials", "advantages",
        "accumulated gradients", "moving average", "velocity, averaged weights",
        "potentials of every kind",
        *(f"advantages, {name}" for name in CREDITS),
        *(f"conditioning, {name}" for name in NOISES),
        *(
            f"{kernel} {what}"
            for kernel in (*get_args(kernels.FlowKernel), "ddim", "ddim of v")
            for what in ("mean", "std", "log-prob")
        ),
        *(name for name in LOSS_STAGES if name not in GUIDED_STAGES),
    ),
    GUIDED: GUIDED_STAGES,
    EXACT: ("potentials and advantages, identical inputs",),
    ROLLOUT: (
        "rollout latents", "rollout log-probs", "rollout final latents", "rollout images",
        "rollout rewards", "rollout potentials",
    ),
    UPDATES: (
        *(f"{run}, {what}" for run in RUNS for what in ("parameters", *METRICS)),
        "full tuning, average",
    ),
    CHANGE: tuple(f"{run}, change" for run in RUNS),
}  # fmt: skip
TOLERANCES = {stage: tolerance for tolerance, stages in STAGES.items() for stage in stages}
PAIRS = ["cpu vs float64", "mlx vs float64", "cpu vs mlx"]


@pytest.fixture(scope="module")
def answer():
    return CliRunner().invoke(command, ["parity", "--backends", "cpu,mlx", "--json"])


@pytest.fixture(scope="module")
def results(answer):
    return [StageResult(**row) for row in json.loads(answer.stdout)["stages"]]


def test_the_tables_have_all_that_runs_use():
    """Every mode, form and kernel that a configuration may name is compared."""
    lines = {
        change for table in (LOSSES, CREDITS, NOISES, RUNS) for c in table.values() for change in c
    }
    named = {line.partition("=")[2] for line in lines}
    every = (shaping.Mode, prompt_noise.Form, objective.KLForm, kernels.FlowKernel)
    defaults = {"additive", "transition", "flow_sde", "both"}
    assert {name for choices in every for name in get_args(choices)} <= named | defaults
    assert {"maxvar", "full", "conditional", "0.9", "nearest"} <= named
    assert "mean_pairwise" in get_args(potential.Potential)


def test_every_stage_is_compared_in_every_pair(results):
    expected = sorted((stage, pair) for stage in TOLERANCES for pair in PAIRS)
    assert sorted((result.stage, result.backends) for result in results) == expected


@pytest.mark.parametrize("stage", TOLERANCES)
def test_stage_is_within_tolerance(results, stage):
    mine = [result for result in results if result.stage == stage]
    assert [result.backends for result in mine] == PAIRS
    for result in mine:
        assert result.tolerance == TOLERANCES[stage] <= 1e-2
        assert result.relative_error <= result.tolerance, result
        assert result.ok


def test_errors_are_those_of_float32_and_not_of_comparing_a_thing_with_itself(results):
    for result in results:
        if result.backends.endswith("float64") and result.tolerance > 0:
            assert result.relative_error > 1e-9, result


def test_command_says_all_is_well_by_its_exit_code(answer):
    assert answer.exit_code == 0
    assert list(json.loads(answer.stdout)) == ["stages"]


def test_one_backend_alone_is_compared_with_float64():
    told = []
    (result,) = compare(["cpu", "cpu"], observer=told.append, only=["prompt encoder"])
    assert (result.stage, result.backends, result.ok) == ("prompt encoder", "cpu vs float64", True)
    assert told == ["prompt encoder on cpu", "prompt encoder on float64"]


def test_requests_that_cannot_be_fulfilled(monkeypatch):
    refused = CliRunner().invoke(command, ["parity", "--backends", "cpu,mxl"])
    assert refused.exit_code == 2
    assert "no backend 'mxl'; did you mean 'mlx'?" in refused.stderr
    with pytest.raises(ValueError, match="no backend to compare"):
        compare([])
    with pytest.raises(ValueError, match="nothing called 'rollouts'"):
        compare(["cpu"], only=["rollouts"])
    monkeypatch.setattr(
        backends.registry, "find_spec", lambda name: None if name == "torch" else name
    )
    with pytest.raises(
        BackendUnavailableError, match=r"float64 reference needs PyTorch.*\[torch\]"
    ):
        compare(["mlx"])


# --- planted faults, all of them on MLX alone ----------------------------------------------------


@pytest.fixture
def found():
    """Names of the stages that are over tolerance."""

    def over(*titles):
        return {result.stage for result in compare(["mlx"], only=titles) if not result.ok}

    return over


@pytest.fixture
def scale_weight(monkeypatch):
    """Has the MLX backend load one weight of a model off by a factor."""
    load = mlx_embedded._load

    def plant(model, name, factor):
        def scaled(module, weights, what):
            if what == f"weights {model}":
                weights = {**weights, name: weights[name] * np.float32(factor)}
            load(module, weights, what)

        monkeypatch.setattr(mlx_embedded, "_load", scaled)

    return plant


def test_a_weight_that_is_off_shows_from_its_block_on(found, scale_weight):
    scale_weight("denoiser", "blocks.3.m1.weight", 1 + 1e-3)
    later = {"model blocks.3", "model blocks.4", "model blocks.5", "model velocity"}
    assert found("prompt encoder", "model") == later


def test_a_scorer_that_is_off_shows_in_that_scorer(found, scale_weight):
    scale_weight("scorer_train", "net.0.0.weight", 1 + 1e-3)
    assert found("scorers") == {"train scorer features", "train scorer scores"}


def test_a_kernel_that_is_off_shows_in_that_kernel(found, monkeypatch):
    def off(x, *args, **settings):
        mean, std = kernels.flow_sde(x, *args, **settings)
        return kernels.Transition(mean, std * (1 + 1e-2) if isinstance(x, mx.array) else std)

    monkeypatch.setitem(kernels.FLOW_KERNELS, "flow_sde", off)
    assert found("transitions") == {"flow_sde std", "flow_sde log-prob"}


def test_a_form_of_kl_that_is_off_shows_in_that_form(found, monkeypatch):
    def off(kl, width, *, form):
        return kl if isinstance(kl, mx.array) else true(kl, width, form=form)

    true = objective.kl_penalty
    monkeypatch.setattr(objective, "kl_penalty", off)
    over = found("objective")
    assert over == {f"objective with the KL of Flow-GRPO {what}" for what in ("loss", "gradients")}


def test_a_null_branch_that_is_off_shows_under_guidance(found, monkeypatch):
    predict = mlx_embedded.EmbeddedPolicy.predict

    def off(self, x, time, conditioning, *, constant=False):
        return predict(self, x, time, conditioning, constant=False)

    monkeypatch.setattr(mlx_embedded.EmbeddedPolicy, "predict", off)
    assert found("guidance") == {"guidance, null branch constant gradients"}


def test_gradients_that_do_not_add_up_show_in_accumulation(found, monkeypatch):
    value_and_grad = mlx_backend.Backend.value_and_grad

    def off(self, policy, loss):
        run = value_and_grad(self, policy, loss)
        return lambda *arrays, onto=None: run(*arrays)

    monkeypatch.setattr(mlx_backend.Backend, "value_and_grad", off)
    assert found("accumulation") == {"accumulated gradients"}


def test_an_adapter_that_is_off_shows_only_where_it_is_on(found, monkeypatch):
    initialise = mlx_lora.LoRALinear.__init__

    def off(self, *args):
        initialise(self, *args)
        self.scale *= 1 + 1e-3

    monkeypatch.setattr(mlx_lora.LoRALinear, "__init__", off)
    assert found("adapter") == {"velocity, adapter on"}


def test_a_clip_that_is_off_shows_in_the_optimizer(found, monkeypatch):
    initialise = mlx_backend.AdamW.__init__

    def off(self, policy, settings):
        initialise(self, policy, settings.model_copy(update={"max_grad_norm": 1 + 1e-3}))

    monkeypatch.setattr(mlx_backend.AdamW, "__init__", off)
    assert found("optimizer") == {"adamw moments", "adamw parameters"}


def test_a_command_that_finds_a_fault_says_so_by_its_exit_code(monkeypatch):
    monkeypatch.setattr("common.parity.compare", lambda names, *, observer: [fault()])
    answer = CliRunner().invoke(command, ["parity", "--json"])
    assert answer.exit_code == 1
    assert [row["ok"] for row in json.loads(answer.stdout)["stages"]] == [False]


def fault():
    return between("a vs b", *(Measured("s", {"x": np.array([v])}, SINGLE) for v in (1.0, 1.1)))


# --- how an error is computed --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("a", "b", "relative", "absolute"),
    [
        ({"x": [3.0, 4.0]}, {"x": [3.0, 5.0]}, 1 / 34**0.5, 1.0),
        ({"x": [1.0], "y": [2.2]}, {"x": [1.0], "y": [2.0]}, 0.1, 0.2),  # the worst array counts
        ({"x": [0.0]}, {"x": [0.0]}, 0.0, 0.0),
        ({"x": [1e-9]}, {"x": [0.0]}, np.inf, 1e-9),
        ({"x": [np.nan], "y": [1.0]}, {"x": [1.0], "y": [1.0]}, np.nan, np.nan),
        ({"x": [0]}, {"x": np.array([255], dtype=np.uint8)}, 1.0, 255.0),  # no wrap-around
    ],
)
def test_errors_by_hand(a, b, relative, absolute):
    first, second = (
        Measured("s", {name: np.asarray(array) for name, array in side.items()}, 0.2)
        for side in (a, b)
    )
    result = between("a vs b", first, second)
    assert result.relative_error == pytest.approx(relative, nan_ok=True)
    assert result.max_abs_error == pytest.approx(absolute, nan_ok=True)
    assert result.ok == (relative <= 0.2)


def test_tolerance_zero_asks_for_the_same_bits():
    one, next_one = np.array([1.0]), np.array([np.nextafter(1.0, 2.0)])
    same = [Measured("s", {"x": value}, EXACT) for value in (one, one, next_one)]
    assert between("", same[0], same[1]).ok
    assert not between("", same[0], same[2]).ok


def test_different_arrays_are_not_compared():
    one, two = (Measured("s", {"x": np.zeros(size)}, SINGLE) for size in (1, 2))
    with pytest.raises(ValueError, match="cannot be compared"):
        between("a vs b", one, two)
