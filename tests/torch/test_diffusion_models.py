"""Policies over diffusers are the pipelines they wrap, on tiny checkpoints of the real classes.

Without noise they sample what the pipeline samples; their adapters are PEFT's, in float32 on
whatever the weights are; prompt noise keeps to the blocks of real conditioning; and what cannot
be run is told in one line.
"""

import numpy as np
import pytest
import torch

from common import backends
from common.backends import Block, Conditioning
from common.clock import Clock
from common.prompts import Prompt
from common.sampling.conditioner import Conditioner
from common.sampling.process import make_process
from drift_torch import gradients
from tests.shapes import FAMILIES, SHAPES

PROMPTS = ["a red fox", "owl 7"]
STEPS = 3


def noise_for(policy, count=2, seed=1):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, *policy.latent_shape, generator=generator)


def inputs(policy, count=2):
    """x, time and conditioning of a prediction."""
    time = 981.0 if policy.prediction != "velocity" else 0.75
    conditioning = policy.encode(PROMPTS[:count])
    return noise_for(policy, count), policy.embed_time(np.full(count, time)), conditioning


def stir(policy, scale=0.2):
    """Give the adapter something to do: B starts at 0."""
    generator = torch.Generator().manual_seed(5)
    for name, value in policy.module.named_parameters():
        if name.endswith("lora_B.weight"):
            value.data += scale * torch.randn(value.shape, generator=generator)


def gradients_of(policy, guided=None):
    x, time, conditioning = inputs(policy)
    loss = lambda: (policy.predict(x, time, conditioning).square().mean(), {})  # noqa: E731
    return backends.load("cpu").value_and_grad(policy, guided or loss)()[2]


@pytest.mark.parametrize(
    ("shape", "guidance"), [*((shape, 4.5) for shape in SHAPES), *((s, 1.0) for s in FAMILIES)]
)
def test_without_noise_sampling_is_the_pipeline(shape, guidance, backend, settings):
    import diffusers

    config = settings(shape, f"rollout.guidance={guidance}")
    policy = backend.policy(config.model, config.adapter, seed=0)
    process = make_process(policy, config.rollout, STEPS)
    z = x = noise_for(policy)
    with backend.inference():
        conditioning = policy.encode(PROMPTS)
        for step in range(process.steps):
            levels = process.levels(backend, policy, np.full(2, step))
            x = process.ode(x, process.predict(policy, x, levels, conditioning), levels)
        images = policy.decode(x)
        assert policy.image_size == images.shape[1:3]

    without = {"text_encoder_3": None, "tokenizer_3": None} if "no-t5" in shape else {}
    pipeline = diffusers.DiffusionPipeline.from_pretrained(config.model.path, **without)
    pipeline.set_progress_bar_config(disable=True)
    call = {"prompt": PROMPTS, "num_inference_steps": STEPS, "height": 32, "width": 32}
    if shape.startswith("flux"):
        packed = pipeline._pack_latents(z, 2, 4, 16, 16)
        call |= {"latents": packed, "true_cfg_scale": guidance, "negative_prompt": ["", ""]}
    else:
        call |= {"latents": z, "guidance_scale": guidance}
    if not shape.startswith("sd15"):
        call["max_sequence_length"] = 20
    expected = pipeline(**call, output_type="latent").images
    if shape.startswith("flux"):
        expected = pipeline._unpack_latents(expected, 32, 32, pipeline.vae_scale_factor)
    scale = float(expected.abs().max())
    assert scale > 1.0
    torch.testing.assert_close(x, expected, rtol=0, atol=1e-5 * max(scale, 1.0))
    pixels = 255 * pipeline(**call, output_type="np").images
    assert images.shape == (2, 32, 32, 3)
    assert images.std() > 5
    assert np.abs(pixels - images).max() < 0.51


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
@pytest.mark.parametrize("eta", [0.0, 0.6, 1.0])
def test_a_ddim_step_is_the_schedulers(prediction, eta, backend, policy_of, settings):
    shape = "sd15" if prediction == "epsilon" else "sd15-v"
    policy = policy_of(shape)
    rollout = settings(shape, f"rollout.noise_level={eta or 0.5}", "rollout.steps=10").rollout
    process = make_process(policy, rollout)
    scheduler = policy._pipe.scheduler
    scheduler.set_timesteps(10)
    x, output, draw = (torch.randn(1, 4, 5, 5, dtype=torch.float64) for _ in range(3))
    for step, t in enumerate(scheduler.timesteps):
        wanted = scheduler.step(output, t, x, eta=eta, variance_noise=draw).prev_sample
        levels = process.levels(backend, policy, np.array([step]))
        levels = levels._replace(
            level=torch.tensor(process.table[[step]]),
            level_next=torch.tensor(process.table[[step + 1]]),
        )
        if eta:
            mean, std = process.transition(x, output, levels)
            got = mean + std * draw
        else:
            got = process.ode(x, output, levels)
        torch.testing.assert_close(got, wanted, rtol=1e-5, atol=1e-5)
        clean = scheduler.step(output, t, x).pred_original_sample
        torch.testing.assert_close(process.clean(x, output, levels), clean, rtol=1e-5, atol=1e-4)
    assert process.times.tolist() == scheduler.timesteps.tolist()


@pytest.mark.parametrize("resolution", [32, 48])
def test_schedules_are_the_schedulers(resolution, policy_of, settings):
    flux, sd3 = (policy_of(name, f"model.resolution={resolution}") for name in ("flux-dev", "sd3"))
    length = (resolution // 4) ** 2
    scheduler = flux._pipe.scheduler
    mu = 0.5 + (1.15 - 0.5) * (length - 256) / (4096 - 256)
    scheduler.set_timesteps(sigmas=np.linspace(1, 1 / 6, 6), mu=mu)
    got = make_process(flux, settings("flux-dev").rollout, 6).sigmas
    np.testing.assert_allclose(got, scheduler.sigmas.numpy(), rtol=1e-6)
    sd3._pipe.scheduler.set_timesteps(6)
    got = make_process(sd3, settings("sd3").rollout, 6).sigmas
    np.testing.assert_allclose(got, sd3._pipe.scheduler.sigmas.numpy(), rtol=1e-6)


@pytest.mark.parametrize("shape", FAMILIES)
def test_the_adapter_is_pefts(shape, policy_of, settings):
    import peft

    policy, config = policy_of(shape), settings(shape)
    stir(policy)
    x, time, conditioning = inputs(policy)
    fresh = policy_of(shape)
    base = fresh._active  # plain weights, once its adapter is taken off below
    with torch.no_grad():
        tuned = policy.predict(x, time, conditioning)
        with policy.reference():
            reference = policy.predict(x, time, conditioning)
    assert (tuned - reference).abs().max() > 1e-3

    for name, part in list(base.named_modules()):
        if hasattr(part, "lora_A"):
            parent, _, last = name.rpartition(".")
            setattr(base.get_submodule(parent), last, part.base)
    targets = list(config.adapter.targets)
    base.add_adapter(peft.LoraConfig(r=8, lora_alpha=16, target_modules=targets))
    theirs = {
        name.replace(".default", ""): value
        for name, value in base.named_parameters()
        if "lora_" in name
    }
    ours = policy.parameters()
    assert theirs.keys() == ours.keys()
    for name, value in theirs.items():
        value.data.copy_(ours[name])
    with torch.no_grad():
        torch.testing.assert_close(
            fresh.predict(x, time, conditioning),
            tuned,
            rtol=0,
            atol=2e-6 * float(tuned.abs().max()),
        )


def test_published_targets(policy_of):
    def ends(shape):
        names = policy_of(shape).parameters()
        return {name.removesuffix(".lora_A.weight") for name in names if "lora_A" in name}

    sd35 = ends("sd35")
    assert "transformer_blocks.0.attn.add_k_proj" in sd35
    assert not any(".attn2." in name or ".ff." in name for name in sd35)
    flux = ends("flux-dev")
    assert "transformer_blocks.0.ff_context.net.2" in flux
    assert "single_transformer_blocks.0.attn.to_q" in flux
    sd15 = ends("sd15")
    assert {name.split(".attn")[1][2:] for name in sd15} == {"to_q", "to_k", "to_v", "to_out.0"}


@pytest.mark.parametrize("shape", FAMILIES)
def test_float32_adapter_on_bfloat16_weights(shape, policy_of):
    policy = policy_of(shape, "model.dtype=bfloat16", "model.gradient_checkpointing=true")
    kinds = {name: value.dtype for name, value in policy.module.named_parameters()}
    assert {kinds[name] for name in policy.parameters()} == {torch.float32}
    assert {kind for name, kind in kinds.items() if "lora" not in name} == {torch.bfloat16}
    stir(policy)
    x, time, conditioning = inputs(policy)
    assert conditioning.tokens.dtype == torch.bfloat16
    assert policy.predict(x, time, conditioning).dtype == torch.float32
    gradients = gradients_of(policy)
    for name, value in gradients.items():
        assert value.dtype == torch.float32, name
        assert torch.isfinite(value).all(), name
    assert sum(float(value.abs().sum()) > 0 for value in gradients.values()) > len(gradients) * 0.8
    exact = policy_of(shape)
    stir(exact)
    flat, true = (
        torch.cat([g.flatten() for g in found.values()])
        for found in (gradients, gradients_of(exact))
    )
    assert torch.cosine_similarity(flat, true, dim=0) > 0.9
    images = policy.decode(noise_for(policy))
    np.testing.assert_array_equal(images, exact.decode(noise_for(policy)))  # the VAE is float32


@pytest.mark.parametrize("shape", FAMILIES)
def test_gradient_checkpointing_changes_no_gradient(shape, policy_of):
    plain, sparing = policy_of(shape), policy_of(shape, "model.gradient_checkpointing=true")
    for policy in (plain, sparing):
        stir(policy)
    expected = gradients_of(plain)
    for name, value in gradients_of(sparing).items():
        torch.testing.assert_close(value, expected[name], rtol=1e-5, atol=1e-8)
    parts = list(sparing.module.modules())
    assert any(vars(part).get("gradient_checkpointing") for part in parts)


def test_gradients_of_one_branch_or_of_both(backend, policy_of, settings):
    policy = policy_of("sd35")
    stir(policy)
    x, time, conditioning = inputs(policy)
    found, values = {}, {}
    for way in ("both", "conditional"):
        rollout = settings(
            "sd35", "rollout.guidance=3.0", f"rollout.guidance_gradient={way}"
        ).rollout
        process = make_process(policy, rollout)
        levels = process.levels(backend, policy, np.array([1, 1]))

        def loss(process=process, levels=levels):
            return process.predict(policy, x, levels, conditioning).mean(), {}

        values[way], _, found[way] = backend.value_and_grad(policy, loss)()
    assert values["both"] == values["conditional"]
    time = levels.time

    def prompted():
        return 3.0 * policy.predict(x, time, conditioning).mean(), {}

    expected = backend.value_and_grad(policy, prompted)()[2]
    name = "transformer_blocks.0.attn.to_v.lora_B.weight"
    torch.testing.assert_close(found["conditional"][name], expected[name], rtol=1e-4, atol=1e-7)
    assert (found["both"][name] - expected[name]).abs().max() > 1e-3 * expected[name].abs().max()


def test_half_precision_gradients_survive():
    weight = torch.nn.Parameter(torch.ones(3))
    inputs_ = torch.tensor([1.0, 2.0, 3.0], dtype=torch.float16)

    def value(scale):
        return ((weight.half() * inputs_).sum() * scale).float()

    tiny = 2.0**-26  # its gradient is 0 in float16
    (lost,) = gradients.gradients_of(value(torch.tensor(tiny)), [weight], half=False)
    (kept,) = gradients.gradients_of(
        (weight.half() * inputs_).float().sum() * tiny, [weight], half=True
    )
    assert lost.abs().sum() == 0
    torch.testing.assert_close(kept, tiny * inputs_.float())
    (large,) = gradients.gradients_of(
        (weight.half() * inputs_).float().sum() * 1000, [weight], half=True
    )
    torch.testing.assert_close(large, 1000 * inputs_.float())


def test_prompt_noise_keeps_to_the_blocks(backend, policy_of, settings):
    policy = policy_of("sd3")
    config = settings(
        "sd3",
        "rollout.group_size=2",
        "drift.noise.strength=0.5",
        "drift.noise.pooled_strength=0.25",
        "drift.noise.schedule=constant",
    )
    clean = policy.encode(["owl"])
    assert clean.blocks == (Block(77, 20), Block(20, 32))
    assert (clean.tokens[:, :77, 20:] == 0).all()
    process = make_process(policy, config.rollout)
    conditioner = Conditioner(config, backend, policy, process, [Prompt(0, "owl")], 0, Clock())
    noisy = conditioner.conditioning(np.array([0, 1]), np.array([0, 3]))
    again = conditioner.conditioning(np.array([1, 0]), np.array([3, 0]))
    torch.testing.assert_close(again.tokens.flip(0), noisy.tokens, rtol=0, atol=0)
    torch.testing.assert_close(again.pooled.flip(0), noisy.pooled, rtol=0, atol=0)
    assert (noisy.tokens[:, :77, 20:] == 0).all()
    moved = noisy.tokens - clean.tokens
    for part in (np.s_[:, :77, :20], np.s_[:, 77:, :]):
        ratio = moved[part].std(dim=(1, 2)) / clean.tokens[part].std()
        assert ((ratio > 0.45) & (ratio < 0.55)).all()  # each block by its own scale
    assert ((noisy.pooled - clean.pooled).std() / clean.pooled.std()) == pytest.approx(
        0.25, abs=0.1
    )
    assert (moved[0] != moved[1]).any()
    before = policy.null(2)
    torch.testing.assert_close(policy.null(2).tokens, before.tokens, rtol=0, atol=0)


def test_without_t5_its_tokens_stay_zero(backend, policy_of, settings):
    policy = policy_of("sd3-no-t5")
    config = settings("sd3-no-t5", "rollout.group_size=2", "drift.noise.strength=0.5")
    process = make_process(policy, config.rollout)
    conditioner = Conditioner(config, backend, policy, process, [Prompt(0, "owl")], 0, Clock())
    tokens = conditioner.conditioning(np.array([0]), np.array([0])).tokens
    assert tokens.shape[1] == 97
    assert (tokens[:, 77:] == 0).all()
    assert (tokens[:, :77, :20] != policy.encode(["owl"]).tokens[:, :77, :20]).any()


@pytest.mark.parametrize("shape", FAMILIES)
def test_a_prompt_is_encoded_the_same_whatever_is_beside_it(shape, policy_of):
    together, alone = policy_of(shape), policy_of(shape, "model.offload=true")
    both = together.encode(["owl", "a red fox", "owl"])
    one = alone.encode(["owl"])
    torch.testing.assert_close(both.tokens[[0, 2]], one.tokens.repeat(2, 1, 1), rtol=0, atol=0)
    assert isinstance(both, Conditioning)
    x = noise_for(together)
    np.testing.assert_array_equal(together.decode(x), alone.decode(x))
    assert len(together._embeddings) == 2


def test_decoding_all_at_once_is_decoding_one_by_one_but_for_rounding(policy_of):
    one, all_ = policy_of("sd35"), policy_of("sd35", "model.vae_slicing=false")
    x = noise_for(one, count=3)
    levels = one.decode(x).astype(int) - all_.decode(x)
    assert np.abs(levels).max() <= 1
    assert (levels != 0).mean() < 0.01


def test_longer_prompts_than_an_encoder_reads_are_counted(policy_of):
    policy = policy_of("sd3")
    long = "owl " * 40  # 120 letters, each a token of the tiny vocabulary
    with pytest.warns(UserWarning, match="prompts are longer") as caught:
        policy.check(["owl", long, long])
    texts = [str(each.message) for each in caught]
    assert texts[0].startswith("2 of 3 prompts are longer than the 77 tokens that CLIP reads")
    assert texts[1].startswith("2 of 3 prompts are longer than the 20 tokens that T5 reads")
    assert policy.encode([long]).tokens.shape == policy.encode(["owl"]).tokens.shape
    policy.check(["owl"])  # no warning, which would be an error


def test_full_tuning_keeps_its_reference(policy_of):
    policy = policy_of("sd15", "adapter.kind=full")
    x, time, conditioning = inputs(policy)
    with torch.no_grad():
        before = policy.predict(x, time, conditioning)
        for value in policy.module.parameters():
            value += 0.05
        after = policy.predict(x, time, conditioning)
        with policy.reference():
            reference = policy.predict(x, time, conditioning)
    torch.testing.assert_close(reference, before, rtol=0, atol=0)
    assert (after - before).abs().max() > 1e-3
    assert policy.parameters().keys() == dict(policy.module.named_parameters()).keys()


def test_the_trace_ends_in_the_prediction(policy_of):
    policy = policy_of("flux-dev")
    x, time, conditioning = inputs(policy)
    with torch.no_grad():
        trace = policy.trace(x, time, conditioning)
        expected = policy.predict(x, time, conditioning)
    assert {"x_embedder", "transformer_blocks.0", "single_transformer_blocks.0"} <= trace.keys()
    torch.testing.assert_close(trace["prediction"], expected, rtol=0, atol=0)
