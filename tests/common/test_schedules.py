"""Schedules match the golden tables and, value by value, the schedulers of diffusers."""

from typing import get_args

import numpy as np
import pytest

from common.algorithm import schedules


def test_golden_double_shift():
    sigmas = schedules.flow_sigmas(10, schedule="double_shift")
    golden = {0: 1.0, 2: 0.9133, 5: 0.7073, 7: 0.4649, 9: 0.0089, 10: 0.0}
    for step, value in golden.items():
        assert sigmas[step] == pytest.approx(value, abs=5.1e-5), step
    assert sigmas.dtype == np.float64
    assert sigmas[9] == pytest.approx(1 / 112, rel=1e-12)  # S(S(1/1000)) = 9/1008 by hand


def test_linear_and_shift_by_hand():
    """S(1/2) = 3/2 / 2 = 3/4 for a shift of 3."""
    linear = schedules.flow_sigmas(4, schedule="linear", shift=3.0)
    np.testing.assert_allclose(linear, [1, 0.75, 0.5, 0.25, 0], rtol=1e-15)
    shifted = schedules.flow_sigmas(4, schedule="shift", shift=3.0)
    np.testing.assert_allclose(shifted, [1, 0.9, 0.75, 0.5, 0], rtol=1e-15)


@pytest.mark.parametrize("schedule", get_args(schedules.FlowSpacing))
@pytest.mark.parametrize("steps", [1, 2, 10, 50])
def test_sigmas_fall_from_noise_to_image(schedule, steps):
    sigmas = schedules.flow_sigmas(steps, schedule=schedule, shift=2.0)
    assert sigmas.shape == (steps + 1,)
    assert sigmas[0] == 1
    assert sigmas[-1] == 0
    assert (np.diff(sigmas) < 0).all()


@pytest.mark.parametrize("schedule", get_args(schedules.FlowSpacing))
def test_a_shift_of_one_changes_nothing(schedule):
    sigmas = schedules.flow_sigmas(8, schedule=schedule, shift=1.0)
    end = 0.001 if schedule == "double_shift" else 1 / 8
    np.testing.assert_allclose(sigmas[:-1], np.linspace(1, end, 8), rtol=1e-12)


@pytest.mark.parametrize("steps", [2, 10, 28, 40])
@pytest.mark.parametrize("shift", [1.15, 3.0])
def test_flow_sigmas_are_those_of_diffusers(steps, shift):
    """Given only a number of steps diffusers shifts twice; given even sigmas, once."""
    diffusers = pytest.importorskip("diffusers.schedulers.scheduling_flow_match_euler_discrete")
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler(shift=shift)
    for schedule, request in (
        ("double_shift", {"num_inference_steps": steps}),
        ("shift", {"sigmas": np.linspace(1, 1 / steps, steps)}),
    ):
        scheduler.set_timesteps(**request)
        sigmas = schedules.flow_sigmas(steps, schedule=schedule, shift=shift)
        np.testing.assert_allclose(scheduler.sigmas.numpy(), sigmas, rtol=1e-5, atol=1e-7)
        timesteps = schedules.flow_timesteps(sigmas)
        np.testing.assert_allclose(scheduler.timesteps.numpy(), timesteps, rtol=1e-5)


def test_golden_ddim_alpha_bars():
    timesteps, alpha_bars = schedules.ddim_timesteps(50), schedules.ddim_alpha_bars(50)
    golden = {
        981: (0.005776, 0.007282),
        501: (0.274999, 0.302296),
        41: (0.960873, 0.980381),
        1: (0.998296, 0.999150),
    }
    for t, (now, then) in golden.items():
        k = list(timesteps).index(t)
        assert alpha_bars[k] == pytest.approx(now, abs=1e-6)
        assert alpha_bars[k + 1] == pytest.approx(then, abs=1e-6)
    assert list(timesteps[:2]) == [981, 961]
    assert alpha_bars[-1] == pytest.approx(1 - 0.00085, rel=1e-12)  # ab at t = 0, not 1
    assert (np.diff(alpha_bars) > 0).all()


@pytest.mark.parametrize("steps", [1, 7, 20, 50, 100])
def test_ddim_schedule_is_that_of_diffusers(steps):
    diffusers = pytest.importorskip("diffusers.schedulers.scheduling_ddim")
    scheduler = diffusers.DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        steps_offset=1,
        set_alpha_to_one=False,
        clip_sample=False,
    )
    scheduler.set_timesteps(steps)
    np.testing.assert_array_equal(scheduler.timesteps.numpy(), schedules.ddim_timesteps(steps))
    table = scheduler.alphas_cumprod.double().numpy()
    np.testing.assert_allclose(table, schedules.scaled_linear_alpha_bars(), rtol=2e-5)
    previous = [int(t) - 1000 // steps for t in scheduler.timesteps]
    following = [table[t] if t >= 0 else float(scheduler.final_alpha_cumprod) for t in previous]
    ours = schedules.ddim_alpha_bars(steps)
    np.testing.assert_allclose(ours[:-1], table[scheduler.timesteps.numpy()], rtol=2e-5)
    np.testing.assert_allclose(ours[1:], following, rtol=2e-5)


def test_ddim_steps_are_those_of_diffusers(f32, to_np):
    """A whole stochastic step, from the timestep to the next latent, with shared noise."""
    torch = pytest.importorskip("torch")
    diffusers = pytest.importorskip("diffusers.schedulers.scheduling_ddim")
    from common.algorithm import kernels

    scheduler = diffusers.DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        steps_offset=1,
        set_alpha_to_one=False,
        clip_sample=False,
    )
    scheduler.set_timesteps(50)
    x, epsilon, noise = np.random.default_rng(3).standard_normal((3, 2, 4, 8, 8)).astype("f4")
    alpha_bars = schedules.ddim_alpha_bars(50)
    for k in (0, 25, 49):
        expected = scheduler.step(
            torch.from_numpy(epsilon),
            int(scheduler.timesteps[k]),
            torch.from_numpy(x),
            eta=1.0,
            variance_noise=torch.from_numpy(noise),
        ).prev_sample.numpy()
        step = kernels.ddim(f32(x), f32(epsilon), alpha_bars[k], alpha_bars[k + 1], eta=1.0)
        got = to_np(kernels.sample(step, f32(noise)))
        np.testing.assert_allclose(got, expected, rtol=1e-4, atol=2e-5)


def test_other_alpha_bars_may_be_given():
    table = np.linspace(0.9, 0.1, 10)
    np.testing.assert_allclose(
        schedules.ddim_alpha_bars(5, table, steps_offset=0), table[[8, 6, 4, 2, 0, 0]]
    )


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: schedules.flow_sigmas(0, schedule="linear"), "steps = 0 must be at least 1"),
        (lambda: schedules.flow_sigmas(4, schedule="cosine"), "'cosine' is not one of .*shift"),
        (lambda: schedules.flow_sigmas(4, schedule="shift", shift=0.0), "shift = 0.0"),
        (lambda: schedules.ddim_timesteps(0), r"steps = 0 must be in \[1, 1000\]"),
        (lambda: schedules.ddim_timesteps(1000), "start at t = 1000, beyond the last trained 999"),
    ],
)
def test_bad_input_is_one_clear_line(call, message):
    with pytest.raises(ValueError, match=message):
        call()
