"""The loss of an update: which KL it adds, and which samples it is a mean over."""

from typing import cast

import numpy as np
import pytest

from common import config as configuration
from common.algorithm import objective
from common.backends import Conditioning, Policy
from common.learning.update import surrogate_loss
from common.sampling.process import FlowProcess

STEPS = np.array([0, 4, 8])


class Half:
    """A policy that predicts half of the latents, in numpy."""

    def predict(self, x, time, conditioning, *, constant=False):
        assert isinstance(conditioning, Conditioning)
        return 0.5 * x


def loss_and_parts(*changes):
    """The loss of three pairs, in numpy float64: its value, its parts, and the widths."""
    own = ("rollout.schedule=double_shift", "objective.kl_weight=0.1")
    config = configuration.load("emoji-grpo", [*own, *changes])
    process = FlowProcess.from_config(config.rollout)
    rng = np.random.default_rng(2)
    x, x_next, reference = rng.standard_normal((3, len(STEPS), 3, 4, 4))
    batch = {
        "x": x,
        "x_next": x_next,
        "time": None,
        "level": process.sigmas[STEPS],
        "level_next": process.sigmas[STEPS + 1],
        "tokens": None,
        "log_prob": np.zeros(3),
        "advantage": np.zeros(3),  # leaves the KL alone
        "weight": np.full(3, 1 / 3),
        "reference_mean": reference,
    }
    policy = cast(Policy, Half())
    value, parts = surrogate_loss(policy, process, config)(batch)
    return float(value), parts, process.sigmas[STEPS] - process.sigmas[STEPS + 1]


@pytest.mark.parametrize("kernel", ["flow_sde", "dance_sde", "cps"])
@pytest.mark.parametrize("form", ["transition", "flow_grpo"])
def test_the_loss_adds_the_form_of_kl_that_the_settings_name(kernel, form):
    changes = (f"rollout.kernel={kernel}", f"objective.kl_form={form}")
    value, parts, width = loss_and_parts(*changes)
    kl = objective.gaussian_kl(parts["mean"], batch_reference(), parts["std"])
    np.testing.assert_allclose(parts["kl"], kl, rtol=1e-12)  # what is logged, in either form
    factor = width if form == "flow_grpo" and kernel != "cps" else 1.0
    assert value == pytest.approx(0.1 * (factor * kl).mean(), rel=1e-12)


def batch_reference():
    return np.random.default_rng(2).standard_normal((3, len(STEPS), 3, 4, 4))[2]
