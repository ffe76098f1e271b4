"""Annealed importance guidance: the base model's prediction early, the tuned model's late."""

import math

import numpy as np
import pytest

from common import backends
from common.algorithm import annealing
from common.sampling.ode import sample_images
from common.sampling.process import make_process
from tests.shapes import settings_of

STEPS = 3
GUIDED = ("rollout.guidance=3.0", "adapter.rank=2")


class Subject:
    """A policy with guidance, its weights before tuning, and others, each larger by `moved`."""

    def __init__(self, backend, config, prompts, moved=0.1):
        self.backend, self.prompts = backend, prompts
        self.policy = backend.policy(config.model, config.adapter, seed=0)
        self.process = make_process(self.policy, config.rollout, STEPS)
        parameters = self.policy.parameters()
        self.base = {key: backend.to_numpy(value) for key, value in parameters.items()}
        self.tuned = {key: value + np.float32(moved) for key, value in self.base.items()}

    def draw(self, weights, *, process=None, exponent=None):
        shares = None if exponent is None else annealing.tuned_shares(STEPS, exponent)
        self.policy.load_parameters(weights)
        arguments = (self.policy, self.backend, process or self.process, self.prompts, 1)
        return sample_images(*arguments, seed=3, batch_size=2, tuned_shares=shares)

    def by_hand(self, exponent):
        """AIG with weights that are loaded for each prediction: no reference model."""
        base, tuned, plain = self.base, self.tuned, self.process
        steps = iter(range(STEPS))

        class ByHand(type(plain)):
            def predict(self, policy, x, levels, conditioning):
                share = (next(steps) / STEPS) ** exponent
                policy.load_parameters(base)
                of_base = plain.predict(policy, x, levels, conditioning)
                policy.load_parameters(tuned)
                of_tuned = plain.predict(policy, x, levels, conditioning)
                return (1 - share) * of_base + share * of_tuned

        return self.draw(tuned, process=ByHand(**vars(plain)))


def check(subject):
    plain, base = subject.draw(subject.tuned), subject.draw(subject.base)
    assert subject.draw(subject.tuned, exponent=0.0).tobytes() == plain.tobytes()
    assert subject.draw(subject.tuned, exponent=math.inf).tobytes() == base.tobytes()
    between = subject.draw(subject.tuned, exponent=1.0)
    assert np.abs(between.astype(int) - subject.by_hand(1.0)).max() <= 1
    assert len({each.tobytes() for each in (plain, base, between)}) == 3
    return between.astype(int)


@pytest.mark.parametrize("shape", ["sd15-v", "sd35"])
def test_diffusions_and_flows_mix_what_they_predict_on_both_backends(checkpoint, shape):
    config = settings_of(checkpoint, shape, *GUIDED)
    one, other = (
        check(Subject(backends.load(name), config, ["a red fox", "an owl"]))
        for name in ("cpu", "mlx")
    )
    assert np.abs(one - other).max() <= 1


@pytest.mark.parametrize("kind", ["lora", "full"])
def test_the_emoji_model_with_an_adapter_and_trained_in_full(tiny, backend, kind):
    moved = {"lora": 0.1, "full": 0.01}[kind]
    check(Subject(backend, tiny(f"adapter.kind={kind}", *GUIDED), ["rose", "owl"], moved))
