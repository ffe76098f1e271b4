"""The selection of the samples that are trained on: a subset of each group with similar rewards.

The task reward alone decides. Randomness is an argument: the uniform draws of the control.

Letters: r rewards, n valid samples of a group, K samples kept, s a group's rewards sorted.
"""

from typing import Any, Literal

from array_api_compat import array_namespace

from common.algorithm import masked
from common.algorithm.choice import check_choice

Array = Any

__all__ = ["COUNTING_RULES", "Rule", "select", "with_fallback"]

Rule = Literal[
    "window",
    "minvar",
    "trim",
    "nearest",
    "band",
    "mad",
    "upper",
    "lower",
    "random",
    "maxvar",
    "none",
]
"""The rule that selects the subset."""

NORMAL_CONSISTENCY = 1.4826
"""MAD times this estimates the standard deviation of normal data (Rousseeuw and Croux 1993)."""

COUNTING_RULES: frozenset[Rule] = frozenset(
    ("window", "minvar", "trim", "nearest", "random", "maxvar")
)
"""Rules that keep a number of samples, K."""


def select(
    rewards: Array,
    *,
    rule: Rule,
    keep: int | None = None,
    alpha: float = 1.5,
    kappa: float = 2.5,
    draws: Array | None = None,
    valid: Array | None = None,
) -> Array:
    """Choose the samples of every group that are trained on.

    `window`   the run of K in sorted order with the smallest range s_(j+K-1) - s_j (shorth)
    `minvar`   the run of K in sorted order with the smallest variance
    `nearest`  the run of K in sorted order that stays nearest to the median
    `trim`     drops the lowest and highest floor((n - K)/2), the odd one at the bottom
    `band`     |r - mean| <= alpha std (population std)
    `mad`      |r - median| <= kappa 1.4826 MAD; MAD = 0 keeps what lies at the median
    `upper`    drops outliers of `mad` on the upper side only; `lower` on the lower side only
    `random`   the K smallest draws: the control
    `maxvar`   the lowest i and the highest K - i with the largest variance: the opposite rule
    `none`     everything valid

    Ties of `window`, `minvar`, `nearest` and `maxvar`, within 1e-12 + 1e-6 of the group's range:
    the set whose mean is nearest the median, then the higher mean, then the lower index. Bounds
    (`band`, `mad`, `upper`, `lower`) include what lies within the same tolerance of them. Of
    equal rewards the sample with the lower index comes first in sorted order.

    Args:
        rewards: task rewards, float [P, G]; non-finite ones count as invalid.
        rule: one of the names above.
        keep: K >= 1, for the rules that count; a group with n < K valid samples keeps all n.
        alpha: half width of `band`, in standard deviations.
        kappa: cut of `mad`, `upper` and `lower`, in scaled MADs.
        draws: uniform [P, G], for `random`.
        valid: bool [P, G]; None means all.

    Returns:
        bool [P, G]. All False where fewer than 2 samples are valid.

    Raises:
        ValueError: unknown rule, misshapen arrays, keep missing or outside [1, G], no draws.

    Example:
        >>> select(np.array([[0.0, 5.0, 5.1, 5.2, 9.0]]), rule="window", keep=3).tolist()
        [[False, True, True, True, False]]
    """
    _check(rewards, rule, keep, draws)
    members = masked.usable(rewards, valid)
    n = masked.count(members)
    if rule == "none":
        chosen = members
    elif rule in COUNTING_RULES:
        chosen = _counted(rewards, members, rule, keep, draws)
    else:
        chosen = _bounded(rewards, members, rule, alpha, kappa)
    return chosen & members & (n >= 2)


def with_fallback(
    rewards: Array, selected: Array, *, valid: Array | None = None
) -> tuple[Array, Array]:
    """Take the full group where a subset of discrete rewards has lost the group's signal.

    A group falls back where std(subset) < max(1e-8, 0.05 std(group)) and the group has spread.

    Args:
        rewards: task rewards, float [P, G].
        selected: bool [P, G], from `select`.
        valid: bool [P, G]; None means all.

    Returns:
        The subset, bool [P, G], and which groups fell back, bool [P].

    Example:
        >>> rewards, selected = np.array([[0.0, 1.0, 1.0]]), np.array([[False, True, True]])
        >>> kept, fell_back = with_fallback(rewards, selected)
        >>> kept.tolist(), fell_back.tolist()
        ([[True, True, True]], [True])
    """
    xp = array_namespace(rewards)
    members = masked.usable(rewards, valid)
    group, kept = masked.std(rewards, members), masked.std(rewards, members & selected)
    lost = (kept < 1e-8) | (kept < 0.05 * group)
    fell_back = lost & (group > 0)
    return (members & selected) | (members & fell_back), xp.squeeze(fell_back, axis=-1)


def _bounded(rewards: Array, members: Array, rule: str, alpha: float, kappa: float) -> Array:
    """Everything within a distance of a centre, on one side or on both."""
    xp = array_namespace(rewards)
    r = xp.where(members, rewards, 0.0)
    if rule == "band":
        centre, cut = masked.mean(r, members), alpha * masked.std(r, members)
    else:
        centre = masked.median(r, members)
        # MAD = 0 means that at least half of the group lies at the median, and keeps just that.
        cut = kappa * NORMAL_CONSISTENCY * masked.median(xp.abs(r - centre), members)
    cut = cut + _tolerance(r, members)
    above, below = r - centre <= cut, centre - r <= cut
    return {"upper": above, "lower": below}.get(rule, above & below)


def _counted(
    rewards: Array, members: Array, rule: str, keep: int | None, draws: Array | None
) -> Array:
    """The K members that a rule puts first; K is clamped to the members there are."""
    xp = array_namespace(rewards)
    n = masked.count(members)
    K = xp.where(n < keep, n, keep)
    if rule == "random":
        return _rank(xp.where(members, draws, xp.inf)) < K
    rank = _rank(xp.where(members, rewards, xp.inf))
    if rule == "trim":
        top = (n - K) // 2
        return (rank >= n - K - top) & (rank < n - top)
    return _best_run(rewards, members, rank, rule, K)


def _best_run(rewards: Array, members: Array, rank: Array, rule: str, K: Array) -> Array:
    """The best of all candidate sets; candidate j of a group is a row of [P, C = G + 1, G]."""
    xp = array_namespace(rewards)
    G = rewards.shape[-1]
    r = xp.where(members, rewards, 0.0)
    n, centre, tolerance = masked.count(members), masked.median(r, members), _tolerance(r, members)
    j = xp.reshape(xp.arange(G + 1, dtype=n.dtype), (1, G + 1, 1))
    at, K3, n3 = rank[:, None, :], K[:, None, :], n[:, None, :]
    if rule == "maxvar":  # the lowest j and the highest K - j
        inside, feasible = (at < j) | (at >= n3 - K3 + j), j <= K3
    else:  # the run from j to j + K - 1
        inside, feasible = (at >= j) & (at < j + K3), j + K3 <= n3
    inside = inside & members[:, None, :]
    each = xp.broadcast_to(r[:, None, :], inside.shape)
    means = masked.mean(each, inside)
    if rule in ("minvar", "maxvar"):
        # The std orders as the variance does, in the units of the tolerance.
        sign = -1.0 if rule == "maxvar" else 1.0
        cost = xp.sqrt(masked.mean((each - means) ** 2, inside)) * sign
    elif rule == "nearest":
        distance = xp.abs(r - centre)[:, None, :]
        cost = xp.max(xp.where(inside, distance, 0.0), axis=-1, keepdims=True)
    else:
        highest = xp.max(xp.where(inside, each, -xp.inf), axis=-1, keepdims=True)
        lowest = xp.min(xp.where(inside, each, xp.inf), axis=-1, keepdims=True)
        cost = highest - lowest
    tolerance, centre = tolerance[:, None, :], centre[:, None, :]
    best = _keep_lowest(cost, feasible, tolerance)
    best = _keep_lowest(xp.abs(means - centre), best, tolerance)
    best = _keep_lowest(-means, best, tolerance)
    first = xp.min(xp.where(best, j, G + 1), axis=1, keepdims=True)
    return xp.any(inside & (j == first), axis=1)


def _keep_lowest(cost: Array, alive: Array, tolerance: Array) -> Array:
    """Candidates in `alive` [P, C, 1] within the tolerance of the lowest cost."""
    xp = array_namespace(cost)
    lowest = xp.min(xp.where(alive, cost, xp.inf), axis=1, keepdims=True)
    return alive & (cost <= lowest + tolerance)


def _rank(values: Array) -> Array:
    """Place of each value in its group's stable ascending order: int [P, G]."""
    xp = array_namespace(values)
    return xp.argsort(xp.argsort(values, axis=-1), axis=-1)


def _tolerance(r: Array, members: Array) -> Array:
    """Tolerance below which costs of a group are equal: 1e-12 + 1e-6 of its range, float [P, 1]."""
    xp = array_namespace(r)
    highest = xp.max(xp.where(members, r, -xp.inf), axis=-1, keepdims=True)
    lowest = xp.min(xp.where(members, r, xp.inf), axis=-1, keepdims=True)
    return 1e-12 + 1e-6 * xp.where(highest > lowest, highest - lowest, 0.0)


def _check(rewards: Array, rule: str, keep: int | None, draws: Array | None) -> None:
    check_choice("subset rule", rule, Rule)
    if rewards.ndim != 2:
        raise ValueError(f"rewards must be [P, G], not of shape {tuple(rewards.shape)}")
    G = rewards.shape[1]
    if rule in COUNTING_RULES and (keep is None or not 1 <= keep <= G):
        raise ValueError(f"rule '{rule}' needs keep in [1, {G}], the group size, not {keep}")
    if rule == "random" and (draws is None or tuple(draws.shape) != tuple(rewards.shape)):
        raise ValueError(f"rule 'random' needs uniform draws of shape {tuple(rewards.shape)}")
