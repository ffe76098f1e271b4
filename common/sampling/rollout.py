"""Rollouts: trajectories of the stochastic process, with the steps that are trained on stored."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from common import random
from common.algorithm import kernels
from common.backends import Array, Backend, Policy, World
from common.backends.world import dealt, in_order
from common.clock import Clock
from common.config import RolloutConfig
from common.progress import OnProgress
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
    owners: int [N], the process that sampled each: the others have no latents of it before `fetch`.
    """

    latents: np.ndarray
    next_latents: np.ndarray
    log_probs: np.ndarray
    images: np.ndarray
    predicted_images: np.ndarray | None
    owners: np.ndarray | None = None


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
        on_progress: OnProgress | None = None,
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
            on_progress: called before the first batch and after each, with numbers of images that
                this process samples.
        """
        size = rollout.group_size
        root = Key(seed, Purpose.INITIAL, update=update)
        keys = [root.at(prompt=p.id, sample=g) for p in prompts for g in range(size)]
        batches = [
            np.arange(start, min(start + rollout.batch_size, len(keys)))
            for start in range(0, len(keys), rollout.batch_size)
        ]
        world, parts = self._backend.world, list[Trajectories]()
        own_batches = dealt(batches, world)
        own_images = sum(len(samples) for samples, counts in own_batches if counts)
        report = on_progress or (lambda done, total: None)

        def own() -> list[dict[str, Any]]:
            report(0, own_images)
            with self._backend.inference():
                following = [*(samples for samples, _ in own_batches[1:]), None]
                for (samples, counts), next_samples in zip(own_batches, following, strict=False):
                    drawn = [keys[n] for n in samples]
                    part = self._batch(samples, drawn, keep_predicted, next_samples)
                    if counts:
                        parts.append(part)
                    if finished is not None and world.size == 1:
                        finished(part.images)
                    report(sum(len(part.images) for part in parts), own_images)
            return [_without_latents(part) for part in parts]

        shared = in_order(world.share(own, "sampling", passes=True))
        if world.size == 1:
            return _join(parts)
        if finished is not None:
            for part in shared:
                finished(part["images"])
        return _joined(parts, shared, world)

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


def fetch(
    trajectories: Trajectories, owners: np.ndarray, wanted: Sequence[np.ndarray], world: World
) -> None:
    """Exchange latents, so that each process has those that it trains on; in place.

    Args:
        trajectories: of which each process has the latents of its own batches.
        owners: int [N], the process of each sample.
        wanted: by process, the samples that it trains on, int [n], ascending; all know all.
        world: the processes.
    """
    arrays = (trajectories.latents, trajectories.next_latents)
    own = [samples[owners[samples] == world.rank] for samples in wanted]
    own[world.rank] = own[world.rank][:0]  # they are here
    received = world.exchange([[a[samples] for a in arrays] for samples in own], "the update")
    for rank, rows in enumerate(received):
        samples = wanted[world.rank]
        samples = samples[owners[samples] == rank] if rank != world.rank else samples[:0]
        for array, row in zip(arrays, rows, strict=True):
            array[samples] = row


def _without_latents(part: Trajectories) -> dict[str, Any]:
    """What every process needs of a batch."""
    return {
        "log_probs": part.log_probs,
        "images": part.images,
        "predicted_images": part.predicted_images,
        "latents": [part.latents.dtype.str, *part.latents.shape[1:]],
    }


def _joined(
    own: Sequence[Trajectories], shared: Sequence[Mapping[str, Any]], world: World
) -> Trajectories:
    """All samples, of which this process has the latents of its own batches.

    own: its batches. shared: what all processes know of all batches, in their order.
    """
    sizes = [len(part["images"]) for part in shared]
    owners = np.repeat(np.arange(len(sizes)) % world.size, sizes)
    dtype, *shape = shared[0]["latents"]
    latents, following = (np.zeros((len(owners), *shape), dtype) for _ in range(2))
    if own:
        latents[owners == world.rank] = np.concatenate([part.latents for part in own])
        following[owners == world.rank] = np.concatenate([part.next_latents for part in own])
    predicted = [part["predicted_images"] for part in shared]
    return Trajectories(
        latents,
        following,
        np.concatenate([part["log_probs"] for part in shared]),
        np.concatenate([part["images"] for part in shared]),
        None if predicted[0] is None else np.concatenate(predicted, axis=1),
        owners,
    )


def _join(parts: list[Trajectories]) -> Trajectories:
    predicted = [part.predicted_images for part in parts if part.predicted_images is not None]
    return Trajectories(
        np.concatenate([part.latents for part in parts]),
        np.concatenate([part.next_latents for part in parts]),
        np.concatenate([part.log_probs for part in parts]),
        np.concatenate([part.images for part in parts]),
        np.concatenate(predicted, axis=1) if predicted else None,
    )
