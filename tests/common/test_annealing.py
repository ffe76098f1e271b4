"""Schedules at hand-worked points, then what every schedule promises: a falling g in [0, 1]."""

import math
from typing import get_args

import numpy as np
import pytest
from hypothesis import given, strategies as st

from common.algorithm import annealing


@pytest.mark.parametrize(
    ("schedule", "tau", "expected"),
    [
        ("cads", 0.6, 1.0),
        ("cads", 0.75, 0.5),
        ("cads", 0.84, 0.2),
        ("cads", 0.9, 0.0),
        ("linear", 0.3, 0.7),
        ("linear", 1.0, 0.0),
        ("cosine", 0.5, 1.0),
        ("cosine", 0.7, 0.75),  # z = 1/3: cos^2 30 degrees
        ("cosine", 0.75, 0.5),
        ("cosine", 0.8, 0.25),
        ("cosine", 0.95, 0.0),
        ("exponential", 0.6, 1.0),
        ("exponential", 0.75, (math.exp(-1.5) - math.exp(-3)) / (1 - math.exp(-3))),
        ("exponential", 1.0, 0.0),
        ("constant", 0.0, 0.0),
        ("constant", 1.0, 0.0),
        ("none", 0.0, 1.0),
        ("none", 1.0, 1.0),
    ],
)
def test_by_hand(schedule, tau, expected):
    assert annealing.anneal(schedule, tau) == pytest.approx(expected, abs=1e-12)


def test_parameters_are_used():
    assert annealing.anneal("cads", 0.5, tau1=0.4, tau2=0.8) == pytest.approx(0.75)
    gentle = annealing.anneal("exponential", 0.75, rate=1e-9)
    assert gentle == pytest.approx(0.5, abs=1e-8)  # a vanishing rate is the linear ramp
    assert annealing.anneal("exponential", 0.75, rate=50.0) < 1e-6


@given(
    schedule=st.sampled_from(get_args(annealing.Schedule)),
    taus=st.lists(st.floats(0, 1), min_size=2, max_size=2),
    low=st.floats(0, 0.5),
    width=st.floats(0.01, 0.5),
    rate=st.floats(0.01, 20),
)
def test_g_falls_in_time_and_stays_in_the_unit_interval(schedule, taus, low, width, rate):
    early, late = (
        annealing.anneal(schedule, tau, tau1=low, tau2=low + width, rate=rate)
        for tau in sorted(taus)
    )
    assert 0.0 <= late <= early + 1e-15
    assert early <= 1.0


@pytest.mark.parametrize("schedule", ["cads", "cosine", "exponential"])
def test_ends_are_exact(schedule):
    assert annealing.anneal(schedule, 0.6) == 1.0
    assert annealing.anneal(schedule, 0.9) == 0.0


def test_axes():
    sigmas, timesteps = [1.0, 0.9, 0.6, 0.0], [981.0, 654.0, 327.0]
    index = annealing.taus("index", sigmas=sigmas)
    np.testing.assert_allclose(index, [1.0, 2 / 3, 1 / 3], rtol=1e-15)
    assert annealing.taus("sigma", sigmas=np.array(sigmas)) == [1.0, 0.9, 0.6]
    assert annealing.taus("timestep", sigmas=sigmas, timesteps=timesteps) == [0.981, 0.654, 0.327]


def test_the_tuned_share_grows_from_the_base_model_to_the_tuned_one():
    assert annealing.tuned_shares(4, 1.0) == [0.0, 0.25, 0.5, 0.75]
    assert annealing.tuned_shares(4, 2.0) == [0.0, 1 / 16, 1 / 4, 9 / 16]
    assert annealing.tuned_shares(3, 0.0) == [1.0, 1.0, 1.0]
    assert annealing.tuned_shares(3, math.inf) == [0.0, 0.0, 0.0]
    assert annealing.tuned_shares(1, 2.0) == [0.0]


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [("constant", [1.0, 1.0, 1.0]), ("linear", [1.0, 0.75, 0.0]), ("cosine", [1.0, None, 0.0])],
)
def test_training_multiplier(schedule, expected):
    got = [annealing.training_multiplier(schedule, p) for p in (0.0, 0.25, 1.0)]
    # cos^2(pi/8) = (1 + cos(pi/4)) / 2
    want = [(1 + math.sqrt(0.5)) / 2 if value is None else value for value in expected]
    np.testing.assert_allclose(got, want, atol=1e-15)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: annealing.anneal("lineal", 0.5), "lineal.*linear"),
        (lambda: annealing.anneal("linear", 1.1), r"tau = 1.1.*\[0, 1\]"),
        (lambda: annealing.anneal("linear", math.nan), "tau"),
        (lambda: annealing.anneal("cads", 0.5, tau1=0.9, tau2=0.9), "tau1"),
        (lambda: annealing.anneal("exponential", 0.5, rate=0.0), "rate"),
        (lambda: annealing.taus("steps", sigmas=[1.0, 0.0]), "steps.*index"),
        (lambda: annealing.taus("timestep", sigmas=[1.0, 0.0]), "timesteps"),
        (lambda: annealing.taus("timestep", sigmas=[1.0, 0.0], timesteps=[1, 2]), "timesteps"),
        (lambda: annealing.taus("index", sigmas=[1.0]), "sigmas"),
        (lambda: annealing.tuned_shares(0, 1.0), "0 steps"),
        (lambda: annealing.tuned_shares(3, -1.0), "exponent = -1.0"),
        (lambda: annealing.tuned_shares(3, math.nan), "exponent = nan"),
        (lambda: annealing.training_multiplier("cosin", 0.5), "cosin.*cosine"),
        (lambda: annealing.training_multiplier("linear", 1.5), "progress"),
    ],
)
def test_bad_requests(call, message):
    with pytest.raises(ValueError, match=message):
        call()
