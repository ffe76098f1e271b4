"""The kernels follow their published formulas on every library, and keep what they promise.

Expected values are written here in float64 from the formulas as the literature states them, not in
the rearranged form of the code; laws (ODE limit, posterior, marginals) are checked besides.
"""

import math
from itertools import pairwise
from statistics import NormalDist

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from common.algorithm import kernels, schedules

RNG = np.random.default_rng(2601)
X, PREDICTION, NOISE = RNG.standard_normal((3, 4, 2, 3, 3))
SIGMAS = schedules.flow_sigmas(10, schedule="double_shift")
STEPS = np.array([0, 3, 5, 8])  # the samples of one batch are at different steps; 0: sigma = 1
ALPHA_BARS = schedules.ddim_alpha_bars(50)


def column(values):
    return np.asarray(values, dtype=np.float64).reshape(-1, 1, 1, 1)


def literal_flow_sde(x, v, s, s_next, a, s_max):
    ds = s_next - s
    w = a * np.sqrt(s / (1 - np.where(s == 1, s_max, s)))
    mean = x * (1 + w**2 * ds / (2 * s)) + v * (1 + w**2 * (1 - s) / (2 * s)) * ds
    return mean, w * np.sqrt(-ds)


def literal_cps(x, v, s, s_next, a, s_max):
    std = s_next * np.sin(a * np.pi / 2)
    x0, x1 = x - s * v, x + (1 - s) * v
    return (1 - s_next) * x0 + np.sqrt(s_next**2 - std**2) * x1, std


def literal_dance_sde(x, v, s, s_next, a, s_max):
    ds, x0 = s_next - s, x - s * v
    mean = x + v * ds + a**2 / 2 * (x - (1 - s) * x0) / s**2 * ds
    return mean, a * np.sqrt(-ds)


def literal_ddim(x, eps, ab, ab_next, eta):
    x0 = (x - np.sqrt(1 - ab) * eps) / np.sqrt(ab)
    sigma = eta * np.sqrt((1 - ab_next) / (1 - ab) * (1 - ab / ab_next))
    return np.sqrt(ab_next) * x0 + np.sqrt(1 - ab_next - sigma**2) * eps, sigma


LITERAL = {"flow_sde": literal_flow_sde, "cps": literal_cps, "dance_sde": literal_dance_sde}


@pytest.mark.parametrize("name", kernels.FLOW_KERNELS)
@pytest.mark.parametrize("eta", [0.0, 0.3, 0.8])
def test_flow_kernels_follow_their_formulas(name, eta, f32, f64, xp, rtol, to_np):
    s, s_next = SIGMAS[STEPS], SIGMAS[STEPS + 1]
    mean, std = LITERAL[name](X, PREDICTION, column(s), column(s_next), eta, SIGMAS[1])
    for make, tolerance in ((f64, rtol(xp)), (f32, 1e-5)):
        got = kernels.FLOW_KERNELS[name](
            make(X), make(PREDICTION), make(s), make(s_next), eta=eta, sigma_max=SIGMAS[1]
        )
        np.testing.assert_allclose(to_np(got.mean), mean, rtol=tolerance, atol=tolerance)
        np.testing.assert_allclose(to_np(got.std), std, rtol=tolerance, atol=1e-12)
        assert got.std.shape == (4, 1, 1, 1)
        assert got.mean.dtype == got.std.dtype == make([0.0]).dtype


@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
def test_ddim_follows_its_formula(eta, f32, f64, xp, rtol, to_np):
    steps = np.array([0, 24, 47, 49])
    ab, ab_next = ALPHA_BARS[steps], ALPHA_BARS[steps + 1]
    mean, std = literal_ddim(X, PREDICTION, column(ab), column(ab_next), eta)
    for make, tolerance in ((f64, rtol(xp)), (f32, 1e-5)):
        got = kernels.ddim(make(X), make(PREDICTION), make(ab), make(ab_next), eta=eta)
        scale = np.abs(mean).max()  # x0 is up to 13 x larger than x at the first step
        np.testing.assert_allclose(to_np(got.mean), mean, rtol=tolerance, atol=tolerance * scale)
        np.testing.assert_allclose(to_np(got.std), std, rtol=tolerance, atol=1e-5 * std.max())


@pytest.mark.parametrize(
    ("step", "width", "w", "flow_std", "cps_std"),
    [
        (0, -0.0399, 3.5057, 0.7000, 0.9131),
        (2, -0.0557, 2.2726, 0.5362, 0.8157),
        (5, -0.1051, 1.0881, 0.3528, 0.5727),
        (7, -0.1868, 0.6524, 0.2820, 0.2644),
        (9, -0.0089, 0.0664, 0.0063, 0.0000),
    ],
)
def test_golden_stds_of_the_published_sd35_recipe(step, width, w, flow_std, cps_std, f32):
    x, s, s_next = f32(X), float(SIGMAS[step]), float(SIGMAS[step + 1])
    flow = kernels.flow_sde(x, x, s, s_next, eta=0.7, sigma_max=SIGMAS[1])
    cps = kernels.cps(x, x, s, s_next, eta=0.8)
    half_digit = 5.1e-5  # the table has four decimals
    assert s_next - s == pytest.approx(width, abs=half_digit)
    assert float(flow.std[0, 0, 0, 0]) == pytest.approx(flow_std, abs=half_digit)
    assert float(flow.std[0, 0, 0, 0]) / (s - s_next) ** 0.5 == pytest.approx(w, abs=half_digit)
    assert float(cps.std[0, 0, 0, 0]) == pytest.approx(cps_std, abs=half_digit)


@pytest.mark.parametrize(("step", "std"), [(0, 0.0442), (15, 0.1225)])
def test_golden_stds_of_dance_sde(step, std, f32):
    sigmas = schedules.flow_sigmas(16, schedule="shift")
    got = kernels.dance_sde(f32(X), f32(X), sigmas[step], sigmas[step + 1], eta=0.3)
    assert float(got.std[0, 0, 0, 0]) == pytest.approx(std, abs=5.1e-5)


@pytest.mark.parametrize(
    ("t", "std", "image", "direction"),
    [
        (981, 0.454463, 0.08533, 0.88667),
        (501, 0.294785, 0.54981, 0.78154),
        (41, 0.099887, 0.99014, 0.09819),
        (1, 0.020648, 0.99957, 0.02058),
    ],
)
def test_golden_ddim_coefficients(t, std, image, direction, f32):
    """The mean is linear: x = sqrt(ab), epsilon = 0 shows sqrt(ab'); x0 = 0 shows the direction."""
    k = list(schedules.ddim_timesteps(50)).index(t)
    ab, ab_next = ALPHA_BARS[k], ALPHA_BARS[k + 1]
    clean = kernels.ddim(f32([[ab**0.5]]), f32([[0.0]]), ab, ab_next, eta=1.0)
    noise = kernels.ddim(f32([[(1 - ab) ** 0.5]]), f32([[1.0]]), ab, ab_next, eta=1.0)
    assert float(clean.std[0, 0]) == pytest.approx(std, abs=1e-6)
    assert float(clean.mean[0, 0]) == pytest.approx(image, abs=1e-5)
    assert float(noise.mean[0, 0]) == pytest.approx(direction, abs=1e-5)


@pytest.mark.parametrize("name", kernels.FLOW_KERNELS)
@pytest.mark.parametrize("step", [0, 4, 9])
def test_without_noise_every_flow_kernel_is_the_euler_step(name, step, f32, to_np):
    levels = float(SIGMAS[step]), float(SIGMAS[step + 1])
    got = kernels.FLOW_KERNELS[name](f32(X), f32(PREDICTION), *levels, eta=0.0, sigma_max=SIGMAS[1])
    expected = X + PREDICTION * (levels[1] - levels[0])
    np.testing.assert_allclose(to_np(got.mean), expected, atol=1e-6)
    np.testing.assert_array_equal(to_np(got.std), 0.0)
    ode = kernels.ode(f32(X), f32(PREDICTION), *levels)
    np.testing.assert_allclose(to_np(ode.mean), expected, atol=1e-6)
    np.testing.assert_array_equal(to_np(kernels.sample(ode, f32(NOISE))), to_np(ode.mean))
    assert ode.std.shape == got.std.shape


def test_ddim_with_eta_1_is_the_posterior_of_ddpm(f64, xp, rtol, to_np):
    """Ho et al. 2020, eq. 7: q(x' | x, x0) with alpha = ab / ab', beta = 1 - alpha."""
    ab, ab_next = 0.4, 0.55
    alpha, beta = ab / ab_next, 1 - ab / ab_next
    x0 = (X - np.sqrt(1 - ab) * PREDICTION) / np.sqrt(ab)
    mean = np.sqrt(ab_next) * beta / (1 - ab) * x0 + np.sqrt(alpha) * (1 - ab_next) / (1 - ab) * X
    got = kernels.ddim(f64(X), f64(PREDICTION), ab, ab_next, eta=1.0)
    np.testing.assert_allclose(to_np(got.mean), mean, rtol=rtol(xp), atol=rtol(xp))
    variance = (1 - ab_next) / (1 - ab) * beta
    np.testing.assert_allclose(to_np(got.std)[:, 0, 0, 0] ** 2, variance, rtol=rtol(xp))


def test_a_deterministic_ddim_step_by_hand(f64):
    """ab = .36, ab' = .64: x0 = (1 - .8 * .5) / .6 = 1, x' = .8 * 1 + .6 * .5 = 1.1."""
    got = kernels.ddim(f64([[1.0]]), f64([[0.5]]), 0.36, 0.64, eta=0.0)
    assert float(got.mean[0, 0]) == pytest.approx(1.1, rel=1e-6)
    assert float(got.std[0, 0]) == 0.0


def test_a_flow_sde_step_by_hand(f64):
    """s = .5, s' = .3, a = 1: w = 1, mean = 2 (1 - .2) + 1 (1 + .5) (-.2) = 1.3."""
    got = kernels.flow_sde(f64([[2.0]]), f64([[1.0]]), 0.5, 0.3, eta=1.0, sigma_max=0.9)
    assert float(got.mean[0, 0]) == pytest.approx(1.3, rel=1e-6)
    assert float(got.std[0, 0]) == pytest.approx(0.2**0.5, rel=1e-6)


@pytest.mark.parametrize("name", [*kernels.FLOW_KERNELS, "ode", "ddim"])
def test_floats_and_arrays_give_the_same_bits(name, f32, to_np):
    """A rollout may pass floats and the update arrays: the ratio must still be exactly 1."""
    s, s_next = (0.31, 0.74) if name == "ddim" else (0.74, 0.31)
    arguments = {} if name == "ode" else {"eta": 0.7}
    if name in kernels.FLOW_KERNELS:
        arguments["sigma_max"] = 0.9
    step = getattr(kernels, name)
    floats = step(f32(X), f32(PREDICTION), s, s_next, **arguments)
    arrays = step(f32(X), f32(PREDICTION), f32([s] * 4), f32([s_next] * 4), **arguments)
    for one, other in zip(floats, arrays, strict=True):
        np.testing.assert_array_equal(to_np(one), to_np(other))


@pytest.mark.parametrize("sigma", [1.0, 1.0 - 6e-8, 1.0 - 5e-7])
def test_nearly_pure_noise_counts_as_pure_noise(sigma, f32, to_np):
    """1 - sigma is then a rounding error: dividing by it made published kernels explode."""
    x, v = f32(X), f32(PREDICTION)
    pure = kernels.flow_sde(x, v, 1.0, 0.9, eta=0.7, sigma_max=0.9)
    for level in (sigma, f32([sigma] * 4)):
        near = kernels.flow_sde(x, v, level, 0.9, eta=0.7, sigma_max=f32([0.9] * 4))
        np.testing.assert_allclose(to_np(near.mean), to_np(pure.mean), atol=1e-5)
        np.testing.assert_allclose(to_np(near.std), 0.7, rtol=1e-5)  # a sqrt(1 / .1) sqrt(.1)


def test_log_prob_is_the_mean_of_normal_log_densities(f64, xp, rtol, to_np):
    std = np.array([0.5, 1.0, 2.0, 0.05])
    expected = [
        np.mean([math.log(NormalDist(m, s).pdf(x)) for x, m in zip(xs, ms, strict=True)])
        for xs, ms, s in zip(X.reshape(4, -1), X.reshape(4, -1) + 0.1, std, strict=True)
    ]
    got = kernels.log_prob(f64(X), f64(X + 0.1), f64(column(std)))
    np.testing.assert_allclose(to_np(got), expected, rtol=max(rtol(xp), 1e-9))
    assert got.shape == (4,)


def test_log_prob_by_hand(f32):
    """Two elements, one std from the mean each: -1/2 - ln 2 - ln(2 pi) / 2."""
    got = kernels.log_prob(f32([[3.0, -1.0]]), f32([[1.0, 1.0]]), f32([[2.0]]))
    assert float(got[0]) == pytest.approx(-0.5 - math.log(2) - 0.9189385, rel=1e-6)


def test_cps_log_prob_by_hand_and_finite_without_noise(f32):
    got = kernels.cps_log_prob(f32([[3.0, -1.0]]), f32([[1.0, 0.0]]), f32([[0.0]]))
    assert float(got[0]) == pytest.approx(-(4 + 1) / 2, rel=1e-6)


def test_log_probs_of_single_numbers(f32, to_np):
    got = kernels.log_prob(f32([1.0, 0.0]), f32([1.0, 1.0]), f32([1.0, 1.0]))
    np.testing.assert_allclose(to_np(got), [-0.9189385, -1.4189385], rtol=1e-6)


def test_every_kernel_has_its_log_prob():
    assert kernels.LOG_PROBS.keys() == {*kernels.FLOW_KERNELS, "ddim"}
    assert kernels.LOG_PROBS["cps"] is kernels.cps_log_prob
    assert all(kernels.LOG_PROBS[name] is kernels.log_prob for name in ("flow_sde", "dance_sde"))


@settings(max_examples=25)
@given(sigma=st.floats(0.01, 1.0), alpha_bar=st.floats(0.01, 0.99))
def test_predictions_round_trip(sigma, alpha_bar, f64, xp, rtol, to_np):
    """(x0, noise) -> (x, v) -> (x0, noise), for flows and for diffusion models."""
    x0, x1 = X, NOISE
    tolerance = {"rtol": 0, "atol": 100 * rtol(xp)}
    x, v = f64((1 - sigma) * x0 + sigma * x1), f64(x1 - x0)
    np.testing.assert_allclose(to_np(kernels.clean_from_velocity(x, v, sigma)), x0, **tolerance)
    np.testing.assert_allclose(to_np(kernels.noise_from_velocity(x, v, sigma)), x1, **tolerance)
    image, noise = math.sqrt(alpha_bar), math.sqrt(1 - alpha_bar)
    x, v = f64(image * x0 + noise * x1), f64(image * x1 - noise * x0)
    epsilon = kernels.epsilon_from_v(x, v, alpha_bar)
    np.testing.assert_allclose(to_np(epsilon), x1, **tolerance)
    np.testing.assert_allclose(to_np(kernels.clean_from_v(x, v, alpha_bar)), x0, **tolerance)
    clean = kernels.clean_from_epsilon(x, epsilon, alpha_bar)
    np.testing.assert_allclose(to_np(clean), x0, **tolerance)


class Gaussian:
    """Images x0 ~ N(2, .25 I): the flow's velocity and marginals are known exactly."""

    mean, variance = 2.0, 0.25

    def marginal(self, s):
        return (1 - s) * self.mean, (1 - s) ** 2 * self.variance + s**2

    def velocity(self, x, s):
        centre, total = self.marginal(s)
        gain = (s - (1 - s) * self.variance) / total  # cov(x1 - x0, x) / var(x)
        return -self.mean + gain * (x - centre)

    def moments(self, kernel, sigmas, eta):
        """Mean and variance after each step: exact, since the kernel is linear in x here."""
        centre, total, path = 0.0, 1.0, []
        for s, s_next in pairwise(sigmas):
            x = np.array([[0.0], [1.0]])
            step = kernel(x, self.velocity(x, s), s, s_next, eta=eta, sigma_max=sigmas[1])
            offset, slope = float(step.mean[0, 0]), float(step.mean[1, 0] - step.mean[0, 0])
            centre, total = offset + slope * centre, slope**2 * total + float(step.std[0, 0]) ** 2
            path.append((centre, total))
        return np.array(path)


@pytest.mark.parametrize(
    ("name", "eta", "bound", "shrink"),
    [("flow_sde", 0.7, 0.06, 0.55), ("dance_sde", 0.3, 0.01, 0.3), ("cps", 0.0, 0.01, 0.3)],
)
def test_the_sdes_keep_the_marginals_of_the_flow(name, eta, bound, shrink):
    """Through the whole trajectory, up to a discretisation error that falls with the step size.

    Four times the steps: a fourth of the error; for Flow-SDE half of it, since its first step adds
    the variance a^2 whatever its size (the first tenth of the steps is left to forget it).
    """
    toy, worst = Gaussian(), []
    for steps in (100, 400):
        sigmas = schedules.flow_sigmas(steps, schedule="linear")
        exact = np.array([toy.marginal(s) for s in sigmas[1:]])
        got = toy.moments(kernels.FLOW_KERNELS[name], sigmas, eta)
        worst.append(np.abs(got - exact)[steps // 10 :].max())
    assert worst[0] < bound
    assert worst[1] < shrink * worst[0]


@pytest.mark.parametrize("name", ["flow_sde", "dance_sde"])
def test_samples_of_the_sdes_have_the_right_mean_and_variance(name):
    """The same with drawn noise, so `sample` takes part: 40,000 chains of 100 steps."""
    toy, rng = Gaussian(), np.random.default_rng(5)
    sigmas = schedules.flow_sigmas(100, schedule="linear")
    x = rng.standard_normal((40_000, 1))
    for s, s_next in pairwise(sigmas):
        step = kernels.FLOW_KERNELS[name](
            x, toy.velocity(x, s), s, s_next, eta=0.7, sigma_max=sigmas[1]
        )
        x = kernels.sample(step, rng.standard_normal(x.shape))
    assert x.mean() == pytest.approx(toy.mean, abs=0.02)
    assert x.var() == pytest.approx(toy.variance, rel=0.05)


@pytest.mark.parametrize("eta", [0.0, 0.3, 0.8, 1.0])
def test_cps_keeps_the_noise_level_of_a_given_image_in_one_big_step(eta):
    """x' = (1 - s') x0 + s' (unit noise), exactly: the "coefficients preserved"."""
    rng = np.random.default_rng(7)
    s, s_next, x0 = 0.9, 0.4, 2.0
    x1, fresh = rng.standard_normal((2, 100_000, 1))
    step = kernels.cps((1 - s) * x0 + s * x1, x1 - x0, s, s_next, eta=eta)
    x = kernels.sample(step, fresh)
    unit = (x - (1 - s_next) * x0) / s_next
    assert unit.mean() == pytest.approx(0, abs=0.015)
    assert unit.var() == pytest.approx(1, rel=0.02)
    kept = np.corrcoef(unit[:, 0], x1[:, 0])[0, 1]
    assert kept == pytest.approx(math.cos(eta * math.pi / 2), abs=0.015)


def test_cps_narrows_a_distribution_of_images():
    """A limit to know: predictions spread less than images, so CPS loses variance, Flow-SDE none.

    One infinitely short step takes A B (1 - cos(eta pi/2))^2 / (A + B) from the variance A + B,
    with A = (1 - s)^2 var(x0), B = s^2.
    """
    toy, s, eta = Gaussian(), 0.5, 0.8
    image, noise = (1 - s) ** 2 * toy.variance, s**2
    x = np.array([[0.0], [1.0]])
    step = kernels.cps(x, toy.velocity(x, s), s, s, eta=eta)
    slope = float(step.mean[1, 0] - step.mean[0, 0])
    lost = image + noise - (slope**2 * (image + noise) + float(step.std[0, 0]) ** 2)
    cosine = math.cos(eta * math.pi / 2)
    assert lost == pytest.approx(image * noise * (1 - cosine) ** 2 / (image + noise), rel=1e-9)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda x: kernels.ddim(x, x, 0.3, 0.5, eta=1.5), r"eta = 1\.5 .*\[0, 1\.0\]"),
        (lambda x: kernels.ddim(x, x, 0.5, 0.3, eta=1.0), "0 <= 0.5 <= 0.3 <= 1"),
        (lambda x: kernels.cps(x, x, 0.5, 0.3, eta=1.1), "eta = 1.1"),
        (lambda x: kernels.dance_sde(x, x, 0.5, 0.3, eta=-0.1), "eta = -0.1"),
        (lambda x: kernels.dance_sde(x, x, 0.5, 0.3, eta=math.nan), "eta = nan"),
        (lambda x: kernels.flow_sde(x, x, 1.0, 0.9, eta=0.7, sigma_max=1.0), "sigma_max = 1.0"),
        (lambda x: kernels.flow_sde(x, x, 0.3, 0.5, eta=0.7, sigma_max=0.9), "noise to image"),
        (lambda x: kernels.ode(x, x, x[:3, 0, 0, 0], 0.5), r"array \[4\].*not an array \[3\]"),
    ],
)
def test_bad_input_is_one_clear_line(call, message, f32):
    with pytest.raises(ValueError, match=message) as caught:
        call(f32(X))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("library", ["torch", "mlx.core"])
def test_half_precision_is_refused(library):
    """A bfloat16 ratio has steps of 0.8 %: a clip range of 1e-4 means nothing there."""
    module = pytest.importorskip(library)
    x = module.ones((2, 3), dtype=module.bfloat16)
    with pytest.raises(ValueError, match=r"float32, not .*bfloat16"):
        kernels.ode(x, x, 0.5, 0.4)
