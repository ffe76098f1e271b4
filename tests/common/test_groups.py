"""A group is a prompt's id: prompts with the same encoding stay two groups."""

from contextlib import nullcontext

import numpy as np
import pytest

from common.backends import Alone, Conditioning, FlowSchedule
from common.clock import Clock
from common.config import parse
from common.prompts import Prompt
from common.sampling.conditioner import Conditioner
from common.sampling.process import make_process
from common.sampling.rollout import Sampler, plan_steps

ENCODED = 77
GROUP = 3
SHARED = " ".join(f"word{n}" for n in range(ENCODED))
PROMPTS = [Prompt(4, f"{SHARED} and a cat"), Prompt(9, f"{SHARED} and a dog")]


class Numpy:
    """A backend with numpy arrays."""

    asarray = staticmethod(np.asarray)
    to_numpy = staticmethod(np.asarray)
    inference = staticmethod(nullcontext)
    world = Alone()

    def evaluate(self, *arrays):
        pass


class Short:
    """A policy that encodes the first 77 words of a prompt, and draws towards grey."""

    prediction = "velocity"
    schedule = FlowSchedule()
    latent_shape = (2, 2)

    def encode(self, texts):
        seen = [" ".join(text.split()[:ENCODED]) for text in texts]
        return Conditioning(np.stack([_embedding(text) for text in seen]))

    def embed_time(self, t):
        return t

    def predict(self, x, time, conditioning, *, constant=False):
        return x + conditioning.tokens.mean(axis=(1, 2))[:, None, None]

    def decode(self, x):
        return np.repeat((np.clip(x, -1, 1) * 127 + 128).astype(np.uint8)[..., None], 3, axis=3)


def _embedding(text):
    return np.random.default_rng(len(text)).standard_normal((5, 4)).astype(np.float32)


@pytest.fixture
def conditioner():
    config = parse(
        {
            "rollout": {"prompts": 2, "group_size": GROUP, "steps": 3},
            "drift": {"noise": {"strength": 0.5, "schedule": "constant"}},
        }
    )
    process = make_process(Short(), config.rollout)
    return config, Conditioner(config, Numpy(), Short(), process, PROMPTS, 0, Clock())


def test_prompts_that_share_what_is_encoded_share_no_noise(conditioner):
    config, made = conditioner
    clean = Short().encode([prompt.text for prompt in PROMPTS]).tokens
    assert np.array_equal(clean[0], clean[1])
    noised = made.conditioning(np.arange(2 * GROUP), np.zeros(2 * GROUP, int)).tokens
    assert len({row.tobytes() for row in noised}) == 2 * GROUP

    plan = plan_steps(config.rollout, seed=0, update=0)
    sampler = Sampler(Short(), Numpy(), make_process(Short(), config.rollout), made, plan, Clock())
    rollout = sampler.sample(PROMPTS, config.rollout, seed=0, update=0, keep_predicted=False)
    assert len({start.tobytes() for start in rollout.latents[:, 0]}) == 2 * GROUP


def test_the_id_alone_addresses_the_noise(conditioner):
    config, made = conditioner
    renamed = [Prompt(4, "a horse"), Prompt(11, PROMPTS[1].text)]
    process = make_process(Short(), config.rollout)
    other = Conditioner(config, Numpy(), Short(), process, renamed, 0, Clock())
    samples, steps = np.arange(2 * GROUP), np.zeros(2 * GROUP, int)
    mine, theirs = made.conditioning(samples, steps).tokens, other.conditioning(samples, steps)
    clean = Short().encode([p.text for p in renamed]).tokens
    scale = clean[0].std() / Short().encode([PROMPTS[0].text]).tokens.std()
    moved = (theirs.tokens[:GROUP] - clean[0]) / scale
    original = mine[:GROUP] - Short().encode([PROMPTS[0].text]).tokens
    np.testing.assert_allclose(moved, original, rtol=1e-4, atol=1e-6)
    assert not np.allclose(mine[GROUP:], theirs.tokens[GROUP:])


def test_a_sample_is_conditioned_on_its_own_text_and_keeps_its_noise():
    values = {"rollout": {"prompts": 2, "group_size": GROUP, "steps": 3}}
    config = parse({**values, "drift": {"noise": {"strength": 0.5, "schedule": "constant"}}})
    texts = [[PROMPTS[0].text, "a kitten", "a cat"], [PROMPTS[1].text, "a hound", "a kitten"]]
    process = make_process(Short(), config.rollout)

    def made(config, texts=None):
        return Conditioner(config, Numpy(), Short(), process, PROMPTS, 0, Clock(), texts)

    samples = np.array([5, 0, 4, 1, 3, 2])
    steps = np.zeros(6, int)
    clean = Short().encode([text for group in texts for text in group]).tokens[samples]
    plain = parse(values)
    assert np.array_equal(made(plain, texts).conditioning(samples, steps).tokens, clean)
    assert not np.array_equal(made(plain).conditioning(samples, steps).tokens, clean)
    noisy = made(config, texts).conditioning(samples, steps).tokens
    own = made(config).conditioning(samples, steps).tokens
    kept = [0, 3]  # samples that see their own prompt
    assert np.array_equal(noisy[np.isin(samples, kept)], own[np.isin(samples, kept)])
    spread = clean.std(axis=(1, 2), keepdims=True)
    own_clean = Short().encode([PROMPTS[n // GROUP].text for n in samples]).tokens
    own_spread = own_clean.std(axis=(1, 2), keepdims=True)
    np.testing.assert_allclose((noisy - clean) / spread, (own - own_clean) / own_spread, rtol=1e-4)
