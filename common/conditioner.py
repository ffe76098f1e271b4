"""Prompt noise of an update: made from keys when needed, never stored.

The rollout and the update ask for the conditioning of (sample, step) pairs and get the same
arrays, because the noise of a pair is addressed by its key (`common.noise`).
"""

import numpy as np

from common import noise
from common.algorithm import annealing, prompt_noise
from common.backend import Array, Backend, Conditioning, Policy
from common.clock import Clock
from common.config import Config, NoiseConfig
from common.noise import NoiseKey, Purpose
from common.process import FlowProcess
from common.prompts import Prompt


class Conditioner:
    """Clean and perturbed conditioning of the P G samples of one update.

    Sample n belongs to prompt n // G. Every sample has its own noise: noise shared by a group
    would move the whole group and add no diversity inside it. Which samples of a group have any is
    told by their number alone: nothing else about a sample depends on it.
    """

    def __init__(
        self,
        config: Config,
        backend: Backend,
        policy: Policy,
        process: FlowProcess,
        prompts: list[Prompt],
        update: int,
        clock: Clock,
    ) -> None:
        self._config, self._backend, self._clock = config, backend, clock
        self._ids = np.array([prompt.id for prompt in prompts])
        self._update = update
        settings = config.drift.noise
        with backend.inference():
            self._clean = policy.encode([prompt.text for prompt in prompts])
        backend.evaluate(self._clean.tokens)
        self._intensity = intensities(settings, process)
        self._noisy = round(settings.share * config.rollout.group_size)
        self._multiplier = annealing.training_multiplier(
            settings.training_schedule, update / config.run.updates
        )

    def conditioning(self, samples: np.ndarray, steps: np.ndarray) -> Conditioning:
        """Perturbed conditioning of samples (int [B]) at denoising steps (int [B])."""
        settings = self._config.drift.noise
        group = samples // self._config.rollout.group_size
        tokens = self._rows(self._clean.tokens, group)
        tokens = self._perturb(tokens, settings.strength, Purpose.PROMPT, samples, steps)
        pooled = self._clean.pooled
        if pooled is not None:
            pooled = self._rows(pooled, group)
            pooled = self._perturb(pooled, settings.pooled_strength, Purpose.POOLED, samples, steps)
        return Conditioning(tokens, pooled)

    def _rows(self, array: Array, index: np.ndarray) -> Array:
        return array[self._backend.asarray(index)]

    def _perturb(
        self,
        embedding: Array,
        strength: float,
        purpose: Purpose,
        samples: np.ndarray,
        steps: np.ndarray,
    ) -> Array:
        settings = self._config.drift.noise
        if strength == 0.0:
            return embedding
        with self._clock("noise"):
            draws = noise.normals(self._keys(purpose, samples, steps), embedding.shape[1:])
        noisy = samples % self._config.rollout.group_size < self._noisy
        return prompt_noise.perturb(
            embedding,
            self._backend.asarray(draws),
            strength=strength * self._multiplier,
            intensity=self._backend.asarray(np.where(noisy, self._intensity[steps], 0.0)),
            form=settings.form,
            mix=settings.mix,
        )

    def _keys(self, purpose: Purpose, samples: np.ndarray, steps: np.ndarray) -> list[NoiseKey]:
        root = NoiseKey(self._config.run.seed, purpose, update=self._update)
        size = self._config.rollout.group_size
        per_step = self._config.drift.noise.draw == "step"
        return [
            root.at(
                prompt=int(self._ids[n // size]),
                sample=int(n % size),
                step=int(k) + 1 if per_step else 0,
            )
            for n, k in zip(samples, steps, strict=True)
        ]


def intensities(settings: NoiseConfig, process: FlowProcess) -> np.ndarray:
    """The noise intensity u = 1 - g(tau) of every denoising step: float64 [T]."""
    taus = annealing.taus(
        settings.axis,
        sigmas=process.sigmas,
        timesteps=1000 * process.sigmas[:-1],
    )
    levels = [
        annealing.anneal(
            settings.schedule, tau, tau1=settings.tau1, tau2=settings.tau2, rate=settings.rate
        )
        for tau in taus
    ]
    return 1.0 - np.array(levels)
