"""What is lazy is computed in time: memory grows neither with steps nor with micro-batches."""

import numpy as np
import pytest

pytest.importorskip("drift_mlx.backend", exc_type=ImportError)


from common import backends, config as configuration
from common.clock import Clock
from common.learning.credit import Credit
from common.learning.update import Learner
from common.prompts import Prompt
from common.sampling.conditioner import Conditioner
from common.sampling.process import make_process
from common.sampling.rollout import Sampler, plan_steps
from tests.mlx.peaks import peak_of


def make(*changes):
    own = (
        "rollout.prompts=1",
        "rollout.group_size=2",
        "rollout.window=0",
        "drift.noise.strength=0.1",
    )
    config = configuration.load("emoji-grpo", [*own, *changes])
    backend = backends.load("mlx")
    policy = backend.policy(config.model, config.adapter, seed=0)
    process = make_process(policy, config.rollout)
    conditioner = Conditioner(config, backend, policy, process, [Prompt(0, "owl")], 0, Clock())
    plan = plan_steps(config.rollout, seed=0, update=0)

    def roll_out():
        sampler = Sampler(policy, backend, process, conditioner, plan, Clock())
        prompts = [Prompt(0, "owl")]
        return sampler.sample(prompts, config.rollout, seed=0, update=0, keep_predicted=False)

    learner = Learner(
        config, backend, policy, process, backend.optimizer(policy, config.optimizer), None
    )

    def update(trajectories):
        count = len(trajectories.images)
        credit = Credit(np.ones((1, count), dtype=bool), np.linspace(-1, 1, count)[None], {})
        learner.update(trajectories, credit, plan.trained, conditioner, 0)

    return roll_out, update


def test_a_longer_rollout_takes_no_more_memory():
    peaks = {}
    for steps in (10, 20):
        changes = "rollout.guidance=2.0", "rollout.trained_steps=2"
        roll_out, _ = make(f"rollout.steps={steps}", *changes)
        roll_out()  # weights and prompts are there from now on
        peaks[steps], trajectories = peak_of(roll_out)
        assert trajectories.latents.shape[1] == 2
    assert peaks[20] == pytest.approx(peaks[10], rel=0.005)  # left lazy: 2 % more
    assert peaks[10] > 1e5


def test_more_micro_batches_take_no_more_memory():
    peaks = {}
    for steps in (3, 9):  # 2 and 8 micro-batches of 2 pairs
        roll_out, update = make(f"rollout.steps={steps}", "objective.micro_batch=2")
        trajectories = roll_out()
        update(trajectories)
        peaks[steps], _ = peak_of(lambda: update(trajectories))  # noqa: B023
    assert peaks[9] == pytest.approx(peaks[3], rel=0.1)
