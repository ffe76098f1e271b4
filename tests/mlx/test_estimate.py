"""The memory of a run is estimated from shapes alone, within a factor of two of the real peak."""

import numpy as np
import pytest

pytest.importorskip("drift_mlx.backend", exc_type=ImportError)

import mlx.core as mx
from mlx.utils import tree_unflatten

from common import backends, config as configuration
from common.config import AdapterConfig
from common.pipelines import architectures
from drift_mlx import backend as drift, estimate, full_size, lora
from drift_mlx.networks.layers import ResnetBlock
from drift_mlx.networks.mmdit import MMDiT, MMDiTConfig
from drift_mlx.networks.unet import UNet, UNetConfig
from tests.mlx.peaks import active_memory, peak_of

SIZES = {"sample_size": 32, "num_layers": 4, "attention_head_dim": 32, "num_attention_heads": 2}
SIZES |= {"joint_attention_dim": 64, "caption_projection_dim": 64, "pooled_projection_dim": 32}


@pytest.fixture(scope="module")
def network():
    found = MMDiT(MMDiTConfig(**SIZES, pos_embed_max_size=16, qk_norm="rms_norm"))
    settings = AdapterConfig(rank=4, targets=("attn.to_q", "attn.to_v", "attn.add_k_proj"))
    lora.attach(found, settings, seed=0, linear=lora.MixedLoRALinear)
    inputs = [mx.zeros(shape) for shape in ((2, 16, 32, 32), (2, 256), (2, 40, 64), (2, 32))]
    mx.eval(found.parameters(), inputs)
    return found, inputs


@pytest.mark.parametrize("checkpointing", [False, True])
def test_a_backward_pass_takes_about_what_is_estimated(network, checkpointing):
    module, inputs = network
    tally = estimate.Tally()
    before = active_memory()
    estimate.counted(module, tally)(*inputs)
    assert active_memory() < before + 1e4  # nothing was computed but a few constants
    assert len(tally.blocks) == 4

    def loss(trained):
        module.update(tree_unflatten(list(trained.items())))
        return mx.square(module(*inputs)).mean()

    module.checkpointing, trained = checkpointing, lora.trainable(module)
    try:
        peak, _ = peak_of(lambda: mx.eval(mx.grad(loss)(dict(trained))))
    finally:
        module.update(tree_unflatten(list(trained.items())))
        module.checkpointing = False
    assert 0.5 < tally.training(checkpointing=checkpointing) / peak < 2


ON_CPU = mx.default_device().type == mx.DeviceType.cpu
SMALL = {
    "unet": {"cross_attention_dim": 64, "block_out_channels": (64, 64, 64, 64)},
    "vae": {
        "block_out_channels": (32, 64, 64),
        "layers_per_block": 1,
        "norm_num_groups": 16,
        "sample_size": 64,
    },
    "text_encoder": architectures.CLIP_L
    | architectures.ALONE
    | {"vocab_size": 99, "hidden_size": 64, "intermediate_size": 64},
    "scheduler": architectures.SCHEDULERS["sd15"],
}


@pytest.mark.parametrize(
    ("changes", "batch", "expected"),
    [
        ((), 1, 1.0),
        (("model.resolution=128",), 1, 4.0),
        (("model.resolution=128",), 2, 4.0),
        (("model.resolution=128", "model.vae_slicing=false"), 2, 8.0),
        (("model.resolution=128", "model.vae_tiling=true"), 1, 1.0),
    ],
)
def test_decoding_takes_about_what_is_estimated(monkeypatch, changes, batch, expected):
    """expected: how many times as much as one image of 64 pixels a side."""
    monkeypatch.setitem(architectures.FULL, "sd15", SMALL)
    own = ["model.family=sd15", "model.path=small", "rollout.kernel=ddim", "model.resolution=64"]
    own += [f"rollout.batch_size={batch}", *changes]
    settings = configuration.load("emoji-grpo", own)
    policy = full_size.policy(settings.model, AdapterConfig(rank=1, targets=("to_q",)))
    with policy._vae.present() as (decoder, _):
        mx.eval(decoder.parameters())
    x = mx.random.normal((batch, *policy.latent_shape))
    mx.eval(x)
    parts = estimate.decoding(policy, settings, on_cpu=ON_CPU)
    peak, images = peak_of(lambda: policy.decode(x))
    side = policy.latent_shape[1] * 4
    assert images.shape == (batch, side, side, 3)
    assert 0.7 < parts / peak < 1.5
    assert parts == pytest.approx(expected * 16 * 4 * 64**3, rel=0.05)


def test_a_forward_pass_of_a_unet_takes_about_what_is_estimated():
    network = UNet(UNetConfig(cross_attention_dim=64, block_out_channels=(64, 128, 128, 128)))
    inputs = mx.zeros((1, 4, 32, 32)), mx.zeros((1, 64)), mx.zeros((1, 77, 64))
    mx.eval(network.parameters(), inputs)
    tally = estimate.Tally(ON_CPU)
    estimate.counted(network, tally)(*inputs)
    peak, _ = peak_of(lambda: mx.eval(network(*inputs)))
    assert 0.5 < tally.inference() / peak < 2


def test_the_workspace_is_that_of_the_device():
    """One convolution each: 9 pixels a pixel and padding on a CPU, Winograd's 8 x 8 of 6 x 6."""
    x = mx.zeros((1, 36, 36, 512))
    block = ResnetBlock(512, 512, groups=32, eps=1e-6)
    found = {}
    for on_cpu in (True, False):
        tally = estimate.Tally(on_cpu)
        estimate.counted(block, tally)(x)
        found[on_cpu] = tally.workspace / x.nbytes
    assert found[True] == 10
    assert found[False] == pytest.approx(1 + 2 * 64 / 36)


@pytest.mark.parametrize("kind", ["lora", "full"])
def test_the_emoji_model_takes_about_what_is_estimated(kind):
    settings = configuration.load(
        "emoji-grpo",
        [f"adapter.kind={kind}", "rollout.batch_size=16", "objective.micro_batch=16"],
    )
    backend = backends.load("mlx")
    policy = backend.policy(settings.model, settings.adapter, seed=0)
    peaks = backend.estimate(policy, settings, "owl")
    assert list(peaks) == ["rollout", "update"]
    x, time = mx.zeros((16, *policy.latent_shape)), policy.embed_time(np.zeros(16))
    conditioning = policy.encode(["owl"] * 16)

    def loss(trained):
        policy.module.update(tree_unflatten(list(trained.items())))
        return mx.square(policy.predict(x, time, conditioning)).mean()

    trained = dict(lora.trainable(policy.module))
    mx.eval(x, time, conditioning.tokens, policy.module.parameters())
    # Two moments and the sum of earlier gradients are in the estimate, and not in the measurement.
    beside = {"rollout": 2 * estimate.nbytes(trained), "update": 3 * estimate.nbytes(trained)}
    if policy._base is not None:  # it shares its arrays until tuning replaces them
        beside = {stage: size + estimate.nbytes(trained) for stage, size in beside.items()}
    weights = estimate.nbytes(policy.module.parameters())
    for stage, work in (
        ("rollout", lambda: mx.eval(policy.predict(x, time, conditioning, constant=True))),
        ("update", lambda: mx.eval(mx.grad(loss)(trained))),
    ):
        own, _ = peak_of(work)
        assert 0.7 < (peaks[stage] - weights - beside[stage]) / own < 1.4
        policy.module.update(tree_unflatten(list(trained.items())))


def config(checkpoint, *changes):
    own = [f"model.path={checkpoint('sd3', newer=True)}", "model.family=sd3", *changes]
    return configuration.load("emoji-grpo", ["model.max_tokens=20", *own])


def test_stages_of_a_run(checkpoint):
    backend = backends.load("mlx")

    def stages(*changes):
        settings = config(checkpoint, *changes)
        policy = backend.policy(settings.model, settings.adapter, seed=0)
        found = backend.estimate(policy, settings, "owl")
        assert policy._unread is not None  # no weight was read
        return found, policy

    found, policy = stages()
    assert list(found) == ["encoding", "rollout", "decoding", "update"]
    weights = estimate.weight_nbytes(policy)
    assert all(size > weights for size in found.values())
    sparing, _ = stages("model.gradient_checkpointing=true")
    assert sparing["update"] <= found["update"]
    fewer, _ = stages("objective.micro_batch=1")
    assert fewer["update"] < 0.5 * found["update"]
    absent, _ = stages("model.offload=true")
    assert absent["rollout"] < found["rollout"]
    half, _ = stages("model.dtype=bfloat16")
    assert half["encoding"] < found["encoding"]


@pytest.mark.parametrize(
    ("changes", "way"),
    [
        ((), "model.offload = true"),
        (("model.offload=true",), "model.dtype = 'bfloat16'"),
        (("model.offload=true", "model.dtype=bfloat16"), "model.quantize = 8"),
        (("model.offload=true", "model.dtype=bfloat16", "model.quantize=4"), "a smaller model"),
    ],
)
def test_too_little_memory_is_reported_before_anything_is_read(
    checkpoint, monkeypatch, changes, way
):
    settings = config(checkpoint, *changes)
    monkeypatch.setattr(drift, "_room", lambda: 1000)
    with pytest.raises(
        ValueError, match=r"GB for its weights, this machine has 0\.0: try "
    ) as told:
        backends.load("mlx").policy(settings.model, settings.adapter, seed=0)
    assert f"try {way} (" in str(told.value)
