"""Noise levels of each model family: sigmas of flow models, timesteps and alpha_bars of DDIM.

Schedules are small and belong to a run's configuration: float64 numpy, computed on the host.
"""

from typing import Literal

import numpy as np

from common.algorithm.choice import check_choice

__all__ = [
    "DiffusionSpacing",
    "FlowConversion",
    "FlowSpacing",
    "ddim_alpha_bars",
    "ddim_next_alpha_bars",
    "ddim_timesteps",
    "flow_sigmas",
    "flow_timesteps",
    "scaled_linear_alpha_bars",
]

FlowSpacing = Literal["linear", "shift", "double_shift"]
"""The spacing of a flow's noise levels."""

FlowConversion = Literal["none", "karras", "exponential"]
"""What replaces the spacing of a flow's noise levels between the first and the last one."""

DiffusionSpacing = Literal["leading", "trailing", "linspace"]
"""The spacing of a diffusion's timesteps: Lin et al. 2024, arXiv:2305.08891, table 2."""

TRAIN_STEPS = 1000
"""Discrete timesteps that Stable Diffusion, SD3 and FLUX were trained with."""


def flow_sigmas(
    steps: int,
    *,
    schedule: FlowSpacing,
    shift: float = 3.0,
    end_shift: float | None = None,
    terminal: float = 0.0,
    conversion: FlowConversion = "none",
) -> np.ndarray:
    """Noise levels of a flow from 1 (noise) to 0 (image): float64 [steps + 1], falling.

    With S(s) = shift s / (1 + (shift - 1) s), the time shift of SD3 (Esser et al. 2024, eq. 23):
    `linear`: evenly spaced; `shift`: S of evenly spaced; `double_shift`: what diffusers does when
    it is given only a number of steps: `steps` values evenly spaced from 1 to S(1/1000), each
    shifted again, then 0. Flow-GRPO's published recipes use `double_shift`.

    Args:
        steps: T.
        schedule: the spacing.
        shift: of S.
        end_shift: the shift of the end S(1/1000) of `double_shift`; None is `shift`.
        terminal: where not 0, the levels are stretched away from 1 so that the last one before 0
            is this (`shift_terminal` of diffusers).
        conversion: replaces the levels between the first and the last one before 0: `karras` is
            evenly spaced in sigma^(1/7) (Karras et al. 2022, eq. 5), `exponential` in log sigma.

    Raises:
        ValueError: fewer than 1 step, an unknown schedule, a shift that is not above 0, or a
            terminal that is not in [0, 1).

    Example:
        >>> flow_sigmas(4, schedule="linear").tolist()
        [1.0, 0.75, 0.5, 0.25, 0.0]
        >>> flow_sigmas(4, schedule="shift", shift=3.0).round(4).tolist()
        [1.0, 0.9, 0.75, 0.5, 0.0]
    """
    if steps < 1:
        raise ValueError(f"flow_sigmas: steps = {steps} must be at least 1")
    for name, value in (("shift", shift), ("end_shift", end_shift)):
        if value is not None and not 0 < value < np.inf:
            raise ValueError(f"flow_sigmas: {name} = {value} must be above 0")
    if not 0 <= terminal < 1:
        raise ValueError(f"flow_sigmas: terminal = {terminal} must be in [0, 1)")
    check_choice("flow_sigmas: schedule", schedule, FlowSpacing)
    check_choice("flow_sigmas: conversion", conversion, FlowConversion)
    sigmas = np.linspace(1, 0, steps + 1)
    if schedule == "shift":
        sigmas = _shifted(sigmas, shift)
    elif schedule == "double_shift":
        first, last = _shifted(np.array([1.0, 1 / TRAIN_STEPS]), end_shift or shift)
        sigmas = np.append(_shifted(np.linspace(first, last, steps), shift), 0.0)
    if steps > 1 and terminal:
        sigmas[:-1] = 1 - (1 - sigmas[:-1]) * (1 - terminal) / (1 - sigmas[-2])
    if conversion != "none":
        sigmas[:-1] = _converted(sigmas[0], sigmas[-2], steps, conversion)
    return sigmas


def _converted(first: float, last: float, steps: int, conversion: FlowConversion) -> np.ndarray:
    """`steps` levels from first to last, evenly spaced in another measure: float64 [steps]."""
    if conversion == "exponential":
        return np.exp(np.linspace(np.log(first), np.log(last), steps))
    rho = 7.0  # as published
    return np.linspace(first ** (1 / rho), last ** (1 / rho), steps) ** rho


def _shifted(s: np.ndarray, shift: float) -> np.ndarray:
    return shift * s / (1 + (shift - 1) * s)


def flow_timesteps(sigmas: np.ndarray) -> np.ndarray:
    """The timestep of each step of a flow, 1000 sigma: float64 [T] for sigmas [T + 1].

    Example:
        >>> flow_timesteps(np.array([1.0, 0.5, 0.0])).tolist()
        [1000.0, 500.0]
    """
    return TRAIN_STEPS * np.asarray(sigmas, dtype=np.float64)[:-1]


def scaled_linear_alpha_bars(
    *, beta_start: float = 0.00085, beta_end: float = 0.012, train_steps: int = TRAIN_STEPS
) -> np.ndarray:
    """Signal shares ab_t = prod (1 - beta_i), i = 0..t: float64 [train_steps], falling.

    sqrt(beta) is evenly spaced ("scaled linear"); the defaults are those of Stable Diffusion 1.x.

    Example:
        >>> scaled_linear_alpha_bars()[[0, 999]].round(5).tolist()
        [0.99915, 0.00466]
    """
    beta = np.linspace(beta_start**0.5, beta_end**0.5, train_steps) ** 2
    return np.cumprod(1 - beta)


def ddim_timesteps(
    steps: int,
    *,
    train_steps: int = TRAIN_STEPS,
    steps_offset: int = 1,
    spacing: DiffusionSpacing = "leading",
) -> np.ndarray:
    """Timesteps of DDIM, as diffusers' DDIMScheduler has them: int64 [steps], falling.

    With N steps of M trained ones: `leading` is k floor(M / N) + steps_offset (981, 961, ..., 1 for
    50), `trailing` is round(M - k M / N) - 1 (999, 979, ..., 19), `linspace` N rounded values from
    M - 1 to 0 (999, 979, ..., 0). The offset is of `leading` alone.

    Raises:
        ValueError: steps is below 1, or so large that the first timestep was never trained; or
            an unknown spacing.

    Example:
        >>> ddim_timesteps(4).tolist()
        [751, 501, 251, 1]
        >>> ddim_timesteps(4, spacing="trailing").tolist()
        [999, 749, 499, 249]
    """
    if not 1 <= steps <= train_steps:
        raise ValueError(f"ddim_timesteps: steps = {steps} must be in [1, {train_steps}]")
    check_choice("ddim_timesteps: spacing", spacing, DiffusionSpacing)
    if spacing == "linspace":
        timesteps = np.linspace(0, train_steps - 1, steps).round()[::-1]
    elif spacing == "trailing":
        # For some numbers of steps numpy's range has one value too many.
        timesteps = np.round(np.arange(train_steps, 0, -(train_steps / steps)))[:steps] - 1
    else:
        timesteps = np.arange(steps)[::-1] * (train_steps // steps) + steps_offset
    if timesteps[0] >= train_steps:
        raise ValueError(
            f"ddim_timesteps: {steps} steps with offset {steps_offset} start at t = "
            f"{timesteps[0]}, beyond the last trained {train_steps - 1}"
        )
    return timesteps.astype(np.int64)


def ddim_alpha_bars(
    steps: int,
    alpha_bars: np.ndarray | None = None,
    *,
    steps_offset: int = 1,
    final: float | None = None,
    spacing: DiffusionSpacing = "leading",
) -> np.ndarray:
    """Signal shares of DDIM's latents from noise to image: float64 [steps + 1], rising.

    alpha_bars: [train_steps], by default those of Stable Diffusion 1.x. Step k begins at value k,
    and ends as `ddim_next_alpha_bars` says; the last value is the end of the last step. final: the
    share of a finished image, by default ab at t = 0 and not 1 (set_alpha_to_one = False in
    diffusers). Raises as `ddim_timesteps` does.

    Example:
        >>> ddim_alpha_bars(4).round(4).tolist()
        [0.0557, 0.275, 0.6722, 0.9983, 0.9992]
    """
    before, after = _ddim_steps(steps, alpha_bars, steps_offset, final, spacing)
    return np.append(before, after[-1])


def ddim_next_alpha_bars(
    steps: int,
    alpha_bars: np.ndarray | None = None,
    *,
    steps_offset: int = 1,
    final: float | None = None,
    spacing: DiffusionSpacing = "leading",
) -> np.ndarray:
    """The signal share after each step of DDIM: float64 [steps]; arguments of `ddim_alpha_bars`.

    As diffusers' DDIMScheduler has it, a step goes from t to t - floor(M / N), or to `final` below
    0. That is the next timestep of leading spacing, and of trailing spacing where N divides M;
    otherwise it is a little before the next timestep.

    Example:
        >>> table = np.array([0.9, 0.5, 0.3, 0.1])
        >>> ddim_next_alpha_bars(2, table, steps_offset=0, final=1.0).tolist()
        [0.9, 1.0]
    """
    return _ddim_steps(steps, alpha_bars, steps_offset, final, spacing)[1]


def _ddim_steps(
    steps: int,
    alpha_bars: np.ndarray | None,
    steps_offset: int,
    final: float | None,
    spacing: DiffusionSpacing,
) -> tuple[np.ndarray, np.ndarray]:
    """The signal shares before and after each step of DDIM, float64 [steps] each."""
    table = scaled_linear_alpha_bars() if alpha_bars is None else np.asarray(alpha_bars, np.float64)
    timesteps = ddim_timesteps(
        steps, train_steps=len(table), steps_offset=steps_offset, spacing=spacing
    )
    following = timesteps - len(table) // steps
    finished = table[0] if final is None else final
    after = np.where(following >= 0, table[np.maximum(following, 0)], finished)
    return table[timesteps], after
