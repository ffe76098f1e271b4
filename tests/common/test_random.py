"""Noise depends on its address alone, addresses never share numbers, and the numbers are normal."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from common import random
from common.random import Key, Purpose

KEY = Key(seed=7, purpose=Purpose.TRANSITION, update=3, prompt=5, sample=2, step=4)
SHAPE = (3, 8, 8)


def keys(count):
    return [KEY.at(prompt=n // 6, sample=n % 6) for n in range(count)]


def test_a_key_always_gives_the_same_draw():
    np.testing.assert_array_equal(random.normal(KEY, SHAPE), random.normal(KEY.at(), SHAPE))
    np.testing.assert_array_equal(random.uniform(KEY, (9,)), random.uniform(KEY, (9,)))
    np.testing.assert_array_equal(random.permutation(KEY, 9), random.permutation(KEY, 9))
    assert random.normal(KEY, SHAPE).dtype == np.float32
    assert random.normal(KEY, SHAPE).shape == SHAPE
    assert random.normals([], SHAPE).shape == (0, *SHAPE)


@pytest.mark.parametrize("batch", [1, 5, 24])
def test_batching_changes_nothing(batch):
    everything = random.normals(keys(24), SHAPE)
    parts = [random.normals(keys(24)[at : at + batch], SHAPE) for at in range(0, 24, batch)]
    np.testing.assert_array_equal(np.concatenate(parts), everything)
    np.testing.assert_array_equal(everything[13], random.normal(keys(24)[13], SHAPE))


@pytest.mark.parametrize("world_size", [2, 3, 8])
def test_ranks_together_draw_what_one_process_draws(world_size):
    everything = random.normals(keys(24), SHAPE)
    gathered = np.empty_like(everything)
    for rank in reversed(range(world_size)):  # and in another order
        gathered[rank::world_size] = random.normals(keys(24)[rank::world_size], SHAPE)
    np.testing.assert_array_equal(gathered, everything)


def test_what_was_drawn_before_changes_nothing():
    alone = random.normal(KEY, SHAPE)
    random.normal(KEY.at(step=9), (100,))
    np.random.default_rng(0).standard_normal(50)
    np.testing.assert_array_equal(random.normal(KEY, SHAPE), alone)


NEIGHBOURS = [
    KEY,
    KEY.at(seed=8),
    KEY.at(purpose=Purpose.INITIAL),
    KEY.at(update=4),
    KEY.at(prompt=6),
    KEY.at(sample=3),
    KEY.at(step=5),
    KEY.at(update=4, step=3),  # parts that change places
    KEY.at(prompt=2, sample=5),
    KEY.at(seed=int(Purpose.TRANSITION), purpose=Purpose(7)),
    KEY.at(update=0, step=3 << 4 | 4),
]


def test_any_part_of_a_key_makes_another_uncorrelated_stream():
    draws = random.normals(NEIGHBOURS, (20_000,))
    for one, other in itertools.combinations(range(len(NEIGHBOURS)), 2):
        assert np.isin(draws[one, :1000], draws[other]).mean() < 0.05
        correlation = np.corrcoef(draws[one], draws[other])[0, 1]
        assert abs(correlation) < 5 / 20_000**0.5, (NEIGHBOURS[one], NEIGHBOURS[other])


@settings(max_examples=200)
@given(st.data())
def test_streams_cannot_overlap(data):
    """A key's counters are its own 2**64: the words above the lowest differ, or the Philox key."""
    word, half = st.integers(0, 2**64 - 1), st.integers(0, 2**32 - 1)
    make = st.builds(
        Key, word, st.sampled_from(Purpose), update=half, prompt=word, sample=word, step=half
    )
    one = data.draw(make)
    part = data.draw(st.sampled_from(["seed", "update", "prompt", "sample", "step"]))
    other = one.at(**{part: data.draw(half)})

    def address(key):
        state = random.generator(key).bit_generator.state["state"]
        assert int(state["counter"][0]) == 0
        return (*map(int, state["counter"][1:]), *map(int, state["key"]))

    assert (address(one) == address(other)) == (one == other)


def test_the_lowest_counter_word_counts_the_blocks():
    """A million numbers further the words that carry the address are untouched."""
    generator = random.generator(KEY)
    before = generator.bit_generator.state["state"]["counter"].copy()
    generator.random(1_000_000)
    after = generator.bit_generator.state["state"]["counter"]
    assert after[0] == 250_000  # blocks of four
    np.testing.assert_array_equal(after[1:], before[1:])


def test_draws_are_standard_normal():
    """Over many keys, as a run uses them: moments, tails, neighbours in a draw and across keys."""
    draws = random.normals([KEY.at(sample=n) for n in range(500)], (1000,)).astype(np.float64)
    count = draws.size
    assert abs(draws.mean()) < 5 / count**0.5
    assert abs(draws.var() - 1) < 5 * (2 / count) ** 0.5
    assert abs((draws**3).mean()) < 5 * (15 / count) ** 0.5
    assert abs((draws**4).mean() - 3) < 5 * (96 / count) ** 0.5
    assert abs((draws[:, 1:] * draws[:, :-1]).mean()) < 5 / count**0.5
    assert abs((draws[1:] * draws[:-1]).mean()) < 5 / count**0.5
    assert (np.abs(draws) > 1.96).mean() == pytest.approx(0.05, abs=5 * (0.0475 / count) ** 0.5)
    first = draws[:, 0]  # the first numbers of successive keys
    assert abs(first.mean()) < 5 / 500**0.5
    assert first.var() == pytest.approx(1, abs=5 * (2 / 500) ** 0.5)


def test_uniforms_and_permutations():
    values = random.uniform(KEY, (200_000,))
    assert values.dtype == np.float64
    assert 0 <= values.min() < 1e-4
    assert 1 - 1e-4 < values.max() < 1
    assert values.mean() == pytest.approx(0.5, abs=5 * (1 / 12 / 200_000) ** 0.5)
    assert values.var() == pytest.approx(1 / 12, rel=0.02)
    np.testing.assert_array_equal(np.sort(random.permutation(KEY, 50)), np.arange(50))
    firsts = [random.permutation(KEY.at(update=n), 4)[0] for n in range(2000)]
    np.testing.assert_allclose(np.bincount(firsts) / 2000, 0.25, atol=5 * (0.1875 / 2000) ** 0.5)


def test_the_fingerprint_is_that_of_the_published_results():
    """If this fails numpy draws other numbers: runs do not resume exactly, nor repeat results."""
    assert random.fingerprint() == "fc32f5a3098f4655"


def test_numbers_of_purposes_never_change():
    assert {purpose.name: int(purpose) for purpose in Purpose} == {
        "INITIAL": 0,
        "TRANSITION": 1,
        "PROMPT": 2,
        "POOLED": 3,
        "SUBSET": 4,
        "ADAPTER": 5,
        "PROMPT_ORDER": 6,
        "TRAINED_STEPS": 7,
        "MINIBATCH": 8,
        "EVALUATION": 9,
        "DATA": 10,
        "BOOTSTRAP": 11,
        "SHUFFLE": 12,
        "REWRITE": 13,
        "VARIANT": 14,
    }


@pytest.mark.parametrize("kind", [np.int32, np.int64, np.uint64])
def test_numpy_integers_count_as_integers(kind):
    """Shifted as numpy's own they would wrap, and different updates share their noise."""
    other = Key(kind(7), KEY.purpose, kind(3), kind(5), kind(2), kind(4))
    np.testing.assert_array_equal(random.normal(other, SHAPE), random.normal(KEY, SHAPE))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"update": 2**32}, r"update = 4294967296 .*\[0, 2\*\*32\)"),
        ({"step": -1}, r"step = -1 .*\[0, 2\*\*32\)"),
        ({"seed": 2**64}, r"seed = 18446744073709551616 .*\[0, 2\*\*64\)"),
        ({"sample": -1}, r"sample = -1 .*\[0, 2\*\*64\)"),
        ({"prompt": 2**64}, r"prompt = .*\[0, 2\*\*64\)"),
        ({"sample": 0.5}, r"sample of a noise key must be an integer, not 0\.5"),
        ({"purpose": 99}, r"99 is not a valid Purpose"),
    ],
)
def test_keys_out_of_range_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        random.normal(KEY.at(**changes), (2,))


def test_the_extreme_keys_are_accepted():
    top = Key(2**64 - 1, Purpose.DATA, 2**32 - 1, 2**64 - 1, 2**64 - 1, 2**32 - 1)
    assert np.isfinite(random.normal(top, SHAPE)).all()


def test_a_text_has_the_address_it_always_had():
    assert random.address("owl") == 435454538499159824  # sha256sum: 10f7127b980b0b06...
    assert random.address("") != random.address(" ")
    assert np.isfinite(random.normal(KEY.at(prompt=random.address("Käuzchen")), SHAPE)).all()
