"""What an update logs about its credit: rewards, the selected samples, the potential's share."""

import numpy as np

from common.algorithm import diversity, masked

__all__ = ["potential_share", "selection_metrics", "shaping_metrics"]


def selection_metrics(
    rewards: np.ndarray,
    distances: np.ndarray,
    selected: np.ndarray,
    fell_back: np.ndarray,
    valid: np.ndarray,
) -> dict[str, float]:
    """What the rewards of the groups are like, and those of the samples that were selected.

    Args:
        rewards: [P, G].
        distances: of the samples of a group, [P, G, G].
        selected: bool [P, G], what is trained on.
        fell_back: bool [P], the groups that are trained on whole.
        valid: bool [P, G], samples that have a reward and features.
    """
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


def shaping_metrics(
    rewards: np.ndarray,
    potentials: np.ndarray,
    advantages: np.ndarray,
    task: np.ndarray,
    selected: np.ndarray,
) -> dict[str, float]:
    """How the potential goes with the reward, and how much of the advantages it accounts for.

    Args:
        rewards: [P, G].
        potentials: of the final images, [P, G].
        advantages: those that are trained on, [P, G], or [S, P, G] for S steps.
        task: what the task reward alone gives, [P, G].
        selected: bool [P, G].
    """
    live = selected.sum(axis=1) >= 2
    return {
        "shaping/correlation": _average(_correlation(rewards, potentials, selected), live),
        "shaping/variance_share": _average(potential_share(advantages, task), live),
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
