"""Policy-gradient objectives per transition: PPO's clipped surrogate and the KL to the reference.

Arrays in, arrays out; nothing is reduced over the batch, the caller averages over what it trains.
Log-probs are in nats per element (see `kernels.log_prob`).
"""

from typing import Any, Literal

from array_api_compat import array_namespace

from common.algorithm.choice import check_choice

Array = Any

__all__ = [
    "KLForm",
    "clip_indicator",
    "clipped_surrogate",
    "gaussian_kl",
    "kl_penalty",
    "ratio",
]

KLForm = Literal["transition", "flow_grpo"]
"""The KL to the reference that the loss adds."""


def ratio(log_prob: Array, old_log_prob: Array) -> Array:
    """Importance ratio rho = exp(log p - log p_old): [B].

    With log-probs per element it is the geometric mean of the ratios of the elements.

    Example:
        >>> ratio(np.array([0.0, 0.1]), np.array([0.0, 0.0])).round(4).tolist()
        [1.0, 1.1052]
    """
    return array_namespace(log_prob).exp(log_prob - old_log_prob)


def clipped_surrogate(
    log_prob: Array, old_log_prob: Array, advantages: Array, *, clip_low: float, clip_high: float
) -> Array:
    """PPO's loss, to MINIMISE: max(-A rho, -A clip(rho, 1 - clip_low, 1 + clip_high)).

    Schulman et al. 2017, arXiv:1707.06347, eq. 7, negated; two clip ranges as in DAPO.

    Args:
        log_prob: under the policy that is trained, float [B]; carries the gradient.
        old_log_prob: under the policy that sampled, [B]; a constant.
        advantages: A [B], already clipped and scaled; a constant. Positive: make more likely.
        clip_low: in (0, 1); below 1 - clip_low a negative A no longer pushes.
        clip_high: > 0; above 1 + clip_high a positive A no longer pushes.

    Returns:
        The loss of each transition, [B], not reduced.

    Raises:
        ValueError: a clip range is not above 0.

    Example:
        >>> log_prob, old = np.array([0.1, -0.1]), np.zeros(2)
        >>> loss = clipped_surrogate(log_prob, old, np.ones(2), clip_low=0.05, clip_high=0.05)
        >>> loss.round(4).tolist()
        [-1.05, -0.9048]
    """
    xp = array_namespace(log_prob)
    _check_clip(clip_low, clip_high)
    rho = ratio(log_prob, old_log_prob)
    return xp.maximum(-advantages * rho, -advantages * xp.clip(rho, 1 - clip_low, 1 + clip_high))


def clip_indicator(
    log_prob: Array, old_log_prob: Array, *, clip_low: float, clip_high: float
) -> Array:
    """1 where rho is outside [1 - clip_low, 1 + clip_high], else 0: float [B], like log_prob.

    Its mean is the clip fraction. Arguments and errors as in `clipped_surrogate`.

    Example:
        >>> log_prob, old = np.array([0.1, 0.0]), np.zeros(2)
        >>> clip_indicator(log_prob, old, clip_low=0.05, clip_high=0.05).tolist()
        [1.0, 0.0]
    """
    xp = array_namespace(log_prob)
    _check_clip(clip_low, clip_high)
    rho = ratio(log_prob, old_log_prob)
    outside = (rho < 1 - clip_low) | (rho > 1 + clip_high)
    return xp.astype(outside, log_prob.dtype)


def gaussian_kl(mean: Array, mean_ref: Array, std: Array) -> Array:
    """KL(N(mean, std^2) || N(mean_ref, std^2)) in nats per element: [B].

    mean over all axes but the first of (mean - mean_ref)^2 / (2 std^2).

    Args:
        mean: of the policy that is trained, float [B, ...]; carries the gradient.
        mean_ref: of the reference, like mean; a constant.
        std: of both, [B, 1, ...], > 0 (at 0 the two are different points and the KL is infinite).

    Example:
        >>> gaussian_kl(np.array([[1.0, 3.0]]), np.zeros((1, 2)), np.full((1, 1), 2.0)).tolist()
        [0.625]
    """
    z = (mean - mean_ref) / std
    return array_namespace(mean).mean(0.5 * z * z, axis=tuple(range(1, mean.ndim)))


def kl_penalty(kl: Array, width: Array, *, form: KLForm) -> Array:
    """The KL to the reference as the loss adds it, before its weight beta: [B].

    `transition`  the KL of the two transitions, (mean - mean_ref)^2 / (2 w^2 |ds|) where
                  std = w sqrt(|ds|), as the text of Flow-GRPO has it (arXiv:2505.05470). Summed
                  over the steps it is the KL of the two trajectories.
    `flow_grpo`   |ds| times that, (mean - mean_ref)^2 / (2 w^2): what Flow-GRPO's code computes,
                  which divides by the diffusion w alone (`std_dev_t` in scripts/train_sd3.py of
                  github.com/yifan123/flow_grpo). Its values of beta belong to this form.

    With the 10 steps of SD3.5 (|ds| from 0.04 to 0.27) the same beta weighs 25 to 3.7 times as
    much in the first form.

    Args:
        kl: of the transitions, by `gaussian_kl`, float [B]; carries the gradient.
        width: |ds|, by `kernels.step_width`, [B]; 1 where std has no width in it.
        form: one of the names above.

    Raises:
        ValueError: unknown form.

    Example:
        >>> kl_penalty(np.array([0.5]), np.array([0.25]), form="flow_grpo").tolist()
        [0.125]
    """
    check_choice("form of the KL", form, KLForm)
    return kl if form == "transition" else kl * width


def _check_clip(low: float, high: float) -> None:
    if not (low > 0 and high > 0):
        raise ValueError(f"clip_low = {low} and clip_high = {high} must both be above 0")
