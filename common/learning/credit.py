"""The credit of an update: which samples are trained on, and with which advantages.

Everything here is float64 on the host over [P, G] arrays, so every backend gets the same numbers
bit for bit. The order is that of the method: validity, potentials over all valid samples, subset
from the task reward alone (the shaped reward would filter novel samples out as outliers), shaping,
advantages.
"""

import math
from dataclasses import dataclass

import numpy as np

from common.algorithm import advantage, annealing, diversity, potential, shaping, subset
from common.config import Config
from common.learning import credit_metrics


@dataclass(frozen=True)
class Credit:
    """The samples that an update selects, their advantages, and the metrics to log.

    selected: bool [P, G]. advantages: float64 [P, G], or [T, P, G] for per-step shaping.
    """

    selected: np.ndarray
    advantages: np.ndarray
    metrics: dict[str, float]

    def samples(self, trained: np.ndarray, *, drop_zeros: bool) -> np.ndarray:
        """Indices of the samples that the loss is a mean over: int [n].

        Those that are selected; with drop_zeros, less those whose advantage is 0 at every trained
        step (int [S]), such as all of a group without spread.
        """
        chosen = self.selected
        if drop_zeros:
            used = self.advantages if self.advantages.ndim == 2 else self.advantages[trained]
            chosen = chosen & advantage.nonzero(used)
        return np.flatnonzero(chosen)

    def advantages_at(self, samples: np.ndarray, steps: np.ndarray) -> np.ndarray:
        """Advantages of B pairs of a sample and a denoising step, int [B] each: float64 [B]."""
        if self.advantages.ndim == 2:
            return self.advantages.reshape(-1)[samples]
        return self.advantages.reshape(len(self.advantages), -1)[steps, samples]


def assign(
    config: Config,
    rewards: np.ndarray,
    features: np.ndarray,
    *,
    predicted_features: np.ndarray | None = None,
    draws: np.ndarray,
    shuffle_draws: np.ndarray | None = None,
    base: np.ndarray | None = None,
    trained: np.ndarray | None = None,
    progress: float = 0.0,
) -> Credit:
    """Select the samples of an update, shape their rewards and make advantages of them.

    Args:
        config: the whole configuration of the run.
        rewards: task rewards, float64 [P, G]; NaN where a sample has none.
        features: of the final images, for the potential, float [P, G, F].
        predicted_features: of the predicted images of each step, [T, P, G, F]; for per-step
            shaping.
        draws: uniform [P, G], for the rule `random`.
        shuffle_draws: uniform [P, G], for the shuffled control.
        base: reward of the base model [P], for the gate `above_base`.
        trained: the denoising steps whose advantages are used, int [S]; the metrics are about
            these alone. None means all.
        progress: share of the run's updates that is done, in [0, 1].

    Raises:
        ValueError: the shuffled control has no draws.
    """
    chosen, settings = config.drift.subset, config.drift.shaping
    objective = config.objective
    valid = np.isfinite(rewards) & np.isfinite(features).all(axis=-1)
    distances = _distances(features, valid)
    potentials = _potentials(config, distances, predicted_features, valid)
    if settings.shuffle:
        potentials = _shuffled(potentials, shuffle_draws, valid)
    selected = subset.select(
        rewards,
        rule=chosen.rule,
        keep=chosen.keep,
        alpha=chosen.alpha,
        kappa=chosen.kappa,
        draws=draws,
        valid=valid,
    )
    selected, fell_back = subset.with_fallback(rewards, selected, valid=valid)
    weight = settings.weight * annealing.training_multiplier(settings.training_schedule, progress)
    reference = valid & selected if settings.statistics == "subset" else valid
    shaped = shaping.shape(
        rewards,
        potentials,
        weight=weight,
        gamma=settings.gamma,
        mode=settings.mode,
        scaling=settings.scaling,
        gate=settings.gate,
        steps=config.rollout.steps,
        valid=valid,
        base=base,
        reference=reference,
    )
    final = potentials if potentials.ndim == 2 else potentials[-1]

    def normalised(reward: np.ndarray, clip: float) -> np.ndarray:
        how = objective.statistics
        return advantage.group_advantages(reward, selected, statistics=how, clip=clip, valid=valid)

    clip = objective.advantage_clip
    task = normalised(rewards, clip)
    if settings.mode == "multiplicative":
        # Clipped once, after they are weighed: a potential may be many times its mean.
        advantages = advantage.weighted_by_potential(
            normalised(rewards, math.inf), final, weight=weight, clip=clip, valid=reference
        )
    else:
        advantages = normalised(shaped, clip)
    used = advantages if trained is None or advantages.ndim == 2 else advantages[trained]
    metrics = credit_metrics.measure(
        rewards,
        potentials=final,
        distances=distances,
        advantages=used,
        task_advantages=task,
        selected=selected,
        fell_back=fell_back,
        valid=valid,
    )
    return Credit(selected, advantages, metrics)


def _shuffled(potentials: np.ndarray, draws: np.ndarray | None, valid: np.ndarray) -> np.ndarray:
    if draws is None:
        raise ValueError("drift.shaping.shuffle needs uniform draws of the shape of the rewards")
    return potential.shuffled(potentials, draws, valid=valid)


def _distances(features: np.ndarray, valid: np.ndarray) -> np.ndarray:
    clean = np.where(valid[..., None], features, 0.0).astype(np.float64)
    return diversity.cosine_distances(clean)


def _potentials(
    config: Config,
    distances: np.ndarray,
    predicted_features: np.ndarray | None,
    valid: np.ndarray,
) -> np.ndarray:
    settings = config.drift.shaping

    def of_distances(matrix: np.ndarray) -> np.ndarray:
        return potential.per_sample(
            matrix,
            kind=settings.potential,
            valid=valid,
            neighbours=settings.neighbours,
            radius=settings.radius,
        )

    final = of_distances(distances)
    if predicted_features is None:
        return final
    steps = [of_distances(_distances(features, valid)) for features in predicted_features]
    return np.stack([*steps, final])
