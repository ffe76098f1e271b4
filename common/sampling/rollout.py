"""Rollouts: trajectories of the stochastic process, with the steps that are trained on stored."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from common import random
from common.algorithm import kernels
from common.backends import Array, Backend, Policy
from common.clock import Clock
from common.config import RolloutConfig
from common.prompts import Prompt
from common.random import Key, Purpose
from common.sampling.conditioner import Conditioner
from common.sampling.process import Process


@dataclass(frozen=True)
class StepPlan:
    """The kind of each denoising step of an update; the same for all its groups.

    stochastic: bool [T], the other steps follow the ODE. trained: int [S], ascending, the steps
    that are trained on, each of them stochastic.
    """

    stochastic: np.ndarray
    trained: np.ndarray


@dataclass(frozen=True)
class Trajectories:
    """The N = P G samples of an update, on the host.

    latents, next_latents: float32 [N, S, *latent] before and after each trained step.
    log_probs: [N, S] under the policy that sampled. images: uint8 [N, H, W, 3].
    predicted_images: uint8 [T, N, H, W, 3], the clean sample predicted at each step, or None.
    """

    latents: np.ndarray
    next_latents: np.ndarray
    log_probs: np.ndarray
    images: np.ndarray
    predicted_images: np.ndarray | None


def plan_steps(rollout: RolloutConfig, *, seed: int, update: int) -> StepPlan:
    """Draw the window of stochastic steps and the steps to train (Flow-GRPO-Fast, MixGRPO)."""
    steps = rollout.steps
    key = Key(seed, Purpose.TRAINED_STEPS, update=update)
    stochastic = np.ones(steps, dtype=bool)
    if rollout.window:
        room = rollout.window_steps
        starts = len(room) - rollout.window + 1
        start = room.start + int(random.generator(key.at(step=1)).integers(starts))
        stochastic = (np.arange(steps) >= start) & (np.arange(steps) < start + rollout.window)
    candidates = np.flatnonzero(stochastic)
    if not rollout.train_last_step:
        candidates = candidates[candidates != steps - 1]
    if rollout.trained_steps:
        candidates = candidates[random.permutation(key, len(candidates))[: rollout.trained_steps]]
    return StepPlan(stochastic, np.sort(candidates))


class Sampler:
    """Runs the stochastic process for the samples of one update, a batch at a time."""

    def __init__(
        self,
        policy: Policy,
        backend: Backend,
        process: Process,
        conditioner: Conditioner,
        plan: StepPlan,
        clock: Clock,
    ) -> None:
        self._policy, self._backend, self._process = policy, backend, process
        self._conditioner, self._plan, self._clock = conditioner, plan, clock

    def sample(
        self,
        prompts: list[Prompt],
        rollout: RolloutConfig,
        *,
        seed: int,
        update: int,
        keep_predicted: bool,
        finished: Callable[[np.ndarray], None] | None = None,
    ) -> Trajectories:
        """Trajectories of G samples of each prompt.

        Args:
            prompts: the P prompts of the update.
            rollout: the table `[rollout]`.
            seed: the run's seed.
            update: number of the update, 0-based.
            keep_predicted: also decode the clean sample that is predicted at every step.
            finished: called with the images of each batch, in the order of the samples, before
                the next batch begins.
        """
        size = rollout.group_size
        root = Key(seed, Purpose.INITIAL, update=update)
        keys = [root.at(prompt=p.id, sample=g) for p in prompts for g in range(size)]
        parts = []
        with self._backend.inference():
            batches = [
                np.arange(start, min(start + rollout.batch_size, len(keys)))
                for start in range(0, len(keys), rollout.batch_size)
            ]
            for samples, next_samples in zip(batches, [*batches[1:], None], strict=True):
                own = [keys[n] for n in samples]
                parts.append(self._batch(samples, own, keep_predicted, next_samples))
                if finished is not None:
                    finished(parts[-1].images)
        return _join(parts)

    def _batch(
        self,
        samples: np.ndarray,
        keys: list[Key],
        keep_predicted: bool,
        next_samples: np.ndarray | None,
    ) -> Trajectories:
        """Trajectories of some samples; next_samples: the next batch, if there is one."""
        backend = self._backend
        x = self._noise(keys)
        before, after, log_probs, predicted = [], [], [], []
        for step in range(self._process.steps):
            steps = np.full(len(samples), step)
            levels = self._process.levels(backend, self._policy, steps)
            conditioning = self._conditioner.conditioning(samples, steps)
            self._draw_ahead(samples, step, next_samples)
            prediction = self._process.predict(self._policy, x, levels, conditioning)
            if keep_predicted:
                clean = self._process.clean(x, prediction, levels)
                predicted.append(self._policy.decode(clean))
            if not self._plan.stochastic[step]:
                x = self._process.ode(x, prediction, levels)
                backend.evaluate(x)
                continue
            transition = self._process.transition(x, prediction, levels)
            draws = self._noise([key.at(purpose=Purpose.TRANSITION, step=step) for key in keys])
            following = kernels.sample(transition, draws)
            if step in self._plan.trained:
                log_prob = self._process.log_prob(following, transition)
                before.append(backend.to_numpy(x))
                after.append(backend.to_numpy(following))
                log_probs.append(backend.to_numpy(log_prob))
            backend.evaluate(following)
            x = following
        return Trajectories(
            np.stack(before, axis=1),
            np.stack(after, axis=1),
            np.stack(log_probs, axis=1),
            self._policy.decode(x),
            np.stack(predicted) if keep_predicted else None,
        )

    def _draw_ahead(self, samples: np.ndarray, step: int, next_samples: np.ndarray | None) -> None:
        """Let the noise of the next step, or of the next batch, be drawn beside the network."""
        if step + 1 < self._process.steps:
            self._conditioner.draw_ahead(samples, np.full(len(samples), step + 1))
        elif next_samples is not None:
            self._conditioner.draw_ahead(next_samples, np.zeros(len(next_samples), dtype=np.int64))

    def _noise(self, keys: list[Key]) -> Array:
        with self._clock("noise"):
            draws = random.normals(keys, self._policy.latent_shape)
        return self._backend.asarray(draws)


def _join(parts: list[Trajectories]) -> Trajectories:
    predicted = [part.predicted_images for part in parts if part.predicted_images is not None]
    return Trajectories(
        np.concatenate([part.latents for part in parts]),
        np.concatenate([part.next_latents for part in parts]),
        np.concatenate([part.log_probs for part in parts]),
        np.concatenate([part.images for part in parts]),
        np.concatenate(predicted, axis=1) if predicted else None,
    )
