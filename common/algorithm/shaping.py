"""Diversity as a potential Phi, and how it shapes the task reward r.

Potential-based shaping (Ng, Harada and Russell 1999) adds F_k = gamma Phi_(k+1) - Phi_k to the
reward of step k. Strictly policy-invariant shaping cannot counter collapse; the useful forms here
drop the terminal condition Phi(end) = 0 and so change the objective: with `mean_pairwise` and
`raw` scaling to E[r] + (lambda / 2) gamma^T E[D], where E[D] is Rao's quadratic entropy. The 1/2 is
exact: E[Phi_i grad log pi] = grad E[D] / 2, since each image of a pair is credited on its own.
Advantages centred on the group see slightly less of it, (G-2)/(G-1) relative to the task reward,
because the mean of the group holds some of each sample's own credit.

Letters: r rewards, Phi potential, D distances, T denoising steps, P groups of G samples.
"""

from typing import Any, Literal

from array_api_compat import array_namespace

from common.algorithm import diversity, masked, subset
from common.algorithm.choice import check_choice

Array = Any

__all__ = [
    "Gate",
    "Mode",
    "Potential",
    "Scaling",
    "multiplicative",
    "potential",
    "shape",
    "shuffled",
]

Potential = Literal["mean_pairwise", "nearest", "knn", "loo_vendi", "cluster"]
"""The measure of one sample's diversity within its group."""

Mode = Literal["none", "terminal", "per_step", "strict", "multiplicative"]
"""The way the potential enters the reward or the advantages."""

Scaling = Literal["zscore", "minmax", "raw"]
"""The unit of the potential."""

Gate = Literal["none", "above_mean", "above_base", "soft"]
"""The samples that gain from their diversity."""

POTENTIAL_FLOOR = 5e-3
"""Smallest spread of a potential that scaling stretches to one unit, in cosine distance.

Below it the group's images are nearly equal, and their differences are not worth a full unit of
reward; the bonus then shrinks with the spread."""


def potential(
    distances: Array,
    *,
    kind: Potential,
    valid: Array | None = None,
    neighbours: int = 3,
    radius: float = 0.1,
) -> Array:
    """Phi_i: how much sample i adds to the diversity of its group of n valid samples.

    `mean_pairwise` mean of D_ij over j != i
    `nearest`       min of D_ij over j != i
    `knn`           mean of the k smallest D_ij, j != i (of all n - 1 where there are fewer)
    `loo_vendi`     Vendi score of the group less that of the group without i; a redundant
                    sample may have a negative one. Needs cosine distances.
    `cluster`       sqrt(n / n_k), n_k the size of i's cluster: the samples linked to i by steps
                    of distance <= radius. 0 where all samples are one cluster.

    A lone sample has 0, and so have identical images; a duplicate lowers the Phi of its twin.

    Args:
        distances: D, float [..., G, G], symmetric with a zero diagonal.
        kind: one of the names above.
        valid: bool [..., G]; None means all. Invalid samples get 0 and influence no others,
            whatever their distances are.
        neighbours: k >= 1 of `knn`.
        radius: distance >= 0 that links two samples of a `cluster`.

    Returns:
        float [..., G].

    Raises:
        ValueError: unknown kind, or a number outside its range.
    """
    check_choice("potential", kind, Potential)
    if neighbours < 1:
        raise ValueError(f"neighbours = {neighbours} of a potential must be at least 1")
    if not radius >= 0:
        raise ValueError(f"radius = {radius} of a potential must be at least 0")
    xp = array_namespace(distances)
    members = _members(distances[..., 0], valid)
    index = xp.arange(distances.shape[-1])
    others = members[..., :, None] & members[..., None, :] & (index[:, None] != index[None, :])
    match kind:
        case "mean_pairwise":
            phi = masked.mean(distances, others)[..., 0]
        case "nearest":
            phi = _nearest(distances, others, 1)
        case "knn":
            phi = _nearest(distances, others, neighbours)
        case "loo_vendi":
            phi = _leave_one_out(distances, members)
        case _:
            phi = _clusters(distances, others, members, radius)
    return xp.where(members, phi, 0.0)


def shape(
    rewards: Array,
    potentials: Array,
    *,
    weight: float,
    gamma: float = 1.0,
    mode: Mode,
    scaling: Scaling,
    gate: Gate,
    steps: int,
    valid: Array | None = None,
    base: Array | None = None,
    reference: Array | None = None,
) -> Array:
    """The shaped reward r', with lambda the weight and Psi = gate * scaled Phi.

    `terminal`        r' = r + lambda gamma^T Psi(final images): the sum of F with Phi(start) = 0
    `per_step`        reward-to-go of step k: r'_k = r + lambda (gamma^(T-k) Psi_T - Psi_k)
    `strict`          Phi(end) := 0 makes the sum of F vanish: r' is r itself, bit for bit. It is
                      policy-invariant (Grzes 2017), hence inert: a control.
    `multiplicative`  r' is r itself; the potential weighs advantages, see `multiplicative`, which
                      has no use for gamma, scaling and gate
    `none`            r' is r itself

    Scaling, by the reference samples of a group; mean, std, min and max of the final images' Phi
    serve every step, so that one trajectory has one unit and its F still telescope:

    `zscore`  std(r) (Phi - mean) / max(std, 0.005): lambda counts standard deviations of r
    `minmax`  std(r) (Phi - min) / max(max - min, 0.005), likewise
    `raw`     Phi: lambda is absolute

    Gates, which samples feel their diversity at all, mean and std being those of the reference:

    `none`        all of them
    `above_mean`  r above the mean
    `above_base`  r above the reward of the base model, in the same units as r
    `soft`        logistic((r - mean) / std(r)): 1/2 at the mean, 0.73 one std above it

    The reference is the whole group, or the subset that is trained on: advantages are divided by
    the std of that subset, so only there does lambda = 1 make the potential as large as the reward
    whatever the selection. With the whole group's std a narrow subset raises the potential's part:
    lambda counts std(group) / std(subset) times as much.

    Args:
        rewards: r, float [P, G].
        potentials: Phi [P, G]; for `per_step` [T+1, P, G] from the predicted clean images before
            each step, the final images last. Not looked at by `none`, `strict`, `multiplicative`.
        weight: lambda >= 0; at 0 the rewards come back bit for bit.
        gamma: discount in (0, 1].
        mode: one of the names above.
        scaling: one of the names above.
        gate: one of the names above.
        steps: T.
        valid: bool [P, G]; None means all. Samples that are invalid or have no finite reward
            keep their r and influence no others.
        base: reward of the base model, float [P], for `above_base`; a run takes the mean of its
            first evaluation, whose images follow the ODE where a rollout's are stochastic.
        reference: bool [P, G], whose statistics scaling and gates use; None means all valid ones.

    Returns:
        float [P, G]; [T, P, G] for `per_step`.

    Raises:
        ValueError: an unknown name, a number outside its range, misshapen potentials, no base.
    """
    _check(rewards, potentials, weight, gamma, mode, scaling, gate, steps, base)
    xp = array_namespace(rewards)
    if mode not in ("terminal", "per_step"):
        return rewards
    if weight == 0:
        whole = (steps, *rewards.shape)
        return xp.broadcast_to(rewards, whole) if mode == "per_step" else rewards
    members = subset.usable(rewards, valid)
    r = xp.where(members, rewards, 0.0)
    final = potentials if mode == "terminal" else potentials[-1, ...]
    counted = members if reference is None else members & reference
    unit, offset = _scale(final, r, counted, scaling)
    opened = _gate(r, counted, gate, base)

    def psi(phi: Array) -> Array:
        return opened * unit * (xp.where(members, phi, 0.0) - offset)

    if mode == "terminal":
        return xp.where(members, r + weight * gamma**steps * psi(final), rewards)
    to_go = [
        r + weight * (gamma ** (steps - k) * psi(final) - psi(potentials[k, ...]))
        for k in range(steps)
    ]
    return xp.where(members, xp.stack(to_go), rewards)


def multiplicative(
    advantages: Array, potentials: Array, *, weight: float = 1.0, valid: Array | None = None
) -> Array:
    """A_i (1 + lambda (Phi_i / mean(Phi) - 1)) where A_i > 0, else A_i.

    lambda = 1 is GARDO's weighing, A_i Phi_i / mean(Phi) (arXiv:2512.24138); 0 leaves A bit for
    bit. A negative Phi counts as 0, and so does a negative factor, which lambda > 1 can make. A
    group without diversity (mean Phi below 1e-6) keeps its advantages. Advantages no longer sum
    to 0 afterwards.

    Args:
        advantages: A, float [..., P, G]; above 0 means above the mean.
        potentials: Phi of the final images, float [P, G].
        weight: lambda >= 0.
        valid: bool [P, G]; None means all. The mean is over valid samples.

    Returns:
        An array like the advantages.

    Raises:
        ValueError: weight below 0.
    """
    if not weight >= 0:
        raise ValueError(f"weight = {weight} of shaping must be at least 0")
    xp = array_namespace(advantages)
    members = _members(potentials, valid)
    phi = xp.where(members & (potentials > 0), potentials, 0.0)
    centre = masked.mean(phi, members)
    ratio = xp.where(centre > 1e-6, phi / xp.where(centre > 1e-6, centre, 1.0), 1.0)
    factor = xp.clip(1.0 + weight * (ratio - 1.0), 0.0, xp.inf)
    return xp.where((advantages > 0) & members, advantages * factor, advantages)


def shuffled(potentials: Array, draws: Array, *, valid: Array | None = None) -> Array:
    """A control: each group's potentials dealt out to its valid samples at random.

    The bonus keeps its distribution and loses what it says about the images: what is left of the
    effect of shaping is that of noise in the reward.

    Args:
        potentials: Phi, float [..., P, G]; a sample gets another one's potentials of all steps.
        draws: uniform [P, G]; their order is the permutation.
        valid: bool [P, G]; None means all. Invalid samples keep their own.

    Returns:
        An array like the potentials.
    """
    xp = array_namespace(potentials)
    members = _members(draws, valid)
    G = draws.shape[-1]
    index = xp.broadcast_to(xp.arange(G), draws.shape)
    # The j-th member in the group's order gets the potential of the j-th member by draws; what is
    # not a member comes last in both orders, and so stays where it is.
    givers = xp.argsort(xp.where(members, draws, 1.0 + xp.astype(index, draws.dtype)), axis=-1)
    takers = xp.argsort(xp.where(members, index, G + index), axis=-1)
    giver = xp.take_along_axis(givers, xp.argsort(takers, axis=-1), axis=-1)
    return xp.take_along_axis(potentials, xp.broadcast_to(giver, potentials.shape), axis=-1)


def _nearest(distances: Array, others: Array, k: int) -> Array:
    """Mean of the k smallest distances to others; of all where there are fewer."""
    xp = array_namespace(distances)
    k = min(k, distances.shape[-1])
    ascending = xp.sort(xp.where(others, distances, xp.inf), axis=-1)[..., :k]
    return masked.mean(ascending, ascending < xp.inf)[..., 0]


def _leave_one_out(distances: Array, members: Array) -> Array:
    """Vendi(group) - Vendi(group without i), 0 for a lone sample."""
    xp = array_namespace(distances)
    index = xp.arange(distances.shape[-1])
    without = members[..., None, :] & (index[:, None] != index[None, :])
    whole = diversity.vendi_of_distances(distances, valid=members)
    whole_shape = (*members.shape, *distances.shape[-2:])
    each = xp.broadcast_to(distances[..., None, :, :], whole_shape)
    rest = diversity.vendi_of_distances(each, valid=without)
    return xp.where(rest > 0, whole[..., None] - rest, 0.0)


def _clusters(distances: Array, others: Array, members: Array, radius: float) -> Array:
    """sqrt(n / n_k) by the reachability of the graph of distances <= radius."""
    xp = array_namespace(distances)
    linked = others & (xp.where(others, distances, xp.inf) <= radius)
    index = xp.arange(distances.shape[-1])
    reach = xp.astype(linked | (index[:, None] == index[None, :]), distances.dtype)
    # Squaring doubles the length of the paths; a path visits each of G samples at most once.
    for _ in range(max(distances.shape[-1] - 1, 1).bit_length()):
        reach = xp.astype(xp.matmul(reach, reach) > 0, distances.dtype)
    n_k = xp.sum(xp.where(members[..., None, :], reach, 0.0), axis=-1)
    n = xp.sum(xp.astype(members, distances.dtype), axis=-1, keepdims=True)
    split = members & (n_k < n)
    return xp.where(split, xp.sqrt(n / xp.where(split, n_k, 1.0)), 0.0)


def _scale(phi: Array, r: Array, members: Array, scaling: str) -> tuple[Array, Array]:
    """Unit and offset of the potential: scaled Phi = unit (Phi - offset), each [P, 1] or float."""
    xp = array_namespace(phi)
    if scaling == "raw":
        return 1.0, 0.0
    if scaling == "zscore":
        offset, spread = masked.mean(phi, members), masked.std(phi, members)
    else:
        lowest = xp.min(xp.where(members, phi, xp.inf), axis=-1, keepdims=True)
        highest = xp.max(xp.where(members, phi, -xp.inf), axis=-1, keepdims=True)
        offset = xp.where(lowest <= highest, lowest, 0.0)
        spread = xp.where(lowest <= highest, highest, 0.0) - offset
    return masked.std(r, members) / xp.clip(spread, POTENTIAL_FLOOR, xp.inf), offset


def _gate(r: Array, members: Array, gate: str, base: Array | None) -> Array:
    """The share of its potential that each sample feels: [P, G], in [0, 1]."""
    xp = array_namespace(r)
    spread, above = masked.std(r, members), r - masked.mean(r, members)
    if gate == "above_mean":
        return xp.astype((above > 1e-6 * spread) & (spread > 0), r.dtype)
    if gate == "above_base":
        return xp.astype(r > xp.astype(base, r.dtype)[:, None], r.dtype)
    if gate == "soft":
        z = xp.where(spread > 0, above / xp.where(spread > 0, spread, 1.0), 0.0)
        return 0.5 * (1.0 + xp.tanh(0.5 * z))  # the logistic function, without its overflow
    return xp.ones_like(r)


def _members(like: Array, valid: Array | None) -> Array:
    return array_namespace(like).zeros_like(like) == 0 if valid is None else valid


def _check(
    rewards: Array,
    potentials: Array,
    weight: float,
    gamma: float,
    mode: str,
    scaling: str,
    gate: str,
    steps: int,
    base: Array | None,
) -> None:
    check_choice("shaping mode", mode, Mode)
    check_choice("shaping scaling", scaling, Scaling)
    check_choice("shaping gate", gate, Gate)
    if not weight >= 0:
        raise ValueError(f"weight = {weight} of shaping must be at least 0")
    if steps < 1:
        raise ValueError(f"steps = {steps} of shaping must be at least 1")
    _check_gamma(gamma)
    if rewards.ndim != 2:
        raise ValueError(f"rewards must be [P, G], not of shape {tuple(rewards.shape)}")
    wanted = {
        "terminal": tuple(rewards.shape),
        "per_step": (steps + 1, *rewards.shape),
    }.get(mode)
    if wanted and tuple(potentials.shape) != wanted:
        raise ValueError(f"'{mode}' needs potentials {wanted}, not {tuple(potentials.shape)}")
    if gate == "above_base" and wanted and (base is None or base.shape[0] != rewards.shape[0]):
        raise ValueError(
            f"gate 'above_base' needs base, the base model's reward of {wanted[-2]} prompts"
        )


def _check_gamma(gamma: float) -> None:
    if not 0 < gamma <= 1:
        raise ValueError(f"gamma = {gamma} of shaping is outside (0, 1]")
