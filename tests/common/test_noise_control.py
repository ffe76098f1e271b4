"""The coin, and the agreement of gradients, which say how much of a run is noise."""

import math

import numpy as np
import pytest

from common import config as configuration
from common.learning import agreement
from common.rewards import RewardNameError, check_names, create
from common.rewards.coin import tosses


class Numpy:
    """The one method of a backend that is needed."""

    @staticmethod
    def to_numpy(array):
        return np.asarray(array)


def images(count, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (count, 8, 8, 3), dtype=np.uint8)


def test_a_coin_is_fair_keyed_and_a_function_of_the_image():
    many = images(4000)
    heads = tosses(many, 0)
    assert set(heads) == {0.0, 1.0}
    assert abs(heads.mean() - 0.5) < 4 * 0.5 / math.sqrt(len(many))
    assert (tosses(many[::-1], 0) == heads[::-1]).all()
    other = tosses(many, 1)
    assert abs((heads == other).mean() - 0.5) < 4 * 0.5 / math.sqrt(len(many))
    changed = many.copy()
    changed[:, 0, 0, 0] ^= 1  # the smallest change is another image
    assert abs((tosses(changed, 0) == heads).mean() - 0.5) < 4 * 0.5 / math.sqrt(len(many))


def test_the_first_tosses_are_known():
    """SHA-256 of eight bytes of the seed, little-endian, and of the image's bytes."""
    assert tosses(images(12), 0).astype(int).tolist() == KNOWN[0]
    assert tosses(images(12), 7).astype(int).tolist() == KNOWN[1]


KNOWN = (
    [0, 0, 1, 0, 1, 0, 0, 0, 1, 0, 1, 1],
    [0, 0, 0, 0, 0, 1, 1, 0, 0, 1, 0, 1],
)


def test_the_reward_takes_its_seed_from_the_options():
    reward = create("coin", None, {"seed": 7})
    assert (reward(images(12), [""] * 12, [{}] * 12) == tosses(images(12), 7)).all()
    with pytest.raises(RewardNameError, match=r"reward\.options\.coin"):
        create("coin", None, {"seed": -1})


@pytest.mark.parametrize(
    "terms", ["{coin=1.0, embedded=10.0}", "{mine=1.0, jpeg_compressibility=1.0}"]
)
def test_a_coin_beside_other_rewards_is_refused(terms):
    changes = [f"reward.terms={terms}", "reward.options.mine.reward=coin"]
    config = configuration.load("emoji-grpo", changes if "mine" in terms else changes[:1])
    with pytest.raises(RewardNameError, match=r"'(coin|mine)' must be the only term, not beside"):
        check_names(config)
    check_names(configuration.load("emoji-neutral"))


def test_agreement_is_the_cosine_of_the_halves():
    rng = np.random.default_rng(0)
    shapes = {"a": (3, 4), "b": (5,)}
    first, second = ({n: rng.standard_normal(s) for n, s in shapes.items()} for _ in range(2))
    one, other = (np.concatenate([part[n].ravel() for n in shapes]) for part in (first, second))
    cosine = one @ other / np.linalg.norm(one) / np.linalg.norm(other)
    assert agreement.agreement(Numpy, first, second) == pytest.approx(cosine, rel=1e-5)
    doubled = {name: 2 * value for name, value in first.items()}
    assert agreement.agreement(Numpy, first, doubled) == pytest.approx(1.0)
    opposite = {name: -0.5 * value for name, value in first.items()}
    assert agreement.agreement(Numpy, first, opposite) == pytest.approx(-1.0)
    nothing = {name: 0 * value for name, value in first.items()}
    assert math.isnan(agreement.agreement(Numpy, first, nothing))


def rows(values):
    return [{"update": n, agreement.METRIC: value} for n, value in enumerate(values, start=1)]


def test_a_run_without_agreement_is_warned_of():
    noise = list(np.random.default_rng(1).normal(0.0, 0.1, 24))
    assert "two halves of an update agree by" in agreement.warning(rows(noise))
    assert agreement.warning(rows([0.3 + value for value in noise])) == ""
    assert agreement.warning(rows(noise[: agreement.LEAST - 1])) == ""
    unknown = [math.nan, None, "x"]
    assert agreement.warning(rows([*noise, *unknown])) == agreement.warning(rows(noise))
    assert agreement.warning([{"update": 1}] * 30) == ""
