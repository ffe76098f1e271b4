"""Policies over tiny checkpoints of every family."""

import pytest

from common import backends, config as configuration
from tests.torch.shapes import SHAPES


@pytest.fixture(scope="module")
def backend():
    return backends.load("cpu")


@pytest.fixture(scope="module")
def settings(checkpoint):
    """(shape, *changes) -> the configuration of a run with that tiny model."""

    def load(shape, *changes):
        family, options = SHAPES[shape]
        own = [f"model.family={family}", f"model.path={checkpoint(family, **options)}"]
        own += {
            "sd15": ["rollout.kernel=ddim"],
            "sd3": ["rollout.schedule=model", "model.max_tokens=20"],
            "flux": ["rollout.schedule=model", "model.max_tokens=20", "model.resolution=32"],
        }[family]
        if shape == "sd3-no-t5":
            own.append("model.text_encoder_3=false")
        return configuration.load("emoji-grpo", [*own, *changes])

    return load


@pytest.fixture(scope="module")
def policy_of(backend, settings):
    def make(shape, *changes):
        config = settings(shape, *changes)
        return backend.policy(config.model, config.adapter, seed=0)

    return make
