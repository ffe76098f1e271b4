"""Gains over a baseline: an example worked by hand, and intervals that hold a known gain."""

import numpy as np
import pytest

from common.comparison.gains import Levels, Name, Sample, compare
from common.random import Key, Purpose, uniform

BASE_ALIGNMENT = 5.0
METHOD = [(0, 1, 10), (1, 0.9, 20), (2, 0.5, 40), (1.5, 0.4, 1000), (3, 0.1, 80)]
BASELINE = [(0, 1, 10), (1, 0.5, 20), (2, 0.2, 30)]
LEVELS = Levels(degradation=("high_frequency",))


def sample(points, *, seeds=2, prompts=3, curves=None):
    """The same points for every seed and prompt, alignment counted from that of the base model."""
    values = np.array(points, dtype=np.float64) + [BASE_ALIGNMENT, 0, 0][: len(points[0])]
    repeated = np.broadcast_to(values, (seeds, prompts, *values.shape))
    return Sample(repeated, curves or [range(len(points))])


def draws(replicas, columns, *, number=0):
    return uniform(Key(0, Purpose.BOOTSTRAP, sample=number), (replicas, columns))


def estimates(samples, *, reading="front", levels=LEVELS):
    intervals = compare(samples, "b", draws(5, 5), levels=levels, reading=reading)
    return {name: interval.estimate for name, interval in intervals.items()}


def test_the_worked_example():
    """(2, .5) beats (1.5, .4); the baseline gains 2 in alignment, the base model is at (0, 1)."""
    got = estimates({"b": sample(BASELINE), "m": sample(METHOD)})
    expected = {
        ("diversity", 0.25): 0.95 / 0.75 - 1,  # at alignment .5
        ("diversity", 0.5): 0.9 / 0.5 - 1,  # 1.0
        ("diversity", 0.75): 0.7 / 0.35 - 1,  # 1.5
        ("diversity", 0.9): 0.58 / 0.26 - 1,  # 1.8
        ("alignment", 0.8): 1.25 / 0.4 - 1,  # at diversity .8
        ("alignment", 0.6): 1.75 / 0.8 - 1,
        ("alignment_units", 0.8): 0.85,
        ("alignment_units", 0.6): 0.95,
        ("hypervolume", None): 1.5 / 2,  # (.9 + .5 + .1) / (2 x 1)
        ("hypervolume_gain", None): 1.5 / 0.7 - 1,
    }
    for (statistic, share), value in expected.items():
        assert got[Name("m", statistic, share)] == pytest.approx(value), (statistic, share)
    assert got[Name("b", "hypervolume")] == pytest.approx(0.35)
    # At alignment 1.5 halfway between 20 and 40, and between 20 and 30.
    assert got[Name("m", "degradation", 0.75, "high_frequency")] == pytest.approx(30 / 25 - 1)
    assert len(got) == 1 + len(expected) + 4


def test_what_is_not_reached_has_no_value():
    """A method that stops at alignment 1 with diversity .9, against one that goes on to 2."""
    got = estimates({"b": sample(BASELINE), "m": sample(METHOD[:2])})
    assert got[Name("m", "diversity", 0.5)] == pytest.approx(0.8)
    for name in (
        Name("m", "diversity", 0.75),
        Name("m", "alignment", 0.8),
        Name("m", "alignment_units", 0.6),
        Name("m", "degradation", 0.75, "high_frequency"),
    ):
        assert got[name] is None
    assert got[Name("m", "hypervolume")] == pytest.approx(0.45)


def test_a_baseline_that_gained_nothing_allows_no_ratio():
    fallen = [(0, 1, 10), (-1, 0.5, 20)]
    got = estimates({"b": sample(fallen), "m": sample(METHOD)})
    assert got[Name("m", "diversity", 0.25)] is None, "no share of a gain that there is not"
    assert got[Name("m", "degradation", 0.75, "high_frequency")] is None
    assert got[Name("m", "alignment", 0.8)] is None
    assert got[Name("m", "hypervolume")] is None
    assert got[Name("m", "hypervolume_gain")] is None


def test_a_path_is_read_where_it_first_gets_there():
    """(1, .4) comes before (2, .5), which beats it: the front forgets it, the path does not."""
    turning = [(0, 1, 0), (1, 0.4, 0), (2, 0.5, 0)]
    samples = {"b": sample(BASELINE), "m": sample(turning)}
    at_one = Name("m", "diversity", 0.5)
    assert estimates(samples)[at_one] == pytest.approx(0.75 / 0.5 - 1)
    assert estimates(samples, reading="path")[at_one] == pytest.approx(0.4 / 0.5 - 1)


def test_of_the_paths_of_several_strengths_the_best_counts():
    strong, weak = [(0, 1, 0), (1, 0.8, 0)], [(0, 1, 0), (3, 0.4, 0)]
    both = sample([*strong, *weak], curves=[range(2), range(2, 4)])
    got = estimates({"b": sample(BASELINE), "m": both}, reading="path")
    assert got[Name("m", "diversity", 0.25)] == pytest.approx(0.9 / 0.75 - 1)  # both are at .9
    assert got[Name("m", "diversity", 0.75)] == pytest.approx(0.7 / 0.35 - 1)  # weak alone is there
    assert got[Name("m", "alignment", 0.8)] == pytest.approx(1.0 / 0.4 - 1)
    lone = estimates({"b": sample(BASELINE), "m": sample(strong)}, reading="path")
    assert lone[Name("m", "diversity", 0.75)] is None


def test_a_method_equal_to_the_baseline_gains_exactly_nothing():
    noise = 0.05 * np.random.default_rng(0).standard_normal((3, 4, len(METHOD), 3))
    values = sample(METHOD, seeds=3, prompts=4).values + noise
    both = {name: Sample(values, [range(len(METHOD))]) for name in "bm"}
    for name, interval in compare(both, "b", draws(50, 7), levels=LEVELS).items():
        if name.statistic != "hypervolume" and interval.estimate is not None:
            assert interval[:3] == (0, 0, 0), name


def test_one_seed_gives_estimates_without_intervals():
    alone = {"b": sample(BASELINE, seeds=1), "m": sample(METHOD, seeds=1)}
    for interval in compare(alone, "b", draws(20, 4), levels=LEVELS).values():
        assert interval.estimate is not None
        assert (interval.low, interval.high) == (None, None)


def test_the_intervals_hold_known_gains():
    """In about 95 of 100 draws of 5 seeds and 12 prompts, which move the slopes of both curves.

    The baseline goes from (5, .4) to (7, .1), the method to (7, .25). At alignment 6.5 they are at
    .175 and .2875; at diversity .32 they have gained .533 and 1.067.
    """
    truth = {
        Name("m", "diversity", 0.75): 0.2875 / 0.175 - 1,
        Name("m", "alignment", 0.8): 1.0,
    }
    levels = Levels(gains=(0.75,), diversities=(0.8,))
    done, seeds, prompts, covered = np.linspace(0, 1, 5), 5, 12, dict.fromkeys(truth, 0)
    rng = np.random.default_rng(3)
    for repetition in range(100):
        of_prompt = rng.standard_normal((2, 1, prompts))  # shared by the methods

        def curve(lost, of_prompt=of_prompt):
            own = rng.standard_normal((2, seeds, 1)) + 0.5 * rng.standard_normal((2, 1, prompts))
            gain = 2 + 0.1 * own[0] + 0.3 * of_prompt[0]
            loss = lost + 0.02 * own[1] + 0.03 * of_prompt[1]
            points = [5 + gain[..., None] * done, 0.4 - loss[..., None] * done]
            return Sample(np.stack(points, axis=-1), [range(5)])

        got = compare(
            {"b": curve(0.3), "m": curve(0.15)},
            "b",
            draws(120, seeds + prompts, number=repetition),
            levels=levels,
        )
        for name, value in truth.items():
            low, high = got[name].low, got[name].high
            assert low is not None
            assert high is not None
            covered[name] += low <= value <= high
    assert 90 <= covered[Name("m", "diversity", 0.75)] <= 99
    assert 90 <= covered[Name("m", "alignment", 0.8)] <= 99


def test_an_unknown_baseline_is_refused():
    with pytest.raises(ValueError, match="no method 'x'; the only one is b"):
        compare({"b": sample(BASELINE)}, "x", draws(5, 5), levels=LEVELS)
