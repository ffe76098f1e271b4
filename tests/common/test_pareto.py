"""Fronts, equal-level values, hypervolume and bootstrap intervals, on examples worked by hand."""

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from hypothesis.extra.numpy import arrays

from common.algorithm import pareto
from common.random import Key, Purpose, uniform

EXAMPLE = np.array([(0, 1), (1, 0.9), (2, 0.5), (1.5, 0.4), (3, 0.1)])
POINTS = arrays(
    np.float64, st.tuples(st.integers(1, 12), st.just(2)), elements=st.sampled_from(range(6))
)


def diversity_at(points, alignment):
    point = pareto.crossing(pareto.front(points), alignment, axis=pareto.ALIGNMENT)
    return None if point is None else point[pareto.DIVERSITY]


def alignment_at(points, diversity):
    point = pareto.crossing(pareto.front(points), diversity, axis=pareto.DIVERSITY)
    return None if point is None else point[pareto.ALIGNMENT]


def gain(value_at, points, baseline, level, base=0.0):
    return pareto.relative(value_at(points, level), value_at(baseline, level), base=base)


def test_the_worked_example():
    expected = [(0, 1), (1, 0.9), (2, 0.5), (3, 0.1)]  # (2, .5) beats (1.5, .4) in both
    np.testing.assert_array_equal(pareto.front(EXAMPLE), expected)
    np.testing.assert_array_equal(pareto.front(EXAMPLE[::-1]), expected)
    assert diversity_at(EXAMPLE, 1.5) == pytest.approx(0.7)
    assert diversity_at(EXAMPLE, 2.25) == pytest.approx(0.4)
    assert alignment_at(EXAMPLE, 0.7) == pytest.approx(1.5)
    assert alignment_at(EXAMPLE, 0.95) == pytest.approx(0.5)
    # Widths 1 under heights .9, .5, .1; above (1, .1) only widths 1 under .4.
    assert pareto.hypervolume(EXAMPLE, (0, 0)) == pytest.approx(1.5)
    assert pareto.hypervolume(EXAMPLE, (1, 0.1)) == pytest.approx(0.4)
    assert pareto.hypervolume(EXAMPLE, (-1, 0)) == pytest.approx(2.5)


def test_what_is_not_reached_is_none():
    assert diversity_at(EXAMPLE, 3.01) is None
    assert diversity_at(EXAMPLE, -0.01) is None
    assert alignment_at(EXAMPLE, 1.01) is None
    assert alignment_at(EXAMPLE, 0.09) is None
    assert diversity_at(EXAMPLE, 3) == pytest.approx(0.1)
    assert alignment_at(EXAMPLE, 1) == pytest.approx(0)
    empty = np.zeros((0, 2))
    assert pareto.front(empty).shape == (0, 2)
    assert diversity_at(empty, 0.0) is None
    assert pareto.hypervolume(empty, (0, 0)) == 0
    assert pareto.hypervolume(EXAMPLE, (5, 5)) == 0


def test_ties_and_duplicates_keep_one_point():
    points = [(1, 0.5), (1, 0.7), (1, 0.7), (0.5, 0.7), (2, 0.5), (2, 0.5)]
    np.testing.assert_array_equal(pareto.front(np.array(points)), [(1, 0.7), (2, 0.5)])


def test_gains_at_equal_level_by_hand():
    """At alignment 1.5 diversity .7 against .35; at diversity .7 alignment 1.5 against .5."""
    baseline = np.array([(0, 0.9), (1, 0.5), (2, 0.2)])
    assert gain(diversity_at, EXAMPLE, baseline, 1.5) == pytest.approx(1.0)
    assert gain(alignment_at, EXAMPLE, baseline, 0.7) == pytest.approx(2.0)
    assert gain(diversity_at, baseline, EXAMPLE, 1.5) == pytest.approx(-0.5)
    assert gain(diversity_at, EXAMPLE, baseline, 2.5) is None
    assert gain(diversity_at, baseline, EXAMPLE, 2.5) is None
    assert gain(alignment_at, EXAMPLE, baseline, 0.9) is None  # the baseline's alignment is 0


@settings(max_examples=60)
@given(points=POINTS)
def test_the_front_is_what_no_point_beats(points):
    def beats(a, b):
        return (a >= b).all() and (a > b).any()

    kept = {tuple(point) for point in pareto.front(points)}
    unbeaten = {tuple(p) for p in points if not any(beats(q, p) for q in points)}
    assert kept == unbeaten
    front = pareto.front(points)
    assert (np.diff(front[:, 0]) > 0).all()
    assert (np.diff(front[:, 1]) < 0).all()


@settings(max_examples=60)
@given(points=POINTS)
def test_the_hypervolume_counts_dominated_cells(points):
    """On whole-number coordinates it is the number of unit squares under some point."""
    cells = {(i, j) for a, d in points for i in range(int(a)) for j in range(int(d))}
    assert pareto.hypervolume(points, (0, 0)) == len(cells)


@pytest.mark.parametrize(
    ("points", "message"),
    [
        (np.zeros((3, 1)), r"\[N, 2\].*not \[3, 1\]"),
        (np.zeros(2), r"not \[2\]"),
        (np.array([[0.0, np.nan]]), "must be finite"),
    ],
)
def test_bad_points_are_refused(points, message):
    with pytest.raises(ValueError, match=message):
        pareto.front(points)


def test_gains_in_alignment_count_from_the_base_model():
    """At diversity .7: (1.5 - .25) / (.5 - .25) - 1 = 4; the baseline is below .6."""
    baseline = np.array([(0, 0.9), (1, 0.5), (2, 0.2)])
    assert gain(alignment_at, EXAMPLE, baseline, 0.7, base=0.25) == pytest.approx(4.0)
    assert gain(alignment_at, EXAMPLE, baseline, 0.7, base=0.6) is None


def test_what_else_was_measured_is_carried_along_the_front():
    """Halfway between (1, .9) and (2, .5) the third column is halfway between theirs."""
    wide = np.column_stack([EXAMPLE, [10, 20, 40, 1000, 80]])
    np.testing.assert_array_equal(pareto.front(wide)[:, 2], [10, 20, 40, 80])
    point = pareto.crossing(pareto.front(wide), 1.5, axis=pareto.ALIGNMENT)
    np.testing.assert_allclose(point, (1.5, 0.7, 30))
    assert pareto.hypervolume(wide, (0, 0)) == pytest.approx(1.5)


def test_a_path_that_comes_back_has_a_level_where_it_first_got_there():
    path = np.array([(0.0, 1.0), (2.0, 0.8), (1.0, 0.7), (3.0, 0.1)])
    np.testing.assert_allclose(pareto.crossing(path, 1.5, axis=0), (1.5, 0.85))
    np.testing.assert_allclose(pareto.crossing(path, 0.75, axis=1), (1.5, 0.75))
    np.testing.assert_allclose(pareto.crossing(path, 3.0, axis=0), (3.0, 0.1))
    assert pareto.crossing(path, 3.1, axis=0) is None
    assert pareto.crossing(path[:1], 0.5, axis=0) is None
    np.testing.assert_array_equal(pareto.crossing(path[:1], 0.0, axis=0), path[0])


def gain_of_means(method, baseline):
    return float(method - baseline)


def draws(replicas, columns, *, sample=0):
    return uniform(Key(0, Purpose.BOOTSTRAP, sample=sample), (replicas, columns))


def test_the_bootstrap_covers_a_known_gain():
    """The 95 % interval holds the true gain in about 95 of 100 repetitions.

    Gains vary by seed and by prompt (a prompt's part is shared by all seeds); both methods share
    a large effect of the seed and of the prompt, which pairing takes out.
    """
    rng, truth, covered, widths = np.random.default_rng(8), 0.3, 0, []
    seeds, prompts = 10, 16
    for repetition in range(100):
        shared = 5 * rng.standard_normal((seeds, 1)) + 5 * rng.standard_normal((1, prompts))
        baseline = shared + 0.1 * rng.standard_normal((seeds, prompts))
        gain = truth + 0.2 * rng.standard_normal((seeds, 1)) + rng.standard_normal((1, prompts))
        method = shared + gain + 0.1 * rng.standard_normal((seeds, prompts))
        got = pareto.bootstrap(
            gain_of_means,
            [method, baseline],
            draws(400, seeds + prompts, sample=repetition),
        )
        assert got.low is not None
        assert got.high is not None
        covered += got.low <= truth <= got.high
        widths.append(got.high - got.low)
    assert 87 <= covered <= 99
    expected = 2 * 1.96 * (1 / prompts + 0.04 / seeds) ** 0.5
    assert np.mean(widths) == pytest.approx(expected, rel=0.15)


def test_few_seeds_are_made_up_for():
    """With 5 seeds that differ, the percentile interval covers some 81 of 100 times; ours 95."""
    rng, truth, covered, narrow = np.random.default_rng(5), 0.3, 0, 0
    seeds, prompts = 5, 12
    for repetition in range(100):
        values = truth + rng.standard_normal((seeds, 1)) + 0.2 * rng.standard_normal((1, prompts))
        rows = draws(200, seeds + prompts, sample=repetition)
        got = pareto.bootstrap(float, [values], rows)
        assert got.low is not None
        assert got.high is not None
        covered += got.low <= truth <= got.high
        means = [
            values[np.ix_((row[:seeds] * seeds).astype(int), (row[seeds:] * prompts).astype(int))]
            for row in rows
        ]
        low, high = np.quantile([mean.mean() for mean in means], [0.025, 0.975])
        narrow += low <= truth <= high
    assert 90 <= covered <= 99
    assert narrow <= 86


def test_the_interval_of_a_mean_over_seeds_is_students():
    """No spread over prompts: half width t sd / sqrt(S), t = 2.776 for 4 degrees of freedom."""
    values = np.array([1.0, 2.0, 4.0, 4.0, 9.0])[:, None].repeat(3, axis=1)
    got = pareto.bootstrap(float, [values], draws(4000, 8))
    assert got.low is not None
    assert got.high is not None
    student = 2.776 * np.std(values[:, 0], ddof=1) / 5**0.5
    assert (got.high - got.low) / 2 == pytest.approx(student, rel=0.05)
    # Skewed to the right as the data are: a percentile interval keeps that.
    assert got.high - 4.0 > 4.0 - got.low


def test_one_seed_claims_no_interval():
    got = pareto.bootstrap(float, [np.array([[1.0, 3.0]])], draws(20, 3))
    assert got == (2.0, None, None, 1.0)


def test_seeds_and_prompts_are_drawn_by_the_given_numbers():
    """Draws .0 and .5 of two seeds choose the first and the second, by hand."""
    values = np.array([[[1.0], [2.0]], [[10.0], [20.0]]])  # [seed, prompt, 1]
    rows = np.array([[0.0, 0.4, 0.9, 0.99], [0.0, 0.5, 0.0, 0.5]])
    seen = []
    pareto.bootstrap(lambda mean: seen.append(float(mean[0])) or 0.0, [values], rows)
    # First seed twice and second prompt twice; each once; the data as they are; then without the
    # first and the second seed, without the first and the second prompt.
    assert seen == [2.0, 8.25, 8.25, 15.0, 1.5, 11.0, 5.5]


def test_the_methods_are_paired():
    """Equal methods have a gain of exactly 0 in every replica, however they vary."""
    values = np.random.default_rng(0).standard_normal((3, 5))
    got = pareto.bootstrap(gain_of_means, [values, values], draws(50, 8))
    assert got == (0.0, 0.0, 0.0, 1.0)


def test_replicas_that_do_not_reach_the_level_are_counted():
    fronts = np.array([[[[0.0, 1.0], [1.0, 0.5]]], [[[0.0, 1.0], [3.0, 0.5]]]])  # 2 seeds, 1 prompt
    got = pareto.bootstrap(lambda points: diversity_at(points, 1.5), [fronts], draws(200, 3))
    # The mean front reaches 1 if the first seed is drawn twice (1 in 4), else 2 or 3.
    assert got.reached == pytest.approx(0.75, abs=0.1)
    assert got.estimate == pytest.approx(1 - 0.5 * 0.75)
    never = pareto.bootstrap(lambda points: diversity_at(points, 9), [fronts], draws(9, 3))
    assert never == (None, None, None, 0.0)


@pytest.mark.parametrize(
    ("samples", "rows", "level", "message"),
    [
        ([np.zeros((2, 3)), np.zeros((3, 3))], np.zeros((4, 5)), 0.95, r"\[\[2, 3\], \[3, 3\]\]"),
        ([np.zeros(2)], np.zeros((4, 2)), 0.95, "share their seeds and prompts"),
        ([], np.zeros((4, 2)), 0.95, "share their seeds and prompts"),
        ([np.zeros((2, 3))], np.zeros((4, 6)), 0.95, r"2 seeds \+ 3 prompts\], not \[4, 6\]"),
        ([np.zeros((2, 3))], np.ones((4, 5)), 0.95, r"draws must be in \[0, 1\)"),
        ([np.zeros((2, 3))], np.zeros((4, 5)), 1.0, "level = 1.0"),
    ],
)
def test_bad_bootstraps_are_refused(samples, rows, level, message):
    with pytest.raises(ValueError, match=message):
        pareto.bootstrap(lambda *_: 0.0, samples, rows, level=level)
