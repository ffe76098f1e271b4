"""Settings of a model that do not go together are refused in one line, before anything loads."""

import pytest

from common import config as configuration
from common.config import ConfigError

SD3 = ("model.family=sd3", "model.path=somewhere")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["model.family=sd3"], "model: family = 'sd3' needs path: a diffusers folder or repos"),
        (["model.family=sd4"], "model.family: 'sd4' is no family; did you mean 'sd3'? (or w"),
        (["model.dtype=bfloat16"], "model: dtype = bfloat16 is for family = 'sd15' or 'sd3' or"),
        (["model.resolution=512"], "model: resolution = 512 is for family = 'sd15'"),
        ([*SD3, "model.guidance_embedding=1.0"], "guidance_embedding = 1.0 is for family = 'flux'"),
        ([*SD3, "model.max_tokens=513"], "model.max_tokens = 513: input should be less than or"),
        ([*SD3, "model.dtype=float8"], "model.dtype = 'float8': not a valid choice"),
        ([*SD3, "model.quantize=5"], "model.quantize = 5: not a valid choice; valid: 0, 4, 8"),
        (
            [*SD3, "adapter.kind=full", "model.dtype=bfloat16"],
            "adapter.kind = 'full' needs model.dtype = 'float32'",
        ),
        (
            [*SD3, "model.shard=fsdp", "model.compile=true"],
            "model: shard = 'fsdp' does not go with compile = true: compiled code does not gather",
        ),
        (["model.shard=fsdp"], "shard = fsdp is for family = 'sd15' or 'sd3' or 'flux', not 'emb"),
        ([*SD3, "model.shard=ddp"], "model.shard = 'ddp': not a valid choice; valid: auto, fsdp"),
        (
            [*SD3, "model.shard=fsdp", "adapter.kind=full"],
            "adapter.kind = 'full' needs model.shard = 'none': only frozen weights are sharded",
        ),
        (
            ["rollout.kernel=ddim", "rollout.noise_level=1.5"],
            "rollout: noise_level = 1.5 is above 1, the most DDIM takes",
        ),
    ],
)
def test_one_line(changes, message):
    with pytest.raises(ConfigError) as caught:
        configuration.load("emoji-grpo", changes)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_family_brings_its_published_targets_unless_some_are_named():
    assert configuration.load("emoji-grpo").adapter.targets == ("qkv", "o", "m1", "m2")
    published = configuration.load("emoji-grpo", SD3).adapter.targets
    assert "attn.add_k_proj" in published
    assert len(published) == 8
    named = configuration.load("emoji-grpo", [*SD3, "adapter.targets=['to_q']"]).adapter.targets
    assert named == ("to_q",)
    again = configuration.parse(configuration.to_tables(configuration.load("emoji-grpo", SD3)))
    assert again.adapter.targets == published
