"""The clipped objective: four corners by hand, its gradient by differences, and the KL by hand."""

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from common.algorithm import kernels, objective, schedules

CORNERS = [  # rho, A, loss = max(-A rho, -A clip(rho)), d loss / d log rho; clip to [.8, 1.3]
    (2.0, 1.0, -1.3, 0.0),
    (0.5, 1.0, -0.5, -0.5),
    (2.0, -1.0, 2.0, 2.0),
    (0.5, -1.0, 0.8, 0.0),
    (1.1, 1.0, -1.1, -1.1),
    (1.1, -1.0, 1.1, 1.1),
]
CLIP = {"clip_low": 0.2, "clip_high": 0.3}


def test_corners_by_hand(f32, to_np):
    rho, advantage, loss, _ = np.array(CORNERS).T
    old = np.linspace(-2, 3, len(rho))
    got = objective.clipped_surrogate(f32(np.log(rho) + old), f32(old), f32(advantage), **CLIP)
    np.testing.assert_allclose(to_np(got), loss, rtol=2e-6)
    assert got.dtype == f32([0.0]).dtype


@pytest.mark.parametrize(("rho", "advantage", "loss", "slope"), CORNERS)
def test_gradient_at_the_corners_by_finite_differences(rho, advantage, loss, slope):
    """Where the clip holds the gradient is 0; elsewhere it is -A rho in the new log-prob."""
    h = 1e-6

    def value(log_prob):
        return float(
            objective.clipped_surrogate(
                np.array([log_prob]), np.array([0.0]), np.array([advantage]), **CLIP
            )[0]
        )

    difference = (value(np.log(rho) + h) - value(np.log(rho) - h)) / (2 * h)
    assert difference == pytest.approx(slope, abs=1e-8)


@settings(max_examples=50)
@given(log_rho=st.floats(-3, 3, width=32), advantage=st.floats(-5, 5, width=32))
def test_the_loss_is_never_below_the_unclipped_one(log_rho, advantage, f32):
    """Clipping is pessimistic: it can only take promised improvement away."""
    got = objective.clipped_surrogate(f32([log_rho]), f32([0.0]), f32([advantage]), **CLIP)
    unclipped = -advantage * np.exp(log_rho)
    assert float(got[0]) >= unclipped - 1e-5 * (1 + abs(unclipped))


def test_at_the_sampling_policy_the_gradient_is_minus_the_advantage(f64):
    """rho = 1: the loss is -A, so sum of A over what is trained on being 0 makes the loss 0."""
    advantage = f64([1.5, -0.5, -1.0])
    got = objective.clipped_surrogate(f64([0.1, 0.2, 0.3]), f64([0.1, 0.2, 0.3]), advantage, **CLIP)
    assert [float(got[i]) for i in range(3)] == [-1.5, 0.5, 1.0]


def test_tiny_clip_ranges_survive_float32(f32, to_np):
    """1e-5 is the published range of the fast recipe; log-probs are of order 1."""
    old = f32([-1.0, -1.0, -1.0])
    log_prob = f32([-1.0 + 4e-5, -1.0 - 4e-5, -1.0])
    clip = {"clip_low": 1e-5, "clip_high": 1e-5}
    loss = objective.clipped_surrogate(log_prob, old, f32([1.0, -1.0, 1.0]), **clip)
    np.testing.assert_allclose(to_np(loss), [-1 - 1e-5, 1 - 1e-5, -1], rtol=0, atol=1.2e-7)
    np.testing.assert_array_equal(to_np(objective.clip_indicator(log_prob, old, **clip)), [1, 1, 0])


def test_ratio_and_clip_indicator_by_hand(f32, to_np):
    new, old = f32(np.log([2.0, 1.25, 1.0, 0.85, 0.5])), f32([0.0] * 5)
    np.testing.assert_allclose(to_np(objective.ratio(new, old)), [2, 1.25, 1, 0.85, 0.5], rtol=1e-6)
    got = objective.clip_indicator(new, old, **CLIP)
    np.testing.assert_array_equal(to_np(got), [1, 0, 0, 0, 1])
    assert got.dtype == new.dtype


def test_kl_by_hand(f64, xp, rtol, to_np):
    """Differences 1 and 3, std 2: (1 + 9) / 2 / (2 * 4) = .625; equal means: 0."""
    mean, reference = f64([[1.0, 4.0], [7.0, 8.0]]), f64([[0.0, 1.0], [7.0, 8.0]])
    got = objective.gaussian_kl(mean, reference, f64([[2.0], [1.0]]))
    np.testing.assert_allclose(to_np(got), [0.625, 0.0], rtol=rtol(xp))


def test_kl_is_the_expected_difference_of_log_probs():
    """E[log p - log p_ref] over samples of p, by 200,000 draws."""
    rng = np.random.default_rng(0)
    mean, reference = np.array([[0.3, -0.2]]), np.array([[0.0, 0.1]])
    std = np.array([[0.8]])
    draws = mean + std * rng.standard_normal((200_000, 2))
    everywhere = np.ones((200_000, 1))
    gap = kernels.log_prob(draws, mean * everywhere, std * everywhere) - kernels.log_prob(
        draws, reference * everywhere, std * everywhere
    )
    kl = float(objective.gaussian_kl(mean, reference, std)[0])
    assert kl == pytest.approx(0.09 / (2 * 0.64), rel=1e-12)
    assert gap.mean() == pytest.approx(kl, abs=4 * gap.std() / 200_000**0.5)


SIGMAS, STEPS = schedules.flow_sigmas(10, schedule="double_shift"), np.array([0, 2, 5, 7])
"""Of the ten steps of SD3.5, whose w and widths are those of Flow-GRPO."""


def of_flow_grpo(mean, mean_ref, sigma, sigma_next):
    """Its code: the squared difference over 2 std_dev_t^2, std_dev_t without the width."""
    w = 0.7 * np.sqrt(sigma / (1 - np.where(sigma == 1, SIGMAS[1], sigma)))
    assert w == pytest.approx([3.5057, 2.2726, 1.0881, 0.6524], abs=1e-4)
    return ((mean - mean_ref) ** 2).mean(axis=1) / (2 * w**2)


def steps_with_and_without(rng, xp_array=np.asarray):
    """The same four steps from two velocities, by Flow-SDE; levels and widths."""
    levels = SIGMAS[STEPS], SIGMAS[STEPS + 1]
    x, velocity, reference = rng.standard_normal((3, len(STEPS), 6))
    sigma, sigma_next = (xp_array(level) for level in levels)
    one, other = (
        kernels.flow_sde(
            xp_array(x), xp_array(v), sigma, sigma_next, eta=0.7, sigma_max=float(SIGMAS[1])
        )
        for v in (velocity, reference)
    )
    return one, other, kernels.step_width("flow_sde", sigma, sigma_next)


def test_the_kl_of_flow_grpo_has_no_width_of_the_step(f64, xp, rtol, to_np):
    one, other, width = steps_with_and_without(np.random.default_rng(5), f64)
    kl = objective.gaussian_kl(one.mean, other.mean, one.std)
    got = to_np(objective.kl_penalty(kl, width, form="flow_grpo"))
    expected = of_flow_grpo(to_np(one.mean), to_np(other.mean), SIGMAS[STEPS], SIGMAS[STEPS + 1])
    np.testing.assert_allclose(got, expected, rtol=20 * rtol(xp))
    assert to_np(objective.kl_penalty(kl, width, form="transition")).tolist() == to_np(kl).tolist()
    # The widths of golden.md: what weighs 25 to 3.7 times as much in the other form.
    ratios = 1 / (SIGMAS[:-1] - SIGMAS[1:])[:9]
    assert (ratios.max(), ratios.min()) == pytest.approx((25.08, 3.716), rel=1e-3)
    np.testing.assert_allclose(to_np(kl) / got, ratios[STEPS], rtol=1e-5)


@pytest.mark.parametrize("kernel", ["cps", "ddim"])
def test_both_forms_are_one_where_std_has_no_width_in_it(kernel, f64, to_np):
    level, kl = f64([0.9, 0.25]), f64([0.25, 0.75])
    width = kernels.step_width(kernel, level, f64([0.5, 0.0]))
    assert to_np(objective.kl_penalty(kl, width, form="flow_grpo")).tolist() == [0.25, 0.75]


def test_a_form_of_the_kl_that_there_is_not():
    with pytest.raises(ValueError, match="form of the KL 'flow' is not one of transition, flow_g"):
        objective.kl_penalty(np.ones(1), np.ones(1), form="flow")  # type: ignore[arg-type]


@pytest.mark.parametrize(("low", "high"), [(0.0, 0.2), (0.2, 0.0), (-0.1, 0.1)])
def test_a_clip_range_must_be_above_zero(low, high, f32):
    values = f32([0.0])
    with pytest.raises(ValueError, match=r"must both be above 0"):
        objective.clipped_surrogate(values, values, values, clip_low=low, clip_high=high)
    with pytest.raises(ValueError, match=r"must both be above 0"):
        objective.clip_indicator(values, values, clip_low=low, clip_high=high)
