"""The noise levels of a pipeline, from its `scheduler_config.json`.

Both backends read the settings that the file has; a setting that it lacks has the default of
DDIMScheduler or FlowMatchEulerDiscreteScheduler, which is what `DDIMScheduler.from_config` does
with the settings of another scheduler. A setting is honoured as diffusers honours it, or refused.
"""

import math
import warnings
from collections.abc import Mapping
from typing import Any, get_args

from common.algorithm.schedules import (
    TRAIN_STEPS,
    DiffusionSpacing,
    FlowConversion,
    scaled_linear_alpha_bars,
)
from common.backends import DiffusionSchedule, FlowSchedule, Prediction

__all__ = [
    "FILE",
    "diffusion_schedule",
    "flux_schedule",
    "prediction",
    "scheduler_settings",
    "sd3_schedule",
]

FILE = "scheduler/scheduler_config.json"

Settings = Mapping[str, Any]
"""The settings that a scheduler's file has, under diffusers' names."""

PREDICTIONS = ("epsilon", "v_prediction")

DDIM_FIXED: dict[str, Any] = {
    "final_sigmas_type": "zero",
    "interpolation_type": "linear",
    "sigma_max": None,
    "sigma_min": None,
    "thresholding": False,
    "timestep_type": "discrete",
    "use_beta_sigmas": False,
    "use_exponential_sigmas": False,
    "use_flow_sigmas": False,
    "use_karras_sigmas": False,
    "use_lu_lambdas": False,
}
"""Settings of a diffusion's scheduler that move its noise levels -> the one value known here."""

FORCED = {"steps_offset": 1, "clip_sample": False}
"""Settings that StableDiffusionPipeline gives its scheduler, whatever the file says."""

SAMPLERS = ("DDIMScheduler", "PNDMScheduler")
"""Schedulers of the published models; sampling with DDIM instead of PNDM is documented."""

FLOW_FIXED: dict[str, Any] = {
    "invert_sigmas": False,
    "num_train_timesteps": TRAIN_STEPS,
    "stochastic_sampling": False,
    "use_beta_sigmas": False,
    "use_flow_sigmas": False,
}
"""The same for a flow's scheduler."""

EULER = "FlowMatchEulerDiscreteScheduler"
CONVERSIONS: dict[str, FlowConversion] = {
    "use_karras_sigmas": "karras",
    "use_exponential_sigmas": "exponential",
}


def scheduler_settings(config: Settings) -> dict[str, Any]:
    """What a scheduler's file has, from the `config` of a diffusers scheduler that was made of it.

    Such a `config` also has the defaults of its class, and lists their names.
    """
    defaults = {"_use_default_values", *config.get("_use_default_values", ())}
    return {key: value for key, value in config.items() if key not in defaults}


def prediction(scheduler: Settings, path: str) -> Prediction:
    """What a Stable Diffusion 1 or 2 predicts. ValueError in one line for another kind."""
    kind = scheduler.get("prediction_type", "epsilon")
    if kind not in PREDICTIONS:
        raise ValueError(
            f"model.path = '{path}': its scheduler's prediction_type is '{kind}'; valid: "
            f"{', '.join(PREDICTIONS)}"
        )
    return kind


def diffusion_schedule(scheduler: Settings, path: str) -> DiffusionSchedule:
    """The noise that a Stable Diffusion 1 or 2 was trained with, and its sampler's timesteps.

    Args:
        scheduler: the settings of its scheduler's file; see `scheduler_settings`.
        path: what to call the model in an error.

    Raises:
        ValueError: in one line, for another kind of noise or a setting that is not known here.
    """
    where = f"model.path = '{path}': {FILE}"
    prediction(scheduler, path)
    shape = "trained" if scheduler.get("trained_betas") else scheduler.get("beta_schedule")
    if shape != "scaled_linear" or scheduler.get("rescale_betas_zero_snr"):
        raise ValueError(
            f"model.path = '{path}': the noise schedule '{shape}' of its scheduler is none of "
            "Stable Diffusion's; valid: scaled_linear, not rescaled to zero signal"
        )
    _check_fixed(scheduler, DDIM_FIXED, where)
    for key, value in FORCED.items():
        if scheduler.get(key, value) != value:
            warnings.warn(
                f"{where} says {key} = {scheduler[key]!r}; it is {value} here, as in "
                "diffusers' StableDiffusionPipeline",
                stacklevel=3,
            )
    kind = scheduler.get("_class_name", SAMPLERS[0])
    if kind not in SAMPLERS:
        warnings.warn(
            f"{where} is of a {kind}; images are sampled with DDIM here, with its noise and "
            "timestep_spacing",
            stacklevel=3,
        )
    first, last = (
        _number(scheduler, key, default, where, above=0.0, below=1.0)
        for key, default in (("beta_start", 1e-4), ("beta_end", 0.02))
    )
    steps = _number(scheduler, "num_train_timesteps", TRAIN_STEPS, where, above=0.0, below=1e6)
    alpha_bars = scaled_linear_alpha_bars(beta_start=first, beta_end=last, train_steps=int(steps))
    spacing = scheduler.get("timestep_spacing") or "leading"
    if spacing not in get_args(DiffusionSpacing):
        raise ValueError(_unknown(where, "timestep_spacing", spacing, get_args(DiffusionSpacing)))
    final = 1.0 if scheduler.get("set_alpha_to_one", True) else float(alpha_bars[0])
    return DiffusionSchedule(alpha_bars, FORCED["steps_offset"], final, spacing)


def sd3_schedule(scheduler: Settings, length: int, path: str) -> FlowSchedule:
    """The noise levels of diffusers' StableDiffusion3Pipeline for a number of steps.

    Args:
        scheduler: the settings of its scheduler's file; see `scheduler_settings`.
        length: image tokens, for a dynamic shift.
        path: what to call the model in an error.

    Raises:
        ValueError: in one line, for a setting that is not known here.
    """
    where = f"model.path = '{path}': {FILE}"
    shift = _shift(scheduler, length, where)
    end = 1.0 if scheduler.get("use_dynamic_shifting") else None
    return FlowSchedule("double_shift", shift, end_shift=end, **_flow(scheduler, where))


def flux_schedule(scheduler: Settings, length: int, path: str) -> FlowSchedule:
    """The noise levels of diffusers' FluxPipeline for `length` image tokens.

    Evenly spaced and shifted once; schnell's scheduler has no dynamic shift. Arguments and errors
    are those of `sd3_schedule`.
    """
    where = f"model.path = '{path}': {FILE}"
    return FlowSchedule("shift", _shift(scheduler, length, where), **_flow(scheduler, where))


def _shift(scheduler: Settings, length: int, where: str) -> float:
    """The time shift; a dynamic one is mu or e^mu, where mu is linear in the number of tokens."""
    if not scheduler.get("use_dynamic_shifting"):
        return _number(scheduler, "shift", 1.0, where, above=0.0)
    short = _number(scheduler, "base_image_seq_len", 256, where)
    long = _number(scheduler, "max_image_seq_len", 4096, where, above=short)
    low = _number(scheduler, "base_shift", 0.5, where)
    high = _number(scheduler, "max_shift", 1.15, where)
    mu = low + (high - low) * (length - short) / (long - short)
    kind = scheduler.get("time_shift_type", "exponential")
    if kind not in ("exponential", "linear"):
        raise ValueError(_unknown(where, "time_shift_type", kind, ("exponential", "linear")))
    if not (mu > 0 if kind == "linear" else abs(mu) < 100):
        raise ValueError(f"{where}: base_shift and max_shift give mu = {mu:.4g} at {length} tokens")
    return mu if kind == "linear" else math.exp(mu)


def _flow(scheduler: Settings, where: str) -> dict[str, Any]:
    """What a flow's scheduler says beside its shift: `terminal` and `conversion`."""
    if (kind := scheduler.get("_class_name", EULER)) != EULER:
        raise ValueError(_unknown(where, "_class_name", kind, (EULER,)))
    _check_fixed(scheduler, FLOW_FIXED, where)
    chosen = [key for key in CONVERSIONS if scheduler.get(key)]
    if len(chosen) > 1:
        raise ValueError(f"{where} says {' and '.join(chosen)}: one at most")
    terminal = 0.0
    if scheduler.get("shift_terminal"):
        terminal = _number(scheduler, "shift_terminal", 0.0, where, above=0.0, below=1.0)
    return {"terminal": terminal, "conversion": CONVERSIONS[chosen[0]] if chosen else "none"}


def _check_fixed(scheduler: Settings, fixed: Settings, where: str) -> None:
    for key, value in fixed.items():
        if (given := scheduler.get(key)) is not None and given != value:
            raise ValueError(_unknown(where, key, given, (value,)))


def _number(
    scheduler: Settings,
    key: str,
    default: float,
    where: str,
    *,
    above: float = -math.inf,
    below: float = math.inf,
) -> float:
    value = scheduler.get(key, default)
    if isinstance(value, bool) or not isinstance(value, int | float) or not above < value < below:
        limits = [f"above {above:g}"] * (above > -math.inf) + [f"below {below:g}"] * (
            below < math.inf
        )
        raise ValueError(f"{where} says {key} = {value!r}, not {' '.join(['a number', *limits])}")
    return float(value)


def _unknown(where: str, key: str, value: Any, valid: tuple[Any, ...]) -> str:
    return f"{where} says {key} = {value!r}; valid here: {', '.join(repr(v) for v in valid)}"
