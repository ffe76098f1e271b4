"""The whole objective has the same value and gradient on both libraries, and the right ones.

One common function, from the prediction through kernel, log-prob, clipped surrogate and KL to the
loss, differentiated by torch and by MLX; torch in float64 and finite differences are the reference.
"""

from typing import Any, NamedTuple, get_args

import numpy as np
import pytest

from common.algorithm import kernels, objective, schedules

torch = pytest.importorskip("torch")
mx = pytest.importorskip("mlx.core")

SIGMAS = schedules.flow_sigmas(10, schedule="double_shift")
ALPHA_BARS = schedules.ddim_alpha_bars(50)
FLOW_STEPS, DDIM_STEPS = np.array([0, 2, 5, 7, 8, 1]), np.array([0, 10, 25, 40, 48, 30])
ADVANTAGES = np.array([1.2, -0.7, 0.4, -1.5, 2.0, -0.9])
CLIP = {"clip_low": 4e-4, "clip_high": 5e-4}
KL_WEIGHT = 0.04
KERNELS = [*kernels.FLOW_KERNELS, "ddim"]


class Batch(NamedTuple):
    """What an update has in hand besides the prediction, six transitions of 4 x 3 x 3 elements."""

    x: Any
    reference: Any
    following: Any
    old_log_prob: Any
    advantages: Any
    level: Any
    level_next: Any


def transition(name, x, prediction, level, level_next):
    arguments = {"eta": 0.7}
    if name != "ddim":
        arguments["sigma_max"] = float(SIGMAS[1])
    return getattr(kernels, name)(x, prediction, level, level_next, **arguments)


def loss(name, prediction, batch):
    """Mean over the transitions of surrogate + beta KL, in both forms: what updates minimise."""
    step = transition(name, batch.x, prediction, batch.level, batch.level_next)
    reference = transition(name, batch.x, batch.reference, batch.level, batch.level_next)
    log_prob = kernels.LOG_PROBS[name](batch.following, step.mean, step.std)
    surrogate = objective.clipped_surrogate(log_prob, batch.old_log_prob, batch.advantages, **CLIP)
    kl = objective.gaussian_kl(step.mean, reference.mean, step.std)
    width = kernels.step_width(name, batch.level, batch.level_next)
    penalty = sum(objective.kl_penalty(kl, width, form=form) for form in get_args(objective.KLForm))
    return (surrogate + KL_WEIGHT * penalty).mean()


def problem(name, *, moved=0.02):
    """A prediction and its batch in float64; `moved`: distance from the sampling policy."""
    rng = np.random.default_rng(11)
    x, old, reference, noise, change = rng.standard_normal((5, 6, 4, 3, 3))
    levels, steps = (ALPHA_BARS, DDIM_STEPS) if name == "ddim" else (SIGMAS, FLOW_STEPS)
    level, level_next = levels[steps], levels[steps + 1]
    reference = old + 0.1 * reference
    step = transition(name, x, old, level, level_next)
    following = kernels.sample(step, noise)
    old_log_prob = kernels.LOG_PROBS[name](following, step.mean, step.std)
    batch = Batch(x, reference, following, old_log_prob, ADVANTAGES, level, level_next)
    return old + moved * change, batch


def by_torch(name, prediction, batch, dtype):
    leaf = torch.asarray(prediction, dtype=dtype).requires_grad_()
    value = loss(name, leaf, Batch(*(torch.asarray(part, dtype=dtype) for part in batch)))
    value.backward()
    return value.item(), leaf.grad.numpy()


def by_mlx(name, prediction, batch, *, compiled=False):
    def function(prediction, *parts):
        return loss(name, prediction, Batch(*parts))

    parts = [mx.array(part.astype(np.float32)) for part in (prediction, *batch)]
    differentiate = mx.value_and_grad(function)
    value, gradient = (mx.compile(differentiate) if compiled else differentiate)(*parts)
    return value.item(), np.array(gradient)


@pytest.mark.parametrize("name", KERNELS)
def test_torch_and_mlx_have_the_same_gradient(name):
    prediction, batch = problem(name)
    value, gradient = by_torch(name, prediction, batch, torch.float32)
    other, other_gradient = by_mlx(name, prediction, batch)
    assert other == pytest.approx(value, abs=1e-6)
    np.testing.assert_allclose(other_gradient, gradient, rtol=0, atol=1e-6)
    assert np.abs(gradient).max() > 1e-3  # far above the tolerance


def test_compiling_changes_neither_value_nor_gradient():
    """One kernel: on a CPU, MLX compiles by calling a C++ compiler, which takes seconds."""
    prediction, batch = problem("dance_sde")
    value, gradient = by_mlx("dance_sde", prediction, batch)
    other, other_gradient = by_mlx("dance_sde", prediction, batch, compiled=True)
    assert other == pytest.approx(value, abs=1e-6)
    np.testing.assert_allclose(other_gradient, gradient, rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", KERNELS)
def test_float32_is_close_to_float64(name):
    prediction, batch = problem(name)
    value, gradient = by_torch(name, prediction, batch, torch.float64)
    for other, other_gradient in (
        by_torch(name, prediction, batch, torch.float32),
        by_mlx(name, prediction, batch),
    ):
        assert other == pytest.approx(value, abs=2e-6)
        np.testing.assert_allclose(
            other_gradient, gradient, rtol=0, atol=1e-5 * np.abs(gradient).max()
        )


@pytest.mark.parametrize("name", KERNELS)
def test_the_gradient_is_that_of_finite_differences(name):
    """In float64, along random directions; some transitions are clipped, some are not."""
    prediction, batch = problem(name)
    step = transition(name, batch.x, prediction, batch.level, batch.level_next)
    log_prob = kernels.LOG_PROBS[name](batch.following, step.mean, step.std)
    is_clipped = objective.clip_indicator(log_prob, batch.old_log_prob, **CLIP)
    assert 0 < is_clipped.mean() < 1
    _, gradient = by_torch(name, prediction, batch, torch.float64)
    for direction in np.random.default_rng(3).standard_normal((3, *prediction.shape)):
        h = 1e-6
        ahead = float(loss(name, prediction + h * direction, batch))
        behind = float(loss(name, prediction - h * direction, batch))
        difference = (ahead - behind) / (2 * h)
        assert (gradient * direction).sum() == pytest.approx(difference, rel=1e-5, abs=1e-8)


@pytest.mark.parametrize("name", KERNELS)
def test_the_first_gradient_is_the_policy_gradient(name):
    """At the sampling policy, without KL: the gradient of the mean of -A log p."""
    prediction, batch = problem(name, moved=0.0)
    batch = batch._replace(reference=prediction)
    _, gradient = by_torch(name, prediction, batch, torch.float64)
    leaf = torch.asarray(prediction).requires_grad_()
    tensors = Batch(*map(torch.asarray, batch))
    step = transition(name, tensors.x, leaf, tensors.level, tensors.level_next)
    log_prob = kernels.LOG_PROBS[name](tensors.following, step.mean, step.std)
    (-tensors.advantages * log_prob).mean().backward()
    assert leaf.grad is not None
    np.testing.assert_allclose(gradient, leaf.grad.numpy(), rtol=1e-10, atol=1e-12)


CORNERS = [  # rho, A, d loss / d log p, with the clip range [.8, 1.3]
    (2.0, 1.0, 0.0),
    (0.5, 1.0, -0.5),
    (2.0, -1.0, 2.0),
    (0.5, -1.0, 0.0),
]


@pytest.mark.parametrize("library", ["torch", "mlx"])
def test_gradient_at_the_four_corners_of_the_clip(library):
    rho, advantage, slope = np.array(CORNERS, dtype=np.float32).T
    log_prob, clip = np.log(rho), {"clip_low": 0.2, "clip_high": 0.3}
    if library == "torch":
        leaf = torch.asarray(log_prob).requires_grad_()
        zero, advantages = torch.zeros(4), torch.asarray(advantage)
        objective.clipped_surrogate(leaf, zero, advantages, **clip).sum().backward()
        assert leaf.grad is not None
        got = leaf.grad.numpy()
    else:
        zero, advantages = mx.zeros(4), mx.array(advantage)

        def total(log_prob):
            return objective.clipped_surrogate(log_prob, zero, advantages, **clip).sum()

        got = np.array(mx.grad(total)(mx.array(log_prob)))
    np.testing.assert_allclose(got, slope, rtol=1e-6)
