"""Advantages: the reward of each sample relative to the subset of its group that is trained on."""

import math
from typing import Any, Literal

from array_api_compat import array_namespace

from common.algorithm import masked
from common.algorithm.choice import check_choice

Array = Any

__all__ = ["Statistics", "group_advantages", "nonzero", "weighted_by_potential"]

Statistics = Literal["subset", "full", "global", "none"]
"""The samples whose std divides the advantages; "none": nothing does."""


def group_advantages(
    rewards: Array,
    selected: Array,
    *,
    statistics: Statistics,
    clip: float,
    valid: Array | None = None,
) -> Array:
    """A = clip((r - mean of the subset) / std, -c, c) on the subset, 0 outside it.

    Centred on the subset whatever the statistics, so that A sums to 0 over the samples that are
    trained on (before it is clipped). They differ in the std, a population std:

    `subset`  of the subset
    `full`    of all valid samples of the group; larger than the subset's where outliers were
              dropped, hence an implicit smaller step
    `global`  of all valid samples of the batch, all prompts together
    `none`    1: A is in units of reward, as in Dr. GRPO (arXiv:2503.20783) and GARDO's code

    A group whose subset has no spread (std below 1e-6 of its largest reward) gets exact zeros.

    Args:
        rewards: r, float [..., P, G]; leading axes, such as denoising steps, are normalised each
            on their own. Non-finite rewards count as invalid.
        selected: bool [P, G].
        statistics: one of the names above.
        clip: c > 0; infinity for advantages that are clipped later.
        valid: bool [P, G]; None means all.

    Returns:
        An array like the rewards.

    Raises:
        ValueError: unknown statistics, clip not above 0, or arrays that do not fit together.

    Example:
        >>> rewards, selected = np.array([[1.0, 3.0, 9.0]]), np.array([[True, True, False]])
        >>> group_advantages(rewards, selected, statistics="subset", clip=5.0).tolist()
        [[-1.0, 1.0, 0.0]]
    """
    check_choice("statistics", statistics, Statistics)
    _check_clip(clip)
    if tuple(rewards.shape[-2:]) != tuple(selected.shape):
        raise ValueError(f"selected {tuple(selected.shape)} does not fit rewards {rewards.shape}")
    xp = array_namespace(rewards)
    group = masked.usable(rewards, valid)
    members = group & selected
    centred = xp.where(members, rewards, 0.0) - masked.mean(rewards, members)
    own = masked.std(rewards, members)
    match statistics:
        case "subset":
            scale = own
        case "full":
            scale = masked.std(rewards, group)
        case "none":
            scale = xp.ones_like(own)
        case _:
            flat = (*rewards.shape[:-2], -1)
            scale = masked.std(xp.reshape(rewards, flat), xp.reshape(group, flat))[..., None]
    live = members & (own > 0) & (scale > 0)
    return xp.where(live, xp.clip(centred / xp.where(scale > 0, scale, 1.0), -clip, clip), 0.0)


def nonzero(advantages: Array) -> Array:
    """Where a sample has an advantage other than 0 at some step: bool [P, G].

    The samples that Flow-GRPO keeps: its code leaves out those whose advantages are 0 at all steps
    before it averages (`mask` in scripts/train_sd3.py of github.com/yifan123/flow_grpo).

    Args:
        advantages: A, float [P, G], or [S, P, G] for S steps.

    Example:
        >>> nonzero(np.array([[[0.0, 0.0, -1.0]], [[0.0, 2.0, 0.0]]])).tolist()
        [[False, True, True]]
    """
    xp = array_namespace(advantages)
    return xp.any(xp.reshape(advantages != 0, (-1, *advantages.shape[-2:])), axis=0)


def weighted_by_potential(
    advantages: Array,
    potentials: Array,
    *,
    weight: float = 1.0,
    clip: float = math.inf,
    valid: Array | None = None,
) -> Array:
    """A_i (1 + lambda (Phi_i / mean(Phi) - 1)) where A_i > 0, else A_i; then clipped to +-c.

    lambda = 1 is GARDO's weighing, A_i Phi_i / mean(Phi) (arXiv:2512.24138), whose code clips
    after it (flow_grpo/stat_tracking.py and scripts/train_sd3_grpo_gardo.py of
    github.com/tinnerhrhe/GARDO). lambda = 0 and no clip leave A bit for bit. A negative Phi counts
    as 0, and so does a negative factor, which lambda > 1 can make. A group without diversity (mean
    Phi below 1e-6) keeps its advantages. Advantages no longer sum to 0 afterwards.

    Args:
        advantages: A, float [..., P, G]; above 0 means above the mean.
        potentials: Phi of the final images, float [P, G].
        weight: lambda >= 0.
        clip: c > 0, on the weighed advantages: Phi may be many times its mean.
        valid: bool [P, G]; None means all. The mean is over valid samples.

    Returns:
        An array like the advantages.

    Raises:
        ValueError: weight below 0, or clip not above 0.

    Example:
        >>> advantages, potentials = np.array([[1.0, 1.0, -2.0]]), np.array([[0.5, 1.5, 1.0]])
        >>> weighted_by_potential(advantages, potentials).tolist()
        [[0.5, 1.5, -2.0]]
    """
    if not weight >= 0:
        raise ValueError(f"weight = {weight} of shaping must be at least 0")
    _check_clip(clip)
    xp = array_namespace(advantages)
    members = xp.zeros_like(potentials) == 0 if valid is None else valid
    phi = xp.where(members & (potentials > 0), potentials, 0.0)
    centre = masked.mean(phi, members)
    ratio = xp.where(centre > 1e-6, phi / xp.where(centre > 1e-6, centre, 1.0), 1.0)
    factor = xp.clip(1.0 + weight * (ratio - 1.0), 0.0, xp.inf)
    weighed = xp.where((advantages > 0) & members, advantages * factor, advantages)
    return xp.clip(weighed, -clip, clip)


def _check_clip(clip: float) -> None:
    if not clip > 0:
        raise ValueError(f"clip = {clip} of advantages must be above 0")
