"""Which steps are stochastic, which are trained, and how the moving average moves."""

import numpy as np
import pytest

from common import config as configuration
from common.learning.moving_average import MovingAverage
from common.sampling.rollout import plan_steps


def rollout(*changes):
    return configuration.load("emoji-grpo", ["rollout.steps=10", *changes]).rollout


def test_without_a_window_every_step_but_the_last_is_trained():
    plan = plan_steps(rollout("rollout.window=0", "rollout.trained_steps=0"), seed=0, update=0)
    assert plan.stochastic.all()
    np.testing.assert_array_equal(plan.trained, np.arange(9))
    last = rollout("rollout.window=0", "rollout.trained_steps=0", "rollout.train_last_step=true")
    assert plan_steps(last, seed=0, update=0).trained[-1] == 9


def test_windows_stay_in_their_range_and_reach_all_of_it():
    config = rollout(
        "rollout.window=3", "rollout.window_range=[0.2, 0.8]", "rollout.trained_steps=0"
    )
    starts = set()
    for update in range(60):
        plan = plan_steps(config, seed=1, update=update)
        np.testing.assert_array_equal(np.flatnonzero(plan.stochastic), plan.trained)
        assert len(plan.trained) == 3
        assert (np.diff(plan.trained) == 1).all()
        starts.add(int(plan.trained[0]))
    assert starts == {2, 3, 4, 5}  # steps 2 to 7, three at a time


@pytest.mark.parametrize(("last", "starts"), [("false", {6, 7}), ("true", {6, 7, 8})])
def test_a_late_window_holds_only_steps_that_can_be_trained(last, starts):
    config = rollout(
        "rollout.window=2", "rollout.window_range=[0.6, 1.0]", f"rollout.train_last_step={last}"
    )
    plans = [plan_steps(config, seed=0, update=update) for update in range(40)]
    assert {int(plan.trained[0]) for plan in plans} == starts
    assert all(len(plan.trained) == plan.stochastic.sum() == 2 for plan in plans)


def test_trained_steps_are_drawn_again_and_repeatably():
    config = rollout("rollout.window=0", "rollout.trained_steps=4")
    plans = [plan_steps(config, seed=0, update=update).trained for update in range(40)]
    assert all(len(set(plan)) == 4 for plan in plans)
    assert {step for plan in plans for step in plan} == set(range(9))
    again = plan_steps(config, seed=0, update=7).trained
    np.testing.assert_array_equal(again, plans[7])
    assert any((plan_steps(config, seed=1, update=u).trained != plans[u]).any() for u in range(5))


class OneNumber:
    """A policy with one parameter, and a backend that has nothing to convert."""

    def __init__(self):
        self.value = np.array([0.0], dtype=np.float32)

    def parameters(self):
        return {"w": self.value}

    def load_parameters(self, values):
        self.value = np.array(values["w"])

    @staticmethod
    def to_numpy(array):
        return array


def test_the_average_warms_up_and_then_follows_its_decay():
    policy = OneNumber()
    average = MovingAverage(policy, policy, decay=0.5, every=2)
    policy.value = np.array([1.0], dtype=np.float32)
    average.step(policy)
    assert average.values["w"] == 0.0  # not due yet
    average.step(policy)
    decay = 3 / 12  # (1 + s) / (10 + s) after two steps, still below 0.5
    assert average.values["w"] == pytest.approx(1 - decay)
    for _ in range(16):
        average.step(policy)
    before = average.values["w"].copy()
    average.step(policy)
    average.step(policy)
    assert average.values["w"] == pytest.approx(0.5 * before + 0.5)
    with average.applied(policy):
        np.testing.assert_array_equal(policy.value, average.values["w"])
    assert policy.value == 1.0
