"""Frechet distance, recall, coverage and modes: worked examples, closed forms and invariances."""

import numpy as np
import pytest
from hypothesis import given, strategies as st

from common import random
from common.algorithm.fidelity import coverage, frechet_distance, mode_count, recall
from common.random import Key, Purpose


def normal(*shape, seed=0):
    return random.normal(Key(seed, Purpose.DATA), shape).astype(np.float64)


def with_moments(mean, std, n, seed=0):
    """n samples with exactly this mean and covariance: [n, D], std [D]."""
    x = normal(n, len(mean), seed=seed)
    x -= x.mean(axis=0)
    whiten = np.linalg.inv(np.linalg.cholesky(np.atleast_2d(np.cov(x.T)))).T
    return x @ whiten * np.asarray(std) + np.asarray(mean)


def by_definition(a, b):
    """The same distance from D x D covariances and their eigenvalues."""
    A, B = np.cov(a.T), np.cov(b.T)
    values, vectors = np.linalg.eigh(A)
    root = vectors * np.sqrt(np.clip(values, 0, None)) @ vectors.T
    cross = np.sqrt(np.clip(np.linalg.eigvalsh(root @ B @ root), 0, None)).sum()
    return np.sum((a.mean(0) - b.mean(0)) ** 2) + np.trace(A) + np.trace(B) - 2 * cross


# --- Frechet distance ----------------------------------------------------------------------------


def test_two_points_each_worked_by_hand():
    # means 1 and 5; unbiased variances 2 and 8: (1 - 5)^2 + (sqrt 2 - sqrt 8)^2 = 16 + 2
    assert frechet_distance([[0.0], [2.0]], [[3.0], [7.0]]) == pytest.approx(18.0, abs=1e-12)


def test_along_different_axes_the_cross_term_is_zero():
    a, b = [[-1.0, 0.0], [1.0, 0.0]], [[0.0, -2.0], [0.0, 2.0]]
    assert frechet_distance(a, b) == pytest.approx(2.0 + 8.0, abs=1e-12)


@given(
    mean=st.floats(-3, 3),
    std=st.floats(0.01, 5),
    other=st.floats(0.01, 5),
)
def test_one_dimension_in_closed_form(mean, std, other):
    a, b = with_moments([0.0], [std], 40), with_moments([mean], [other], 30, seed=1)
    assert frechet_distance(a, b) == pytest.approx(mean**2 + (std - other) ** 2, abs=1e-9)


def test_diagonal_gaussians_in_closed_form():
    a = with_moments([0, 1, 2], [1, 2, 3], 50)
    b = with_moments([1, 1, 0], [2, 2, 0.5], 60, seed=1)
    assert frechet_distance(a, b) == pytest.approx(1 + 4 + 1 + 0 + 2.5**2, rel=1e-10)


@pytest.mark.parametrize(("n", "m", "d"), [(40, 30, 5), (12, 9, 30), (3, 40, 8), (2, 2, 100)])
def test_it_is_the_definition_also_with_singular_covariances(n, m, d):
    a, b = normal(n, d), 1.5 * normal(m, d, seed=1) + 0.3
    # Roots of eigenvalues that are zero up to rounding cost the definition half of its digits.
    assert frechet_distance(a, b) == pytest.approx(by_definition(a, b), rel=1e-6)


def test_rotation_shift_and_order_do_not_matter_and_it_is_symmetric():
    a, b = normal(20, 6), 2 * normal(15, 6, seed=1) + 1
    rotation = np.linalg.qr(normal(6, 6, seed=2))[0]
    value = frechet_distance(a, b)
    assert value > 1
    for first, second in [(b, a), (a @ rotation + 7, b @ rotation + 7), (a[::-1], b)]:
        assert frechet_distance(first, second) == pytest.approx(value, rel=1e-10)


def test_identical_sets_are_at_zero_and_never_below():
    for d in (3, 300):
        a = normal(20, d)
        assert 0 <= frechet_distance(a, a) < 1e-10


def test_many_dimensions_cost_no_square_matrix():
    a = normal(8, 200_000)  # its covariance would take 320 GB
    assert frechet_distance(a, a + 1) == pytest.approx(200_000, rel=1e-9)


@pytest.mark.parametrize(
    ("a", "b", "message"),
    [
        (np.zeros((1, 3)), np.zeros((2, 3)), "a must be"),
        (np.zeros((2, 3)), np.zeros(3), "b must be"),
        (np.zeros((2, 3)), np.zeros((2, 4)), "of 3 and of 4"),
        (np.zeros((2, 3)), np.full((2, 3), np.nan), "b holds"),
    ],
)
def test_what_has_no_distance_is_refused(a, b, message):
    with pytest.raises(ValueError, match=message):
        frechet_distance(a, b)


# --- recall and coverage -------------------------------------------------------------------------

REAL = np.array([[0.0], [1.0], [3.0], [10.0]])
FAKE = np.array([[0.5], [2.0], [2.5]])


def test_recall_worked_by_hand():
    # Radii of the fakes: k = 1: 1.5, .5, .5. They span [-1, 2], [1.5, 2.5], [2, 3]: 0, 1 and 3.
    assert recall(REAL, FAKE, 1) == 0.75
    # k = 2: radii 2, 1.5, 2: [-1.5, 2.5], [.5, 3.5], [.5, 4.5]: still not 10.
    assert recall(REAL, FAKE, 2) == 0.75
    assert recall(FAKE, REAL, 1) == 1.0


def test_coverage_worked_by_hand():
    # Radii of the reals, k = 1: 1, 1, 2, 7; the nearest fake is at .5, .5, .5, 7.5.
    assert coverage(REAL, FAKE, 1) == 0.75
    # k = 2: 3, 2, 3, 9.
    assert coverage(REAL, FAKE, 2) == 1.0
    # Fakes at k = 1 have radii 1.5, .5, .5; their nearest real is at .5, 1, .5.
    assert coverage(FAKE, REAL, 1) == pytest.approx(2 / 3)


def test_a_lost_mode_lowers_both_and_an_outlier_among_the_fakes_only_widens_recall():
    real = np.array([[0.0], [0.1], [0.2], [9.0], [9.1], [9.2]])
    lost = np.array([[0.0], [0.1], [0.2], [0.05], [0.15], [0.25]])
    assert recall(real, lost, 2) == coverage(real, lost, 2) == 0.5
    outlier = np.append(lost[:-1], [[40.0]], axis=0)
    assert (recall(real, outlier, 2), coverage(real, outlier, 2)) == (1.0, 0.5)


def test_identical_sets_are_recalled_and_covered_whole_also_collapsed_ones():
    for samples in (normal(4, 16, 1920), np.repeat(normal(4, 1, 1920), 16, axis=1)):
        unit = samples / np.linalg.norm(samples, axis=-1, keepdims=True)
        assert recall(unit, unit, 3).tolist() == coverage(unit, unit, 3).tolist() == [1.0] * 4


def test_each_group_is_compared_with_its_own():
    real, fake = normal(5, 12, 3), 1.3 * normal(5, 9, 3, seed=1)
    for measure in (recall, coverage):
        alone = [float(measure(r, f, 2)) for r, f in zip(real, fake, strict=True)]
        assert measure(real, fake, 2).tolist() == alone
        assert len(set(alone)) > 1


def test_rotation_shift_scale_and_order_do_not_matter():
    real, fake = normal(3, 12, 4), 1.2 * normal(3, 10, 4, seed=1)
    rotation = 5 * np.linalg.qr(normal(4, 4, seed=2))[0]
    for measure in (recall, coverage):
        value = measure(real, fake, 3).tolist()
        assert measure(real @ rotation + 1, fake @ rotation + 1, 3).tolist() == value
        assert measure(real[:, ::-1], fake[:, ::-1], 3).tolist() == value


def test_the_expected_coverage_of_one_distribution():
    # 1 - (15 * 14 * 13) / (31 * 30 * 29); 600 draws of 16 leave a standard error of .005.
    groups = normal(600, 32, 8)
    assert coverage(groups[:, :16], groups[:, 16:], 3).mean() == pytest.approx(0.8988, abs=0.015)


@pytest.mark.parametrize("measure", [recall, coverage])
@pytest.mark.parametrize(
    ("real", "fake", "k", "message"),
    [
        ((4, 2), (4, 2), 4, r"k = 4 is outside \[1, 3\]"),
        ((4, 2), (4, 2), 0, r"k = 0 is outside \[1, 3\]"),
        ((4, 2), (4, 3), 1, r"not \[4, 2\] and \[4, 3\]"),
        ((2, 4, 2), (3, 4, 2), 1, "must be"),
        ((2, 4, 2), (4, 2), 1, "must be"),
    ],
)
def test_what_cannot_be_compared_is_refused(measure, real, fake, k, message):
    with pytest.raises(ValueError, match=message):
        measure(np.zeros(real), np.zeros(fake), k)


# --- modes ---------------------------------------------------------------------------------------


def test_modes_are_the_different_labels_of_a_group():
    labels = np.array([[0, 0, 0, 0], [0, 6, 0, 6], [3, 1, 4, 1], [6, 5, 4, 3]])
    assert mode_count(labels, 7).tolist() == [1, 2, 3, 4]
    assert mode_count(labels.T, 7).tolist() == [3, 4, 2, 4]
    assert mode_count(labels[0], 7) == 1
    assert mode_count(np.array([[-1, -1, -1], [-1, 2, 2]]), 7).tolist() == [0, 1]


@pytest.mark.parametrize("labels", [np.array([0, 7]), np.array([-2, 0]), np.array([0.5, 1.0])])
def test_labels_outside_the_classes_are_refused(labels):
    with pytest.raises(ValueError, match="labels"):
        mode_count(labels, 7)
