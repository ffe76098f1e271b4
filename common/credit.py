"""Who is trained on and how much: rewards and features of an update to advantages.

Everything here is float64 on the host over [P, G] arrays, so that every backend gets the same
numbers bit for bit. The order is the method's: validity, potentials over all valid samples,
subset from the task reward alone (choosing on the shaped reward would filter novelty out as an
outlier), shaping, advantages.
"""

from dataclasses import dataclass

import numpy as np

from common.algorithm import advantage, annealing, diversity, masked, shaping, subset
from common.config import Config


@dataclass(frozen=True)
class Credit:
    """selected: bool [P, G]. advantages: float64 [P, G], or [T, P, G] for per-step shaping."""

    selected: np.ndarray
    advantages: np.ndarray
    metrics: dict[str, float]

    def of(self, samples: np.ndarray, steps: np.ndarray) -> np.ndarray:
        """Advantages of (sample, denoising step) pairs: [B]."""
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
    """Steps 3 to 7 of an update.

    rewards: task rewards [P, G], NaN where a sample has none. features: potential features
    [P, G, F] of the final images. predicted_features: [T, P, G, F], for per-step shaping.
    draws: uniform [P, G] of the `random` rule; shuffle_draws: [P, G] of the shuffled control.
    base: reward of the base model [P]. trained: the denoising steps whose advantages are used,
    int [S], for what is logged; None means all. progress: share of the run's updates done, [0, 1].

    Raises ValueError where the shuffled control has no draws.
    """
    chosen, settings = config.drift.subset, config.drift.shaping
    valid = np.isfinite(rewards) & np.isfinite(features).all(axis=-1)
    distances = _distances(features, valid)
    potentials = _potentials(config, distances, predicted_features, valid)
    if settings.shuffle:
        if shuffle_draws is None:
            raise ValueError(
                "drift.shaping.shuffle needs uniform draws of the shape of the rewards"
            )
        potentials = shaping.shuffled(potentials, shuffle_draws, valid=valid)
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
    task, advantages = (
        advantage.group_advantages(
            reward,
            selected,
            statistics=config.objective.statistics,
            clip=config.objective.advantage_clip,
            valid=valid,
        )
        for reward in (rewards, shaped)
    )
    final = potentials if potentials.ndim == 2 else potentials[-1]
    if settings.mode == "multiplicative":
        advantages = shaping.multiplicative(advantages, final, weight=weight, valid=reference)
    used = advantages if trained is None or advantages.ndim == 2 else advantages[trained]
    metrics = _selection_metrics(rewards, distances, selected, fell_back, valid)
    live = selected.sum(axis=1) >= 2
    metrics |= {
        "shaping/correlation": _average(_correlation(rewards, final, selected), live),
        "shaping/variance_share": _average(potential_share(used, task), live),
    }
    return Credit(selected, advantages, metrics)


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

    def potential(matrix: np.ndarray) -> np.ndarray:
        return shaping.potential(
            matrix,
            kind=settings.potential,
            valid=valid,
            neighbours=settings.neighbours,
            radius=settings.radius,
        )

    final = potential(distances)
    if predicted_features is None:
        return final
    steps = [potential(_distances(features, valid)) for features in predicted_features]
    return np.stack([*steps, final])


def _selection_metrics(
    rewards: np.ndarray,
    distances: np.ndarray,
    selected: np.ndarray,
    fell_back: np.ndarray,
    valid: np.ndarray,
) -> dict[str, float]:
    finite = np.where(valid, rewards, 0.0)
    live = valid.sum(axis=1) >= 2
    best = np.argmax(np.where(valid, rewards, -np.inf), axis=1)
    best_selected = np.take_along_axis(selected, best[:, None], axis=1)[:, 0]
    return {
        "reward/mean": _mean(finite, valid),
        "reward/std": _average(_std(finite, valid), live),
        "subset/size": _average(selected.sum(axis=1).astype(float), live),
        "subset/mean": _mean(finite, selected),
        "subset/std": _average(_std(finite, selected), live),
        "subset/best_dropped": _average(1.0 - best_selected, live),
        "subset/fallback": _average(fell_back.astype(float), live),
        "group/zero_std": _average(_std(finite, valid) == 0, live),
        "group/invalid": float((~valid).sum()),
        "diversity/group": _average(diversity.mean_pairwise(distances, valid=valid), live),
        "diversity/subset": _average(
            diversity.mean_pairwise(distances, valid=selected), selected.sum(axis=1) >= 2
        ),
    }


def potential_share(advantages: np.ndarray, task: np.ndarray) -> np.ndarray:
    """Share of each group's squared advantages that the task reward does not account for: [P].

    1 - max(0, cos(A, A_task))^2, with A_task what the task reward alone gives the same samples: 0
    where shaping changes no more than the scale of A, 1 where A is orthogonal to A_task or turned
    against it. The scale does not count because dividing by the std of the shaped reward sets it
    anew. This toolkit's choice.

    Args:
        advantages: A, [P, G], or [S, P, G] for S steps, which count as one long group.
        task: A_task, [P, G].
    """
    A = advantages.reshape(-1, *task.shape)
    product, size = (A * task).sum(axis=(0, 2)), (A**2).sum(axis=(0, 2))
    both = size * len(A) * (task**2).sum(axis=1)
    cos2 = np.divide(np.maximum(product, 0.0) ** 2, both, out=np.zeros_like(both), where=both > 0)
    return np.where(size > 0, 1.0 - cos2, 0.0)


def _mean(values: np.ndarray, mask: np.ndarray) -> float:
    return float(values[mask].mean()) if mask.any() else float("nan")


def _average(values: np.ndarray, groups: np.ndarray) -> float:
    return float(values[groups].mean()) if groups.any() else float("nan")


def _std(values: np.ndarray, mask: np.ndarray) -> np.ndarray:
    return masked.std(values, mask)[:, 0]


def _correlation(x: np.ndarray, y: np.ndarray, mask: np.ndarray) -> np.ndarray:
    dx, dy = (np.where(mask, values - masked.mean(values, mask), 0.0) for values in (x, y))
    scale = np.sqrt((dx**2).sum(axis=1) * (dy**2).sum(axis=1))
    return np.divide((dx * dy).sum(axis=1), scale, out=np.zeros_like(scale), where=scale > 0)
