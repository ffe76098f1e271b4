"""One denoising transition as a Gaussian: DDIM, Flow-SDE, CPS, Dance-SDE, and the ODE step.

Arrays in, arrays out: no randomness (noise is an argument), no model, no schedule.

Flow models follow x_s = (1 - s) x0 + s x1 with velocity v = x1 - x0: s falls from 1 (x1, noise) to
0 (x0, the image). Diffusion models follow x_t = sqrt(ab) x0 + sqrt(1 - ab) epsilon.

Noise levels (sigma, alpha_bar) are floats, or arrays [B] of x's library where the samples of a
batch are at different steps. Both are rounded to x's dtype before anything is computed, so a
rollout that passes floats and an update that passes arrays get the same numbers to the last bit.
"""

import math
from collections.abc import Callable
from numbers import Real
from typing import Any, Literal, NamedTuple, get_args

from array_api_compat import array_namespace

Array = Any
Level = Any
"""A noise level: a float, or an array [B]."""

__all__ = [
    "FLOW_KERNELS",
    "LOG_PROBS",
    "SDE_KERNELS",
    "DiffusionKernel",
    "FlowKernel",
    "Kernel",
    "Transition",
    "clean_from_epsilon",
    "clean_from_v",
    "clean_from_velocity",
    "cps",
    "cps_log_prob",
    "dance_sde",
    "ddim",
    "epsilon_from_v",
    "flow_sde",
    "log_prob",
    "noise_from_velocity",
    "ode",
    "sample",
    "step_width",
]

FlowKernel = Literal["flow_sde", "cps", "dance_sde"]
"""Stochastic steps of models that predict a velocity."""

DiffusionKernel = Literal["ddim"]
"""Stochastic steps of models that predict epsilon or v."""

Kernel = Literal[FlowKernel, DiffusionKernel]

SDE_KERNELS: tuple[Kernel, ...] = ("flow_sde", "dance_sde")
"""Steps of an SDE: their std grows with the root of the width of the step."""

PURE_NOISE = 1.0 - 1e-6
"""From this sigma on, 1 - sigma is rounding error and no longer a distance from pure noise."""


class Transition(NamedTuple):
    """The Gaussian N(mean, std^2 I) of the next latent: mean [B, ...], std [B, 1, ...] >= 0."""

    mean: Array
    std: Array


def ddim(
    x: Array, epsilon: Array, alpha_bar: Level, alpha_bar_next: Level, *, eta: float
) -> Transition:
    """DDIM's step (Song et al. 2021, arXiv:2010.02502, eq. 12 and 16).

    std = eta sqrt((1 - ab') q),  q = (1 - ab/ab') / (1 - ab)
    mean = sqrt(ab') x0 + sqrt(1 - ab' - std^2) epsilon,  x0 = (x - sqrt(1 - ab) epsilon) / sqrt(ab)

    Args:
        x: latents, float [B, ...].
        epsilon: the predicted noise, like x.
        alpha_bar: ab, the signal share of x, in (0, 1).
        alpha_bar_next: ab', that of the next latent, in [ab, 1].
        eta: 0 is deterministic DDIM, 1 is DDPM's posterior.

    Raises:
        ValueError: eta is outside [0, 1], or a level is misshapen or does not rise.

    Example:
        >>> x, epsilon = np.full((1, 2), 1.0), np.full((1, 2), 0.5)
        >>> step = ddim(x, epsilon, 0.25, 0.64, eta=1.0)
        >>> step.mean.round(4).tolist(), step.std.round(4).tolist()
        ([[1.0371, 1.0371]], [[0.5408]])
    """
    _check_eta("ddim", eta, most=1.0)
    _check_order("ddim", "alpha_bar", alpha_bar, alpha_bar_next)
    xp = array_namespace(x)
    ab, ab_next = _column(alpha_bar, x), _column(alpha_bar_next, x)
    q = (ab_next - ab) / (ab_next * (1 - ab))
    x0 = clean_from_epsilon(x, epsilon, alpha_bar)
    direction = xp.sqrt((1 - ab_next) * xp.maximum(1 - eta**2 * q, 0.0))  # sqrt(1 - ab' - std^2)
    std = eta * xp.sqrt((1 - ab_next) * q)
    return Transition(xp.sqrt(ab_next) * x0 + direction * epsilon, std)


def flow_sde(
    x: Array, velocity: Array, sigma: Level, sigma_next: Level, *, eta: float, sigma_max: Level
) -> Transition:
    """Flow-GRPO's SDE step (Liu et al. 2025, arXiv:2505.05470), with s = sigma, ds = s' - s < 0.

    w = eta sqrt(s / (1 - s~)),  s~ = sigma_max where s = 1, else s
    mean = x (1 + w^2 ds / (2 s)) + v (1 + w^2 (1 - s) / (2 s)) ds,  std = w sqrt(-ds)

    Args:
        x: latents, float [B, ...].
        velocity: the predicted x1 - x0, like x.
        sigma: noise level of x, in (0, 1].
        sigma_next: noise level of the next latent, in [0, sigma).
        eta: strength of the noise (Flow-GRPO's a), >= 0; 0 is the Euler step.
        sigma_max: the schedule's second value, < 1: it stands for s where 1 - s would vanish.

    Raises:
        ValueError: eta is negative, sigma_max is 1, or a level is misshapen or does not fall.

    Example:
        >>> x, velocity = np.full((1, 2), 1.0), np.full((1, 2), 0.5)
        >>> step = flow_sde(x, velocity, 0.5, 0.25, eta=0.7, sigma_max=0.9)
        >>> step.mean.round(4).tolist(), step.std.round(4).tolist()
        ([[0.7219, 0.7219]], [[0.35]])
    """
    _check_eta("flow_sde", eta)
    if isinstance(sigma_max, Real) and not sigma_max < PURE_NOISE:
        raise ValueError(f"flow_sde: sigma_max = {sigma_max} must be the second sigma, below 1")
    xp = array_namespace(x)
    s = _column(sigma, x)
    gap = 1 - xp.where(s >= PURE_NOISE, _column(sigma_max, x), s)
    return _reverse_sde("flow_sde", x, velocity, sigma, sigma_next, w=eta * xp.sqrt(s / gap))


def dance_sde(
    x: Array,
    velocity: Array,
    sigma: Level,
    sigma_next: Level,
    *,
    eta: float,
    sigma_max: Level | None = None,
) -> Transition:
    """DanceGRPO's SDE step (Xue et al. 2025, arXiv:2505.07818), with s = sigma, ds = s' - s < 0.

    mean = x + v ds + eta^2 / 2 (x - (1 - s) x0) / s^2 ds,  std = eta sqrt(-ds)

    Arguments and errors as in `flow_sde`; sigma_max is not used.

    Example:
        >>> x, velocity = np.full((1, 2), 1.0), np.full((1, 2), 0.5)
        >>> step = dance_sde(x, velocity, 0.5, 0.25, eta=0.3)
        >>> step.mean.round(4).tolist(), step.std.round(4).tolist()
        ([[0.8469, 0.8469]], [[0.15]])
    """
    del sigma_max
    _check_eta("dance_sde", eta)
    w = eta + 0.0 * _column(sigma, x)
    return _reverse_sde("dance_sde", x, velocity, sigma, sigma_next, w=w)


def cps(
    x: Array,
    velocity: Array,
    sigma: Level,
    sigma_next: Level,
    *,
    eta: float,
    sigma_max: Level | None = None,
) -> Transition:
    """Coefficients-preserving step (Wang and Yu 2025, arXiv:2509.05952), with s' = sigma_next.

    std = s' sin(eta pi / 2),  mean = (1 - s') x0 + sqrt(s'^2 - std^2) x1

    The root is s' cos(eta pi / 2), so that the noise level of the next latent is exactly s' for a
    given image. Over a distribution of images the step loses variance (predictions spread less
    than images do), where Flow-SDE and Dance-SDE lose none as steps get small.

    Arguments and errors as in `flow_sde`, but eta is in [0, 1] and sigma_max is not used. std is 0
    on the step to s' = 0.

    Example:
        >>> x, velocity = np.full((1, 2), 1.0), np.full((1, 2), 0.5)
        >>> step = cps(x, velocity, 0.5, 0.25, eta=0.7)
        >>> step.mean.round(4).tolist(), step.std.round(4).tolist()
        ([[0.7044, 0.7044]], [[0.2228]])
    """
    del sigma_max
    _check_eta("cps", eta, most=1.0)
    _check_order("cps", "sigma", sigma_next, sigma)
    s_next, angle = _column(sigma_next, x), eta * math.pi / 2
    x0, x1 = clean_from_velocity(x, velocity, sigma), noise_from_velocity(x, velocity, sigma)
    mean = (1 - s_next) * x0 + s_next * math.cos(angle) * x1
    return Transition(mean, s_next * math.sin(angle))


def ode(x: Array, velocity: Array, sigma: Level, sigma_next: Level) -> Transition:
    """The deterministic Euler step of a flow: mean = x + v (sigma_next - sigma), std = 0.

    Arguments and errors as in `flow_sde`.

    Example:
        >>> ode(np.full((1, 2), 1.0), np.full((1, 2), 0.5), 0.5, 0.25).mean.tolist()
        [[0.875, 0.875]]
    """
    _check_order("ode", "sigma", sigma_next, sigma)
    s, s_next = _column(sigma, x), _column(sigma_next, x)
    return Transition(x + velocity * (s_next - s), 0.0 * s)


FLOW_KERNELS: dict[FlowKernel, Callable[..., Transition]] = {
    "flow_sde": flow_sde,
    "cps": cps,
    "dance_sde": dance_sde,
}
"""Stochastic steps of flow models: (x, velocity, sigma, sigma_next, *, eta, sigma_max)."""


def sample(transition: Transition, noise: Array) -> Array:
    """The next latent, mean + std * noise, for standard normal noise like the mean.

    Example:
        >>> step = Transition(mean=np.array([[1.0, 2.0]]), std=np.array([[0.5]]))
        >>> sample(step, np.array([[2.0, -2.0]])).tolist()
        [[2.0, 1.0]]
    """
    return transition.mean + transition.std * noise


def log_prob(sample: Array, mean: Array, std: Array) -> Array:
    """Gaussian log-density, in nats per element: the mean over all axes but the first.

    mean of -(x' - mean)^2 / (2 std^2) - ln std - ln(2 pi) / 2

    Args:
        sample: x', the latent that was drawn, float [B, ...]; a constant for the gradient.
        mean: like the sample.
        std: [B, 1, ...], > 0 (a deterministic step has no density: the result is not finite).

    Returns:
        Float [B]. A sum over D elements would be D times larger, and so would its clip range.

    Example:
        >>> mean, std = np.zeros((1, 2)), np.ones((1, 1))
        >>> log_prob(mean, mean, std).round(4).tolist()  # -ln(2 pi) / 2
        [-0.9189]
    """
    xp = array_namespace(mean)
    z = (sample - mean) / std
    return _mean(-0.5 * z * z - xp.log(std) - 0.5 * math.log(2 * math.pi))


def cps_log_prob(sample: Array, mean: Array, std: Array) -> Array:
    """CPS's log-density, up to scale and constants: -mean (x' - mean)^2, float [B].

    Leaving out the normaliser keeps it finite at std = 0 (the last step); std is not used.
    Arguments as in `log_prob`.

    Example:
        >>> cps_log_prob(np.array([[1.0, 3.0]]), np.zeros((1, 2)), np.zeros((1, 1))).tolist()
        [-5.0]
    """
    del std
    difference = sample - mean
    return _mean(-difference * difference)


LOG_PROBS: dict[Kernel, Callable[[Array, Array, Array], Array]] = {
    kernel: cps_log_prob if kernel == "cps" else log_prob for kernel in get_args(Kernel)
}
"""The log-density of each kernel's step: (sample, mean, std) -> [B]."""


def step_width(kernel: Kernel, level: Level, level_next: Level) -> Level:
    """|ds| = s - s' where the kernel's std is w sqrt(|ds|), else 1; like the levels.

    Those are SDE_KERNELS. The std of `cps` and `ddim` is a noise level
    itself and has no width in it.

    Example:
        >>> step_width("flow_sde", 0.75, 0.5), step_width("cps", 0.75, 0.5)
        (0.25, 1.0)
    """
    return level - level_next if kernel in SDE_KERNELS else 1.0 + 0.0 * level


def clean_from_velocity(x: Array, velocity: Array, sigma: Level) -> Array:
    """The predicted image of a flow: x0 = x - s v, like x.

    Example:
        >>> clean_from_velocity(np.array([[1.0, 2.0]]), np.array([[0.5, -0.5]]), 0.5).tolist()
        [[0.75, 2.25]]
    """
    return x - _column(sigma, x) * velocity


def noise_from_velocity(x: Array, velocity: Array, sigma: Level) -> Array:
    """The predicted noise of a flow: x1 = x + (1 - s) v, like x.

    Example:
        >>> noise_from_velocity(np.array([[1.0, 2.0]]), np.array([[0.5, -0.5]]), 0.5).tolist()
        [[1.25, 1.75]]
    """
    return x + (1 - _column(sigma, x)) * velocity


def clean_from_epsilon(x: Array, epsilon: Array, alpha_bar: Level) -> Array:
    """The predicted image of a diffusion model: x0 = (x - sqrt(1 - ab) epsilon) / sqrt(ab).

    Example:
        >>> x, epsilon = np.array([[1.0, 2.0]]), np.array([[0.5, -0.5]])
        >>> clean_from_epsilon(x, epsilon, 0.64).round(4).tolist()
        [[0.875, 2.875]]
    """
    xp, ab = array_namespace(x), _column(alpha_bar, x)
    return (x - xp.sqrt(1 - ab) * epsilon) / xp.sqrt(ab)


def clean_from_v(x: Array, v: Array, alpha_bar: Level) -> Array:
    """The image of a v-prediction (Salimans and Ho 2022): x0 = sqrt(ab) x - sqrt(1 - ab) v.

    Example:
        >>> clean_from_v(np.array([[1.0, 2.0]]), np.array([[0.5, -0.5]]), 0.64).round(4).tolist()
        [[0.5, 1.9]]
    """
    xp, ab = array_namespace(x), _column(alpha_bar, x)
    return xp.sqrt(ab) * x - xp.sqrt(1 - ab) * v


def epsilon_from_v(x: Array, v: Array, alpha_bar: Level) -> Array:
    """The noise of a v-prediction: epsilon = sqrt(ab) v + sqrt(1 - ab) x, like x.

    Example:
        >>> epsilon_from_v(np.array([[1.0, 2.0]]), np.array([[0.5, -0.5]]), 0.64).round(4).tolist()
        [[1.0, 0.8]]
    """
    xp, ab = array_namespace(x), _column(alpha_bar, x)
    return xp.sqrt(ab) * v + xp.sqrt(1 - ab) * x


def _reverse_sde(
    name: str, x: Array, velocity: Array, sigma: Level, sigma_next: Level, *, w: Array
) -> Transition:
    """Euler-Maruyama step of the SDE that has diffusion w and the flow's marginals.

    mean = x + (v + w^2 / (2 s) x1) ds: the score of the flow at s is -x1 / s. This is the form
    of both Flow-SDE and Dance-SDE (x - (1 - s) x0 = s x1) that never divides by 1 - s.
    """
    _check_order(name, "sigma", sigma_next, sigma)
    xp = array_namespace(x)
    s, s_next = _column(sigma, x), _column(sigma_next, x)
    x1 = noise_from_velocity(x, velocity, sigma)
    mean = x + (velocity + w * w / (2 * s) * x1) * (s_next - s)
    return Transition(mean, w * xp.sqrt(s - s_next))


def _column(level: Level, x: Array) -> Array:
    """A float or an array [B] as [B, 1, ...], in x's dtype, to broadcast over x."""
    xp = array_namespace(x)
    if xp.finfo(x.dtype).bits < 32:
        raise ValueError(f"latents of a kernel must be at least float32, not {x.dtype}")
    if isinstance(level, Real):
        return xp.zeros_like(x[(slice(None), *[slice(1)] * (x.ndim - 1))]) + float(level)
    if tuple(level.shape) != (x.shape[0],):
        raise ValueError(
            f"a noise level must be a float or an array [{x.shape[0]}], one for each sample, "
            f"not an array {list(level.shape)}"
        )
    return xp.reshape(xp.astype(level, x.dtype), (x.shape[0],) + (1,) * (x.ndim - 1))


def _mean(values: Array) -> Array:
    """Mean over all axes but the first: [B, ...] -> [B]."""
    return array_namespace(values).mean(values, axis=tuple(range(1, values.ndim)))


def _check_eta(kernel: str, eta: float, most: float = math.inf) -> None:
    if not 0 <= eta <= most or math.isinf(eta):
        raise ValueError(f"{kernel}: eta = {eta} must be in [0, {most}]")


def _check_order(kernel: str, name: str, low: Level, high: Level) -> None:
    """A step goes from noise to image. Only floats are checked: arrays may be lazy."""
    if not (isinstance(low, Real) and isinstance(high, Real)):
        return
    if not 0 <= float(low) <= float(high) <= 1:
        raise ValueError(
            f"{kernel}: a step from noise to image needs 0 <= {low} <= {high} <= 1 ({name})"
        )
