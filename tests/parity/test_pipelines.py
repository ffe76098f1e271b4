"""PyTorch and MLX do the same with a diffusers folder, from its prompts to two updates.

Tiny checkpoints of the real classes, through the command that users run on theirs; and a run that
was begun on one backend goes on on the other.
"""

import json
import threading

import numpy as np
import pytest
from click.testing import CliRunner

from common import backends
from common.cli import drift as command
from common.parity.measure import ROLLOUT, SINGLE, UPDATES
from common.parity.model import ModelUnderTest, compare_model, settings
from common.parity.precision import tolerances
from common.progress import NullObserver
from common.runs.directory import RunDirectory
from common.trainer import Trainer

pytest.importorskip("torch")
pytest.importorskip("drift_mlx.backend", exc_type=ImportError)

SHAPES = {
    "sd15": ("sd15", {"prediction": "v_prediction"}, ()),
    "sd3": ("sd3", {"t5_encoder": False}, ("model.max_tokens=20", "model.text_encoder_3=false")),
    "sd35": ("sd3", {"newer": True}, ("model.max_tokens=20", "model.resolution=40")),
    "flux-dev": ("flux", {"guided": True}, ("model.max_tokens=20", "model.resolution=32")),
}
GRADIENTS, IMAGES = tolerances().gradients, tolerances().images
TOLERANCES = {
    "text encoders, tokens": SINGLE,
    "prediction, adapter on": SINGLE,
    "prediction, adapter off": SINGLE,
    "gradients, adapter": GRADIENTS,
    "loss, KL": GRADIENTS,
    "loss, gradients": GRADIENTS,
    "decoded images": IMAGES,
    "rollout latents": ROLLOUT,
    "rollout log-probs": ROLLOUT,
    "rollout images": IMAGES,
    "two updates, parameters": UPDATES,
}


@pytest.fixture(autouse=True)
def _quiet(monkeypatch):
    monkeypatch.setenv("MLX_ENABLE_TF32", "0")  # the command sets it for good


@pytest.mark.parametrize("shape", SHAPES)
def test_every_stage_is_within_its_tolerance(shape, checkpoint):
    family, options, changes = SHAPES[shape]
    words = ["parity", "--model", str(checkpoint(family, **options)), "--json"]
    for change in changes:
        words += ["--set", change]
    result = CliRunner().invoke(command, words)
    assert result.exit_code == 0, result.output
    stages = {each["stage"]: each for each in json.loads(result.stdout)["stages"]}
    assert TOLERANCES.items() <= {name: each["tolerance"] for name, each in stages.items()}.items()
    assert all(each["backends"] == "cpu vs mlx" and each["ok"] for each in stages.values())
    blocks = [name for name in stages if "block" in name]
    assert len(blocks) >= (4 if family == "sd15" else 1)
    assert 0 < stages["prediction, adapter on"]["relative_error"] < SINGLE


@pytest.mark.parametrize("kind", ["lora", "full"])
@pytest.mark.parametrize("shape", ["sd15", "sd35", "flux-dev"])
def test_parameters_have_the_same_names_shapes_and_first_values(shape, kind, checkpoint):
    family, options, changes = SHAPES[shape]
    config = settings(str(checkpoint(family, **options)), [*changes, f"adapter.kind={kind}"])
    ours, theirs = (
        {
            name: backend.to_numpy(value)
            for name, value in backend.policy(config.model, config.adapter, seed=3)
            .parameters()
            .items()
        }
        for backend in (backends.load("mlx"), backends.load("cpu"))
    )
    assert list(ours) == list(theirs)
    for name, value in theirs.items():
        np.testing.assert_array_equal(ours[name], value)


def test_wrong_requests_are_one_line(checkpoint, tmp_path, monkeypatch):
    def refused(*words):
        result = CliRunner().invoke(command, ["parity", *words])
        assert result.exit_code == 2
        assert len(result.output.strip().splitlines()) == 1
        return result.output

    assert "two backends or more" in refused("--model", str(checkpoint("sd3")), "--backends", "mlx")
    assert "model_index.json is missing" in refused("--model", str(tmp_path))
    assert "--set is for --model" in refused("--set", "model.resolution=32")
    (tmp_path / "model_index.json").write_text('{"_class_name": "OtherPipeline"}')
    assert "holds a OtherPipeline; valid: StableD" in refused("--model", str(tmp_path))


# --- weights of fewer digits --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("digits", "accepted"),
    [
        ("model.dtype=bfloat16", tolerances("bfloat16")),
        ("model.dtype=float16", tolerances("float16")),
        ("model.quantize=8", tolerances(bits=8)),
    ],
)
def test_weights_of_fewer_digits_have_tolerances_of_their_own(digits, accepted, checkpoint):
    """PyTorch's CPU has no float16 and no quantised weights: there MLX is compared with float32."""
    family, options, changes = SHAPES["flux-dev"]
    path = str(checkpoint(family, **options))
    stages = {each.stage: each for each in compare_model(["cpu", "mlx"], path, [*changes, digits])}
    assert tolerances().single < accepted.single < 0.04
    assert all(each.ok for each in stages.values()), stages
    for stage, tolerance in (
        ("prediction, adapter on", accepted.single),
        ("loss, gradients", accepted.gradients),
        ("rollout latents", accepted.rollout),
        ("two updates, parameters", accepted.updates),
    ):
        assert stages[stage].tolerance == tolerance
        assert stages[stage].relative_error > 10 * SINGLE  # it is these weights that were compared


def test_tolerances_by_hand():
    half = tolerances("float16")
    assert (half.single, half.times, half.gradients) == (8 / 2048, 80 / 2048, 80 / 2048)
    assert half.rollout == 16 / 2048
    assert tolerances("bfloat16").single == 8 * half.single
    assert tolerances(bits=4).single == pytest.approx(4 * 4.6 / 12**0.5 / 15)
    both = tolerances("float16", 8)
    assert both.gradients == pytest.approx(half.gradients + tolerances(bits=8).gradients)
    assert tolerances()[:4] == (SINGLE, SINGLE, pytest.approx(10 * SINGLE), ROLLOUT)
    assert tolerances().updates == UPDATES


@pytest.mark.parametrize("shape", ["sd15", "sd35", "flux-dev"])
def test_bfloat16_is_as_exact_as_pytorchs(shape, checkpoint):
    """Each backend rounds elsewhere; both must be as near to their float32 prediction.

    The tolerance is what PyTorch's own bfloat16 loses, times two.
    """
    family, options, changes = SHAPES[shape]
    path, lost = str(checkpoint(family, **options)), {}
    for name in ("cpu", "mlx"):
        found = []
        for dtype in ("float32", "bfloat16"):
            subject = ModelUnderTest(
                backends.load(name), settings(path, [*changes, f"model.dtype={dtype}"])
            )
            x, time = subject.inputs
            with subject.backend.inference():
                told = subject.policy.encode(["a red fox", "owl 7"])
                prediction = subject.policy.predict(x, time, told)
            assert subject.backend.to_numpy(prediction).dtype == np.float32
            assert {v.dtype for v in subject.to_host(subject.policy.parameters()).values()} == {
                np.dtype("float32")
            }
            found.append(subject.backend.to_numpy(prediction))
        lost[name] = np.linalg.norm(found[1] - found[0]) / np.linalg.norm(found[0])
    assert 0 < lost["mlx"] < 2 * lost["cpu"] < 0.2


# --- hand-over ----------------------------------------------------------------------------------

TINY = (
    "run.updates=3",
    "rollout.prompts=2",
    "rollout.group_size=2",
    "rollout.steps=3",
    "rollout.trained_steps=1",
    "rollout.batch_size=4",
    "objective.micro_batch=4",
    "adapter.rank=2",
    "optimizer.ema_decay=0.9",
    "optimizer.ema_every=1",
    "evaluate.images=2",
    "evaluate.steps=2",
    "evaluate.grid=2",
    "evaluate.every=3",
    "checkpoint.every=1",
    "reward.terms={jpeg_compressibility = 1.0}",
    "objective.zero_advantage=keep",  # JPEG sizes of two tiny images may be equal
    "prompts.names=[]",
    "drift.subset.rule=mad",
    "drift.shaping.mode=terminal",
    "drift.shaping.weight=0.5",
)


def train(config, name, path, stop_after=None):
    exists = (path / "config.toml").exists()
    run = RunDirectory.open(path) if exists else RunDirectory.create(path, config, {})
    stop, observer = threading.Event(), NullObserver()

    def updated(record):
        if record["update"] == stop_after:
            stop.set()

    observer.updated = updated
    trainer = Trainer(config, backends.load(name), run, observer=observer, stop=stop)
    return run, trainer.run()


@pytest.mark.parametrize(
    ("shape", "first", "second"),
    [
        pytest.param("sd15", "mlx", "cpu", marks=pytest.mark.slow),
        pytest.param("sd35", "mlx", "cpu", marks=pytest.mark.slow),
        ("sd35", "cpu", "mlx"),
        ("flux-dev", "mlx", "cpu"),
    ],
)
def test_a_run_goes_on_on_the_other_backend(shape, first, second, checkpoint, tmp_path):
    from common.runs import checkpoint as checkpoints

    family, options, changes = SHAPES[shape]
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("a red fox\nan owl in the snow\n")
    config = settings(
        str(checkpoint(family, **options)), [*changes, *TINY, f"prompts.source={prompts}"]
    )
    _, finished = train(config, first, tmp_path / "handed", stop_after=2)
    assert not finished
    handed, finished = train(config, second, tmp_path / "handed")
    assert finished
    assert [row["update"] for row in handed.metrics()] == [1, 2, 3]
    assert handed.metrics()[2]["objective/ratio_max"] < 1e-6
    whole, finished = train(config, first, tmp_path / "whole")
    assert finished
    ours, theirs = (checkpoints.load(run.checkpoints / "000003") for run in (handed, whole))
    for ours_, theirs_ in (
        (ours.parameters, theirs.parameters),
        (ours.ema, theirs.ema),
        (ours.optimizer, theirs.optimizer),
    ):
        assert ours_.keys() == theirs_.keys()
        gap = sum(float(((ours_[name] - theirs_[name]) ** 2).sum()) for name in ours_)
        size = sum(float((theirs_[name] ** 2).sum()) for name in ours_)
        assert np.sqrt(gap / size) < UPDATES
    assert ours.state == theirs.state == {"ema_steps": 3, "evaluated": [0]}
    assert int(ours.optimizer["step"]) == 3
