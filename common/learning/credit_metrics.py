"""Metrics of an update's credit: its rewards, the selected samples, the effect of shaping."""

import numpy as np

from common.algorithm import diversity, masked
from common.algorithm.advantage import nonzero

__all__ = ["measure", "potential_share"]


def measure(
    rewards: np.ndarray,
    *,
    potentials: np.ndarray,
    distances: np.ndarray,
    advantages: np.ndarray,
    task_advantages: np.ndarray,
    selected: np.ndarray,
    fell_back: np.ndarray,
    valid: np.ndarray,
) -> dict[str, float]:
    """Metrics of the groups, of the selected samples and of the effect of shaping.

    Averages are over the groups with two valid samples or more; NaN where there are none.

    Args:
        rewards: task rewards, [P, G].
        potentials: of the final images, [P, G].
        distances: between the samples of a group, [P, G, G].
        advantages: those that are trained on, [P, G], or [S, P, G] for S steps.
        task_advantages: those that the task reward alone gives, [P, G].
        selected: bool [P, G], the samples that are trained on.
        fell_back: bool [P], the groups that are trained on whole.
        valid: bool [P, G], samples that have a reward and features.
    """
    shares = potential_share(advantages, task_advantages)
    finite = np.where(valid, rewards, 0.0)
    group_std, subset_std = (masked.std(finite, mask)[:, 0] for mask in (valid, selected))
    correlation = masked.correlation(rewards, potentials, selected)[:, 0]
    group_diversity = diversity.mean_pairwise(distances, valid=valid)
    subset_diversity = diversity.mean_pairwise(distances, valid=selected)
    best = np.argmax(np.where(valid, rewards, -np.inf), axis=1)
    best_selected = np.take_along_axis(selected, best[:, None], axis=1)[:, 0]
    live, compared = valid.sum(axis=1) >= 2, selected.sum(axis=1) >= 2
    return {
        "reward/mean": _average(finite, valid),
        "reward/std": _average(group_std, live),
        "subset/size": _average(selected.sum(axis=1).astype(float), live),
        "subset/mean": _average(finite, selected),
        "subset/std": _average(subset_std, live),
        "subset/best_dropped": _average(1.0 - best_selected, live),
        "subset/fallback": _average(fell_back.astype(float), live),
        "subset/zero_advantage": _average(~nonzero(advantages), selected),
        "group/zero_std": _average(group_std == 0, live),
        "group/invalid": float((~valid).sum()),
        "diversity/group": _average(group_diversity, live),
        "diversity/subset": _average(subset_diversity, compared),
        "shaping/correlation": _average(correlation, compared),
        "shaping/variance_share": _average(shares, compared),
    }


def potential_share(advantages: np.ndarray, task: np.ndarray) -> np.ndarray:
    """Share of each group's squared advantages that the task reward does not account for: [P].

    1 - max(0, cos(A, A_task))^2, with A_task what the task reward alone gives the same samples: 0
    where shaping changes no more than the scale of A, 1 where A is orthogonal to A_task or points
    against it. The scale does not count: the advantages are divided by the std of the shaped
    reward. This toolkit's choice.

    Args:
        advantages: A, [P, G], or [S, P, G] for S steps, which count as one long group.
        task: A_task, [P, G].
    """
    A = advantages.reshape(-1, *task.shape)
    product, size = (A * task).sum(axis=(0, 2)), (A**2).sum(axis=(0, 2))
    both = size * len(A) * (task**2).sum(axis=1)
    cos2 = np.divide(np.maximum(product, 0.0) ** 2, both, out=np.zeros_like(both), where=both > 0)
    return np.where(size > 0, 1.0 - cos2, 0.0)


def _average(values: np.ndarray, mask: np.ndarray) -> float:
    """Mean of the values where the mask is True; NaN where it never is."""
    return float(values[mask].mean()) if mask.any() else float("nan")
