"""Noise on part of a group: which samples have it, and that the others stay clean to the bit."""

import numpy as np
import pytest

from common import backends, config as configuration
from common.clock import Clock
from common.prompts import Prompt
from common.sampling.conditioner import Conditioner
from common.sampling.process import FlowProcess

SIZE = 5


@pytest.mark.parametrize(
    ("share", "noisy"), [(0.0, 0), (0.1, 0), (0.3, 2), (0.5, 2), (0.7, 4), (1.0, 5)]
)
@pytest.mark.parametrize("form", ["additive", "cads"])
def test_the_first_samples_of_each_group_are_perturbed(share, noisy, form):
    backend = backends.load("cpu")
    changes = [f"rollout.group_size={SIZE}", "drift.noise.strength=0.4"]
    changes += [f"drift.noise.share={share}", f"drift.noise.form={form}"]
    config = configuration.load("emoji-grpo", changes)
    policy = backend.policy(config.model, config.adapter, seed=0)
    prompts = [Prompt(3, "owl"), Prompt(9, "fox")]
    process = FlowProcess.from_config(config.rollout)
    conditioner = Conditioner(config, backend, policy, process, prompts, 0, Clock())
    samples = np.arange(2 * SIZE)[::-1].copy()  # not in order
    got = conditioner.conditioning(samples, np.full(2 * SIZE, 1)).tokens
    with backend.inference():
        clean = backend.to_numpy(policy.encode([p.text for p in prompts]).tokens)
    for n, tokens in zip(samples, backend.to_numpy(got), strict=True):
        same = tokens.tobytes() == clean[n // SIZE].tobytes()
        assert same == (n % SIZE >= noisy)
