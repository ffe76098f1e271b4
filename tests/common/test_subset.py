"""Every subset rule against brute force over all subsets, its ties by hand, its known facts.

Brute force knows nothing of runs in sorted order: it looks at every set of K samples. Then the
laws: K samples, none of them invalid; invalid samples change nothing; order does not matter.
"""

import itertools
from typing import get_args

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from common.algorithm import subset

COUNTING = ("window", "minvar", "trim", "nearest", "random", "maxvar")
P, G, K = 6, 8, 5


@pytest.fixture(scope="module")
def groups():
    rng = np.random.default_rng(0)
    rewards = rng.normal(size=(P, G)) + rng.gamma(1.0, size=(P, G))
    return rewards, rng.random((P, G))


def brute_force(rule, r, draws, *, keep=K, alpha=1.5, kappa=2.5):
    """The subset of one group by its definition, float64: a set of indices."""
    sets = [list(s) for s in itertools.combinations(range(len(r)), keep)]
    order, drop = list(np.argsort(r)), len(r) - keep
    bottom, top = drop - drop // 2, drop // 2
    mad = 1.4826 * np.median(np.abs(r - np.median(r)))
    above, below = r - np.median(r) > kappa * mad, np.median(r) - r > kappa * mad
    return set(
        {
            "window": lambda: min(sets, key=lambda s: np.ptp(r[s])),
            "minvar": lambda: min(sets, key=lambda s: np.var(r[s])),
            "maxvar": lambda: max(sets, key=lambda s: np.var(r[s])),
            "trim": lambda: order[bottom : len(r) - top],
            "nearest": lambda: np.argsort(np.abs(r - np.median(r)))[:keep],
            "random": lambda: np.argsort(draws)[:keep],
            "band": lambda: np.flatnonzero(np.abs(r - r.mean()) <= alpha * r.std()),
            "mad": lambda: np.flatnonzero(~above & ~below),
            "upper": lambda: np.flatnonzero(~above),
            "lower": lambda: np.flatnonzero(~below),
            "none": lambda: range(len(r)),
        }[rule]()
    )


@pytest.mark.parametrize("rule", get_args(subset.Rule))
def test_against_brute_force(xp, f64, to_np, groups, rule):
    rewards, draws = groups
    got = to_np(
        subset.select(f64(rewards), rule=rule, keep=K, alpha=1.1, kappa=1.2, draws=f64(draws))
    )
    assert got.dtype == bool
    for row, r, u in zip(got, rewards, draws, strict=True):
        assert set(np.flatnonzero(row)) == brute_force(rule, r, u, alpha=1.1, kappa=1.2)


@pytest.mark.parametrize("rule", ["mad", "upper", "lower", "band"])
def test_bounded_rules_do_drop(f64, to_np, rule):
    rewards = f64([[0.0, 1.0, 2.0, 3.0, 4.0, 40.0], [0.0, -1.0, -2.0, -3.0, -4.0, -40.0]])
    high, low = to_np(subset.select(rewards, rule=rule))[:, 5]
    assert (high, low) == {"upper": (False, True), "lower": (True, False)}.get(rule, (False, False))


@pytest.mark.parametrize("rule", get_args(subset.Rule))
def test_invalid_samples_change_nothing(f64, bools, to_np, groups, rule):
    rewards, draws = groups
    alone = to_np(subset.select(f64(rewards), rule=rule, keep=K, draws=f64(draws)))
    poison = np.tile([np.nan, np.inf, -np.inf, 1e6], (P, 1))
    valid = np.concatenate([np.ones((P, G)), np.array([[1, 1, 1, 0]] * P)], axis=1)
    mixed = subset.select(
        f64(np.concatenate([rewards, poison], axis=1)),
        rule=rule,
        keep=K,
        draws=f64(np.concatenate([draws, np.zeros((P, 4))], axis=1)),
        valid=bools(valid),
    )
    np.testing.assert_array_equal(to_np(mixed)[:, :G], alone)
    assert not to_np(mixed)[:, G:].any()


@pytest.mark.parametrize("rule", get_args(subset.Rule))
def test_few_valid_samples(f64, bools, to_np, groups, rule):
    rewards, draws = groups
    valid = np.array([[i < n for i in range(G)] for n in (0, 1, 2, 3, 5, 8)])
    got = subset.select(
        f64(rewards), rule=rule, keep=3, alpha=9.0, kappa=99.0, draws=f64(draws), valid=bools(valid)
    )
    counts = [0, 0, 2, 3, 3, 3] if rule in COUNTING else [0, 0, 2, 3, 5, 8]
    assert to_np(got).sum(axis=1).tolist() == counts
    assert not (to_np(got) & ~valid).any()


@pytest.mark.parametrize(
    ("rule", "rewards", "keep", "expected"),
    [
        # Ranges 1, 1, 1 and means .5, 1.5, 2.5 about the median 1.5: the middle run.
        ("window", [0.0, 1.0, 2.0, 3.0], 2, [0, 1, 1, 0]),
        # Runs {0, 1} and {4, 5}, both 2 from the median 2.5: the higher mean.
        ("window", [0.0, 1.0, 4.0, 5.0], 2, [0, 0, 1, 1]),
        # The same with numbers that no float holds: rounding must not decide.
        ("window", [0.1, 0.2, 0.5, 0.6], 2, [0, 0, 1, 1]),
        ("minvar", [0.6, 0.1, 0.5, 0.2], 2, [1, 0, 1, 0]),
        # All equal: the lowest indices.
        ("window", [0.3] * 5, 3, [1, 1, 1, 0, 0]),
        ("minvar", [0.3] * 5, 3, [1, 1, 1, 0, 0]),
        ("nearest", [0.3] * 5, 3, [1, 1, 1, 0, 0]),
        # Binary: means 0 and 1 are equally far from the median 1/2: the ones.
        ("window", [0.0, 1.0, 0.0, 1.0], 2, [0, 1, 0, 1]),
        # All are 1/2 from the median; one of each has its mean there.
        ("nearest", [0.0, 1.0, 0.0, 1.0], 2, [0, 1, 1, 0]),
        # One more zero and the median is 0: the zeros with the lowest indices.
        ("window", [0.0, 1.0, 0.0, 1.0, 0.0], 2, [1, 0, 1, 0, 0]),
        # Ranges 1 and 1 - 1e-8 are tied: the run with mean 1/2, the median, wins.
        ("window", [0.0, 1.0, 2.0, 9.0, -8.0, -7.00000001], 2, [1, 1, 0, 0, 0, 0]),
        # Lowest one and highest two, or lowest two and highest one: the higher mean.
        ("maxvar", [0.0, 1.0, 2.0, 3.0], 3, [1, 0, 1, 1]),
        # n - K = 3: one goes at the top, two at the bottom.
        ("trim", [5.0, 1.0, 4.0, 2.0, 3.0], 2, [0, 0, 1, 0, 1]),
        # MAD = 0 keeps what lies at the median.
        ("mad", [1.0, 1.0, 1.0, 7.0, 1.0], None, [1, 1, 1, 0, 1]),
        # All equal: rounding of mean and std must not drop anything.
        ("band", [0.1] * 6, None, [1] * 6),
        # |r - mean| = std exactly: the bound is included.
        ("band", [0.1, 0.7, 0.1, 0.7], None, [1] * 4),
    ],
)
def test_ties_by_hand(f64, to_np, rule, rewards, keep, expected):
    got = subset.select(f64([rewards]), rule=rule, keep=keep, alpha=1.0)
    assert to_np(got)[0].astype(int).tolist() == expected


@settings(max_examples=25)
@given(
    rewards=st.lists(st.integers(-50, 50), min_size=7, max_size=7, unique=True),
    order=st.permutations(range(7)),
    keep=st.integers(1, 7),
    rule=st.sampled_from(get_args(subset.Rule)),
)
def test_order_of_samples_does_not_matter(f64, to_np, rewards, order, keep, rule):
    r, u = np.array(rewards, dtype=float), np.linspace(0, 1, 7, endpoint=False)

    def kept(at):
        chosen = subset.select(f64([r[at]]), rule=rule, keep=keep, draws=f64([u[at]]))
        return sorted(r[at][to_np(chosen)[0]])

    assert kept(list(order)) == kept(list(range(7)))


@settings(max_examples=25)
@given(
    rewards=st.lists(st.integers(-9, 9), min_size=9, max_size=9),
    scale=st.sampled_from([0.5, 2.0, 64.0]),
    shift=st.integers(-100, 100),
    rule=st.sampled_from(get_args(subset.Rule)),
)
def test_unit_and_origin_of_the_reward_do_not_matter(f64, to_np, rewards, scale, shift, rule):
    r, u = np.array([rewards], dtype=float), f64([np.linspace(0, 1, 9, endpoint=False)])
    first = subset.select(f64(r), rule=rule, keep=4, draws=u)
    second = subset.select(f64(scale * r + shift), rule=rule, keep=4, draws=u)
    np.testing.assert_array_equal(to_np(first), to_np(second))


# Known facts of 4,000 groups of 24. The centres come from sorting 200,000 (normal) and 50,000
# (gamma) groups in plain numpy; the tolerances are about three standard errors of 4,000.


def test_window_of_normal_rewards():
    rewards = np.random.default_rng(1).normal(size=(4000, 24))
    kept = subset.select(rewards, rule="window", keep=16)
    best_kept = np.take_along_axis(kept, rewards.argmax(axis=1)[:, None], axis=1)
    assert best_kept.mean() == pytest.approx(0.036, abs=0.009)
    ratio = [r[k].std() / r.std() for r, k in zip(rewards, kept, strict=True)]
    assert np.mean(ratio) == pytest.approx(0.517, abs=0.006)


def test_window_of_skewed_rewards_is_biased():
    rewards = np.random.default_rng(2).gamma(2.0, size=(4000, 24))
    kept = subset.select(rewards, rule="window", keep=16)
    bias = [(r[k].mean() - r.mean()) / r.std() for r, k in zip(rewards, kept, strict=True)]
    assert np.mean(bias) == pytest.approx(-0.407, abs=0.01)


def test_binary_rewards_fall_back_in_every_group():
    rewards = (np.random.default_rng(3).random((4000, 24)) < 0.5).astype(float)
    kept = subset.select(rewards, rule="window", keep=12)
    assert all(np.ptp(r[k]) == 0 for r, k in zip(rewards, kept, strict=True))
    full, fell_back = subset.with_fallback(rewards, kept)
    assert fell_back.all()
    assert full.all()


def test_fallback_by_hand(f64, bools, to_np):
    rewards = f64(
        [
            [0.0, 0.0, 1.0, 1.0],  # the subset is constant, the group is not: falls back
            [0.1, 0.1, 0.1, 0.1],  # neither has spread: stays
            [0.0, 1.0, 2.0, 3.0],  # spread in both: stays
            [0.0, 0.001, 3.0, 3.0],  # 0.0005 is below 5 % of 1.5: falls back
            [0.0, 0.0, np.nan, 9.0],  # without invalid samples there is no spread: stays
            [0.0, 0.2, 3.0, 3.0],  # 0.1 is above 5 % of 1.45: stays
        ]
    )
    selected = bools([[1, 1, 0, 0]] * 6)
    valid = bools([[1, 1, 1, 1]] * 4 + [[1, 1, 1, 0], [1, 1, 1, 1]])
    chosen, fell_back = subset.with_fallback(rewards, selected, valid=valid)
    assert to_np(fell_back).tolist() == [True, False, False, True, False, False]
    expected = [[4, 2, 2, 4, 2, 2][row] for row in range(6)]
    assert to_np(chosen).sum(axis=1).tolist() == expected


def test_fallback_takes_no_invalid_sample(f64, bools, to_np):
    rewards = f64([[0.0, 0.0, 1.0, np.nan, 1.0]])
    chosen, fell_back = subset.with_fallback(
        rewards, bools([[1, 1, 0, 1, 0]]), valid=bools([[1, 1, 1, 1, 0]])
    )
    assert to_np(fell_back).all()
    assert to_np(chosen).tolist() == [[True, True, True, False, False]]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"rule": "windw"}, "windw.*window"),
        ({"rule": "window"}, "keep"),
        ({"rule": "window", "keep": 0}, "keep"),
        ({"rule": "trim", "keep": 5}, r"\[1, 4\].*not 5"),
        ({"rule": "random", "keep": 2}, "draws"),
        ({"rule": "random", "keep": 2, "draws": np.zeros((1, 3))}, "draws"),
    ],
)
def test_bad_requests(settings, message):
    with pytest.raises(ValueError, match=message):
        subset.select(np.zeros((1, 4)), **settings)


def test_rewards_of_another_rank():
    with pytest.raises(ValueError, match=r"\[P, G\]"):
        subset.select(np.zeros(4), rule="none")
