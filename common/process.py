"""The denoising process of a run: one code path turns a prediction into a transition.

The rollout, the update and the reference all go through `FlowProcess.transition`, so that the
ratio of new and old probabilities is 1 before the first optimizer step by construction.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from common.algorithm import kernels, schedules
from common.backend import Array, Backend, Conditioning, Policy
from common.config import RolloutConfig


class Levels(NamedTuple):
    """Where B samples stand in the process. time: [B, F]; sigma, sigma_next: [B]."""

    time: Array
    sigma: Array
    sigma_next: Array


@dataclass(frozen=True)
class FlowProcess:
    """x_s = (1 - s) x0 + s z at noise levels sigmas [T + 1], from 1 (noise) to 0 (image)."""

    sigmas: np.ndarray
    kernel: str
    noise_level: float
    guidance: float

    @classmethod
    def of(cls, rollout: RolloutConfig, steps: int | None = None) -> "FlowProcess":
        """The process of a configuration, or the same one with another number of steps."""
        sigmas = schedules.flow_sigmas(
            steps or rollout.steps, schedule=rollout.schedule, shift=rollout.shift
        )
        return cls(sigmas, rollout.kernel, rollout.noise_level, rollout.guidance)

    @property
    def steps(self) -> int:
        """T, the number of denoising steps."""
        return len(self.sigmas) - 1

    def levels(self, backend: Backend, policy: Policy, steps: np.ndarray) -> Levels:
        """Device inputs for samples at the given steps (int [B]), made from float64."""
        sigma = self.sigmas[steps]
        return Levels(
            time=policy.embed_time(sigma),
            sigma=backend.asarray(sigma),
            sigma_next=backend.asarray(self.sigmas[steps + 1]),
        )

    def predict(
        self, policy: Policy, x: Array, levels: Levels, conditioning: Conditioning
    ) -> Array:
        """Velocity with classifier-free guidance: v = v_null + scale (v_prompt - v_null).

        Ho and Salimans 2022, arXiv:2207.12598, eq. 6 (with scale = 1 + w). The null branch is
        clean: prompt noise never reaches it, and gradients flow through both branches.
        """
        prompted = policy.predict(x, levels.time, conditioning)
        if self.guidance == 1.0:
            return prompted
        null = policy.predict(x, levels.time, policy.null(x.shape[0]))
        return null + self.guidance * (prompted - null)

    def transition(self, x: Array, velocity: Array, levels: Levels) -> kernels.Transition:
        """The Gaussian of one stochastic denoising step."""
        return kernels.FLOW_KERNELS[self.kernel](
            x,
            velocity,
            levels.sigma,
            levels.sigma_next,
            eta=self.noise_level,
            sigma_max=float(self.sigmas[1]),
        )

    def log_prob(self, sample: Array, transition: kernels.Transition) -> Array:
        """Log-probability of a denoised sample under a transition, averaged: [B]."""
        return kernels.LOG_PROBS[self.kernel](sample, transition.mean, transition.std)
