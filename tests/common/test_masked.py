"""Statistics of the members of a mask are those of the members alone, whatever the others hold."""

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from common.algorithm import masked


@settings(max_examples=25)
@given(
    values=st.lists(st.floats(-100, 100, width=32), min_size=6, max_size=6),
    members=st.lists(st.booleans(), min_size=6, max_size=6),
)
def test_masked_statistics_are_those_of_the_members(f64, bools, to_np, values, members):
    v, m = np.array(values), np.array(members)
    dirty, mask = f64([np.where(m, v, np.nan)]), bools([m])
    got = [to_np(f(dirty, mask)).item() for f in (masked.mean, masked.median, masked.std)]
    expected = [np.mean(v[m]), np.median(v[m]), np.std(v[m])] if m.any() else [0.0, 0.0, 0.0]
    np.testing.assert_allclose(got, expected, rtol=1e-5, atol=2e-6 * np.abs(v).max() + 1e-30)


@pytest.mark.parametrize("value", [0.1, 1e-30, 1e30, 0.0, -7.3])
def test_equal_rewards_have_no_spread(f64, bools, to_np, value):
    std = masked.std(f64([[value] * 7]), bools([[True] * 7]))
    assert to_np(std).item() == 0.0


@pytest.mark.parametrize("magnitude", [1e-25, 1e25])
def test_spread_of_tiny_and_huge_rewards(f64, bools, to_np, magnitude):
    std = masked.std(f64([[magnitude, 3 * magnitude]]), bools([[True, True]]))
    assert to_np(std).item() == pytest.approx(magnitude, rel=1e-6)


@settings(max_examples=25)
@given(members=st.lists(st.booleans(), min_size=6, max_size=6))
def test_statistics_and_correlation_are_those_of_the_members(f64, bools, to_np, members):
    x, y = np.array([3.0, -1.0, 4.0, 1.5, -9.0, 2.0]), np.array([2.0, 7.0, 1.0, 8.0, 2.0, 8.0])
    m, mask = np.array(members), bools([members])
    dirty = [f64([np.where(m, values, np.nan)]) for values in (x, y)]
    of_x = [to_np(value).item() for value in masked.statistics(dirty[0], mask)]
    own = x[m] if m.any() else np.zeros(1)
    np.testing.assert_allclose(of_x, [own.mean(), own.std(), own.min(), own.max()], rtol=1e-5)
    spread = m.any() and x[m].std() * y[m].std() > 0
    expected = np.corrcoef(x[m], y[m])[0, 1] if spread else 0.0
    got = to_np(masked.correlation(*dirty, mask)).item()
    assert got == pytest.approx(expected, rel=1e-5, abs=1e-6)
