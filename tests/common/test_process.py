"""A policy's prediction decides its process, and each process is its formulas.

The policies here are two lines of numpy: only what they say about themselves matters.
"""

import dataclasses

import numpy as np
import pytest

from common import config as configuration
from common.algorithm import kernels, schedules
from common.backends import Conditioning, DiffusionSchedule, FlowSchedule
from common.config import ConfigError
from common.sampling.process import DDIMProcess, FlowProcess, Levels, make_process

STABLE_DIFFUSION = schedules.scaled_linear_alpha_bars()


class Says:
    """A policy that says what it predicts and how it was trained."""

    def __init__(self, prediction="epsilon", schedule=None):
        final = float(STABLE_DIFFUSION[0])
        self.prediction = prediction
        self.schedule = schedule or DiffusionSchedule(STABLE_DIFFUSION, 1, final)
        self.calls = []

    def embed_time(self, t):
        return t

    def null(self, count):
        return Conditioning(np.zeros((count, 1, 1)))

    def predict(self, x, time, conditioning, *, constant=False):
        self.calls.append(constant)
        return x * conditioning.tokens[:, :, :1, None]


class Host:
    """numpy as a backend, as far as levels need one."""

    asarray = staticmethod(np.asarray)


def rollout(*changes):
    return configuration.load("emoji-grpo", [*changes]).rollout


def ddim(*changes, policy=None, steps=50):
    settings = rollout("rollout.kernel=ddim", "rollout.noise_level=1.0", *changes)
    return make_process(policy or Says(), settings, steps)


@pytest.mark.parametrize(  # alpha_bar, alpha_bar', sigma, sqrt(ab'), the factor of epsilon
    ("t", "golden"),
    [
        (981, (0.005776, 0.007282, 0.454463, 0.08533, 0.88667)),
        (501, (0.274999, 0.302296, 0.294785, 0.54981, 0.78154)),
        (41, (0.960873, 0.980381, 0.099887, 0.99014, 0.09819)),
        (1, (0.998296, 0.999150, 0.020648, 0.99957, 0.02058)),
    ],
)
def test_ddim_of_stable_diffusion_at_50_steps(t, golden):
    process = ddim()
    assert isinstance(process, DDIMProcess)
    step = process.times.tolist().index(t)
    levels = process.levels(Host(), Says(), np.array([step]))
    assert levels.time.tolist() == [t]
    share, share_next, sigma, root, direction = golden
    assert levels.level[0] == pytest.approx(share, abs=1e-6)
    assert levels.level_next[0] == pytest.approx(share_next, abs=1e-6)
    x, epsilon = np.full((1, 1, 1, 1), np.sqrt(share)), np.zeros((1, 1, 1, 1))
    mean, std = process.transition(x, epsilon, levels)  # x0 = 1
    assert std.item() == pytest.approx(sigma, abs=1e-5)
    assert mean.item() == pytest.approx(root, abs=1e-4)
    mean, _ = process.transition(0 * x, epsilon + 1, levels)
    back = np.sqrt((1 - share) / share)  # what of epsilon x0 takes away
    assert mean.item() == pytest.approx(direction - root * back, abs=2e-4 * max(1, back))
    assert process.noise_shares[step] == pytest.approx(np.sqrt(1 - share), abs=1e-6)


def test_v_is_the_same_process_in_other_words():
    plain, other = ddim(), ddim(policy=Says("v_prediction"))
    rng = np.random.default_rng(0)
    x, v = rng.normal(size=(2, 3, 1, 2, 2))
    levels = plain.levels(Host(), Says(), np.array([0, 20, 49]))
    epsilon = kernels.epsilon_from_v(x, v, levels.level)
    for one, two in zip(
        plain.transition(x, epsilon, levels), other.transition(x, v, levels), strict=True
    ):
        np.testing.assert_allclose(one, two, rtol=1e-9)
    np.testing.assert_allclose(plain.ode(x, epsilon, levels), other.ode(x, v, levels), rtol=1e-9)
    np.testing.assert_allclose(
        plain.clean(x, epsilon, levels), other.clean(x, v, levels), rtol=1e-6, atol=1e-9
    )
    still = dataclasses.replace(plain, noise_level=0.0)
    np.testing.assert_array_equal(
        still.transition(x, epsilon, levels).mean, plain.ode(x, epsilon, levels)
    )


def test_model_stands_for_the_models_own_schedule():
    policy = Says("velocity", FlowSchedule("double_shift", 3.0))
    own = make_process(policy, rollout("rollout.schedule=model"), 10)
    assert isinstance(own, FlowProcess)
    np.testing.assert_array_equal(
        own.sigmas, schedules.flow_sigmas(10, schedule="double_shift", shift=3.0)
    )
    even = make_process(policy, rollout(), 10)
    np.testing.assert_array_equal(even.sigmas, np.linspace(1, 0, 11))
    np.testing.assert_array_equal(even.timesteps, 1000 * even.times)


@pytest.mark.parametrize(
    ("policy", "changes", "message"),
    [
        (Says(), (), "'flow_sde' does not go with a model that predicts epsilon; valid: ddim"),
        (Says("v_prediction"), ("rollout.kernel=cps",), "predicts v; valid: ddim"),
        (
            Says("velocity", FlowSchedule()),
            ("rollout.kernel=ddim",),
            "'ddim' does not go with a model that predicts velocity; valid: flow_sde, cps, dance",
        ),
        (
            Says("epsilon", DiffusionSchedule(STABLE_DIFFUSION, 1, 1.0)),
            ("rollout.kernel=ddim", "rollout.train_last_step=true"),
            "last step of this model has no noise",
        ),
    ],
)
def test_what_does_not_go_together_is_one_line(policy, changes, message):
    with pytest.raises(ConfigError, match=message):
        make_process(policy, rollout(*changes))


def test_joined_branches_share_one_forward_pass_and_give_the_same_prediction():
    class Counting(Says):
        def predict(self, x, time, conditioning, *, constant=False):
            self.seen = x.shape, time.shape, conditioning.tokens.shape, conditioning.pooled.shape
            self.calls.append(constant)
            return x * conditioning.tokens[:, :, :1] + conditioning.pooled[:, 0][:, None, None]

        def null(self, count):
            return Conditioning(np.full((count, 1, 1), -0.5), np.full((count, 2), 0.25))

    x, time = np.arange(2.0).reshape(2, 1, 1) + 1, np.zeros(2)
    conditioning = Conditioning(np.full((2, 1, 1), 0.5), np.full((2, 2), 1.0))
    outputs = []
    for way, calls in (("split", 2), ("joined", 1)):
        policy = Counting()
        process = ddim("rollout.guidance=4.0", f"rollout.guidance_batch={way}")
        outputs.append(process.predict(policy, x, Levels(time, time, time), conditioning))
        assert policy.calls == [False] * calls
    assert policy.seen == ((4, 1, 1), (4,), (4, 1, 1), (4, 2))
    np.testing.assert_array_equal(*outputs)
    alone = ddim("rollout.guidance=1.0", "rollout.guidance_batch=joined")
    policy = Counting()
    alone.predict(policy, x, Levels(time, time, time), conditioning)
    assert policy.seen[0] == x.shape
    with pytest.raises(ConfigError, match="guidance_batch = 'joined' goes back through both"):
        rollout("rollout.guidance_batch=joined", "rollout.guidance_gradient=conditional")


@pytest.mark.parametrize(("way", "constant"), [("both", False), ("conditional", True)])
def test_guidance_and_which_branch_is_a_constant(way, constant):
    policy = Says()
    process = ddim("rollout.guidance=4.0", f"rollout.guidance_gradient={way}")
    x, time = np.ones((2, 1, 1, 1)), np.zeros(2)
    conditioning = Conditioning(np.full((2, 1, 1), 0.5))
    got = process.predict(policy, x, Levels(time, time, time), conditioning)
    np.testing.assert_allclose(got, 2.0)  # 0 + 4 (0.5 - 0)
    assert policy.calls == [False, constant]
    dataclasses.replace(process, guidance=1.0).predict(
        policy, x, Levels(time, time, time), conditioning
    )
    assert len(policy.calls) == 3
