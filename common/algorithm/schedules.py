"""Noise levels of each model family: sigmas of flow models, timesteps and alpha_bars of DDIM.

Schedules are small and belong to a run's configuration: float64 numpy, computed on the host.
"""

from typing import Literal

import numpy as np

from common.algorithm.choice import check_choice

__all__ = [
    "FlowSpacing",
    "ddim_alpha_bars",
    "ddim_timesteps",
    "flow_sigmas",
    "flow_timesteps",
    "scaled_linear_alpha_bars",
]

FlowSpacing = Literal["linear", "shift", "double_shift"]
"""The spacing of a flow's noise levels."""

TRAIN_STEPS = 1000
"""Discrete timesteps that Stable Diffusion, SD3 and FLUX were trained with."""


def flow_sigmas(steps: int, *, schedule: FlowSpacing, shift: float = 3.0) -> np.ndarray:
    """Noise levels of a flow from 1 (noise) to 0 (image): float64 [steps + 1], falling.

    With S(s) = shift s / (1 + (shift - 1) s), the time shift of SD3 (Esser et al. 2024, eq. 23):
    `linear`: evenly spaced; `shift`: S of evenly spaced; `double_shift`: what diffusers does when
    it is given only a number of steps: `steps` values evenly spaced from 1 to S(1/1000), each
    shifted again, then 0. Flow-GRPO's published recipes use `double_shift`.

    Raises:
        ValueError: fewer than 1 step, an unknown schedule, or a shift that is not above 0.

    Example:
        >>> flow_sigmas(4, schedule="linear").tolist()
        [1.0, 0.75, 0.5, 0.25, 0.0]
        >>> flow_sigmas(4, schedule="shift", shift=3.0).round(4).tolist()
        [1.0, 0.9, 0.75, 0.5, 0.0]
    """
    if steps < 1:
        raise ValueError(f"flow_sigmas: steps = {steps} must be at least 1")
    if not 0 < shift < np.inf:
        raise ValueError(f"flow_sigmas: shift = {shift} must be above 0")
    check_choice("flow_sigmas: schedule", schedule, FlowSpacing)
    match schedule:
        case "linear":
            return np.linspace(1, 0, steps + 1)
        case "shift":
            return _shifted(np.linspace(1, 0, steps + 1), shift)
    first, last = _shifted(np.array([1.0, 1 / TRAIN_STEPS]), shift)
    return np.append(_shifted(np.linspace(first, last, steps), shift), 0.0)


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
    steps: int, *, train_steps: int = TRAIN_STEPS, steps_offset: int = 1
) -> np.ndarray:
    """Timesteps of DDIM with leading spacing: int64 [steps], falling; 981, 961, ..., 1 for 50.

    Raises:
        ValueError: steps is below 1, or so large that the first timestep was never trained.

    Example:
        >>> ddim_timesteps(4).tolist()
        [751, 501, 251, 1]
    """
    if not 1 <= steps <= train_steps:
        raise ValueError(f"ddim_timesteps: steps = {steps} must be in [1, {train_steps}]")
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
) -> np.ndarray:
    """Signal shares of DDIM's latents from noise to image: float64 [steps + 1], rising.

    alpha_bars: [train_steps], by default those of Stable Diffusion 1.x. Step k goes from value k
    to k + 1; the last goes to `final`, by default ab at t = 0 and not 1 (set_alpha_to_one = False
    in diffusers). Raises as `ddim_timesteps` does.

    Example:
        >>> ddim_alpha_bars(4).round(4).tolist()
        [0.0557, 0.275, 0.6722, 0.9983, 0.9992]
    """
    table = scaled_linear_alpha_bars() if alpha_bars is None else np.asarray(alpha_bars, np.float64)
    timesteps = ddim_timesteps(steps, train_steps=len(table), steps_offset=steps_offset)
    return np.append(table[timesteps], table[0] if final is None else final)
