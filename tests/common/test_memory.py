"""An out-of-memory error lists the settings that lower the stage most, largest first."""

from pathlib import Path

import pytest

from common import config as configuration
from common.backends import memory
from common.runs.directory import MAY_CHANGE

GB = 10**9
SD3 = (
    "model.family=sd3",
    "model.path=somewhere",
    "rollout.batch_size=8",
    "objective.micro_batch=4",
)
CUDA = RuntimeError("CUDA out of memory. Tried to allocate 2.50 GiB. GPU 0 has 23.6 GiB in all")


def estimate(config):
    """16 GB of weights, and activations that each setting makes smaller."""
    model, rollout = config.model, config.rollout
    always = 16 * GB - 4 * GB * model.offload
    sample = GB // 4 if model.gradient_checkpointing else GB
    return {
        "rollout": always + rollout.batch_size * GB // 8,
        "decoding": always + (1 if model.vae_slicing else rollout.batch_size) * GB,
        "update": always + config.objective.micro_batch * sample,
    }


@pytest.mark.parametrize(
    ("message", "size"),
    [
        (str(CUDA), 2_684_354_560),
        ("CUDA out of memory. Tried to allocate 20.00 MiB (GPU 0; 15 GiB", 20 * 2**20),
        ("DefaultCPUAllocator: can't allocate memory: you tried to allocate 7036 bytes.", 7036),
        ("[metal::malloc] Attempting to allocate 123456 bytes which is greater than 9", 123456),
        ("[malloc] Unable to allocate 100 bytes.", 100),
        ("Unable to allocate 128. TiB for an array with shape (17592186044416,)", 128 * 2**40),
        ("out of memory", None),
    ],
)
def test_what_was_asked_for_is_read_from_each_librarys_words(message, size):
    assert memory.requested_bytes(message) == size


def test_savings_are_of_the_largest_part_of_a_stage_and_in_order():
    config = configuration.load("emoji-grpo", SD3)
    assert memory.savings(estimate, config, "update") == {
        "model.offload": (True, 4 * GB),
        "model.gradient_checkpointing": (True, 3 * GB),
        "objective.micro_batch": (2, 2 * GB),
    }
    sliced = {"model.offload": (True, 4 * GB), "rollout.batch_size": (4, GB // 2)}
    batched = configuration.load("emoji-grpo", [*SD3, "rollout.batch_size=16"])
    sliced["rollout.batch_size"] = (8, GB)
    assert memory.savings(estimate, batched, "rollout") == sliced
    whole = configuration.load("emoji-grpo", [*SD3, "model.vae_slicing=false"])
    assert memory.savings(estimate, whole, "evaluation") == {
        "model.vae_slicing": (True, 7 * GB),
        "rollout.batch_size": (4, 4 * GB),
        "model.offload": (True, 4 * GB),
    }


def test_the_line_says_stage_size_three_settings_and_how_to_go_on():
    config = configuration.load("emoji-grpo", SD3)
    message = memory.explain(CUDA, "update", config, estimate=estimate, run=Path("runs/a b"))
    assert str(message) == (
        "out of memory, update: 2.68 GB more were asked for; these lower it most, by estimate: "
        "model.offload = true (-4.00 GB), model.gradient_checkpointing = true (-3.00 GB), "
        "objective.micro_batch = 2 (-2.00 GB); what was saved is whole, go on with: "
        "drift run --resume --out 'runs/a b' --set model.offload=true"
    )


def test_where_nothing_can_be_estimated_the_settings_are_still_named():
    def fails(_):
        raise RuntimeError("no room for that either")

    config, run = configuration.load("emoji-grpo", SD3), Path("r")
    for unknown in (fails, lambda _: {}):
        message = str(memory.explain(CUDA, "rollout", config, estimate=unknown, run=run))
        assert "these lower it: rollout.batch_size = 4, model.offload = true; " in message
    loading = str(memory.explain(CUDA, "loading the model", config, estimate=None, run=run))
    assert loading.startswith("out of memory, loading the model: 2.68 GB more were asked for; ")
    least = ("rollout.batch_size=1", "objective.micro_batch=1")
    config = configuration.load("emoji-grpo", least)  # the embedded model has no more to give
    message = str(memory.explain(CUDA, "update", config, estimate=lambda _: {}, run=run))
    assert "a lower model.resolution or adapter.rank, in a new run, needs less" in message


def test_a_run_may_be_resumed_with_every_setting_that_is_named():
    assert memory.CHANGES.keys() <= MAY_CHANGE
