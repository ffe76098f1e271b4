"""Who is trained on and how much: rewards and features of an update to advantages.

Everything here is float64 on the host over [P, G] arrays, so that every backend gets the same
numbers bit for bit. The order is the method's: validity, potentials over all valid samples,
subset from the task reward alone (choosing on the shaped reward would filter novelty out as an
outlier), shaping, advantages.
"""

from dataclasses import dataclass

import numpy as np

from common.algorithm import advantage, diversity, shaping, subset
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
    base: np.ndarray | None = None,
) -> Credit:
    """Steps 3 to 7 of an update.

    rewards: task rewards [P, G], NaN where a sample has none. features: potential features
    [P, G, F] of the final images. predicted_features: [T, P, G, F], for per-step shaping.
    draws: uniform [P, G] of the `random` rule. base: reward of the base model [P].
    """
    chosen, settings = config.drift.subset, config.drift.shaping
    valid = np.isfinite(rewards) & np.isfinite(features).all(axis=-1)
    distances = _distances(features, valid)
    potentials = _potentials(config, distances, predicted_features, valid)
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
    shaped = shaping.shape(
        rewards,
        potentials,
        weight=settings.weight,
        gamma=settings.gamma,
        mode=settings.mode,
        scaling=settings.scaling,
        gate=settings.gate,
        steps=config.rollout.steps,
        valid=valid,
        base=base,
    )
    advantages = advantage.group_advantages(
        shaped,
        selected,
        statistics=config.objective.statistics,
        clip=config.objective.advantage_clip,
        valid=valid,
    )
    final = potentials if potentials.ndim == 2 else potentials[-1]
    if settings.mode == "multiplicative" and settings.weight > 0:
        advantages = shaping.multiplicative(advantages, final, valid=valid)
    metrics = _selection_metrics(rewards, distances, selected, fell_back, valid)
    metrics |= _shaping_metrics(rewards, shaped, final, selected)
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
        "group/zero_std": _average(_constant(finite, valid), live),
        "group/invalid": float((~valid).sum()),
        "diversity/group": _average(diversity.mean_pairwise(distances, valid=valid), live),
        "diversity/subset": _average(
            diversity.mean_pairwise(distances, valid=selected), selected.sum(axis=1) >= 2
        ),
    }


def _shaping_metrics(
    rewards: np.ndarray, shaped: np.ndarray, potentials: np.ndarray, selected: np.ndarray
) -> dict[str, float]:
    bonus = np.where(selected, shaped - rewards, 0.0)
    bonus = bonus if bonus.ndim == 2 else bonus.mean(axis=0)
    task = np.where(selected, rewards, 0.0)
    from_bonus, from_task = _std(bonus, selected) ** 2, _std(task, selected) ** 2
    total = from_bonus + from_task
    share = np.divide(from_bonus, total, out=np.zeros_like(total), where=total > 0)
    live = selected.sum(axis=1) >= 2
    return {
        "shaping/correlation": _average(_correlation(task, potentials, selected), live),
        "shaping/variance_share": _average(share, live),
    }


def _mean(values: np.ndarray, mask: np.ndarray) -> float:
    return float(values[mask].mean()) if mask.any() else float("nan")


def _average(values: np.ndarray, groups: np.ndarray) -> float:
    return float(values[groups].mean()) if groups.any() else float("nan")


def _std(values: np.ndarray, mask: np.ndarray) -> np.ndarray:
    return np.ma.masked_array(values, ~mask).std(axis=1).filled(0.0)


def _constant(values: np.ndarray, mask: np.ndarray) -> np.ndarray:
    masked = np.ma.masked_array(values, ~mask)
    return (masked.max(axis=1) == masked.min(axis=1)).filled(True).astype(float)


def _correlation(x: np.ndarray, y: np.ndarray, mask: np.ndarray) -> np.ndarray:
    count = np.maximum(mask.sum(axis=1, keepdims=True), 1)
    dx = np.where(mask, x - (x * mask).sum(axis=1, keepdims=True) / count, 0.0)
    dy = np.where(mask, y - (y * mask).sum(axis=1, keepdims=True) / count, 0.0)
    scale = np.sqrt((dx**2).sum(axis=1) * (dy**2).sum(axis=1))
    return np.divide((dx * dy).sum(axis=1), scale, out=np.zeros_like(scale), where=scale > 0)
