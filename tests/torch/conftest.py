"""Policies over tiny checkpoints of every family."""

import functools

import pytest

from common import backends
from tests.shapes import settings_of


@pytest.fixture(scope="module")
def backend():
    return backends.load("cpu")


@pytest.fixture(scope="module")
def settings(checkpoint):
    """(shape, *changes) -> the configuration of a run with that tiny model."""
    return functools.partial(settings_of, checkpoint)


@pytest.fixture(scope="module")
def policy_of(backend, settings):
    def make(shape, *changes):
        config = settings(shape, *changes)
        return backend.policy(config.model, config.adapter, seed=0)

    return make
