"""Encoded prompts: each is encoded once, comes in order, and the oldest go when memory ends."""

import numpy as np
import pytest

from common import pipelines
from common.backends import Conditioning
from common.pipelines import prompt_cache

SIZE = 3 * 4 + 2 * 4
"""Bytes of one conditioning of the encoder below."""


@pytest.fixture
def encoder():
    """An encoder that remembers what it was asked, in calls."""
    calls: list[list[str]] = []

    def encode(prompts):
        calls.append(prompts)
        return [
            Conditioning(np.full((1, 1, 3), len(p), np.float32), np.zeros((1, 2), np.float32))
            for p in prompts
        ]

    encode.calls = calls
    return encode


def lengths(found):
    return [int(conditioning.tokens[0, 0, 0]) for conditioning in found]


def test_each_prompt_is_encoded_once_and_comes_in_the_order_asked_for(encoder):
    held = prompt_cache.EncodedPrompts()
    assert lengths(held.get_or_encode(["owl", "a", "owl"], encoder)) == [3, 1, 3]
    assert lengths(held.get_or_encode(["mole", "a"], encoder)) == [4, 1]
    assert encoder.calls == [["owl", "a"], ["mole"]]
    assert len(held) == 3


def test_the_least_recently_used_go_first_and_never_one_that_is_asked_for(encoder, monkeypatch):
    monkeypatch.setattr(prompt_cache, "CACHE_BYTES", 2 * SIZE)
    held = prompt_cache.EncodedPrompts()
    held.get_or_encode(["a", "bb"], encoder)
    held.get_or_encode(["a"], encoder)
    held.get_or_encode(["ccc"], encoder)  # bb goes
    held.get_or_encode(["a", "ccc"], encoder)
    assert encoder.calls == [["a", "bb"], ["ccc"]]
    assert lengths(held.get_or_encode(["bb", "a", "dddd"], encoder)) == [2, 1, 4]
    assert len(held) == 3


def test_a_resolution_that_does_not_fit_is_reported_with_its_neighbours():
    pipelines.check_resolution(512, 16)
    with pytest.raises(ValueError, match="must be a multiple of 16, as 512 or 528"):
        pipelines.check_resolution(520, 16)
    with pytest.raises(ValueError, match="as 16 or 32"):
        pipelines.check_resolution(5, 16)
