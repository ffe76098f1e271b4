"""Distances against numpy, diversity measures with known values, and samples that they ignore."""

import math

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from common.algorithm import diversity


@pytest.fixture(scope="module")
def features():
    return np.random.default_rng(6).normal(size=(2, 3, 7, 5))


def clusters(sizes):
    """Orthonormal features, size_k copies of the k-th."""
    return np.repeat(np.eye(len(sizes)), sizes, axis=0)


def test_cosine_by_hand(f64, to_np):
    got = to_np(diversity.cosine_distances(f64([[2.0, 0.0], [0.0, 1.0], [3.0, 3.0], [-1.0, 0.0]])))
    near, far = 1 - math.sqrt(0.5), 1 + math.sqrt(0.5)
    expected = [[0, 1, near, 2], [1, 0, near, 1], [near, near, 0, far], [2, 1, far, 0]]
    np.testing.assert_allclose(got, expected, atol=1e-6)


def test_distances_against_numpy(xp, f64, rtol, to_np, features):
    unit = features / np.linalg.norm(features, axis=-1, keepdims=True)
    cosine = 1 - np.einsum("...id,...jd->...ij", unit, unit)
    difference = features[..., :, None, :] - features[..., None, :, :]
    got = to_np(diversity.cosine_distances(f64(features)))
    np.testing.assert_allclose(got, cosine, rtol=rtol(xp), atol=rtol(xp))
    got = to_np(diversity.euclidean_distances(f64(features)))
    np.testing.assert_allclose(got, np.linalg.norm(difference, axis=-1), rtol=rtol(xp))


@pytest.mark.parametrize("distances", [diversity.cosine_distances, diversity.euclidean_distances])
def test_distances_are_symmetric_with_a_zero_diagonal(f32, to_np, features, distances):
    got = to_np(distances(f32(features)))
    np.testing.assert_array_equal(got, np.swapaxes(got, -1, -2))
    assert (np.diagonal(got, axis1=-2, axis2=-1) == 0).all()
    assert (got >= 0).all()


@pytest.mark.parametrize("distances", [diversity.cosine_distances, diversity.euclidean_distances])
def test_identical_images_are_at_distance_zero(f32, to_np, distances):
    image = np.random.default_rng(7).normal(size=2304)
    assert (to_np(distances(f32([image] * 9))) == 0).all()


def test_zero_vectors_are_at_distance_one(f64, to_np):
    got = to_np(diversity.cosine_distances(f64([[0.0, 0.0], [1.0, 2.0], [0.0, 0.0]])))
    np.testing.assert_array_equal(got, 1 - np.eye(3))


def test_a_bad_feature_spoils_only_its_own_row(f64, to_np, features):
    spoiled = features[0, 0].copy()
    spoiled[2, 1] = np.nan
    got = to_np(diversity.cosine_distances(f64(spoiled)))
    others = [0, 1, 3, 4, 5, 6]
    alone = to_np(diversity.cosine_distances(f64(features[0, 0][others])))
    np.testing.assert_allclose(got[np.ix_(others, others)], alone, rtol=1e-5, atol=1e-6)
    assert np.isnan(got[2, others]).all()
    assert np.isnan(got[others, 2]).all()


@settings(max_examples=15)
@given(exponents=st.lists(st.integers(-25, 25), min_size=7, max_size=7))
def test_cosine_ignores_norms(f32, to_np, features, exponents):
    f = features[0, 0]
    scaled = f * 10.0 ** np.array(exponents)[:, None]
    got, expected = (to_np(diversity.cosine_distances(f32(v))) for v in (scaled, f))
    np.testing.assert_allclose(got, expected, atol=1e-5)


@settings(max_examples=15)
@given(
    order=st.permutations(range(7)),
    valid=st.lists(st.booleans(), min_size=7, max_size=7),
)
def test_mean_pairwise_is_the_mean_over_valid_pairs(
    xp, f64, bools, rtol, to_np, features, order, valid
):
    cosine = np.asarray(diversity.cosine_distances(features[0, 0]))[np.ix_(order, order)]
    keep = np.flatnonzero(valid)
    pairs = [cosine[i, j] for i in keep for j in keep if i != j]
    spoiled = np.where(np.array(valid)[:, None] & np.array(valid)[None, :], cosine, np.nan)
    got = to_np(diversity.mean_pairwise(f64(spoiled), valid=bools(valid)))
    np.testing.assert_allclose(got, np.mean(pairs) if pairs else 0.0, rtol=rtol(xp))


def test_mean_pairwise_keeps_leading_axes(xp, f64, rtol, to_np, features):
    distances = diversity.euclidean_distances(f64(features))
    expected = to_np(distances).sum(axis=(-1, -2)) / (7 * 6)
    got = to_np(diversity.mean_pairwise(distances))
    assert got.shape == (2, 3)
    np.testing.assert_allclose(got, expected, rtol=rtol(xp))


@pytest.mark.parametrize("order", [0.5, 1, 2, math.inf])
def test_vendi_counts_equal_clusters(f64, to_np, order):
    got = to_np(diversity.vendi(f64([clusters([2, 2, 2]), clusters([2, 2, 2])]), order=order))
    np.testing.assert_allclose(got, [3.0, 3.0], rtol=1e-5)


def test_vendi_of_unequal_clusters_by_hand(f64, to_np):
    features, p = f64(clusters([3, 1])), np.array([0.75, 0.25])
    for order, expected in (
        (1, np.exp(-np.sum(p * np.log(p)))),
        (2, 1 / np.sum(p**2)),
        (0.5, np.sum(np.sqrt(p)) ** 2),
        (math.inf, 4 / 3),
    ):
        got = to_np(diversity.vendi(features, order=order))
        np.testing.assert_allclose(got, expected, rtol=1e-5)


def test_vendi_against_numpy(f64, to_np, features):
    unit = features / np.linalg.norm(features, axis=-1, keepdims=True)
    # The other side: the D x D matrix has the same non-zero eigenvalues as the kernel.
    spectrum = np.linalg.eigvalsh(np.einsum("...id,...ie->...de", unit, unit) / 7)
    expected = np.exp(-np.sum(spectrum * np.log(spectrum), axis=-1))
    np.testing.assert_allclose(to_np(diversity.vendi(f64(features))), expected, rtol=1e-5)


def test_vendi_of_identical_images_is_one(f64, to_np):
    image = np.random.default_rng(8).normal(size=64)
    for order in (0.3, 1, 2, math.inf):
        got = to_np(diversity.vendi(f64([image] * 12), order=order))
        np.testing.assert_allclose(got, 1.0, rtol=1e-5)


def test_vendi_of_the_valid_samples(f64, bools, to_np):
    distances = np.asarray(diversity.cosine_distances(clusters([2, 1, 1])))
    distances[3, :3] = distances[:3, 3] = np.nan
    got = diversity.vendi_of_distances(
        f64([distances, distances, distances]),
        valid=bools([[0, 1, 1, 0], [1, 1, 0, 0], [0, 0, 0, 0]]),
    )
    np.testing.assert_allclose(to_np(got), [2.0, 1.0, 0.0], rtol=1e-6)


@settings(max_examples=15)
@given(
    sizes=st.lists(st.integers(1, 4), min_size=1, max_size=4),
    orders=st.lists(st.floats(0.1, 8), min_size=2, max_size=2),
)
def test_vendi_is_between_one_and_n_and_falls_in_the_order(f64, to_np, sizes, orders):
    features = f64(clusters(sizes))
    low, high = (float(to_np(diversity.vendi(features, order=q))) for q in sorted(orders))
    assert 1 - 1e-5 <= high <= low + 1e-4
    assert low <= len(sizes) * (1 + 1e-4)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: diversity.vendi(np.eye(3), order=0), "order"),
    ],
)
def test_bad_requests(call, message):
    with pytest.raises(ValueError, match=message):
        call()
