"""Schedules over denoising time (tau, 1 = pure noise) and over training.

Of prompt noise, of strengths, and of the tuned model's share in annealed importance guidance.

g is the share of the prompt that stays unchanged, u = 1 - g the intensity of the noise. Scalars in,
scalars out: a run evaluates its schedules once, on the host.
"""

import math
from collections.abc import Sequence
from typing import Literal

import numpy as np

from common.algorithm.choice import check_choice

__all__ = [
    "Axis",
    "Schedule",
    "TrainingSchedule",
    "anneal",
    "taus",
    "training_multiplier",
    "tuned_shares",
]

Schedule = Literal["cads", "linear", "cosine", "exponential", "constant", "none"]
"""The curve of the prompt noise over denoising time."""

Axis = Literal["index", "sigma", "timestep"]
"""The time that a schedule follows."""

TrainingSchedule = Literal["constant", "linear", "cosine"]
"""The curve of a strength over the updates of a run."""

Numbers = Sequence[float] | np.ndarray

_SLACK = 1e-6
"""Rounding error that is accepted at both ends of [0, 1]: a schedule may come from float32."""


def anneal(
    schedule: Schedule, tau: float, *, tau1: float = 0.6, tau2: float = 0.9, rate: float = 3.0
) -> float:
    """g(tau) in [0, 1], falling in tau; the intensity of the noise is u = 1 - g.

    With z = clip((tau - tau1) / (tau2 - tau1), 0, 1):

    `cads`         g = 1 - z: 1 up to tau1, 0 from tau2 on, linear between (arXiv:2310.17347)
    `cosine`       g = cos^2(pi z / 2)
    `exponential`  g = (exp(-k z) - exp(-k)) / (1 - exp(-k)), k the rate
    `linear`       g = 1 - tau, whatever tau1 and tau2 are
    `constant`     g = 0: all the noise (u = 1) at all times
    `none`         g = 1: no noise (u = 0) at any time

    Args:
        schedule: one of the names above.
        tau: denoising time in [0, 1], 1 = pure noise.
        tau1: below it `cads`, `cosine` and `exponential` leave the prompt clean.
        tau2: above it they add all the noise; tau1 < tau2.
        rate: k > 0 of `exponential`.

    Raises:
        ValueError: unknown schedule, or a value outside its range.

    Example:
        >>> [round(anneal("cads", tau), 3) for tau in (1.0, 0.75, 0.5)]
        [0.0, 0.5, 1.0]
    """
    check_choice("schedule", schedule, Schedule)
    if not -_SLACK <= tau <= 1 + _SLACK:
        raise ValueError(f"tau = {tau} is outside [0, 1], 1 being pure noise")
    if not tau1 < tau2:
        raise ValueError(f"tau1 = {tau1} must be below tau2 = {tau2}")
    if not rate > 0:
        raise ValueError(f"rate = {rate} must be above 0")
    tau = min(max(tau, 0.0), 1.0)
    z = min(max((tau - tau1) / (tau2 - tau1), 0.0), 1.0)
    match schedule:
        case "cads":
            return 1.0 - z
        case "cosine":
            return math.cos(math.pi / 2 * z) ** 2 if z < 1.0 else 0.0
        case "exponential":
            # expm1 keeps every digit where a small rate makes both differences tiny.
            return math.exp(-rate * z) * math.expm1(-rate * (1 - z)) / math.expm1(-rate)
        case "linear":
            return 1.0 - tau
    return {"constant": 0.0, "none": 1.0}[schedule]


def taus(axis: Axis, *, sigmas: Numbers, timesteps: Numbers | None = None) -> list[float]:
    """The tau of the T denoising steps, from noise to image.

    `index`     1 - k/T, the same for every noise schedule
    `sigma`     the step's noise level
    `timestep`  the model's timestep, divided by 1000

    Args:
        axis: one of the names above.
        sigmas: noise levels [T + 1], from noise to the image.
        timesteps: [T], in [0, 1000]; needed by the axis `timestep` only.

    Raises:
        ValueError: unknown axis, too few sigmas, or timesteps missing or of another length.

    Example:
        >>> taus("index", sigmas=[1.0, 0.9, 0.75, 0.5, 0.0])
        [1.0, 0.75, 0.5, 0.25]
    """
    check_choice("axis", axis, Axis)
    T = len(sigmas) - 1
    if T < 1:
        raise ValueError(f"sigmas must hold T + 1 >= 2 noise levels, not {len(sigmas)}")
    match axis:
        case "index":
            return [1.0 - k / T for k in range(T)]
        case "sigma":
            return [float(sigma) for sigma in sigmas[:-1]]
        case _:
            if timesteps is None or len(timesteps) != T:
                raise ValueError(f"axis 'timestep' needs timesteps for all {T} steps")
            return [float(t) / 1000.0 for t in timesteps]


def tuned_shares(steps: int, exponent: float) -> list[float]:
    """Share of the tuned model at each step of annealed importance guidance (AIG): (k / T)^p.

    The prediction at step k = 0, ..., T - 1 is (1 - share) base + share tuned: the base model
    decides early, the tuned model late (Jena et al. 2024, arXiv:2409.06493). The power of k / T is
    the weight `power_P` of the authors' program (NeMo-Aligner, `anneal_sdxl.py`).

    Args:
        steps: T, the number of denoising steps.
        exponent: p >= 0. 0 is the tuned model at every step, `math.inf` the base model at every
            step; in between, a larger one leaves more steps to the base model.

    Returns:
        T shares in [0, 1], from noise to image; for a finite p > 0 the first is 0.

    Raises:
        ValueError: no steps, or an exponent that is negative or NaN.

    Example:
        >>> tuned_shares(4, 2.0)
        [0.0, 0.0625, 0.25, 0.5625]
    """
    if steps < 1:
        raise ValueError(f"{steps} steps: there must be at least 1")
    if not exponent >= 0:
        raise ValueError(f"exponent = {exponent} of AIG must be at least 0")
    return [(k / steps) ** exponent for k in range(steps)]


def training_multiplier(schedule: TrainingSchedule, progress: float) -> float:
    """The factor on a strength or a weight during training, in [0, 1].

    `constant` 1, `linear` 1 - p, `cosine` cos^2(pi p / 2).

    Args:
        schedule: one of the names above.
        progress: p in [0, 1], the share of the run's updates that are finished.

    Raises:
        ValueError: unknown schedule, or progress outside [0, 1].

    Example:
        >>> [training_multiplier("linear", progress) for progress in (0.0, 0.25, 1.0)]
        [1.0, 0.75, 0.0]
    """
    check_choice("training schedule", schedule, TrainingSchedule)
    if not 0.0 <= progress <= 1.0:
        raise ValueError(f"progress = {progress} is outside [0, 1]")
    match schedule:
        case "linear":
            return 1.0 - progress
        case "cosine":
            return math.cos(math.pi / 2 * progress) ** 2 if progress < 1.0 else 0.0
    return 1.0
