"""The loss of an update in every form that runs use, its gradient, and the average of weights."""

from collections.abc import Iterator
from functools import partial

import numpy as np

from common.backends import Array, Parameters
from common.config import AdapterConfig, ModelConfig
from common.learning.moving_average import MovingAverage
from common.learning.update import surrogate_loss
from common.parity.backend_under_test import (
    ADAPTER_SCALE,
    SEED,
    STEPS,
    BackendUnderTest,
    draw,
    settings,
)
from common.parity.measure import SINGLE, Measured
from common.sampling.process import FlowProcess

LOG_RATIOS = np.array([-4e-3, 2e-4, -3e-4, 5e-3])
"""log p - log p_old of the B transitions: far enough from the clip range of +-1e-3 that rounding
cannot carry one over its edge. With ADVANTAGES the first and the last are clipped."""

ADVANTAGES = np.array([-0.5, 1.5, 1.0, 2.0])

KL = "objective.kl_weight=0.1"
SCALE = 2.0
GUIDANCE = f"rollout.guidance={SCALE}"

OBJECTIVE = {
    "objective": (KL,),
    "objective with the KL of Flow-GRPO": (KL, "objective.kl_form=flow_grpo"),
}
GUIDANCES = {
    "guidance, both branches": (KL, GUIDANCE, "rollout.guidance_gradient=both"),
    "guidance, joined branches": (KL, GUIDANCE, "rollout.guidance_batch=joined"),
    "guidance, null branch constant": (KL, GUIDANCE, "rollout.guidance_gradient=conditional"),
}
KERNELS = {
    "objective of cps": ("rollout.kernel=cps",),  # its last step has no std, so no KL
    "objective of dance_sde": (KL, "rollout.kernel=dance_sde"),
}
LOSSES = OBJECTIVE | GUIDANCES | KERNELS
"""Settings of the losses that are compared, by the name of their stages."""

GUIDED = (2 * SCALE - 1) * SINGLE
"""Guidance g v - (g - 1) v_null weighs the errors of its branches by g and by g - 1."""

measured = partial(Measured, tolerance=SINGLE)


def losses(subject: BackendUnderTest, table: dict[str, tuple[str, ...]]) -> Iterator[Measured]:
    """`update.surrogate_loss` of each of a table: value, ratio, KL to the base model, gradient."""
    for name, changes in table.items():
        value, parts, gradients = _differentiated(subject, changes, [slice(None)])
        tolerance = GUIDED if GUIDANCE in changes else SINGLE
        yield measured(f"{name} loss", subject.to_host({"loss": value}))
        yield measured(f"{name} ratio", subject.to_host({"ratio": parts["ratio"]}))
        if "kl" in parts:
            yield measured(f"{name} KL", subject.to_host({"kl": parts["kl"]}))
        yield Measured(f"{name} gradients", subject.to_host(gradients), tolerance)


def accumulated(subject: BackendUnderTest) -> Iterator[Measured]:
    """The gradient of two micro-batches, the second one added to the first one's."""
    halves = [slice(0, 2), slice(2, 4)]
    _, _, gradients = _differentiated(subject, LOSSES["objective"], halves)
    yield measured("accumulated gradients", subject.to_host(gradients))


def moving_average(subject: BackendUnderTest) -> Iterator[Measured]:
    """The average of drawn weights over four optimizer steps, and the velocity that it gives."""
    policy = subject.backend.policy(ModelConfig(), AdapterConfig(), seed=SEED)
    average = MovingAverage(subject.backend, policy, decay=0.9, every=2)
    shapes = {name: value.shape for name, value in policy.parameters().items()}
    for step in range(4):
        drawn = {name: draw(f"average {step} {name}", shape) for name, shape in shapes.items()}
        policy.load_parameters({name: ADAPTER_SCALE * value for name, value in drawn.items()})
        average.step(policy)
    yield measured("moving average", average.values)
    with average.applied(policy):
        yield measured("velocity, averaged weights", {"velocity": subject.velocity(policy)})


def _differentiated(
    subject: BackendUnderTest, changes: tuple[str, ...], parts: list[slice]
) -> tuple[Array, dict[str, Array], Parameters]:
    """Loss, auxiliary arrays and gradients of the last part, gradients summed over all parts."""
    config, policy, asarray = settings(*changes), subject.adapted, subject.backend.asarray
    process, levels = FlowProcess.from_config(config.rollout), subject.levels(policy)
    x, (sample, log_prob) = asarray(subject.latents), subject.sampled(process)
    with policy.reference():
        velocity = asarray(subject.velocity(policy, process))
    batch = {
        "x": x,
        "x_next": asarray(sample),
        "log_prob": asarray(log_prob - LOG_RATIOS),
        "advantage": asarray(ADVANTAGES),
        "weight": asarray(np.full(len(STEPS), 1.0 / len(STEPS))),
        "tokens": subject.conditioning(policy).tokens,
        "reference_mean": process.transition(x, velocity, levels).mean,
        **levels._asdict(),
    }
    differentiate = subject.backend.value_and_grad(policy, surrogate_loss(policy, process, config))
    first, *others = ({name: array[part] for name, array in batch.items()} for part in parts)
    value, auxiliary, total = differentiate(first)
    for other in others:
        subject.backend.evaluate(*total.values())
        value, auxiliary, total = differentiate(other, onto=total)
    return value, auxiliary, total
