"""The memory of each of several processes: what is sent, and what process 0 has besides."""

from types import SimpleNamespace

import numpy as np
import pytest

from common import config as configuration
from common.backends.lanes import lane_of, process_of
from common.backends.world import Copies
from common.learning import footprint, footprint_several
from common.learning.footprint_several import Share

IMAGE, WIDTH = 32 * 32 * 3, 64
POLICY = SimpleNamespace(latent_shape=(3, 32, 32))
COPIES = Copies(gathered=2, sent=5, gradients=7)


def rows(size, *changes, leads=False, calls=(32,), copies=COPIES):
    own = ["rollout.steps=5", "rollout.window=0", "rollout.batch_size=8", *changes]
    config = configuration.load("emoji", own)
    share = Share(size, leads, copies)
    return footprint_several.stages(config, POLICY, IMAGE, WIDTH, 0, share, calls, prompts=8)


@pytest.mark.parametrize(("size", "trained"), [(2, 1), (2, 4), (4, 4), (8, 2)])
def test_the_expected_number_of_samples_that_are_sent_is_that_of_an_update(size, trained):
    steps = [f"rollout.steps={trained + 1}", "rollout.window=0", "rollout.train_last_step=false"]
    changes = [*steps, "rollout.prompts=8", "rollout.group_size=100"]
    config = configuration.load("emoji-grpo", changes)
    assert footprint.stored_steps(config) == trained
    images = 800
    pairs = np.stack(np.meshgrid(np.arange(images), np.arange(trained)), axis=-1).reshape(-1, 2)
    shuffled = np.random.default_rng(0).permutation(pairs)
    parts = [shuffled[start : start + 4] for start in range(0, len(shuffled), 4)]
    wanted = {
        (int(sample), process_of(lane_of(n, len(parts), 8), size, 8))
        for n, part in enumerate(parts)
        for sample in part[:, 0]
    }
    sent = sum(sample % size != process for sample, process in wanted) / size
    assert footprint_several.sent_samples(config, size) == pytest.approx(sent, rel=0.05)


def test_each_has_the_images_of_all_and_the_latents_of_its_own():
    config = configuration.load("emoji", ["rollout.steps=5", "rollout.window=0"])
    images = config.rollout.prompts * config.rollout.group_size
    latents = footprint.latent_bytes(config, POLICY)
    rest = footprint.sample_bytes(config, POLICY, IMAGE) - latents
    alone = Copies(gathered=2, sent=0, gradients=7)
    for size in (2, 3, 4):
        own = -(-(images // 8) // size) * 8
        assert rows(size, copies=alone)["update"] == own * latents + images * rest
    assert rows(2)["update"] > rows(2, copies=alone)["update"]


def test_process_0_has_what_plain_functions_and_evaluations_need():
    rollout = configuration.load("emoji").rollout
    images = rollout.prompts * rollout.group_size
    first, other = (rows(2, leads=leads, calls=(None,)) for leads in (True, False))
    assert first["credit"] - other["credit"] == footprint.scored_bytes(images, IMAGE)
    assert first["evaluation"] > other["evaluation"]
    assert {first[name] - other[name] for name in ("rollout", "update")} == {0}
    declared = [rows(2, leads=leads)["credit"] for leads in (True, False)]
    assert declared[0] == declared[1] < first["credit"]
