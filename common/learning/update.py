"""The policy update: clipped loss over the selected samples and the trained steps.

An update trains on (sample, step) pairs. Their order is drawn from a key; the pairs are split
into optimizer steps, and each of those into micro-batches that bound memory and do not change
the gradient. Micro-batches are dealt to lanes (`backends.lanes`), which processes share.
"""

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from common import random
from common.algorithm import objective
from common.backends import (
    Array,
    Backend,
    Conditioning,
    LossFunction,
    Optimizer,
    Parameters,
    Policy,
)
from common.backends.lanes import Sums
from common.backends.world import GradientSums
from common.config import Config
from common.learning import agreement, shares
from common.learning.credit import Credit
from common.learning.moving_average import MovingAverage
from common.progress import OnProgress
from common.random import Key, Purpose
from common.sampling import rollout
from common.sampling.conditioner import Conditioner
from common.sampling.process import Levels, Process
from common.sampling.rollout import Trajectories

NOTHING_TO_TRAIN = (
    "every advantage of an update is 0, so it has no optimizer step: objective.zero_advantage is "
    "'drop'"
)

Batch = dict[str, Array]
"""The arrays of a micro-batch, as `surrogate_loss` describes them."""

KL_PAIRS = 24
"""Pairs of an update that the KL to the reference is measured on where the loss has no KL."""


def surrogate_loss(policy: Policy, process: Process, config: Config) -> LossFunction:
    """The loss of one micro-batch: sum of weight (surrogate + beta KL) over its pairs.

    The function takes one dict of device arrays: x, x_next [B, *latent], time, level, level_next,
    tokens, pooled (if any), log_prob, advantage, weight [B], and reference_mean (if beta > 0).
    Auxiliary, by pair: ratio, clipped, mean and std of the transition, and kl (if beta > 0).
    """
    settings = config.objective

    def loss(batch: dict[str, Array]) -> tuple[Array, dict[str, Array]]:
        levels = Levels(batch["time"], batch["level"], batch["level_next"])
        conditioning = Conditioning(batch["tokens"], batch.get("pooled"))
        prediction = process.predict(policy, batch["x"], levels, conditioning)
        transition = process.transition(batch["x"], prediction, levels)
        log_prob = process.log_prob(batch["x_next"], transition)
        clip = {"clip_low": settings.clip_low, "clip_high": settings.clip_high}
        per_pair = objective.clipped_surrogate(
            log_prob, batch["log_prob"], batch["advantage"], **clip
        )
        auxiliary = {
            "ratio": objective.ratio(log_prob, batch["log_prob"]),
            "clipped": objective.clip_indicator(log_prob, batch["log_prob"], **clip),
            "mean": transition.mean,
            "std": transition.std,
        }
        if settings.kl_weight > 0:
            kl = objective.gaussian_kl(transition.mean, batch["reference_mean"], transition.std)
            penalty = objective.kl_penalty(kl, process.step_width(levels), form=settings.kl_form)
            per_pair = per_pair + settings.kl_weight * penalty
            auxiliary["kl"] = kl  # of the transitions in every form: runs stay comparable
        return (batch["weight"] * per_pair).sum(), auxiliary

    return loss


@dataclass
class _Statistics:
    """Results of the micro-batches of an update, on the host; loss: one for each step."""

    loss: list[float] = field(default_factory=list)
    ratio: list[np.ndarray] = field(default_factory=list)
    clipped: list[np.ndarray] = field(default_factory=list)
    kl: list[np.ndarray] = field(default_factory=list)
    gradient_norm: list[float] = field(default_factory=list)
    agreement: float = float("nan")
    first_deviation: np.ndarray = field(default_factory=lambda: np.zeros(0))

    def add(self, parts: Sequence[Mapping[str, np.ndarray]]) -> None:
        """Take the results of the micro-batches of an optimizer step, in their order."""
        first = not self.loss
        self.loss.append(sum(float(part["loss"]) for part in parts))
        self.ratio += [part["ratio"] for part in parts]
        self.clipped += [part["clipped"] for part in parts]
        self.kl += [part["kl"] for part in parts if "kl" in part]
        if first:
            ratios = np.concatenate(self.ratio).astype(np.float64)
            self.first_deviation = np.abs(ratios - 1.0)

    def metrics(self) -> dict[str, float]:
        def mean(values: list[np.ndarray]) -> float:
            return float(np.concatenate(values).mean()) if values else float("nan")

        first = self.first_deviation
        return {
            "objective/loss": float(np.mean(self.loss)) if self.loss else float("nan"),
            "objective/clip_fraction": mean(self.clipped),
            "objective/ratio_mean": float(first.mean()) if len(first) else float("nan"),
            "objective/ratio_max": float(first.max()) if len(first) else float("nan"),
            "objective/kl": mean(self.kl),
            "objective/gradient_norm": (
                float(np.mean(self.gradient_norm)) if self.gradient_norm else float("nan")
            ),
            agreement.METRIC: self.agreement,
        }


class Learner:
    """Turns trajectories and credit into optimizer steps.

    gradients: what `Backend.value_and_grad` made of the loss; a profiler may wrap it.
    """

    def __init__(
        self,
        config: Config,
        backend: Backend,
        policy: Policy,
        process: Process,
        optimizer: Optimizer,
        average: MovingAverage | None,
    ) -> None:
        self._config, self._backend, self._policy = config, backend, policy
        self._process, self._optimizer, self._average = process, optimizer, average
        self._lanes = shares.number_of_lanes(config)
        self.gradients = backend.value_and_grad(policy, surrogate_loss(policy, process, config))

    def update(
        self,
        trajectories: Trajectories,
        credit: Credit,
        trained: np.ndarray,
        conditioner: Conditioner,
        update: int,
        on_progress: OnProgress | None = None,
    ) -> dict[str, float]:
        """One policy update.

        trained: the denoising step of each stored step, int [S]. on_progress: called before the
        first micro-batch and after each, with numbers of (sample, step) pairs of this process.
        """
        statistics, done = _Statistics(), 0
        steps = self._optimizer_steps(credit, trained, update)
        report = on_progress or (lambda done, total: None)
        if not steps:
            warnings.warn(NOTHING_TO_TRAIN, stacklevel=2)
            return statistics.metrics()
        own_pairs = sum(len(part) for pairs in steps for part in self._own(self._parts(pairs)))
        report(0, own_pairs)
        self._fetch_latents(trajectories, steps)
        for pairs in steps:

            def one(part: np.ndarray, following: np.ndarray, size: int = len(pairs)) -> Batch:
                batch = self._batch(trajectories, credit, trained, conditioner, part)
                batch["weight"] = self._backend.asarray(np.full(len(part), 1.0 / size))
                if len(following):
                    conditioner.draw_ahead(following[:, 0], trained[following[:, 1]])
                return batch

            def progress(count: int) -> None:
                nonlocal done
                done += count
                report(done, own_pairs)

            measure_kl = not statistics.gradient_norm and self._measures_kl(update)
            total = self._summed(self._parts(pairs), one, statistics, progress, measure_kl)
            statistics.gradient_norm.append(self._optimizer.step(total))
            if self._average is not None:
                self._average.step(self._policy)
        return statistics.metrics()

    def _summed(
        self,
        parts: list[np.ndarray],
        make_batch: Callable[[np.ndarray, np.ndarray], Batch],
        statistics: _Statistics,
        progress: Callable[[int], None],
        measure_kl: bool,
    ) -> Parameters:
        """The gradient of all micro-batches of an optimizer step, over all processes.

        make_batch: of a micro-batch and of the next one, empty after the last.
        """
        world = self._backend.world
        mine = shares.own_work(len(parts), self._lanes, world)
        own_parts = [parts[n] for n in mine.numbers]
        following = [*own_parts[1:], np.zeros((0, 2), dtype=np.int64)]
        sums: GradientSums = Sums(self._lanes, self._plus)

        def work(k: int, onto: Parameters | None) -> tuple[Parameters, dict[str, np.ndarray]]:
            batch, first = make_batch(own_parts[k], following[k]), mine.numbers[k] == 0
            measures = measure_kl and (k == 0 if world.lockstep else first)
            loss, auxiliary, total = self._gradients(batch, onto, measure_kl=measures)
            if measures and not first:  # its forward pass was for the others
                auxiliary.pop("kl")
            return total, self._on_host(loss, auxiliary)

        def own() -> dict[str, dict[str, np.ndarray]]:
            results = {}
            for lane in mine.lanes:
                total: Parameters | None = None
                for k in mine.of_lane(lane):
                    total, results[str(mine.numbers[k])] = work(k, total)
                    progress(len(own_parts[k]))
                sums.add((lane, 1), total)
            for k in mine.repeats:
                work(k, None)
            return results

        results: dict[str, dict[str, np.ndarray]] = {}
        for each in world.share(own, "the update", passes=True):
            results |= each
        statistics.add([results[str(n)] for n in range(len(parts))])
        lower, upper = world.total(sums, set(mine.places), self._policy.parameters())
        assert lower is not None  # an optimizer step has pairs, and the first are in lane 0
        if upper is None:
            return lower
        if not statistics.gradient_norm and self._config.adapter.kind == "lora":
            statistics.agreement = agreement.agreement(self._backend, lower, upper)
        return self._plus(lower, upper)

    def _gradients(
        self, batch: Batch, onto: Parameters | None, *, measure_kl: bool
    ) -> tuple[Array, dict[str, Array], Parameters]:
        """What `Backend.value_and_grad` gives, computed; with a KL where one is to be measured."""
        loss, auxiliary, total = self.gradients(batch, onto=onto)
        self._backend.evaluate(loss, *auxiliary.values(), *total.values())
        if measure_kl:
            auxiliary["kl"] = self._measured_kl(batch, auxiliary)
        return loss, auxiliary, total

    def _plus(self, left: Parameters, right: Parameters) -> Parameters:
        both = {name: left[name] + right[name] for name in left}
        self._backend.evaluate(*both.values())
        return both

    def _parts(self, pairs: np.ndarray) -> list[np.ndarray]:
        """The micro-batches of an optimizer step."""
        size = self._config.objective.micro_batch
        return [pairs[start : start + size] for start in range(0, len(pairs), size)]

    def _own(self, parts: list[np.ndarray]) -> list[np.ndarray]:
        """Those of the micro-batches that this process computes."""
        mine = shares.own_work(len(parts), self._lanes, self._backend.world)
        return [parts[n] for n in mine.numbers[: mine.counting]]

    def _fetch_latents(self, trajectories: Trajectories, steps: list[np.ndarray]) -> None:
        """Get the latents that this process trains on from those that sampled them."""
        if trajectories.owners is None:  # all are here
            return
        size = self._backend.world.size
        wanted: list[list[np.ndarray]] = [[] for _ in range(size)]
        for parts in map(self._parts, steps):
            processes = shares.processes_of(len(parts), self._lanes, size)
            for process, part in zip(processes, parts, strict=True):
                wanted[process].append(part[:, 0])
        samples = [np.unique(np.concatenate(each)) if each else np.zeros(0, int) for each in wanted]
        rollout.fetch(trajectories, trajectories.owners, samples, self._backend.world)

    def _optimizer_steps(
        self, credit: Credit, trained: np.ndarray, update: int
    ) -> list[np.ndarray]:
        """(sample, position of the stored step) pairs of each optimizer step: int [n, 2]."""
        drop = self._config.objective.zero_advantage == "drop"
        samples = credit.samples(trained, drop_zeros=drop)
        pairs = np.stack(np.meshgrid(samples, np.arange(len(trained)), indexing="ij"), axis=-1)
        pairs = pairs.reshape(-1, 2)
        key = Key(self._config.run.seed, Purpose.MINIBATCH, update=update)
        shuffled = pairs[random.permutation(key, len(pairs))]
        parts = np.array_split(shuffled, self._config.objective.optimizer_steps)
        return [part for part in parts if len(part)]

    def _batch(
        self,
        trajectories: Trajectories,
        credit: Credit,
        trained: np.ndarray,
        conditioner: Conditioner,
        pairs: np.ndarray,
    ) -> dict[str, Array]:
        samples, stored = pairs[:, 0], pairs[:, 1]
        steps = trained[stored]
        asarray = self._backend.asarray
        levels = self._process.levels(self._backend, self._policy, steps)
        with self._backend.inference():
            conditioning = conditioner.conditioning(samples, steps)
        batch = {
            "x": asarray(trajectories.latents[samples, stored]),
            "x_next": asarray(trajectories.next_latents[samples, stored]),
            "log_prob": asarray(trajectories.log_probs[samples, stored]),
            "advantage": asarray(credit.advantages_at(samples, steps)),
            "tokens": conditioning.tokens,
            **levels._asdict(),
        }
        if conditioning.pooled is not None:
            batch["pooled"] = conditioning.pooled
        if self._config.objective.kl_weight > 0:
            batch["reference_mean"] = self._reference_mean(batch["x"], levels, conditioning)
        return batch

    def _reference_mean(self, x: Array, levels: Levels, conditioning: Conditioning) -> Array:
        with self._backend.inference(), self._policy.reference():
            prediction = self._process.predict(self._policy, x, levels, conditioning)
            mean = self._process.transition(x, prediction, levels).mean
            self._backend.evaluate(mean)
        return mean

    def _measures_kl(self, update: int) -> bool:
        """Whether an update measures the KL that the loss does not need."""
        settings = self._config.objective
        return settings.kl_every > 0 and settings.kl_weight == 0 and update % settings.kl_every == 0

    def _measured_kl(self, batch: dict[str, Array], auxiliary: dict[str, Array]) -> Array:
        """KL to the reference of a batch's first pairs, from the means that the loss computed."""
        first = {name: array[:KL_PAIRS] for name, array in (batch | auxiliary).items()}
        levels = Levels(first["time"], first["level"], first["level_next"])
        conditioning = Conditioning(first["tokens"], first.get("pooled"))
        reference = self._reference_mean(first["x"], levels, conditioning)
        return objective.gaussian_kl(first["mean"], reference, first["std"])

    def _on_host(self, loss: Array, auxiliary: dict[str, Array]) -> dict[str, np.ndarray]:
        """What is logged of a micro-batch."""
        kept = {"loss": loss} | {
            name: auxiliary[name] for name in ("ratio", "clipped", "kl") if name in auxiliary
        }
        return {name: self._backend.to_numpy(array) for name, array in kept.items()}
