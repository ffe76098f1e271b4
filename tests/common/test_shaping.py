"""Potentials and shaping: numpy references and exact identities."""

import math
from typing import Any, get_args

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from common.algorithm import advantage, diversity, potential, shaping

P, G, T = 3, 7, 4


def plain(**changes: Any) -> dict[str, Any]:
    """Terminal shaping with lambda 1/2 and nothing else, but for the changes."""
    settings = {"weight": 0.5, "mode": "terminal", "scaling": "raw", "gate": "none", "steps": T}
    return settings | changes


@pytest.fixture(scope="module")
def batch():
    """Rewards, distances [P, G, G] and which samples are valid."""
    rng = np.random.default_rng(11)
    rewards = 5.0 + rng.normal(size=(P, G))
    distances = np.asarray(diversity.cosine_distances(rng.normal(size=(P, G, 6))))
    valid = np.ones((P, G), bool)
    valid[1, 2] = valid[2, :4] = False
    return rewards, distances, valid


# Potentials.


def vendi(kernel):
    spectrum = np.linalg.eigvalsh(kernel / len(kernel))
    spectrum = spectrum[spectrum > 1e-12]
    return np.exp(-np.sum(spectrum * np.log(spectrum)))


def component(linked, i):
    """Breadth-first search: the samples that i is linked to."""
    seen, todo = {i}, [i]
    while todo:
        for j in np.flatnonzero(linked[todo.pop()]):
            if j not in seen:
                seen.add(j)
                todo.append(j)
    return seen


def reference_potential(D, kind, neighbours, radius):
    """One group of valid samples, one sample at a time."""
    n, out = len(D), []
    for i in range(n):
        others = np.sort(np.delete(D[i], i))
        rest = np.delete(np.delete(D, i, axis=0), i, axis=1)
        size = len(component(radius >= D, i))
        out.append(
            0.0
            if n == 1
            else {
                "mean_pairwise": lambda d=others: d.mean(),
                "nearest": lambda d=others: d[0],
                "knn": lambda d=others: d[:neighbours].mean(),
                "loo_vendi": lambda r=rest: vendi(1 - D) - vendi(1 - r),
                "cluster": lambda s=size: math.sqrt(n / s) if s < n else 0.0,
            }[kind]()
        )
    return np.array(out)


@pytest.mark.parametrize("kind", get_args(potential.Potential))
@pytest.mark.parametrize(("neighbours", "radius"), [(2, 0.7), (50, 0.3)])
def test_potentials_against_numpy(f64, bools, to_np, batch, kind, neighbours, radius):
    _, distances, valid = batch
    both = valid[:, :, None] & valid[:, None, :]
    got = potential.per_sample(
        f64(np.where(both, distances, np.nan)),
        kind=kind,
        valid=bools(valid),
        neighbours=neighbours,
        radius=radius,
    )
    expected = np.zeros((P, G))
    for p, keep in enumerate(valid):
        D = distances[p][np.ix_(keep, keep)]
        expected[p, keep] = reference_potential(D, kind, neighbours, radius)
    np.testing.assert_allclose(to_np(got), expected, rtol=1e-4, atol=2e-5)


def test_potentials_by_hand(f64, to_np):  # points 0, 1, 3 and 7 on a line
    points = np.array([0.0, 1.0, 3.0, 7.0])
    D = f64(np.abs(points[:, None] - points[None, :]))
    for kind, expected in (
        ("mean_pairwise", [11 / 3, 3.0, 3.0, 17 / 3]),
        ("nearest", [1.0, 1.0, 2.0, 4.0]),
        ("knn", [2.0, 1.5, 2.5, 5.0]),
        ("cluster", [math.sqrt(4 / 3)] * 3 + [2.0]),  # 0 and 3 are linked through 1
    ):
        got = potential.per_sample(D, kind=kind, neighbours=2, radius=2.0)
        np.testing.assert_allclose(to_np(got), expected, rtol=1e-6)


def test_a_chain_is_one_cluster(f64, to_np):
    points = np.arange(9.0)[np.random.default_rng(12).permutation(9)]
    D = np.abs(points[:, None] - points[None, :])
    assert (to_np(potential.per_sample(f64(D), kind="cluster", radius=1.0)) == 0).all()
    separate = to_np(potential.per_sample(f64(D), kind="cluster", radius=0.9))
    np.testing.assert_allclose(separate, 3.0, rtol=1e-6)


def test_leave_one_out_vendi_by_hand(f64, to_np):
    D = diversity.cosine_distances(f64(np.eye(3)[[0, 0, 1]]))
    # Shares (2/3, 1/3); without a twin (1/2, 1/2), without the third (1).
    whole = math.exp(-(2 / 3) * math.log(2 / 3) - (1 / 3) * math.log(1 / 3))
    got = to_np(potential.per_sample(D, kind="loo_vendi"))
    np.testing.assert_allclose(got, [whole - 2, whole - 2, whole - 1], rtol=1e-4)


@pytest.mark.parametrize("kind", get_args(potential.Potential))
def test_identical_images_and_lone_samples_have_none(f32, bools, to_np, kind):
    image = np.random.default_rng(13).normal(size=2304)
    D = diversity.cosine_distances(f32([[image] * 5] * 3))
    valid = bools([[1] * 5, [0, 1, 0, 0, 0], [0] * 5])
    got = to_np(potential.per_sample(D, kind=kind, valid=valid))
    np.testing.assert_allclose(got, 0.0, atol=1e-5 if kind == "loo_vendi" else 0.0)


@settings(max_examples=10)
@given(order=st.permutations(range(G)), kind=st.sampled_from(get_args(potential.Potential)))
def test_permuting_samples_permutes_the_potential(f64, to_np, batch, order, kind):
    D, at = batch[1], np.array(order)
    first = to_np(potential.per_sample(f64(D), kind=kind, radius=0.7))
    second = to_np(potential.per_sample(f64(D[:, at][:, :, at]), kind=kind, radius=0.7))
    np.testing.assert_allclose(second, first[:, at], rtol=1e-4, atol=2e-5)


@settings(max_examples=10)
@given(twin=st.integers(0, G - 1), kind=st.sampled_from(get_args(potential.Potential)))
def test_a_duplicate_lowers_the_potential_of_its_twin(f64, to_np, batch, twin, kind):
    D, at = batch[1], np.array([*range(G), twin])
    before = to_np(potential.per_sample(f64(D), kind=kind, radius=0.7))[:, twin]
    after = to_np(potential.per_sample(f64(D[:, at][:, :, at]), kind=kind, radius=0.7))[:, twin]
    alone = kind == "cluster"  # a group that is one cluster has 0 before and after
    assert ((after < before) | (alone & (before == 0))).all()
    assert (after < before).any()


# Shaping.


def reference_shape(r, phi, *, mode, scaling, gate, valid, base, weight=0.5, gamma=0.9):
    """One group of valid samples; phi: [T+1, n] for per_step, else [n]."""
    final = phi[-1] if mode == "per_step" else phi
    unit, offset = {
        "raw": lambda: (1.0, 0.0),
        "zscore": lambda: (r.std() / max(final.std(), 5e-3), final.mean()),
        "minmax": lambda: (r.std() / max(np.ptp(final), 5e-3), final.min()),
    }[scaling]()
    opened = {
        "none": lambda: np.ones_like(r),
        "above_mean": lambda: (r > r.mean()).astype(float),
        "above_base": lambda: (r > base).astype(float),
        "soft": lambda: 1 / (1 + np.exp(-(r - r.mean()) / r.std())),
    }[gate]()
    psi = opened * unit * (phi - offset)
    if mode == "terminal":
        return r + weight * gamma**T * psi
    # The sum of the discounted F that are still to come, added up one by one.
    F = [gamma * psi[k + 1] - psi[k] for k in range(T)]
    to_go = [sum(gamma ** (j - k) * F[j] for j in range(k, T)) for k in range(T)]
    return r + weight * np.array(to_go)


@pytest.mark.parametrize("mode", ["terminal", "per_step"])
@pytest.mark.parametrize("scaling", get_args(shaping.Scaling))
@pytest.mark.parametrize("gate", get_args(shaping.Gate))
def test_shaping_against_numpy(xp, f64, bools, rtol, to_np, batch, mode, scaling, gate):
    rewards, _, valid = batch
    phi = np.random.default_rng(14).random((T + 1, P, G) if mode == "per_step" else (P, G))
    base = np.array([4.8, 5.0, 5.2])
    got = shaping.shape(
        f64(np.where(valid, rewards, np.nan)),
        f64(np.where(valid, phi, np.inf)),
        weight=0.5,
        gamma=0.9,
        mode=mode,
        scaling=scaling,
        gate=gate,
        steps=T,
        valid=bools(valid),
        base=f64(base),
    )
    expected = np.full((T, P, G) if mode == "per_step" else (P, G), np.nan)
    for p, keep in enumerate(valid):
        expected[..., p, keep] = reference_shape(
            rewards[p, keep],
            phi[..., p, keep],
            mode=mode,
            scaling=scaling,
            gate=gate,
            valid=keep,
            base=base[p],
        )
    np.testing.assert_allclose(to_np(got), expected, rtol=10 * rtol(xp), atol=10 * rtol(xp))


def test_zscore_by_hand(f64, to_np):  # std(r) = 2; Phi has mean 0.3 and std 0.1
    got = shaping.shape(
        f64([[1.0, 5.0, 5.0, 1.0]]),
        f64([[0.2, 0.4, 0.2, 0.4]]),
        **plain(scaling="zscore"),
    )
    np.testing.assert_allclose(to_np(got), [[0.0, 6.0, 4.0, 2.0]], rtol=1e-5, atol=1e-5)


def test_the_differences_of_nearly_equal_images_are_not_amplified(f64, to_np):
    rewards, phi = f64([[1.0, 3.0]]), f64([[1e-5, 3e-5]])  # spread 1e-5, floor 5e-3
    for scaling in ("zscore", "minmax"):
        got = to_np(shaping.shape(rewards, phi, **plain(scaling=scaling)))
        assert 0 < abs(got - [[1.0, 3.0]]).max() < 0.5 * 0.01


def test_soft_gate_does_not_overflow(f64, to_np):
    rewards = np.zeros((1, 2000))
    rewards[0, 0] = -1e6  # 45 standard deviations below the mean
    got = shaping.shape(f64(rewards), f64(np.ones((1, 2000))), **plain(gate="soft"))
    assert np.isfinite(to_np(got)).all()
    assert to_np(got)[0, 0] == pytest.approx(-1e6)


def test_equal_rewards_are_not_above_their_mean(f64, to_np):
    rewards = f64([[0.1] * 7])
    got = shaping.shape(rewards, f64([[1.0] * 7]), **plain(gate="above_mean"))
    np.testing.assert_array_equal(to_np(got), to_np(rewards))


@pytest.mark.parametrize("mode", get_args(shaping.Mode))
def test_no_weight_is_the_same_bits(f32, to_np, batch, mode):
    rewards = batch[0].astype(np.float32)
    rewards[0, 0], rewards[0, 1] = -0.0, np.nan
    phi = np.ones((T + 1, P, G)) if mode == "per_step" else np.ones((P, G))
    got = to_np(shaping.shape(f32(rewards), f32(phi), **plain(weight=0.0, mode=mode)))
    assert got.shape == ((T, P, G) if mode == "per_step" else (P, G))
    for step in got.reshape(-1, P, G):
        assert step.tobytes() == rewards.tobytes()


def advantages(rewards, selected):
    return advantage.group_advantages(rewards, selected, statistics="subset", clip=5.0)


def test_strict_shaping_is_inert(f32, bools, to_np, batch):
    """Its update equals the unshaped one bit for bit, where `terminal` does change it."""
    rewards, distances, _ = batch
    selected = bools(np.ones((P, G)))
    phi = potential.per_sample(f32(distances), kind="mean_pairwise")
    unshaped = to_np(advantages(f32(rewards), selected))
    for mode, same in (("strict", True), ("none", True), ("terminal", False)):
        shaped = shaping.shape(f32(rewards), phi, **plain(mode=mode, scaling="zscore"))
        assert (to_np(advantages(shaped, selected)).tobytes() == unshaped.tobytes()) is same


@pytest.mark.parametrize("gamma", [1.0, 0.8])
def test_per_step_shaping_telescopes_to_terminal(xp, f64, rtol, to_np, batch, gamma):
    phi = np.random.default_rng(15).random((T + 1, P, G))
    phi[0] = 0.0
    steps = to_np(shaping.shape(f64(batch[0]), f64(phi), **plain(gamma=gamma, mode="per_step")))
    terminal = to_np(shaping.shape(f64(batch[0]), f64(phi[-1]), **plain(gamma=gamma)))
    np.testing.assert_allclose(steps[0], terminal, rtol=rtol(xp))
    for k in range(T):
        terms = [gamma**j * (gamma * phi[k + j + 1] - phi[k + j]) for j in range(T - k)]
        np.testing.assert_allclose(steps[k], batch[0] + 0.5 * sum(terms), rtol=rtol(xp))


def test_multiplicative_by_hand(f64, bools, to_np):
    A = f64([[2.0, -1.0, 1.0, 3.0], [1.0, -1.0, 2.0, 0.0]])
    phi = f64([[0.1, 0.1, 0.4, np.nan], [0.0, 0.0, 0.0, 0.0]])
    valid = bools([[1, 1, 1, 0], [1, 1, 1, 1]])
    got = to_np(advantage.weighted_by_potential(A, phi, valid=valid))
    np.testing.assert_allclose(got, [[1.0, -1.0, 2.0, 3.0], [1.0, -1.0, 2.0, 0.0]], rtol=1e-6)
    negative = advantage.weighted_by_potential(f64([[1.0, 1.0]]), f64([[-0.5, 0.5]]))
    np.testing.assert_allclose(to_np(negative), [[0.0, 2.0]], rtol=1e-6)


@pytest.mark.parametrize(
    ("weight", "expected"),
    [(0.0, [2.0, -1.0, 1.0]), (0.5, [1.5, -1.0, 1.5]), (1.0, [1.0, -1.0, 2.0]), (3.0, [0, -1, 4])],
)
def test_the_weight_of_multiplicative_goes_from_nothing_to_gardo(f64, to_np, weight, expected):
    # Phi / mean Phi is 1/2, 1/2, 2; the factor 1 + 3 (1/2 - 1) < 0 counts as 0.
    A, phi = f64([[2.0, -1.0, 1.0]]), f64([[0.1, 0.1, 0.4]])
    got = to_np(advantage.weighted_by_potential(A, phi, weight=weight))
    np.testing.assert_allclose(got, [expected], rtol=1e-6)
    if weight == 0:
        np.testing.assert_array_equal(got, to_np(A))
    with pytest.raises(ValueError, match="weight = -1"):
        advantage.weighted_by_potential(A, phi, weight=-1.0)


def test_the_clip_of_multiplicative_comes_after_the_weight(f64, to_np):
    A, phi = f64([[4.0, 1.0, -6.0]]), f64([[0.9, 0.3, 0.0]])  # the mean Phi is .4
    got = to_np(advantage.weighted_by_potential(A, phi, clip=5.0))
    np.testing.assert_allclose(got, [[5.0, 0.75, -5.0]], rtol=1e-6)
    with pytest.raises(ValueError, match="clip = 0"):
        advantage.weighted_by_potential(A, phi, clip=0.0)


@settings(max_examples=15)
@given(
    A=st.lists(st.floats(-3, 3), min_size=5, max_size=5),
    phi=st.lists(st.floats(0.01, 2), min_size=5, max_size=5),
    scale=st.sampled_from([0.5, 8.0]),
)
def test_multiplicative_keeps_signs_and_ignores_the_unit_of_the_potential(
    f64, to_np, A, phi, scale
):
    A = [value if abs(value) > 1e-6 else 0.0 for value in A]
    first = to_np(advantage.weighted_by_potential(f64([A]), f64([phi])))
    second = to_np(advantage.weighted_by_potential(f64([A]), f64([np.multiply(phi, scale)])))
    np.testing.assert_allclose(second, first, rtol=1e-5)
    np.testing.assert_array_equal(np.sign(first), np.sign([A]))
    below = np.array([A]) <= 0
    np.testing.assert_array_equal(first[below], to_np(f64([A]))[below])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"mode": "terminl"}, "terminl.*terminal"),
        ({"scaling": "z"}, "z.*zscore"),
        ({"gate": "open"}, "open.*soft"),
        ({"weight": -1.0}, "weight"),
        ({"gamma": 0.0}, "gamma"),
        ({"steps": 0}, "steps"),
        ({"gate": "above_base"}, "base"),
        ({"mode": "per_step"}, r"per_step.*\(5, 2, 3\).*\(2, 3\)"),
        ({"mode": "per_step", "potentials": np.zeros((4, 2, 3))}, "per_step"),
        ({"potentials": np.zeros((2, 4))}, "terminal"),
        ({"rewards": np.zeros(3)}, r"\[P, G\]"),
    ],
)
def test_bad_shaping_requests(changes, message):
    arrays: dict[str, Any] = {"rewards": np.zeros((2, 3)), "potentials": np.zeros((2, 3))}
    call = arrays | plain(**changes)
    with pytest.raises(ValueError, match=message):
        shaping.shape(call.pop("rewards"), call.pop("potentials"), **call)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"kind": "mean"}, "mean.*mean_pairwise"),
        ({"neighbours": 0}, "neighbours"),
        ({"radius": -1.0}, "radius"),
    ],
)
def test_bad_potential_requests(changes, message):
    with pytest.raises(ValueError, match=message):
        potential.per_sample(np.zeros((2, 2)), **{"kind": "knn"} | changes)
