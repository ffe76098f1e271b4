"""Both forms of prompt noise against numpy float64, and the cases that must be exact.

No noise means the same bits; a sample's noise depends on no other sample; `cads` keeps mean
and std, and at full intensity forgets the prompt.
"""

from typing import get_args

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from common.algorithm import prompt_noise

B, L, D = 3, 4, 5


@pytest.fixture(scope="module")
def data():
    rng = np.random.default_rng(4)
    return 2.0 + 3.0 * rng.normal(size=(B, L, D)), rng.normal(size=(B, L, D))


def reference(y, n, s, u, form, mix):
    """One sample, by the formula."""
    m, d = y.mean(), y.std()
    if form == "additive":
        return y + s * d * np.sqrt(u) * n
    noisy = np.sqrt(1 - u) * y + s * np.sqrt(u) * n
    rescaled = (noisy - noisy.mean()) / noisy.std() * d + m
    return mix * rescaled + (1 - mix) * noisy


@pytest.mark.parametrize("form", get_args(prompt_noise.Form))
@pytest.mark.parametrize("pooled", [False, True])
@pytest.mark.parametrize("per_sample", [False, True])
def test_against_numpy(xp, f64, rtol, to_np, data, form, pooled, per_sample):
    y, n = (part[:, 0] if pooled else part for part in data)
    u = np.array([0.2, 0.5, 1.0]) if per_sample else np.full(B, 0.36)
    got = prompt_noise.perturb(
        f64(y),
        f64(n),
        strength=0.3,
        intensity=f64(u) if per_sample else 0.36,
        form=form,
        mix=0.7,
    )
    expected = [reference(y[i], n[i], 0.3, u[i], form, 0.7) for i in range(B)]
    np.testing.assert_allclose(to_np(got), expected, rtol=100 * rtol(xp), atol=10 * rtol(xp))


def test_by_hand(f64, to_np):  # y has mean 0 and std 2; sqrt(u) = 1/2: y + 0.1 * 2 * 0.5 n
    y, n = f64([[2.0, -2.0, 2.0, -2.0]]), f64([[1.0, 1.0, -3.0, 0.0]])
    got = prompt_noise.perturb(y, n, strength=0.1, intensity=0.25, form="additive")
    np.testing.assert_allclose(to_np(got), [[2.1, -1.9, 1.7, -2.0]], rtol=1e-6)


@pytest.mark.parametrize("form", get_args(prompt_noise.Form))
def test_no_noise_is_the_same_bits(f32, to_np, data, form):
    y, n = data[0].astype(np.float32), f32(data[1])
    y[0, 0, 0] = -0.0
    for strength, intensity in ((0.0, 1.0), (0.2, 0.0), (0.2, f32([0.0, 0.0, 0.0]))):
        got = prompt_noise.perturb(f32(y), n, strength=strength, intensity=intensity, form=form)
        assert to_np(got).tobytes() == y.tobytes()
    part = prompt_noise.perturb(f32(y), n, strength=0.2, intensity=f32([0.0, 1.0, 0.5]), form=form)
    assert to_np(part)[0].tobytes() == y[0].tobytes()
    assert (to_np(part)[1:] != y[1:]).all()


@settings(max_examples=15)
@given(u=st.floats(0.01, 1.0), s=st.floats(0.05, 1.0))
def test_rescaled_cads_keeps_mean_and_std(xp, f64, to_np, data, u, s):
    y, n = data
    got = to_np(prompt_noise.perturb(f64(y), f64(n), strength=s, intensity=u, form="cads"))
    axes = (1, 2)
    tolerance = 1e-4 if got.dtype == np.float32 else 1e-10
    np.testing.assert_allclose(got.mean(axis=axes), y.mean(axis=axes), rtol=tolerance)
    np.testing.assert_allclose(got.std(axis=axes), y.std(axis=axes), rtol=tolerance)


@pytest.mark.parametrize("s", [1e-3, 1.0])
def test_cads_at_full_intensity_forgets_the_prompt(f64, to_np, data, s):
    y, n = data
    got = to_np(prompt_noise.perturb(f64(y), f64(n), strength=s, intensity=1.0, form="cads"))
    for a, b in zip(got, n, strict=True):
        assert np.corrcoef(a.ravel(), b.ravel())[0, 1] == pytest.approx(1.0, abs=1e-5)


@settings(max_examples=15)
@given(s=st.floats(0.01, 1.0), u=st.floats(0.01, 1.0), scale=st.sampled_from([0.25, 4.0]))
def test_additive_noise_is_measured_in_units_of_the_embedding(f64, to_np, data, s, u, scale):
    y, n = data
    small = prompt_noise.perturb(f64(y), f64(n), strength=s, intensity=u, form="additive")
    large = prompt_noise.perturb(f64(scale * y), f64(n), strength=s, intensity=u, form="additive")
    np.testing.assert_allclose(to_np(large), scale * to_np(small), rtol=1e-5, atol=1e-5)


def test_samples_are_independent(f64, to_np, data):
    y, n = data
    settings = {"strength": 0.2, "intensity": 0.5, "form": "additive"}
    together = to_np(prompt_noise.perturb(f64(y), f64(n), **settings))
    for i in range(B):
        alone = to_np(prompt_noise.perturb(f64(y[i : i + 1]), f64(n[i : i + 1]), **settings))
        np.testing.assert_array_equal(together[i], alone[0])


def test_half_precision_uses_float32_statistics(xp, f32, to_np):
    if not hasattr(xp, "bfloat16"):
        pytest.skip("no bfloat16 in this library")
    # The sum of 4,096 squares does not fit 8 bits of mantissa: bfloat16 statistics would be off.
    rng = np.random.default_rng(5)
    y = xp.astype(f32(rng.normal(size=(1, 64, 64))), xp.bfloat16)
    n = f32(rng.normal(size=(1, 64, 64)))
    got = prompt_noise.perturb(y, n, strength=0.5, intensity=1.0, form="additive")
    assert got.dtype == xp.bfloat16
    wide = prompt_noise.perturb(
        xp.astype(y, xp.float32), n, strength=0.5, intensity=1.0, form="additive"
    )
    rounded = to_np(xp.astype(xp.astype(wide, xp.bfloat16), xp.float32))
    np.testing.assert_array_equal(to_np(xp.astype(got, xp.float32)), rounded)


@pytest.mark.parametrize("form", get_args(prompt_noise.Form))
def test_a_constant_embedding_stays_finite(f64, to_np, form):
    y, n = f64(np.full((2, 3), 0.1)), f64(np.arange(6.0).reshape(2, 3))
    got = to_np(prompt_noise.perturb(y, n, strength=0.5, intensity=1.0, form=form))
    np.testing.assert_allclose(got, 0.1, rtol=1e-6)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"form": "add"}, "add.*additive"),
        ({"noise": np.zeros((2, 4))}, "noise"),
        ({"embedding": np.zeros(3), "noise": np.zeros(3)}, "embedding"),
        ({"strength": -1.0}, "strength"),
        ({"intensity": 1.5}, r"intensity = 1.5.*\[0, 1\]"),
        ({"intensity": np.zeros(3)}, "intensity"),
        ({"mix": 2.0}, "mix"),
    ],
)
def test_bad_requests(changes, message):
    call = {
        "embedding": np.zeros((2, 3)),
        "noise": np.zeros((2, 3)),
        "strength": 0.1,
        "intensity": 0.5,
        "form": "additive",
    } | changes
    with pytest.raises(ValueError, match=message):
        prompt_noise.perturb(call.pop("embedding"), call.pop("noise"), **call)
