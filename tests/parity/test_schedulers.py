"""Noise levels are those of the scheduler's file, value by value as diffusers has them.

A table of settings against the real schedulers; then policies of every family on both backends.
"""

import json
import shutil
import warnings

import numpy as np
import pytest

from common import backends, pipelines
from common.config import ConfigError
from common.sampling.process import DDIMProcess, FlowProcess, make_process
from tests.shapes import settings_of

diffusers = pytest.importorskip("diffusers")
pytest.importorskip("drift_mlx.backend", exc_type=ImportError)

STABLE_DIFFUSION = {
    "_class_name": "DDIMScheduler",
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "clip_sample": False,
    "set_alpha_to_one": False,
    "steps_offset": 1,
}
FLOW = {"_class_name": "FlowMatchEulerDiscreteScheduler", "shift": 3.0}
DYNAMIC = {"use_dynamic_shifting": True, "base_shift": 0.5, "max_shift": 1.15}


class Trained:
    """A policy of which only the schedule matters."""

    def __init__(self, prediction, schedule):
        self.prediction, self.schedule = prediction, schedule


@pytest.fixture(scope="module")
def rollouts(checkpoint):
    return {shape: settings_of(checkpoint, shape).rollout for shape in ("sd15", "flux-dev")}


def pipelines_scheduler(settings):
    """The scheduler that a StableDiffusionPipeline has, as DDIM."""
    parts = ("vae", "text_encoder", "tokenizer", "unet", "safety_checker", "feature_extractor")
    scheduler = getattr(diffusers, settings["_class_name"]).from_config(settings)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # it changes settings, and says so
        pipeline = diffusers.StableDiffusionPipeline(
            **dict.fromkeys(parts), scheduler=scheduler, requires_safety_checker=False
        )
    return diffusers.DDIMScheduler.from_config(pipeline.scheduler.config)


@pytest.mark.parametrize(
    ("changes", "warning"),
    [
        ({}, None),
        ({"timestep_spacing": "trailing"}, None),
        ({"timestep_spacing": "linspace"}, None),
        ({"set_alpha_to_one": True, "timestep_spacing": "trailing"}, None),
        ({"steps_offset": 0}, "says steps_offset = 0; it is 1 here"),
        ({"steps_offset": 0, "set_alpha_to_one": True}, "says steps_offset = 0; it is 1 here"),
        ({"clip_sample": True}, "says clip_sample = True; it is False here"),
        ({"_class_name": "PNDMScheduler", "skip_prk_steps": True}, None),
        ({"_class_name": "EulerDiscreteScheduler"}, "is of a EulerDiscreteScheduler; images are"),
        ({"prediction_type": "v_prediction", "num_train_timesteps": 500}, None),
    ],
)
def test_timesteps_and_shares_of_a_diffusion(changes, warning, rollouts):
    settings = STABLE_DIFFUSION | changes
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        schedule = pipelines.diffusion_schedule(settings, "m")
    assert [warning in str(each.message) for each in said] == ([True] if warning else [])
    scheduler = pipelines_scheduler(settings)
    table = scheduler.alphas_cumprod.double().numpy()
    policy = Trained(pipelines.prediction(settings, "m"), schedule)
    for steps in (2, 7, 50, 61):
        scheduler.set_timesteps(steps)
        timesteps = scheduler.timesteps.numpy()[:steps]  # 61 trailing ones are 62 in diffusers
        following = timesteps - len(table) // steps
        final = float(scheduler.final_alpha_cumprod)
        process = make_process(policy, rollouts["sd15"], steps)
        assert isinstance(process, DDIMProcess)
        np.testing.assert_array_equal(process.times, timesteps)
        np.testing.assert_allclose(process.table[:-1], table[timesteps], rtol=3e-5)
        expected = np.where(following >= 0, table[following], final)
        np.testing.assert_allclose(process.next_levels, expected, rtol=3e-5)


def levels_of(settings, steps, length, *, flux):
    """The sigmas of StableDiffusion3Pipeline, or of FluxPipeline, without their networks."""
    from diffusers.pipelines.flux.pipeline_flux import calculate_shift

    scheduler = diffusers.FlowMatchEulerDiscreteScheduler.from_config(settings)
    config, call = scheduler.config, {}
    if flux or config.use_dynamic_shifting:
        keys = ("base_image_seq_len", "max_image_seq_len", "base_shift", "max_shift")
        call["mu"] = calculate_shift(length, *(config[key] for key in keys))
    if flux:
        scheduler.set_timesteps(sigmas=np.linspace(1.0, 1 / steps, steps), **call)
    else:
        scheduler.set_timesteps(steps, **call)
    return scheduler.sigmas.numpy(), scheduler.timesteps.numpy()


@pytest.mark.parametrize("flux", [False, True], ids=["sd3", "flux"])
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"shift": 1.0},
        DYNAMIC,
        DYNAMIC | {"time_shift_type": "linear"},
        DYNAMIC | {"base_image_seq_len": 64, "max_image_seq_len": 512},
        {"shift_terminal": 0.02},
        DYNAMIC | {"shift_terminal": 0.1},
        {"use_karras_sigmas": True},
        {"use_exponential_sigmas": True},
        DYNAMIC | {"use_karras_sigmas": True, "shift_terminal": 0.05},
        {"invert_sigmas": None, "use_beta_sigmas": False, "shift_terminal": None},
    ],
)
def test_sigmas_of_a_flow(changes, flux, rollouts):
    schedule_of = pipelines.flux_schedule if flux else pipelines.sd3_schedule
    policy = Trained("velocity", schedule_of(FLOW | changes, 300, "m"))
    for steps in (2, 6, 28):
        process = make_process(policy, rollouts["flux-dev"], steps)
        assert isinstance(process, FlowProcess)
        sigmas, timesteps = levels_of(FLOW | changes, steps, 300, flux=flux)
        np.testing.assert_allclose(process.sigmas, sigmas, rtol=2e-5)
        np.testing.assert_allclose(process.timesteps, timesteps, rtol=2e-5)


DIFFUSION_REFUSED = [
    {"timestep_spacing": "log"},
    {"use_karras_sigmas": True},
    {"use_exponential_sigmas": True},
    {"use_beta_sigmas": True},
    {"use_lu_lambdas": True},
    {"final_sigmas_type": "sigma_min"},
    {"thresholding": True},
    {"beta_start": None},
    {"beta_end": 1.5},
    {"num_train_timesteps": "many"},
]
FLOW_REFUSED = [
    {"invert_sigmas": True},
    {"use_beta_sigmas": True},
    {"stochastic_sampling": True},
    {"num_train_timesteps": 100},
    {"shift": None},
    {"shift": -1.0},
    {"shift_terminal": 1.0},
    {"_class_name": "FlowMatchHeunDiscreteScheduler"},
    DYNAMIC | {"time_shift_type": "cubic"},
    DYNAMIC | {"base_shift": None},
    DYNAMIC | {"max_image_seq_len": 256},
]


READERS = {
    "sd15": lambda settings: pipelines.diffusion_schedule(STABLE_DIFFUSION | settings, "m"),
    "sd3": lambda settings: pipelines.sd3_schedule(FLOW | settings, 300, "m"),
    "flux": lambda settings: pipelines.flux_schedule(FLOW | settings, 300, "m"),
}


@pytest.mark.parametrize("family", READERS)
def test_what_cannot_be_honoured_is_named(family):
    for changes in DIFFUSION_REFUSED if family == "sd15" else FLOW_REFUSED:
        key = next(key for key, value in changes.items() if value != DYNAMIC.get(key, ...))
        with pytest.raises(
            ValueError, match=rf"m': scheduler/scheduler_config\.json says {key} = "
        ):
            READERS[family](changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"use_karras_sigmas": True, "use_exponential_sigmas": True},
            "says use_karras_sigmas and use_exponential_sigmas: one at most",
        ),
        (DYNAMIC | {"base_shift": 1e6}, "base_shift and max_shift give mu = 9.885e.05 at 300 tok"),
        (DYNAMIC | {"time_shift_type": "linear", "base_shift": -9.0}, "give mu = -8.8"),
    ],
)
def test_settings_that_contradict_each_other(changes, message):
    with pytest.raises(ValueError, match=message):
        READERS["flux"](changes)


@pytest.mark.parametrize(
    ("shape", "changes", "warning"),
    [
        ("sd15", {"timestep_spacing": "trailing", "steps_offset": ...}, None),
        ("sd15", {"steps_offset": 0, "prediction_type": "v_prediction"}, "steps_offset = 0"),
        ("sd3-no-t5", {"use_karras_sigmas": True, "shift_terminal": 0.02}, None),
        ("sd3-no-t5", DYNAMIC, None),
        ("flux-dev", {"time_shift_type": "linear", "use_exponential_sigmas": True}, None),
    ],
)
def test_both_backends_read_the_file(shape, changes, warning, checkpoint, tmp_path):
    folder = shutil.copytree(settings_of(checkpoint, shape).model.path, tmp_path / "model")
    file = folder / pipelines.SCHEDULER
    settings = json.loads(file.read_text()) | changes
    settings = {key: value for key, value in settings.items() if value is not ...}
    file.write_text(json.dumps(settings))
    config = settings_of(checkpoint, shape, f"model.path={folder}", "rollout.train_last_step=true")
    processes, predicted = [], []
    for name in ("cpu", "mlx"):
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always", UserWarning)
            policy = backends.load(name).policy(config.model, config.adapter, seed=0)
        assert any(warning in str(each.message) for each in said) if warning else not said
        processes.append(make_process(policy, config.rollout, 6))
        predicted.append(policy.prediction)
    ours, theirs = processes
    assert predicted[0] == predicted[1]
    np.testing.assert_array_equal(ours.table, theirs.table)
    np.testing.assert_array_equal(ours.next_levels, theirs.next_levels)
    if shape == "sd15":
        scheduler = pipelines_scheduler(settings)
        scheduler.set_timesteps(6)
        np.testing.assert_array_equal(ours.times, scheduler.timesteps.numpy())
        levels = (np.array([ours.table[-2]]), np.array([ours.next_levels[-1]]))
        assert levels[0] < levels[1]  # the last step has noise, so its gradient is finite
        assert predicted[0] == settings["prediction_type"]
    else:
        length = (policy.latent_shape[1] // 2) ** 2
        sigmas, _ = levels_of(settings, 6, length, flux=shape == "flux-dev")
        np.testing.assert_allclose(ours.table, sigmas, rtol=2e-5)


def test_a_last_step_without_noise_is_not_trained(rollouts):
    schedule = pipelines.diffusion_schedule(
        STABLE_DIFFUSION | {"timestep_spacing": "linspace"}, "m"
    )
    rollout = rollouts["sd15"].model_copy(update={"train_last_step": True})
    with pytest.raises(ConfigError, match="last step of this model has no noise"):
        make_process(Trained("epsilon", schedule), rollout, 10)


def test_a_schedule_of_the_run_replaces_the_models_with_a_warning(rollouts):
    policy = Trained("velocity", pipelines.sd3_schedule(FLOW | {"shift_terminal": 0.1}, 9, "m"))
    rollout = rollouts["flux-dev"].model_copy(update={"schedule": "shift"})
    with pytest.warns(UserWarning, match="'shift' replaces the noise levels that this model's"):
        make_process(policy, rollout, 4)
