"""The one trainer fine-tunes each real model family: on tiny checkpoints, with a JPEG reward.

The ratio is 1 before the first optimizer step, the adapter moves, stopping and going on gives
the same bytes, and the run can be drawn from and reported like any other.
"""

import re
import threading

import numpy as np
import pytest
import safetensors.numpy
from click.testing import CliRunner

from common import backends, config as configuration, report
from common.adapters import exports
from common.cli import drift
from common.progress import NullObserver
from common.runs.directory import RunDirectory
from common.trainer import Trainer

TINY = (
    "run.updates=2",
    "rollout.prompts=2",
    "rollout.group_size=3",
    "rollout.steps=3",
    "rollout.window=0",
    "rollout.batch_size=6",
    "objective.micro_batch=4",
    "objective.clip_low=1e-4",
    "objective.clip_high=1e-4",
    "adapter.rank=2",
    "evaluate.images=2",
    "evaluate.steps=2",
    "evaluate.grid=2",
    "evaluate.every=2",
    "checkpoint.every=1",
    "reward.terms={jpeg_compressibility = 1.0}",
    "objective.zero_advantage=keep",  # JPEG sizes of two tiny images may be equal
    "prompts.names=[]",
)

DRIFT = (
    "drift.subset.rule=mad",
    "drift.noise.strength=0.2",
    "drift.noise.pooled_strength=0.1",
    "drift.shaping.mode=terminal",
    "drift.shaping.weight=0.5",
)

RUNS = {
    "sd15": (
        "sd15",
        {},
        ("rollout.kernel=ddim", "rollout.noise_level=1.0", "rollout.guidance=5.0"),
    ),
    "sd15-v": (
        "sd15",
        {"prediction": "v_prediction"},
        ("rollout.kernel=ddim", "rollout.train_last_step=true", "drift.shaping.mode=per_step"),
    ),
    "sd3": (
        "sd3",
        {"newer": True},
        ("rollout.schedule=model", "rollout.guidance=4.5", "objective.kl_weight=0.04"),
    ),
    "flux": (
        "flux",
        {},
        ("rollout.schedule=model", "rollout.kernel=cps", "rollout.window=1", "model.resolution=32"),
    ),
}


@pytest.fixture(scope="module")
def backend():
    return backends.load("cpu")


@pytest.fixture(scope="module")
def settings(checkpoint, tmp_path_factory):
    prompts = tmp_path_factory.mktemp("prompts") / "prompts.txt"
    prompts.write_text("a red fox\nan owl in the snow\ntwo blue cubes\n")

    def load(run, *changes):
        family, shape, own = RUNS[run]
        model = [f"model.family={family}", f"model.path={checkpoint(family, **shape)}"]
        if family != "sd15":
            model.append("model.max_tokens=20")
        every = [*TINY, f"prompts.source={prompts}", *model, *DRIFT, *own, *changes]
        return configuration.load("emoji-grpo", every)

    return load


def train(config, backend, path, stop_after=None):
    """Run to the end, or until an update; gives the directory and whether it came to its end."""
    exists = (path / "config.toml").exists()
    run = RunDirectory.open(path) if exists else RunDirectory.create(path, config, {})
    stop, observer = threading.Event(), NullObserver()

    def updated(record):
        if record["update"] == stop_after:
            stop.set()

    observer.updated = updated
    return run, Trainer(config, backend, run, observer=observer, stop=stop).run()


def adapter(run, update=2):
    return (run.checkpoints / f"{update:06d}" / "adapter_model.safetensors").read_bytes()


@pytest.fixture(scope="module")
def trained(backend, settings, tmp_path_factory):
    """Each run, trained to its end once."""
    made = {}

    def get(name):
        if name not in made:
            made[name], finished = train(
                settings(name), backend, tmp_path_factory.mktemp(name) / "r"
            )
            assert finished
        return made[name]

    return get


@pytest.mark.parametrize("name", RUNS)
def test_two_updates_of_the_trainer(name, trained):
    run = trained(name)
    first, second = run.metrics()
    for row in (first, second):
        assert 0 <= row["objective/ratio_max"] < 1e-6
        assert row["objective/gradient_norm"] > 0
        assert row["reward/term/jpeg_compressibility"] < 0
    assert first["objective/kl"] == 0.0
    assert second["objective/kl"] > 0.0
    assert adapter(run, 1) != adapter(run, 2)
    base, tuned = run.evaluations()
    assert base["reward_by_prompt"] != tuned["reward_by_prompt"]
    assert base["diversity"] > 0
    assert np.isnan(base["alignment_heldout"])  # the emoji scorers cannot read these prompts


@pytest.mark.parametrize("name", ["sd3"])
def test_stopping_and_going_on_gives_the_same_bytes(name, backend, settings, trained, tmp_path):
    parts, finished = train(settings(name), backend, tmp_path / "r", stop_after=1)
    assert not finished
    parts, finished = train(settings(name), backend, tmp_path / "r")
    assert finished
    assert adapter(parts) == adapter(trained(name))
    assert parts.evaluations()[1]["reward"] == trained(name).evaluations()[1]["reward"]


def test_memory_settings_change_a_float32_run_by_rounding_only(
    backend, settings, trained, tmp_path
):
    spared = ("gradient_checkpointing=true", "offload=true")
    config = settings("flux", *(f"model.{change}" for change in spared))
    run, _ = train(config, backend, tmp_path / "r")
    ours, theirs = run.metrics()[0], trained("flux").metrics()[0]
    assert ours["reward/mean"] == theirs["reward/mean"]
    assert ours["objective/gradient_norm"] == pytest.approx(
        theirs["objective/gradient_norm"], rel=1e-4
    )


def test_the_report_of_such_a_run_is_written(trained):
    page = report.build(trained("sd3")).read_text(encoding="utf-8")
    assert "an owl in the snow" in page
    assert not re.search(r">\s*nan\b", page)


@pytest.mark.parametrize("name", ["sd15", "sd3", "flux"])
def test_an_exported_adapter_gives_the_same_image_in_plain_diffusers(
    name, backend, trained, tmp_path
):
    import diffusers
    import torch

    run, out = trained(name), tmp_path / "exported"
    result = CliRunner().invoke(drift, ["export", str(run.path), "--out", str(out)])
    assert result.exit_code == 0, result.output
    config = run.config
    policy = backend.policy(config.model, config.adapter, seed=0)
    # Two updates move little: what is exported here is moved more, under the same names.
    values = {k: backend.to_numpy(v) for k, v in policy.parameters().items()}
    for key, value in values.items():
        if "lora_B" in key:
            values[key] = np.random.default_rng(0).normal(0, 0.2, value.shape).astype("float32")
    policy.load_parameters(values)
    arrays, metadata = exports.encode(values, config.adapter, family=name, program="diffusers")
    file = out / "pytorch_lora_weights.safetensors"
    assert arrays.keys() == safetensors.numpy.load_file(file).keys()
    safetensors.numpy.save_file(arrays, file, metadata)

    pipeline = diffusers.DiffusionPipeline.from_pretrained(config.model.path)
    pipeline.load_lora_weights(out)
    pipeline.set_progress_bar_config(disable=True)
    module = pipeline.unet if name == "sd15" else pipeline.transformer
    own, policy._active = policy._active, module
    x = torch.randn(1, *policy.latent_shape, generator=torch.Generator().manual_seed(0))
    time, conditioning = policy.embed_time(np.array([0.5])), policy.encode(["a red fox"])
    with torch.no_grad():
        theirs = policy.predict(x, time, conditioning)
        policy._active = own
        ours = policy.predict(x, time, conditioning)
        with policy.reference():
            base = policy.predict(x, time, conditioning)
    assert (ours - base).abs().max() > 0.01
    # diffusers embeds the time in float32, whose sines are off by up to 500 x 6e-8 = 3e-5.
    torch.testing.assert_close(theirs, ours, rtol=0, atol=1e-4)


def test_what_cannot_be_exported_is_one_line(backend, settings, tmp_path):
    full = RunDirectory.create(tmp_path / "full", settings("sd15", "adapter.kind=full"), {})
    result = CliRunner().invoke(drift, ["export", str(full.path)])
    assert result.exit_code == 2
    assert "trained all weights" in result.output
    emoji = RunDirectory.create(tmp_path / "emoji", configuration.load("emoji"), {})
    result = CliRunner().invoke(drift, ["export", str(emoji.path)])
    assert result.exit_code == 2
    assert "'embedded', which diffusers does not support" in result.output
    new = RunDirectory.create(tmp_path / "new", settings("sd3"), {})
    result = CliRunner().invoke(drift, ["export", str(new.path)])
    assert result.exit_code == 2
    assert "has no checkpoint yet" in result.output


@pytest.mark.filterwarnings("default")
def test_drawing_from_such_a_run_warns_of_long_prompts_in_one_line(trained, tmp_path):
    out = str(tmp_path / "fox.png")
    words = ["sample", str(trained("sd3").path), "--prompt", "fox " * 40, "--count", "2"]
    result = CliRunner().invoke(drift, [*words, "--out", out])
    assert result.exit_code == 0, result.output
    assert "drift: warning: 1 of 1 prompts are longer than the 77 tokens" in result.output
    assert ".py" not in result.output
