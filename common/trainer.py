"""The training loop: the only one there is, for every backend, model, reward and variant.

One update: roll out, score, assign credit, learn, log. The pieces are in `sampling/`, `rewards/`
and `learning/`; this file calls them in order and saves checkpoints.
"""

import threading
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from common import pictures
from common.audit.watch import HackedError, Watch
from common.backends import Backend, Policy, memory
from common.clock import Clock
from common.config import Config, ConfigError
from common.errors import NotFiniteError
from common.evaluation.evaluator import Evaluation, Evaluator
from common.learning import footprint, footprint_several, not_finite, shares
from common.learning.assignment import CreditAssigner
from common.learning.checkpoints import Checkpoints
from common.learning.footprint_several import Share
from common.learning.moving_average import MovingAverage
from common.learning.update import Learner
from common.progress import Observer, OnProgress, Stage
from common.prompts import Prompt, batch, load as load_prompts, rewrite
from common.rewards import Features, RewardSuite, Scoring, features
from common.runs.directory import RunDirectory
from common.sampling.conditioner import Conditioner, noise_count
from common.sampling.process import Process, make_process
from common.sampling.rollout import Sampler, plan_steps


def _of_one_update(config: Config, transitions: int) -> Config:
    """The configuration with batches that are no larger than what an update has to fill them."""
    rollout, objective = config.rollout, config.objective
    images = rollout.prompts * rollout.group_size
    batch = {"batch_size": min(rollout.batch_size, images)}
    micro = {"micro_batch": min(objective.micro_batch, transitions)}
    return config.model_copy(
        update={
            "rollout": rollout.model_copy(update=batch),
            "objective": objective.model_copy(update=micro),
        }
    )


class Trainer:
    """Fine-tunes one policy as a configuration says, in one run directory.

    Resumes from the newest checkpoint of the directory, if there is one. policy: one to train
    instead of the one that `config.model` names.

    Raises:
        ConfigError, CheckpointError, RewardNameError: the configuration or the run directory is
            wrong.
        RewardError, NotFiniteError, OutOfMemoryError, OSError: training failed; checkpoints
            stay intact.
    """

    def __init__(
        self,
        config: Config,
        backend: Backend,
        run: RunDirectory,
        *,
        observer: Observer,
        stop: threading.Event,
        policy: Policy | None = None,
        resume_from: int | None = None,
    ) -> None:
        self._config, self._backend, self._run = config, backend, run
        self._observer, self._stop, self._world = observer, stop, backend.world
        self._prompts = load_prompts(config.prompts)
        _check_prompts(config, len(self._prompts))
        shares.check(config, backend.world.size)
        shares.check_slices(config, backend)
        self._rewards = RewardSuite(config.reward.terms, backend, config.reward)
        rewriter, seed = config.prompts.rewriter, config.run.seed

        def written() -> list[Any]:
            variants = rewrite.prepare(
                self._prompts,
                rewriter,
                seed=seed,
                load=backend.language_model,
                run=run.path,
                on_progress=observer.rewritten,
            )
            return [dict(variants.by_text), variants.share]

        self._variants = rewrite.Variants(*self._world.lead(written, "rewriting the prompts"))
        if policy is None:
            with self._within("loading the model"):
                policy = backend.policy(config.model, config.adapter, seed=config.run.seed)
        self._policy = policy
        self._process = make_process(self._policy, config.rollout)
        self._policy.check([p.text for p in self._prompts] + self._variants.all_texts())
        self._optimizer = backend.optimizer(self._policy, config.optimizer)
        self._average = self._make_average()
        self._learner = Learner(
            config, backend, self._policy, self._process, self._optimizer, self._average
        )
        shaping = config.drift.shaping
        self._assigner = CreditAssigner(
            config,
            Features(shaping.features, backend, shaping.features_options),
            run,
            backend.world,
        )
        if warning := features.same(config):
            warnings.warn(warning, stacklevel=2)
        self._evaluator = self._make_evaluator()
        self._watch = self._make_watch()
        self._compiling = backend.compiling_seconds()
        self._checkpoints = Checkpoints(
            config, backend, run, policy, self._optimizer, self._average
        )
        self._update = self._checkpoints.restore(resume_from)
        if self._watch is not None:
            self._rewards.weights.update(self._world.lead(self._watch.stored_weights, "audits"))
        self._world.lead(
            lambda: rewrite.keep(self._variants, rewriter, seed=seed, run=run.path), "prompts"
        )

    @property
    def rewards(self) -> RewardSuite:
        """The rewards that it trains on."""
        return self._rewards

    @property
    def policy(self) -> Policy:
        """The policy that is trained."""
        return self._policy

    @property
    def process(self) -> Process:
        """The denoising process of its rollouts."""
        return self._process

    @property
    def learner(self) -> Learner:
        """What turns trajectories and credit into optimizer steps."""
        return self._learner

    @property
    def assigner(self) -> CreditAssigner:
        """What turns rewards into credit."""
        return self._assigner

    def plan(self) -> dict[str, Any]:
        """Sizes that follow from the configuration, shown before the run begins."""
        rollout, settings = self._config.rollout, self._config.objective
        images = rollout.prompts * rollout.group_size
        steps = len(plan_steps(rollout, seed=self._config.run.seed, update=0).trained)
        branches = 1 if rollout.guidance == 1.0 else 2
        reference = 1 if settings.kl_weight > 0 else 0
        return {
            "update": self._update,
            "updates": self._config.run.updates,
            "prompts": len(self._prompts),
            "images_per_update": images,
            "trained_steps": steps,
            "transitions_per_update": images * steps,
            "optimizer_steps_per_update": settings.optimizer_steps,
            # A backward pass costs about two forward passes.
            "forwards_per_image": branches * (rollout.steps + steps * (1 + reference))
            + 2 * steps * (1 if rollout.guidance_gradient == "conditional" else branches),
            "trained_parameters": sum(
                int(np.prod(value.shape)) for value in self._policy.parameters().values()
            ),
        }

    def memory(self, config: Config | None = None, processes: int = 1) -> dict[str, int]:
        """Bytes on the device at the peak of each stage; {} where the backend cannot estimate them.

        config: other settings of the same model; None = those of this run. processes: of a run of
        several, of which this one is alone here.
        """
        prompt = self._prompts[0].text
        whole = _of_one_update(config or self._config, self.plan()["transitions_per_update"])
        return self._backend.estimate(self._policy, whole, prompt, processes)

    def host_memory(self, share: Share | None = None) -> dict[str, int]:
        """Bytes on the host at the peak of each stage, which grow with the group size.

        share: which process of several; None is one alone.
        """
        config, prompt = self._config, self._prompts[0]
        blank = footprint.blank_image(self._backend, self._policy)
        with self._backend.inference():
            noise = noise_count(config.drift.noise, self._policy.encode([prompt.text]))
        sizes = (config, self._policy, blank.size, self._assigner.features(blank).shape[1], noise)
        if share is None:
            return footprint.stages(*sizes)
        calls = [reward.batch_size for reward in self._rewards.rewards.values()]
        return footprint_several.stages(*sizes, share, calls, len(self._prompts))

    def run(self) -> bool:
        """Train to the last update. False if the stop event came first: saved, ready to resume."""
        plan = self.plan()
        if line := shares.advice(self._config, self._world.size, plan["transitions_per_update"]):
            warnings.warn(line, stacklevel=2)
        self._observer.started(plan)
        updates, every = self._config.run.updates, self._config.checkpoint.every
        while True:
            self._evaluate_if_due()
            self._audit_if_due()
            if self._update >= updates:
                return True
            if any(self._world.share(self._stop.is_set, "the next update")):
                self._save_if_new()
                return False
            self._observer.updated(self.step())
            if self._update % every == 0 or self._update == updates:
                self._save_if_new()

    def step(self) -> dict[str, float]:
        """One update; returns its row of `metrics.jsonl`, which is already on disk."""
        start, clock = time.perf_counter(), Clock()
        config, update = self._config, self._update
        rollout, seed = config.rollout, config.run.seed
        prompts = batch(self._prompts, count=rollout.prompts, seed=seed, update=update)
        plan, size = plan_steps(rollout, seed=seed, update=update), rollout.group_size
        texts = [self._variants.texts(p, size, seed=seed, update=update) for p in prompts]
        with self._within("rollout"):
            conditioner = Conditioner(
                config, self._backend, self._policy, self._process, prompts, update, clock, texts
            )
        sampler = Sampler(self._policy, self._backend, self._process, conditioner, plan, clock)
        spent = dict(self._rewards.seconds)
        with self._scoring(prompts) as scoring:
            with clock("rollout"), self._within("rollout"):
                trajectories = sampler.sample(
                    prompts,
                    rollout,
                    seed=seed,
                    update=update,
                    keep_predicted=config.drift.shaping.mode == "per_step",
                    finished=scoring.add,
                    on_progress=self._progress("sampling"),
                )
            self._observer.advanced("scoring", 0, len(trajectories.images))
            with clock("reward"):
                terms = scoring.result()
                by_group = {name: v.reshape(len(prompts), size) for name, v in terms.items()}
                rewards = self._rewards.total(by_group)
                assigned = self._assigner(
                    prompts, trajectories, rewards, plan.trained, update=update
                )
        with clock("update"), self._within("update"):
            report = self._progress("training")
            learned = self._learner.update(
                trajectories, assigned, plan.trained, conditioner, update, on_progress=report
            )
        self._update += 1
        record = {
            "update": self._update,
            "seconds": time.perf_counter() - start,
            "images": float(len(trajectories.images)),
            **assigned.metrics,
            **self._variants.metrics(texts, prompts),
            **self._rewards.metrics(terms),
            **learned,
            **{f"time/{name}": seconds for name, seconds in clock.seconds.items()},
            **self._rewards.times(spent),
            **self._compiled(),
            **{
                f"time/world/{name}": self._world.seconds.pop(name)
                for name in [*self._world.seconds]
            },
        }
        self._world.lead(lambda: self._run.append_metrics(record), "writing metrics")
        return record

    def _compiled(self) -> dict[str, float]:
        """Seconds of compilation since the last row, evaluations included."""
        before, self._compiling = self._compiling, self._backend.compiling_seconds()
        return {"time/compile": self._compiling - before} if self._config.model.compile else {}

    def _scoring(self, prompts: list[Prompt]) -> Scoring:
        size = self._config.rollout.group_size
        repeated = [prompt for prompt in prompts for _ in range(size)]
        return self._rewards.begin(
            [prompt.text for prompt in repeated],
            [prompt.metadata for prompt in repeated],
            describe=lambda n: f"prompt '{repeated[n].text}', sample {n % size}",
            world=self._world,
        )

    def _progress(self, stage: Stage) -> OnProgress:
        return lambda done, total: self._observer.advanced(stage, done, total)

    def _evaluate_if_due(self) -> None:
        update, every = self._update, self._config.evaluate.every
        if update % every and update != self._config.run.updates:
            return
        if self._world.lead(lambda: update in self._evaluated(), "reading the evaluations"):
            return
        with self._within("evaluation"):
            evaluation = self._evaluator(self._policy, self._average, self._progress("evaluating"))
        record = self._world.lead(lambda: self._keep(evaluation), "writing the evaluation")
        self._observer.evaluated(record)

    def _keep(self, evaluation: Evaluation) -> dict[str, Any]:
        """Write down an evaluation and its picture; returns the record."""
        shown = evaluation.images[:, : evaluation.record["columns"]]
        picture = pictures.grid(shown, scale=pictures.enlargement(shown.shape[2]))
        path = self._run.save_picture(f"{self._update:06d}", picture)
        record = {"update": self._update, **evaluation.record, "grid": path.name}
        self._run.append_evaluation(record)
        return record

    def _evaluated(self) -> list[int]:
        """The updates whose evaluations are logged."""
        return [row["update"] for row in self._run.evaluations()]

    @contextmanager
    def _within(self, stage: str) -> Iterator[None]:
        """Add advice, the settings to change, when a stage lacks memory or its numbers overflow."""
        try:
            yield
        except NotFiniteError as error:
            raise not_finite.explain(error, stage, self._config, self._update) from error
        except Exception as error:
            if not self._backend.out_of_memory(error):
                raise
            estimate = self.memory if hasattr(self, "_policy") else None
            raise memory.explain(
                error, stage, self._config, estimate=estimate, run=self._run.path
            ) from error

    def _audit_if_due(self) -> None:
        watch, update = self._watch, self._update
        if watch is None or not self._world.lead(lambda: watch.due(update), "reading the audits"):
            return
        texts, progress = [prompt.text for prompt in self._prompts], self._progress("auditing")
        count = self._config.audit.images
        images = self._evaluator.sample(self._policy, self._average, texts, count, progress)

        def audit() -> dict[str, float]:
            try:
                watch(update, images)
            except HackedError:  # raised on every process: this one saves alone
                self._checkpoints.save_alone(self._update)
                raise
            return self._rewards.weights

        self._rewards.weights.update(self._world.lead(audit, "auditing"))

    def _make_evaluator(self) -> Evaluator:
        return Evaluator(
            self._config,
            self._backend,
            self._rewards,
            list(self._prompts),
            train=self._backend.scorer("train"),
            heldout=self._backend.scorer("heldout"),
        )

    def _make_watch(self) -> Watch | None:
        if not self._config.audit.every:
            return None
        prompts = list(self._prompts)
        return Watch(self._config, self._backend, prompts, self._rewards, self._run)

    def _make_average(self) -> MovingAverage | None:
        settings = self._config.optimizer
        if settings.ema_decay == 0:
            return None
        return MovingAverage(
            self._backend, self._policy, decay=settings.ema_decay, every=settings.ema_every
        )

    def _save_if_new(self) -> None:
        if (path := self._checkpoints.save(self._update)) is not None:
            self._observer.saved(path)


def _check_prompts(config: Config, available: int) -> None:
    wanted, limit = config.rollout.prompts, config.evaluate.prompts
    if wanted > available:
        noun = "prompt" if available == 1 else "prompts"
        raise ConfigError(
            f"rollout.prompts = {wanted} is more than the {available} {noun} of prompts.source"
        )
    if limit and limit < available and config.drift.shaping.gate == "above_base":
        raise ConfigError(
            "drift.shaping.gate = 'above_base' needs the base reward of every prompt: "
            f"evaluate.prompts = {limit} leaves some out; set it to 0"
        )
