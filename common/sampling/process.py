"""The denoising process of a run: one code path turns a prediction into a transition.

The rollout, the update and the reference all call `Process.transition`, so the ratio of new and
old probabilities is 1 before the first optimizer step by construction. A model that predicts a
velocity has a `FlowProcess`, one that predicts epsilon or v a `DDIMProcess`.
"""

import warnings
from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from typing import Any, ClassVar, NamedTuple, get_args

import numpy as np
from array_api_compat import array_namespace

from common.algorithm import kernels, schedules
from common.backends import Array, Backend, Conditioning, DiffusionSchedule, FlowSchedule, Policy
from common.config import ConfigError, RolloutConfig
from common.config.types import GuidanceBatch, GuidanceGradient

EVEN = FlowSchedule()
"""Evenly spaced noise levels."""


class Levels(NamedTuple):
    """The noise levels of B samples at one denoising step each.

    time: [B, ...], the output of `Policy.embed_time`. level, level_next: [B], before and after the
    step: sigma of a flow, alpha_bar of a diffusion.
    """

    time: Array
    level: Array
    level_next: Array


@dataclass(frozen=True, kw_only=True)
class Process(ABC):
    """Base of flows and diffusions: T steps between T + 1 levels, with guidance.

    kernel: the stochastic step. noise_level: its strength. guidance: scale of classifier-free
    guidance, 1 = none. guidance_gradient: `both` branches carry gradients, or the `conditional`
    one alone. guidance_batch: the branches have a forward pass each, or `joined` share one.
    """

    KERNELS: ClassVar[tuple[str, ...]]

    kernel: kernels.Kernel
    noise_level: float
    guidance: float
    guidance_gradient: GuidanceGradient = "both"
    guidance_batch: GuidanceBatch = "split"

    @property
    @abstractmethod
    def table(self) -> np.ndarray:
        """Levels from noise to image, float64 [T + 1]: the argument of the kernels."""

    @property
    def next_levels(self) -> np.ndarray:
        """The level after each step, float64 [T]; a diffusion may be a little beside its table."""
        return self.table[1:]

    @property
    @abstractmethod
    def times(self) -> np.ndarray:
        """The time argument of the policy at each step, float64 [T]."""

    @property
    @abstractmethod
    def timesteps(self) -> np.ndarray:
        """The times on the scale of 1000 training steps, float64 [T]."""

    @property
    @abstractmethod
    def noise_shares(self) -> np.ndarray:
        """The share of noise in the latents before and after each step: [T + 1], in [0, 1]."""

    @abstractmethod
    def transition(self, x: Array, prediction: Array, levels: Levels) -> kernels.Transition:
        """The Gaussian of one stochastic denoising step."""

    @abstractmethod
    def ode(self, x: Array, prediction: Array, levels: Levels) -> Array:
        """The next latents of the deterministic step, like x."""

    @abstractmethod
    def clean(self, x: Array, prediction: Array, levels: Levels) -> Array:
        """The clean latents that the prediction implies, like x."""

    @property
    def steps(self) -> int:
        """T, the number of denoising steps."""
        return len(self.times)

    def levels(self, backend: Backend, policy: Policy, steps: np.ndarray) -> Levels:
        """Device arrays for samples at denoising steps (int [B]), converted from float64."""
        return Levels(
            time=policy.embed_time(self.times[steps]),
            level=backend.asarray(self.table[steps]),
            level_next=backend.asarray(self.next_levels[steps]),
        )

    def predict(
        self, policy: Policy, x: Array, levels: Levels, conditioning: Conditioning
    ) -> Array:
        """The prediction with classifier-free guidance: v = v_null + scale (v_prompt - v_null).

        Ho and Salimans 2022, arXiv:2207.12598, eq. 6 (with scale = 1 + w). The null branch is
        clean: prompt noise never reaches it.
        """
        if self.guidance != 1.0 and self.guidance_batch == "joined":
            prompted, null = self._joined(policy, x, levels, conditioning)
            return null + self.guidance * (prompted - null)
        prompted = policy.predict(x, levels.time, conditioning)
        if self.guidance == 1.0:
            return prompted
        constant = self.guidance_gradient == "conditional"
        null = policy.predict(x, levels.time, policy.null(x.shape[0]), constant=constant)
        return null + self.guidance * (prompted - null)

    def _joined(
        self, policy: Policy, x: Array, levels: Levels, conditioning: Conditioning
    ) -> tuple[Array, Array]:
        """Both branches, with the prompt and without, from one forward pass of 2B samples."""
        xp, count = array_namespace(x), x.shape[0]
        null = policy.null(count)
        pooled = conditioning.pooled
        both = replace(
            conditioning,
            tokens=xp.concat([conditioning.tokens, null.tokens]),
            pooled=None if pooled is None else xp.concat([pooled, null.pooled]),
        )
        time = xp.concat([levels.time, levels.time])
        prediction = policy.predict(xp.concat([x, x]), time, both)
        return prediction[:count], prediction[count:]

    def log_prob(self, sample: Array, transition: kernels.Transition) -> Array:
        """Log-probability of a denoised sample under a transition, averaged: [B]."""
        return kernels.LOG_PROBS[self.kernel](sample, transition.mean, transition.std)

    def step_width(self, levels: Levels) -> Array:
        """Width of each step whose std grows with its root, else 1: [B]."""
        return kernels.step_width(self.kernel, levels.level, levels.level_next)


@dataclass(frozen=True, kw_only=True)
class FlowProcess(Process):
    """x_s = (1 - s) x0 + s z at noise levels sigmas [T + 1], from 1 (noise) to 0 (image)."""

    KERNELS = get_args(kernels.FlowKernel)

    kernel: kernels.FlowKernel
    sigmas: np.ndarray

    @classmethod
    def from_config(
        cls, rollout: RolloutConfig, steps: int | None = None, own: FlowSchedule = EVEN
    ) -> "FlowProcess":
        """The process that a configuration describes.

        Args:
            rollout: the table `[rollout]`.
            steps: T, instead of `rollout.steps`.
            own: the model's own schedule, used where `rollout.schedule = "model"`.
        """
        if rollout.schedule != "model":
            if own.terminal or own.conversion != "none":
                warnings.warn(
                    f"rollout.schedule = '{rollout.schedule}' replaces the noise levels that this "
                    "model's scheduler asks for; rollout.schedule = 'model' takes them",
                    stacklevel=3,
                )
            own = FlowSchedule(rollout.schedule, rollout.shift)
        sigmas = schedules.flow_sigmas(
            steps or rollout.steps,
            schedule=own.name,
            shift=own.shift,
            end_shift=own.end_shift,
            terminal=own.terminal,
            conversion=own.conversion,
        )
        return cls(sigmas=sigmas, **_settings(rollout))

    @property
    def table(self) -> np.ndarray:
        """Sigmas from 1 (noise) to 0 (image), float64 [T + 1]."""
        return self.sigmas

    @property
    def times(self) -> np.ndarray:
        """The sigma before each step, float64 [T]."""
        return self.sigmas[:-1]

    @property
    def timesteps(self) -> np.ndarray:
        """1000 sigma, float64 [T]."""
        return schedules.flow_timesteps(self.sigmas)

    @property
    def noise_shares(self) -> np.ndarray:
        """The sigmas, float64 [T + 1]."""
        return self.sigmas

    def transition(self, x: Array, prediction: Array, levels: Levels) -> kernels.Transition:
        """The Gaussian of one stochastic step, Flow-SDE, CPS or Dance-SDE."""
        return kernels.FLOW_KERNELS[self.kernel](
            x,
            prediction,
            levels.level,
            levels.level_next,
            eta=self.noise_level,
            sigma_max=float(self.sigmas[1]),
        )

    def ode(self, x: Array, prediction: Array, levels: Levels) -> Array:
        """The Euler step x + v (s' - s)."""
        return kernels.ode(x, prediction, levels.level, levels.level_next).mean

    def clean(self, x: Array, prediction: Array, levels: Levels) -> Array:
        """x0 = x - s v."""
        return kernels.clean_from_velocity(x, prediction, levels.level)


@dataclass(frozen=True, kw_only=True)
class DDIMProcess(Process):
    """x_t = sqrt(ab) x0 + sqrt(1 - ab) epsilon at alpha_bars [T + 1], rising.

    next_alpha_bars: the alpha_bar after each step, float64 [T]: see
    `schedules.ddim_next_alpha_bars`. trained_times: the discrete timestep of each step, float64
    [T]. prediction: "epsilon" or
    "v_prediction", the quantity that the model predicts.
    """

    KERNELS = get_args(kernels.DiffusionKernel)

    alpha_bars: np.ndarray
    next_alpha_bars: np.ndarray
    trained_times: np.ndarray
    prediction: str

    @classmethod
    def from_config(
        cls,
        rollout: RolloutConfig,
        own: DiffusionSchedule,
        prediction: str,
        steps: int | None = None,
    ) -> "DDIMProcess":
        """The process of a configuration with the schedule that the model was trained with.

        Args:
            rollout: the table `[rollout]`.
            own: the schedule that the model was trained with.
            prediction: "epsilon" or "v_prediction".
            steps: T, instead of `rollout.steps`.

        Raises:
            ConfigError: the last step is to be trained, and it has no noise.
            ValueError: more steps than the model was trained with.
        """
        count = steps or rollout.steps
        how = {"steps_offset": own.steps_offset, "spacing": own.spacing}
        timesteps = schedules.ddim_timesteps(count, train_steps=len(own.alpha_bars), **how)
        how["final"] = own.final
        alpha_bars = schedules.ddim_alpha_bars(count, own.alpha_bars, **how)
        if rollout.train_last_step and alpha_bars[-1] in (1.0, alpha_bars[-2]):
            raise ConfigError(
                "rollout.train_last_step = true: the last step of this model has no noise, so "
                "there is nothing to train"
            )
        return cls(
            alpha_bars=alpha_bars,
            next_alpha_bars=schedules.ddim_next_alpha_bars(count, own.alpha_bars, **how),
            trained_times=timesteps.astype(np.float64),
            prediction=prediction,
            **_settings(rollout),
        )

    @property
    def table(self) -> np.ndarray:
        """Signal shares ab from noise to image, float64 [T + 1]."""
        return self.alpha_bars

    @property
    def next_levels(self) -> np.ndarray:
        """The signal share after each step, float64 [T]."""
        return self.next_alpha_bars

    @property
    def times(self) -> np.ndarray:
        """The discrete timestep of each step, float64 [T]."""
        return self.trained_times

    @property
    def timesteps(self) -> np.ndarray:
        """The discrete timestep of each step, float64 [T]."""
        return self.trained_times

    @property
    def noise_shares(self) -> np.ndarray:
        """sqrt(1 - ab), float64 [T + 1]."""
        return np.sqrt(1.0 - self.alpha_bars)

    def transition(self, x: Array, prediction: Array, levels: Levels) -> kernels.Transition:
        """DDIM's Gaussian with eta = noise_level."""
        return self._ddim(x, prediction, levels, self.noise_level)

    def ode(self, x: Array, prediction: Array, levels: Levels) -> Array:
        """DDIM with eta = 0."""
        return self._ddim(x, prediction, levels, 0.0).mean

    def clean(self, x: Array, prediction: Array, levels: Levels) -> Array:
        """x0 = (x - sqrt(1 - ab) epsilon) / sqrt(ab)."""
        if self.prediction == "v_prediction":
            return kernels.clean_from_v(x, prediction, levels.level)
        return kernels.clean_from_epsilon(x, prediction, levels.level)

    def _ddim(self, x: Array, prediction: Array, levels: Levels, eta: float) -> kernels.Transition:
        epsilon = prediction
        if self.prediction == "v_prediction":
            epsilon = kernels.epsilon_from_v(x, prediction, levels.level)
        return kernels.ddim(x, epsilon, levels.level, levels.level_next, eta=eta)


def make_process(policy: Policy, rollout: RolloutConfig, steps: int | None = None) -> Process:
    """The denoising process of a policy under a configuration.

    Args:
        policy: its `prediction` and `schedule` choose the kind of process.
        rollout: the table `[rollout]`.
        steps: T, instead of `rollout.steps`.

    Raises:
        ConfigError: the kernel is not one for what the model predicts, or the last step is to be
            trained and has no noise.
    """
    own, kind = policy.schedule, FlowProcess if policy.prediction == "velocity" else DDIMProcess
    if rollout.kernel not in kind.KERNELS:
        raise ConfigError(
            f"rollout.kernel = '{rollout.kernel}' does not go with a model that predicts "
            f"{policy.prediction.removesuffix('_prediction')}; valid: {', '.join(kind.KERNELS)}"
        )
    if isinstance(own, DiffusionSchedule):
        return DDIMProcess.from_config(rollout, own, policy.prediction, steps)
    return FlowProcess.from_config(rollout, steps, own)


def _settings(rollout: RolloutConfig) -> dict[str, Any]:
    return {
        "kernel": rollout.kernel,
        "noise_level": rollout.noise_level,
        "guidance": rollout.guidance,
        "guidance_gradient": rollout.guidance_gradient,
        "guidance_batch": rollout.guidance_batch,
    }
