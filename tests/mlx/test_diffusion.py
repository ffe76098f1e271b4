"""Policies over diffusers folders on MLX: memory settings, no PyTorch, and what cannot be run."""

import functools
import json
import shutil
import subprocess
import sys

import numpy as np
import pytest

drift = pytest.importorskip("drift_mlx.backend", exc_type=ImportError)

import mlx.core as mx  # noqa: E402
from safetensors.numpy import load_file, save_file  # noqa: E402

from common import backends, config as configuration  # noqa: E402
from common.clock import Clock  # noqa: E402
from common.prompts import Prompt  # noqa: E402
from common.sampling.conditioner import Conditioner  # noqa: E402
from common.sampling.process import make_process  # noqa: E402
from tests.shapes import FAMILIES, SHAPES, settings_of  # noqa: E402


@pytest.fixture(scope="module")
def settings(checkpoint):
    return functools.partial(settings_of, checkpoint)


@pytest.fixture(scope="module")
def policy_of(settings):
    def make(shape, *changes, stirred=True):
        config = settings(shape, *changes)
        policy = backends.load("mlx").policy(config.model, config.adapter, seed=0)
        if stirred and config.adapter.kind == "lora":
            values = {name: np.array(value) for name, value in policy.parameters().items()}
            rng = np.random.default_rng(5)
            for name, value in values.items():
                if "lora_B" in name:
                    values[name] = rng.normal(0, 0.2, value.shape).astype(np.float32)
            policy.load_parameters(values)
        return policy

    return make


def inputs(policy, count=2):
    x = np.random.default_rng(1).standard_normal((count, *policy.latent_shape))
    t = np.full(count, 981.0 if policy.prediction != "velocity" else 0.75)
    told = policy.encode(["a red fox", "owl 7"][:count])
    return mx.array(x.astype(np.float32)), policy.embed_time(t), told


def gradients_of(policy):
    x, time, told = inputs(policy, 1)
    loss = lambda: (mx.square(policy.predict(x, time, told)).mean(), {})  # noqa: E731
    _, _, found = backends.load("mlx").value_and_grad(policy, loss)()
    return {name: np.array(value) for name, value in found.items()}


def close(ours, theirs, tolerance=1e-5):
    assert ours.keys() == theirs.keys()
    for name, value in theirs.items():
        assert np.linalg.norm(ours[name] - value) <= tolerance * np.linalg.norm(value), name


@pytest.mark.parametrize("shape", FAMILIES)
def test_gradient_checkpointing_changes_no_gradient(shape, policy_of):
    sparing = policy_of(shape, "model.gradient_checkpointing=true")
    assert sparing.module.checkpointing
    held = sparing.parameters()
    close(gradients_of(sparing), gradients_of(policy_of(shape)))
    assert all(array is held[name] for name, array in sparing.parameters().items())


@pytest.mark.usefixtures("quick_compiler")
def test_compiled_it_is_the_same_policy(policy_of):
    plain, compiled = policy_of("flux-dev"), policy_of("flux-dev", "model.compile=true")
    expected, x = gradients_of(plain), inputs(plain)
    for _ in range(2):  # traced, and found again
        close(gradients_of(compiled), expected)
    with plain.reference(), compiled.reference():
        close({"off": compiled.predict(*x)}, {"off": plain.predict(*x)})
    moved = {name: np.array(value) + 0.1 for name, value in plain.parameters().items()}
    for policy in (plain, compiled):
        policy.load_parameters(moved)
    close({"moved": compiled.predict(*x)}, {"moved": plain.predict(*x)})


@pytest.mark.parametrize("shape", ["sd35", "flux-dev"])
def test_a_prompt_is_encoded_the_same_whatever_is_beside_it(shape, policy_of):
    together, alone = policy_of(shape), policy_of(shape, "model.offload=true")
    both = together.encode(["owl", "a red fox", "owl"])
    one = alone.encode(["owl"])
    np.testing.assert_array_equal(both.tokens[0], one.tokens[0])
    np.testing.assert_array_equal(both.tokens[2], one.tokens[0])
    assert len(together._embeddings) == 2
    assert alone._vae._kept_part is None
    assert together._vae._kept_part is not None
    x = inputs(together)[0]
    np.testing.assert_array_equal(together.decode(x), alone.decode(x))


def test_images_are_the_same_one_by_one_and_in_tiles_of_their_size(policy_of):
    policy, at_once = policy_of("sd15"), policy_of("sd15", "model.vae_slicing=false")
    x = inputs(policy)[0]
    images = policy.decode(x)
    assert policy.image_size == images.shape[1:3]
    assert images.shape == (2, 32, 32, 3)
    assert images.dtype == np.uint8
    assert np.abs(images.astype(int) - at_once.decode(x)).max() <= 1
    np.testing.assert_array_equal(policy_of("sd15", "model.vae_tiling=true").decode(x), images)
    with pytest.raises(FloatingPointError, match="1 of 2 latents are not finite"):
        policy.decode(x * mx.array([1.0, float("nan")])[:, None, None, None])


def test_full_tuning_keeps_its_reference(policy_of):
    policy = policy_of("sd15", "adapter.kind=full")
    x = inputs(policy)
    before = np.array(policy.predict(*x))
    policy.load_parameters({n: np.array(v) + 0.05 for n, v in policy.parameters().items()})
    assert np.abs(np.array(policy.predict(*x)) - before).max() > 1e-3
    with policy.reference():
        np.testing.assert_array_equal(policy.predict(*x), before)


def test_prompt_noise_keeps_to_the_blocks(policy_of, settings):
    changes = ("rollout.group_size=2", "drift.noise.strength=0.5", "drift.noise.schedule=constant")
    policy, config = policy_of("sd35"), settings("sd35", *changes)
    backend = backends.load("mlx")
    process = make_process(policy, config.rollout)
    conditioner = Conditioner(config, backend, policy, process, [Prompt(0, "owl")], 0, Clock())
    noisy = np.array(conditioner.conditioning(np.array([0, 1]), np.array([0, 3])).tokens)
    clean = np.array(policy.encode(["owl"]).tokens)
    assert (noisy[:, :77, 20:] == 0).all()
    assert (clean[:, :77, 20:] == 0).all()
    assert np.abs(noisy[:, :77, :20] - clean[:, :77, :20]).min(axis=(1, 2)).max() > 0
    assert np.abs(noisy[0] - noisy[1]).max() > 0.01


def test_longer_prompts_than_an_encoder_reads_are_counted(policy_of):
    policy, long = policy_of("sd35"), "owl " * 40
    with pytest.warns(UserWarning, match="prompts are longer") as caught:
        policy.check(["owl", long])
    texts = [str(each.message) for each in caught]
    assert texts[0].startswith("1 of 2 prompts are longer than the 77 tokens that CLIP reads")
    assert texts[1].startswith("1 of 2 prompts are longer than the 20 tokens that T5 reads")


def test_a_run_loads_no_torch(checkpoint, tmp_path):
    """PyTorch is made impossible to find; the command trains, measures and reports."""
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("a red fox\nan owl\n")
    settings = [
        f"model.path={checkpoint('sd3', newer=True)}",
        "model.dtype=float32",
        "model.max_tokens=20",
        "model.resolution=32",
        f"prompts.source={prompts}",
        "reward.terms={jpeg_compressibility = 1.0}",
        "prompts.split=all",
        "run.updates=1",
        "rollout.prompts=2",
        "rollout.group_size=2",
        "objective.zero_advantage=keep",  # JPEG sizes of two tiny images may be equal
        "rollout.steps=6",
        "evaluate.images=2",
        "evaluate.steps=1",
        "evaluate.grid=2",
    ]
    code = """
import sys
from importlib.machinery import PathFinder

found = PathFinder.find_spec

def find_spec(name, path=None, target=None):
    return None if name.partition(".")[0] in ("torch", "diffusers") else found(name, path, target)

PathFinder.find_spec = find_spec
from common.cli import drift
drift(sys.argv[1:], standalone_mode=False)
print("torch" in sys.modules)
"""
    words = ["run", "sd35m-fast", "--backend", "mlx", "--out", str(tmp_path / "run")]
    for setting in settings:
        words += ["--set", setting]
    done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "[transformers]" not in done.stdout + done.stderr
    assert done.stdout.splitlines()[-1] == "False"
    header = json.loads((tmp_path / "run" / "metrics.jsonl").read_text())
    assert header["objective/ratio_max"] < 1e-6
    assert header["objective/gradient_norm"] > 0
    assert (tmp_path / "run" / "report.html").is_file()


def test_half_precision_gradients_survive():
    from mlx import nn

    class Halves:
        """One weight on the way through float16."""

        dtype = mx.float16

        def __init__(self):
            self.module = nn.Linear(3, 1, bias=False)
            self.module.weight = mx.ones((1, 3))

    policy, x = Halves(), mx.array([1.0, 2.0, 3.0], mx.float16)

    def gradient(scale):
        def loss():
            terms = (policy.module.weight[0].astype(mx.float16) * x).astype(mx.float32)
            return terms.sum() * scale, {}

        value, _, found = backends.load("mlx").value_and_grad(policy, loss)()
        assert value.item() == pytest.approx(6 * scale)
        return np.array(found["weight"][0])

    for scale in (2.0**-26, 1.0, 1000.0):  # the first one's gradient is 0 in float16
        np.testing.assert_allclose(gradient(scale), scale * np.array([1, 2, 3]), rtol=1e-6)


# --- what cannot be run --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("shape", "changes", "message"),
    [
        ("sd15", ["model.family=sd3"], r"holds a StableDiffusionPipeline, .*family = 'sd15'"),
        ("sd15", ["model.resolution=30"], "model.resolution = 30 must be a multiple of 4, as 28"),
        ("sd35", ["model.resolution=64"], "beyond the 48 pixels that this model has positions for"),
        ("flux-dev", ["model.path=nothing/there/at/all"], "no such folder, and no repository name"),
        (
            "sd35",
            ["adapter.targets=['attn.to_z']"],
            "no linear is called 'attn.to_z'; valid: .*to_q",
        ),
    ],
)
def test_what_cannot_be_run_is_one_line(shape, changes, message, policy_of):
    with pytest.raises(ValueError, match=message) as caught:
        policy_of(shape, *changes)
    assert "\n" not in str(caught.value)


def test_damaged_folders_are_reported(checkpoint, tmp_path, policy_of):
    def broken(name, damage, shape="sd15"):
        copy = tmp_path / name
        family, options = SHAPES[shape]
        shutil.copytree(checkpoint(family, **options), copy)
        damage(copy)
        with pytest.raises(ValueError, match=r"model\.path = ") as caught:
            policy_of(shape, f"model.path={copy}")
        assert "\n" not in str(caught.value)
        return str(caught.value)

    weights = "unet/diffusion_pytorch_model.safetensors"

    def arrays(change):
        def damage(folder):
            found = load_file(folder / weights)
            change(found)
            save_file(found, folder / weights)

        return damage

    def says(part, **values):
        def damage(folder):
            file = folder / part
            file.write_text(json.dumps(json.loads(file.read_text()) | values))

        return damage

    def pickled(folder):
        (folder / weights).rename(folder / "unet/diffusion_pytorch_model.bin")

    assert "its component 'vae' is missing" in broken("v", lambda f: shutil.rmtree(f / "vae"))
    assert f"{weights}: 'conv_in.bias' is missing" in broken(
        "m", arrays(lambda a: a.pop("conv_in.bias"))
    )
    extra = arrays(lambda a: a.update(conv_inn=np.zeros(1, np.float32)))
    assert f"{weights}: 'conv_inn' is surplus; the nearest" in broken("e", extra)
    shape = arrays(lambda a: a.update({"conv_in.bias": np.zeros(3, np.float32)}))
    assert f"{weights}: 'conv_in.bias' has shape [3], not [8]" in broken("s", shape)
    assert "diffusion_pytorch_model.safetensors is missing; it has diffusion_pytorch_model.bin" in (
        broken("b", pickled)
    )
    assert "unet/diffusion_pytorch_model.safetensors: " in broken(
        "w", lambda f: (f / weights).write_bytes(b"\0" * 40)
    )
    assert "unet/config.json is missing" in broken("c", lambda f: (f / "unet/config.json").unlink())
    assert "unet/config.json is damaged" in broken(
        "j", lambda f: (f / "unet/config.json").write_text("[")
    )
    assert "unet says class_embed_type = 'timestep'; valid here: None" in broken(
        "u", says("unet/config.json", class_embed_type="timestep")
    )
    assert "text_encoder says hidden_act = 'relu'; valid here: 'quick_gelu', 'gelu'" in broken(
        "t", says("text_encoder/config.json", hidden_act="relu")
    )
    assert "text_encoder_2 says feed_forward_proj = 'relu'; valid here: 'gated-gelu'" in broken(
        "t5", says("text_encoder_2/config.json", feed_forward_proj="relu"), "flux-dev"
    )
    assert "the noise schedule 'linear'" in broken(
        "n", says("scheduler/scheduler_config.json", beta_schedule="linear")
    )
    assert "prediction_type is 'sample'; valid: epsilon, v_prediction" in broken(
        "p", says("scheduler/scheduler_config.json", prediction_type="sample")
    )


# --- quantised weights ---------------------------------------------------------------------------


@pytest.mark.parametrize("bits", [4, 8])
def test_an_adapter_on_quantised_weights(bits, policy_of):
    """It predicts what the weights that the bits stand for predict, and trains as they do."""
    from mlx import nn
    from mlx.utils import tree_unflatten

    policy = policy_of("flux-dev", f"model.quantize={bits}", "model.gradient_checkpointing=true")
    plain, small = policy_of("flux-dev"), {}
    for name, part in policy.module.named_modules():
        if isinstance(part, nn.QuantizedLinear):
            size = {"group_size": part.group_size, "bits": part.bits}
            small[name] = mx.dequantize(part.weight, part.scales, part.biases, **size)
    assert "transformer_blocks.0.attn.to_q.base" in small
    assert "single_transformer_blocks.0.proj_mlp" in small
    assert not any(name.startswith(("x_embedder", "proj_out", "time_text")) for name in small)
    x, before = inputs(policy), np.array(plain.predict(*inputs(policy)))
    weights = [(f"{name}.weight", value) for name, value in small.items()]
    plain.module.update(tree_unflatten(weights))
    close({"predicted": policy.predict(*x)}, {"predicted": plain.predict(*x)})
    lost = np.linalg.norm(np.array(policy.predict(*x)) - before) / np.linalg.norm(before)
    assert 1e-4 < lost < (0.3 if bits == 4 else 0.03)
    plain._embeddings = policy._embeddings  # T5's blocks are quantised too
    close(gradients_of(policy), gradients_of(plain), 1e-4)
    assert all("lora_" in name for name in policy.parameters())


def test_quantised_weights_are_not_trained_in_full(settings):
    with pytest.raises(configuration.ConfigError, match=r"needs model\.quantize = 0: weights of 4"):
        settings("sd15", "adapter.kind=full", "model.quantize=4")
    config = settings("sd15", "model.quantize=8")
    torch = pytest.importorskip("drift_torch.backend")
    with pytest.raises(ValueError, match=r"model\.quantize = 8 is for --backend mlx; here: 0"):
        torch.cpu().policy(config.model, config.adapter, seed=0)
