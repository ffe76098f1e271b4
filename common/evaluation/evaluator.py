"""Measures a policy during a run: always the same prompts and initial noise, along the ODE."""

import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np

from common.algorithm import diversity, quality
from common.backends import Backend, Policy, Scorer
from common.config import Config
from common.evaluation import instruments
from common.evaluation.emoji_measures import ALIGNMENT_SCALE
from common.evaluation.families import measures_for
from common.evaluation.records import HELD_OUT, in_features
from common.learning.moving_average import MovingAverage
from common.progress import OnProgress
from common.prompts import Prompt
from common.rewards import Features, RewardSuite, finite_mean, held_out
from common.sampling.ode import sample_images
from common.sampling.process import make_process


@dataclass(frozen=True)
class Evaluation:
    """images: uint8 [P, n, H, W, 3]. record: the row of `evaluations.jsonl`, less its update."""

    images: np.ndarray
    record: dict[str, Any]


class Evaluator:
    """Samples a policy and measures the images.

    With the run's reward, the embedded scorers where they can read the prompts, the held-out
    rewards `evaluate.scorers`, and in each of `evaluate.features`. RewardNameError for what cannot
    be made here.
    """

    def __init__(
        self,
        config: Config,
        backend: Backend,
        rewards: RewardSuite,
        prompts: Sequence[Prompt],
        *,
        train: Scorer,
        heldout: Scorer,
    ) -> None:
        limit = config.evaluate.prompts or len(prompts)
        self._config, self._backend, self._rewards = config, backend, rewards
        self._prompts = list(prompts)[:limit]
        self._train, self._heldout = train, heldout
        settings = config.evaluate
        self._scorers = {
            name: held_out.suite(name, backend, config.reward) for name in settings.scorers
        }
        self._features = {
            name: Features(name, backend, settings.options_of(name)) for name in settings.features
        }

    def __call__(
        self,
        policy: Policy,
        average: MovingAverage | None,
        on_progress: OnProgress | None = None,
    ) -> Evaluation:
        """Measure the policy, or its moving average where there is one."""
        start = time.perf_counter()
        settings, texts = self._config.evaluate, [prompt.text for prompt in self._prompts]
        images = self.sample(policy, average, texts, settings.images, on_progress)
        world = self._backend.world
        measured = world.lead(lambda: self._measure(images, texts), "measuring")
        record = measured | {
            "seconds": time.perf_counter() - start,
            "prompts": texts,
            "images": settings.images,
            "columns": min(settings.grid, settings.images),
            "weights": "policy" if average is None else "ema",
        }
        return Evaluation(images, record)

    def sample(
        self,
        policy: Policy,
        average: MovingAverage | None,
        texts: Sequence[str],
        count: int,
        on_progress: OnProgress | None = None,
    ) -> np.ndarray:
        """`count` images of each prompt by the policy, or its average: uint8 [P, n, H, W, 3]."""
        with average.applied(policy) if average is not None else nullcontext():
            return sample_images(
                policy,
                self._backend,
                make_process(policy, self._config.rollout, self._config.evaluate.steps),
                texts,
                count,
                seed=self._config.run.seed,
                batch_size=self._config.rollout.batch_size,
                on_progress=on_progress,
            )

    def _measure(self, images: np.ndarray, texts: list[str]) -> dict[str, Any]:
        prompts, count = images.shape[:2]
        flat = images.reshape(-1, *images.shape[2:])
        words = [text for text in texts for _ in range(count)]
        scores = self._scores(self._rewards, flat)
        by_group = {name: values.reshape(prompts, count) for name, values in scores.items()}
        scored = measures_for(self._config.model.family).HAS_ALIGNMENT
        train, heldout = (
            _alignment(each, flat, words) if scored else np.full(len(flat), np.nan)
            for each in (self._train, self._heldout)
        )
        distance, *others = (
            self._diversity(extract, flat, prompts) for extract in self._features.values()
        )
        more = zip([*self._features][1:], others, strict=True)
        total = self._rewards.reported(by_group)
        return {
            "reward": float(finite_mean(total)),
            **self._rewards.metrics(scores),
            "reward_by_prompt": _listed(finite_mean(total, axis=1)),
            "alignment_train": float(train.mean()),
            "alignment_heldout": float(heldout.mean()),
            "alignment_heldout_by_prompt": _listed(heldout.reshape(prompts, count).mean(axis=1)),
            "diversity": float(distance.mean()),
            "diversity_by_prompt": _listed(distance),
            "diversity_train": float(self._diversity(self._train.features, flat, prompts).mean()),
            "high_frequency": float(quality.high_frequency_energy(flat).mean()),
            **{in_features("diversity", name): float(each.mean()) for name, each in more},
            **{
                HELD_OUT + name: float(finite_mean(self._scores(suite, flat)[name]))
                for name, suite in self._scorers.items()
            },
        }

    def _scores(self, suite: RewardSuite, images: np.ndarray) -> dict[str, np.ndarray]:
        """The raw scores of uint8 [N, H, W, 3], the images of each prompt in a row: [N] by name."""
        return instruments.score(suite, images, self._prompts, noun="evaluation image")

    @staticmethod
    def _diversity(
        extract: Callable[[np.ndarray], np.ndarray], images: np.ndarray, prompts: int
    ) -> np.ndarray:
        features = extract(images).astype(np.float64)
        features = features.reshape(prompts, -1, features.shape[-1])
        return diversity.mean_pairwise(diversity.cosine_distances(features))


def _alignment(scorer: Scorer, images: np.ndarray, words: list[str]) -> np.ndarray:
    """10 x cosine of image and text, float64 [N]; NaN where the scorer cannot read the prompts."""
    if not scorer.can_read(words):
        return np.full(len(images), np.nan)
    return ALIGNMENT_SCALE * scorer.score(images, words)


def _listed(values: np.ndarray) -> list[float]:
    return [float(value) for value in values]
