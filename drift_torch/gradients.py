"""Gradients of a loss, whose numbers in float16 need a scale."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

__all__ = ["gradients_of"]

EXPONENTS = (16, 12, 8, 4, 0)
"""Powers of two that a loss in float16 is multiplied by, in the order in which they are tried."""


def gradients_of(
    value: Tensor,
    parameters: Sequence[nn.Parameter],
    *,
    half: bool,
    more: Callable[[bool], bool] = bool,
) -> list[Tensor]:
    """Gradients of a scalar, in the parameters' own type; zeros for those that it does not use.

    Args:
        value: the loss.
        parameters: those that are trained.
        half: some of the way is in float16, where what is below 6e-8 vanishes. The loss is then
            multiplied by the largest power of two whose gradients are finite, searched for at every
            call: a scale that is kept (as by GradScaler) would have to be part of every checkpoint.
        more: whether another backward pass is made, from whether this process needs one. Where all
            processes make the same passes, one that has its gradients goes on for the others.
    """
    kept: list[Tensor] | None = None
    for exponent in EXPONENTS if half else (0,):
        gradients: Sequence[Tensor] = torch.autograd.grad(
            value * 2.0**exponent if half else value,
            parameters,
            retain_graph=exponent > 0,
            allow_unused=True,
            materialize_grads=True,
        )
        if exponent:
            gradients = [gradient / 2.0**exponent for gradient in gradients]
        finite = exponent == 0 or all(bool(torch.isfinite(each).all()) for each in gradients)
        if kept is None and finite:
            kept = list(gradients)
        if exponent and not more(kept is None):
            break
    assert kept is not None  # without a scale any gradients are taken
    return kept
