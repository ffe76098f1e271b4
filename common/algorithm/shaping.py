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

from common.algorithm import masked
from common.algorithm.choice import check_choice

Array = Any

__all__ = [
    "Gate",
    "Mode",
    "Scaling",
    "shape",
]

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
    `multiplicative`  r' is r itself; the potential weighs advantages, without gamma, scaling and
                      gate: see `advantage.weighted_by_potential`
    `none`            r' is r itself

    Scaling, by the reference samples of a group; mean, std, min and max of the final images' Phi
    serve every step, so that one trajectory has one unit and its F still telescope:

    `zscore`  std(r) (Phi - mean) / max(std, 0.005): lambda counts standard deviations of r
    `minmax`  std(r) (Phi - min) / max(max - min, 0.005), likewise
    `raw`     Phi: lambda is absolute

    Gates choose the samples that gain from diversity; mean and std are those of the reference:

    `none`        all of them
    `above_mean`  r above the mean
    `above_base`  r above the reward of the base model, on the same scale
    `soft`        logistic((r - mean) / std(r)): 1/2 at the mean, 0.73 one std above it

    The reference is the whole group, or the subset that is trained on: advantages are divided by
    the std of that subset, so only there does lambda = 1 make the potential as large as the reward
    whatever the selection. With the whole group's std a narrow subset raises the potential's part:
    lambda counts std(group) / std(subset) times as much.

    Args:
        rewards: r, float [P, G].
        potentials: Phi [P, G]; for `per_step` [T+1, P, G] from the predicted clean images before
            each step, the final images last. `none`, `strict` and `multiplicative` ignore them.
        weight: lambda >= 0; at 0 the rewards come back bit for bit.
        gamma: discount in (0, 1].
        mode: one of the names above.
        scaling: one of the names above.
        gate: one of the names above.
        steps: T.
        valid: bool [P, G]; None means all. Samples that are invalid or have no finite reward
            keep their r and influence no others.
        base: reward of the base model, float [P], for `above_base`; a run takes the mean of its
            first evaluation, with images along the ODE where those of a rollout are stochastic.
        reference: bool [P, G], the samples that scaling and gates take their statistics from; None
            means all valid ones.

    Returns:
        float [P, G]; [T, P, G] for `per_step`.

    Raises:
        ValueError: an unknown name, a number outside its range, misshapen potentials, no base.

    Example:
        >>> rewards, potentials = np.array([[1.0, 2.0]]), np.array([[0.5, 0.25]])
        >>> how = {"mode": "terminal", "scaling": "raw", "gate": "none", "steps": 10}
        >>> shape(rewards, potentials, weight=2.0, **how).tolist()
        [[2.0, 2.5]]
    """
    _check(rewards, potentials, weight, gamma, mode, scaling, gate, steps, base)
    xp = array_namespace(rewards)
    if mode not in ("terminal", "per_step"):
        return rewards
    if weight == 0:
        whole = (steps, *rewards.shape)
        return xp.broadcast_to(rewards, whole) if mode == "per_step" else rewards
    members = masked.usable(rewards, valid)
    r = xp.where(members, rewards, 0.0)
    final = potentials if mode == "terminal" else potentials[-1, ...]
    counted = members if reference is None else members & reference
    task, diversity = masked.statistics(r, counted), masked.statistics(final, counted)
    unit, offset = _scale(task, diversity, scaling)
    opened = _gate(r, task, gate, base)

    def psi(phi: Array) -> Array:
        return opened * unit * (xp.where(members, phi, 0.0) - offset)

    if mode == "terminal":
        return xp.where(members, r + weight * gamma**steps * psi(final), rewards)
    to_go = [
        r + weight * (gamma ** (steps - k) * psi(final) - psi(potentials[k, ...]))
        for k in range(steps)
    ]
    return xp.where(members, xp.stack(to_go), rewards)


def _scale(
    task: masked.Statistics, diversity: masked.Statistics, scaling: Scaling
) -> tuple[Array, Array]:
    """Unit and offset of the potential: scaled Phi = unit (Phi - offset), each [P, 1] or float."""
    xp = array_namespace(task.std)
    match scaling:
        case "raw":
            return 1.0, 0.0
        case "zscore":
            offset, spread = diversity.mean, diversity.std
        case "minmax":
            offset, spread = diversity.lowest, diversity.highest - diversity.lowest
    return task.std / xp.clip(spread, POTENTIAL_FLOOR, xp.inf), offset


def _gate(r: Array, task: masked.Statistics, gate: Gate, base: Array | None) -> Array:
    """The share of its potential that each sample gets: [P, G], in [0, 1]."""
    xp = array_namespace(r)
    spread, above = task.std, r - task.mean
    match gate:
        case "above_mean":
            return xp.astype((above > 1e-6 * spread) & (spread > 0), r.dtype)
        case "above_base":
            return xp.astype(r > xp.astype(base, r.dtype)[:, None], r.dtype)
        case "soft":
            z = xp.where(spread > 0, above / xp.where(spread > 0, spread, 1.0), 0.0)
            return 0.5 * (1.0 + xp.tanh(0.5 * z))  # the logistic function, without its overflow
        case "none":
            return xp.ones_like(r)


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
