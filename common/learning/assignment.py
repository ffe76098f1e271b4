"""Credit of one update: features of its images, draws from keyed streams, the base's rewards."""

import numpy as np

from common import random
from common.backends import Alone, World
from common.config import Config
from common.learning import credit
from common.learning.credit import Credit
from common.prompts import Prompt
from common.random import Key, Purpose
from common.rewards import Features, RewardError
from common.runs.directory import RunDirectory
from common.sampling.rollout import Trajectories

__all__ = ["CreditAssigner"]


class CreditAssigner:
    """Assigns credit to the trajectories of an update.

    features: image features, uint8 [N, H, W, 3] to [N, F].
    """

    def __init__(
        self, config: Config, features: Features, run: RunDirectory, world: World | None = None
    ) -> None:
        """world: the processes of the run; None is one."""
        self._config, self._run, self._world = config, run, world or Alone()
        self.features = features

    def __call__(
        self,
        prompts: list[Prompt],
        trajectories: Trajectories,
        rewards: np.ndarray,
        trained: np.ndarray,
        *,
        update: int,
    ) -> Credit:
        """The credit of each sample, and of each step where shaping is per step.

        Args:
            prompts: P prompts, one for each group.
            trajectories: of P G samples, the groups one after the other.
            rewards: float64 [P, G]; not finite where a sample has none.
            trained: indices of the denoising steps that are trained on, int [S].
            update: the number of updates done before this one.

        Raises:
            RewardError: no group has two samples with a finite reward.
        """
        config, shape = self._config, rewards.shape
        image_features = self.features(trajectories.images)
        predicted = trajectories.predicted_images
        if predicted is not None:
            predicted = np.stack([self.features(step) for step in predicted])
            predicted = predicted.reshape(len(predicted), *shape, -1)
        assigned = credit.assign(
            config,
            rewards,
            image_features.reshape(*shape, -1),
            predicted_features=predicted,
            draws=self._draws(Purpose.SUBSET, prompts, update),
            shuffle_draws=self._draws(Purpose.SHUFFLE, prompts, update),
            base=self._base_rewards(prompts),
            trained=trained,
            progress=update / config.run.updates,
        )
        if not assigned.selected.any():
            raise RewardError(
                f"update {update + 1}: {(~np.isfinite(rewards)).sum()} of {rewards.size} "
                "samples have no finite reward, and no group has two samples to compare"
            )
        return assigned

    def _draws(self, purpose: Purpose, prompts: list[Prompt], update: int) -> np.ndarray:
        """Uniform draws [P, G] of an update."""
        key = Key(self._config.run.seed, purpose, update=update)
        size = (self._config.rollout.group_size,)
        return np.stack([random.uniform(key.at(prompt=p.id), size) for p in prompts])

    def _base_rewards(self, prompts: list[Prompt]) -> np.ndarray | None:
        """The base model's mean reward of each prompt, [P], for the gate `above_base`.

        Taken from the first evaluation, whose images follow the ODE.
        """
        if self._config.drift.shaping.gate != "above_base":
            return None
        base = self._world.lead(lambda: self._run.evaluations()[0], "reading the evaluations")
        by_text = dict(zip(base["prompts"], base["reward_by_prompt"], strict=True))
        return np.array([by_text[prompt.text] for prompt in prompts])
