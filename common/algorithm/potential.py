"""The potential Phi of a sample: how much it adds to the diversity of its group.

Letters: Phi potential, D distances, P groups of G samples.
"""

from typing import Any, Literal

from array_api_compat import array_namespace

from common.algorithm import diversity, masked
from common.algorithm.choice import check_choice

Array = Any

__all__ = ["Potential", "per_sample", "shuffled"]

Potential = Literal["mean_pairwise", "nearest", "knn", "loo_vendi", "cluster"]
"""The measure of one sample's diversity within its group."""


def per_sample(
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

    Example:
        >>> distances = np.array([[0.0, 0.25, 1.0], [0.25, 0.0, 0.75], [1.0, 0.75, 0.0]])
        >>> per_sample(distances, kind="mean_pairwise").tolist()
        [0.625, 0.5, 0.875]
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


def shuffled(potentials: Array, draws: Array, *, valid: Array | None = None) -> Array:
    """Each group's potentials in a random order over its valid samples: a control.

    The bonus keeps its distribution and loses its relation to the images, so the effect of shaping
    that remains is that of noise in the reward.

    Args:
        potentials: Phi, float [..., P, G]; a sample gets the potentials of another one, all steps.
        draws: uniform [P, G]; their order is the permutation.
        valid: bool [P, G]; None means all. Invalid samples keep their own.

    Returns:
        An array like the potentials.

    Example:
        >>> shuffled(np.array([[1.0, 2.0, 3.0]]), np.array([[0.9, 0.1, 0.5]])).tolist()
        [[2.0, 3.0, 1.0]]
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


def _members(like: Array, valid: Array | None) -> Array:
    return array_namespace(like).zeros_like(like) == 0 if valid is None else valid
