"""CADS at inference perturbs a prompt as training does: block by block, never the padding."""

import numpy as np
import pytest

from common import config, random
from common.algorithm import prompt_noise
from common.backends import Block, Conditioning
from common.evaluation import cads
from common.random import Key, Purpose
from common.sampling.process import FlowProcess

STRENGTH, STEP = 0.3, 2
KEYS = [Key(5, Purpose.EVALUATION, prompt=7, sample=sample) for sample in range(2)]
PROCESS = FlowProcess.from_config(config.load("emoji").rollout, 10)


class Host:
    """Arrays of numpy."""

    def asarray(self, value):
        return np.asarray(value, dtype=np.float32)


def conditioning(blocks=()):
    draw = np.random.default_rng(3)
    tokens = draw.normal(size=(2, 5, 6)).astype(np.float32)
    if blocks:
        tokens[:, :2] *= 100  # another encoder, on another scale
        tokens[:, :2, 4:] = 0
    return Conditioning(tokens, draw.normal(size=(2, 8)).astype(np.float32), blocks)


def perturb(clean, step=STEP):
    return cads.perturbation(Host(), PROCESS, STRENGTH)(clean, KEYS, step)


def test_one_block_has_the_noise_of_the_published_formula_to_the_bit():
    clean = conditioning()
    given = perturb(clean)
    for purpose, before, after in (
        (Purpose.PROMPT, clean.tokens, given.tokens),
        (Purpose.POOLED, clean.pooled, given.pooled),
    ):
        keys = [key.at(purpose=purpose, step=STEP + 1) for key in KEYS]
        expected = prompt_noise.perturb(
            before,
            random.normals(keys, before.shape[1:]),
            strength=STRENGTH,
            intensity=float(cads.intensities(cads.SETTINGS, PROCESS)[STEP]),
            form="cads",
            mix=1.0,
        )
        assert after.tobytes() == expected.tobytes() != before.tobytes()


def test_each_block_keeps_its_mean_and_std_and_its_padding():
    blocks = (Block(2, 4), Block(3, 6))
    clean = conditioning(blocks)
    given = perturb(clean)
    assert given.blocks == blocks
    assert (given.tokens[:, :2, 4:] == 0).all()
    for part in ((slice(None), slice(0, 2), slice(0, 4)), (slice(None), slice(2, 5))):
        before, after = clean.tokens[part], given.tokens[part]
        assert not np.array_equal(before, after)
        for statistic in (np.mean, np.std):
            wanted = statistic(before, axis=(1, 2))
            assert statistic(after, axis=(1, 2)) == pytest.approx(wanted, rel=1e-4)


def test_a_step_without_noise_returns_the_conditioning_itself():
    clean = conditioning()
    assert perturb(clean, step=9) is clean
