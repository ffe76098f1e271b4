"""The memory of an update's samples and credit grows as they do with the group size."""

from types import SimpleNamespace

import pytest

from common import config as configuration
from common.learning import footprint
from common.sampling.draws import KEPT

IMAGE, WIDTH = 32 * 32 * 3, 64
POLICY = SimpleNamespace(latent_shape=(3, 32, 32))


def stages(size, *changes):
    own = [f"rollout.group_size={size}", "rollout.steps=5", "rollout.window=0", *changes]
    return footprint.stages(configuration.load("emoji", own), POLICY, IMAGE, WIDTH)


def test_the_samples_are_as_large_as_their_arrays():
    config = configuration.load("emoji", ["rollout.steps=5", "rollout.window=0"])
    assert footprint.sample_bytes(config, POLICY, IMAGE) == 4 * (2 * IMAGE + 1) * 4 + IMAGE
    one, ten = stages(10), stages(100)
    assert ten["update"] == 10 * one["update"]
    assert one["rollout"] == 2 * one["update"]
    per_step = stages(10, "drift.shaping.mode=per_step")
    images = 10 * config.rollout.prompts
    assert per_step["update"] == one["update"] + 5 * images * IMAGE


@pytest.mark.parametrize(("draw", "draws"), [("trajectory", 1), ("step", 5)])
def test_prompt_noise_is_kept_up_to_a_bound(draw, draws):
    def noise(numbers):
        own = ["rollout.group_size=10", "rollout.prompts=2", "rollout.steps=5", "rollout.window=0"]
        config = configuration.load("emoji", [*own, f"drift.noise.draw={draw}"])
        rows = footprint.stages(config, POLICY, IMAGE, WIDTH, numbers)
        without = footprint.stages(config, POLICY, IMAGE, WIDTH)
        assert {name: rows[name] - without[name] for name in ("rollout", "update")} == {
            "rollout": footprint.noise_bytes(config, numbers),
            "update": footprint.noise_bytes(config, numbers),
        }
        return footprint.noise_bytes(config, numbers)

    assert noise(1000) == draws * 20 * 1000 * 4
    assert noise(10**9) == KEPT


def test_the_credit_grows_with_the_square_of_the_group_and_with_the_cube_for_loo_vendi():
    def credit(size, *changes):
        own = [f"rollout.group_size={size}", *changes]
        return footprint.credit_bytes(configuration.load("emoji", own), 8)

    assert credit(400) == pytest.approx(4 * credit(200), rel=0.1)
    assert credit(4096) == pytest.approx(64 * credit(512), rel=0.02)
    vendi = "drift.shaping.potential=loo_vendi"
    assert credit(240, vendi) == pytest.approx(1000 * credit(24, vendi), rel=0.02)
    assert credit(2000) > 8 * 2000**2
    counting = ("drift.subset.rule=window", "drift.subset.keep=16")
    assert credit(64, *counting) > 0
