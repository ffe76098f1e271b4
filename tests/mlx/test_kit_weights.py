"""`model.weights`: files as DiffusionKit publishes them are the model that a diffusers folder is.

No hub is needed: tiny diffusers models are written in that layout. Every tensor is random, so none
that is lost goes unnoticed.
"""

import importlib.machinery
import shutil
import subprocess
import sys

import numpy as np
import pytest

pytest.importorskip("diffusionkit")
drift = pytest.importorskip("drift_mlx.backend", exc_type=ImportError)

import mlx.core as mx  # noqa: E402
from click.testing import CliRunner  # noqa: E402
from safetensors.numpy import load_file, save_file  # noqa: E402

from common import backends, config as configuration  # noqa: E402
from common.cli import drift as command  # noqa: E402
from drift_mlx import kit  # noqa: E402
from scripts.kit_layout import published, swapped  # noqa: E402

SHAPES = {
    "sd3": ("sd3", {"as_published": True}),
    "sd35": ("sd3", {"as_published": True, "newer": True}),
    "flux-dev": ("flux", {"as_published": True, "guided": True}),
    "schnell": ("flux", {"as_published": True, "guided": False}),
}

# --- fixtures ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def folders(checkpoint, tmp_path_factory):
    """shape -> (diffusers folder, the same without weights of denoiser and VAE, published one)."""
    made = {}

    def get(shape):
        if shape not in made:
            family, options = SHAPES[shape]
            whole, root = checkpoint(family, **options), tmp_path_factory.mktemp(shape)
            bare = root / "bare"
            shutil.copytree(whole, bare)
            for part in ("transformer", "vae"):
                (bare / part / "diffusion_pytorch_model.safetensors").unlink()
            (root / "kit").mkdir()
            denoiser, vae = published(whole, family)
            if family == "flux":
                save_file(denoiser, root / "kit" / "flux-schnell.safetensors")
                save_file(vae, root / "kit" / "ae.safetensors")
            else:
                save_file(denoiser | vae, root / "kit" / "sd3_medium.safetensors")
            made[shape] = whole, bare, root / "kit"
        return made[shape]

    return get


def settings(shape, path, *changes):
    own = [f"model.family={SHAPES[shape][0]}", f"model.path={path}", "model.max_tokens=20"]
    own += ["rollout.schedule=model", "adapter.rank=2"]
    own += ["model.resolution=32"] if SHAPES[shape][0] == "flux" else []
    return configuration.load("emoji-grpo", [*own, *changes])


def policy_of(shape, path, *changes):
    config = settings(shape, path, *changes)
    return backends.load("mlx").policy(config.model, config.adapter, seed=0)


def prediction(policy):
    x = np.random.default_rng(1).standard_normal((2, *policy.latent_shape)).astype(np.float32)
    time, told = policy.embed_time(np.array([0.3, 0.8])), policy.encode(["a red fox", "owl 7"])
    return np.array(policy.predict(mx.array(x), time, told)), policy.decode(mx.array(x))


# --- it is the same model ------------------------------------------------------------------------


@pytest.mark.parametrize("shape", SHAPES)
def test_it_predicts_and_decodes_as_the_diffusers_folder(shape, folders):
    whole, bare, kits = folders(shape)
    ours, image = prediction(policy_of(shape, bare, f"model.weights={kits}"))
    theirs, expected = prediction(policy_of(shape, whole))
    assert np.abs(theirs).max() > 0.1
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-6)
    np.testing.assert_array_equal(image, expected)


@pytest.mark.parametrize("shape", ["sd35", "schnell"])
def test_what_the_file_lacks_comes_from_the_folder(shape, folders, tmp_path):
    """Without a VAE in the file the folder's decodes; all of it can be trained."""
    whole, _, kits = folders(shape)
    denoiser = published(whole, SHAPES[shape][0])[0]
    file = tmp_path / "denoiser.safetensors"
    save_file(denoiser, file)
    policy = policy_of(shape, whole, f"model.weights={file}", "adapter.kind=full")
    both = policy_of(shape, whole, f"model.weights={kits}", "model.offload=true")
    np.testing.assert_allclose(prediction(policy)[0], prediction(both)[0], rtol=0, atol=1e-6)
    np.testing.assert_array_equal(prediction(policy)[1], prediction(both)[1])
    plain = policy_of(shape, whole, "adapter.kind=full").parameters()
    assert policy.parameters().keys() == plain.keys()


def test_the_maps_faults_are_made_good():
    """What DiffusionKit's own map of SD3 loses, and what `kit.names` makes of the same arrays."""
    from drift_mlx.kit import names

    rng = np.random.default_rng(0)
    given = {
        "joint_blocks.0.x_block.attn.qkv.bias": rng.normal(size=12),
        "joint_blocks.0.context_block.adaLN_modulation.1.bias": rng.normal(size=8),
        "final_layer.adaLN_modulation.1.bias": rng.normal(size=8),
        "x_embedder.proj.weight": rng.normal(size=(4, 2, 3, 3)),
    }
    given = {name: mx.array(array.astype(np.float32)) for name, array in given.items()}
    io = kit.load().model_io
    theirs = io.mmdit_state_dict_adjustments(dict(given), "")
    block = "multimodal_transformer_blocks.0.image_transformer_block.attn"
    assert {f"{block}.{part}_proj.bias" for part in "qv"} < theirs.keys()
    assert f"{block}.k_proj.bias" not in theirs  # lost
    assert "finfinal_layer.adaLN_modulation.layers.1.bias" in theirs  # no prefix to strip
    ours = names.diffusers_denoiser(names.sd3_named(given, io), flux=False)
    assert len(ours) == 6
    expected = np.array(given["joint_blocks.0.x_block.attn.qkv.bias"])[4:8]
    np.testing.assert_array_equal(ours["transformer_blocks.0.attn.to_k.bias"], expected)
    for name, source in (
        ("norm_out.linear.bias", "final_layer.adaLN_modulation.1.bias"),
        ("transformer_blocks.0.norm1_context.linear.bias", [*given][1]),
    ):
        np.testing.assert_array_equal(ours[name], swapped(np.array(given[source])))
    np.testing.assert_array_equal(ours["pos_embed.proj.weight"], given["x_embedder.proj.weight"])


def test_importing_it_leaves_no_trace():
    """Neither PyTorch nor coremltools is asked for, and a later import of it is the real one."""
    code = """
import os, sys
for name in ("torch", "coremltools", "argmaxtools"):
    sys.modules[name] = None
before = dict(os.environ)
from drift_mlx import kit
assert callable(kit.load().model_io.load_mmdit)
assert [n for n in sys.modules if n.startswith("diffusionkit")] == []
assert sys.modules["argmaxtools"] is None
assert "TOKENIZERS_PARALLELISM" not in os.environ.keys() - before.keys()
import diffusionkit
assert diffusionkit.__file__
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""


# --- quantised files -----------------------------------------------------------------------------


def made_by_diffusionkit(whole, *, group=32, bits=4):
    """FLUX as its 4-bit file: DiffusionKit's names, every linear packed, no bias of a key.

    Returns the file's arrays, and the diffusers ones that they stand for.
    """
    from drift_mlx.kit import names

    denoiser, vae = published(whole, "flux")
    io = kit.load().model_io
    named = names.flux_named({name: mx.array(array) for name, array in denoiser.items()}, io)
    packed, meant = {}, {}
    for name, array in named.items():
        if name.endswith(".k_proj.bias"):
            meant[name] = mx.zeros_like(array)
        elif array.ndim == 2 and array.shape[1] % group == 0:
            parts = mx.quantize(array, group_size=group, bits=bits)
            for leaf, part in zip(("weight", "scales", "biases"), parts, strict=True):
                packed[name.replace(".weight", f".{leaf}")] = part
            meant[name] = mx.dequantize(*parts, group_size=group, bits=bits)
        else:
            packed[name] = meant[name] = array
    decoder = io.vae_decoder_state_dict_adjustments(
        {name: mx.array(array) for name, array in vae.items()}, "decoder."
    )
    packed |= {f"decoder.{name}": array for name, array in decoder.items()}
    of_diffusers = names.diffusers_denoiser(meant, flux=True)
    return tuple(
        {name: np.ascontiguousarray(array) for name, array in arrays.items()}
        for arrays in (packed, of_diffusers)
    )


@pytest.mark.parametrize("bits", [4, 8])
def test_a_quantised_file_is_loaded_unchanged(bits, folders, tmp_path):
    from mlx import nn

    whole, bare, _ = folders("schnell")
    packed, meant = made_by_diffusionkit(whole, bits=bits)
    save_file(packed, tmp_path / "flux-schnell-quantized.safetensors")
    shutil.copytree(whole, tmp_path / "meant")
    save_file(meant, tmp_path / "meant/transformer/diffusion_pytorch_model.safetensors")
    changes = [f"model.weights={tmp_path}/flux-schnell-quantized.safetensors"]
    with pytest.warns(UserWarning, match="dropped the biases of 3 key projections; they are zero"):
        policy = policy_of("schnell", bare, *changes, f"model.quantize={bits}")
    parts = dict(policy.module.named_modules())
    assert isinstance(parts["single_transformer_blocks.0.proj_out"], nn.QuantizedLinear)
    assert isinstance(parts["transformer_blocks.0.attn.to_q"].base, nn.QuantizedLinear)
    plain = policy_of("schnell", tmp_path / "meant")
    plain._embeddings = policy._embeddings  # T5's blocks are quantised too
    ours, image = prediction(policy)
    theirs, expected = prediction(plain)
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=2e-6)
    np.testing.assert_array_equal(image, expected)
    assert np.abs(ours - prediction(policy_of("schnell", whole))[0]).max() > 1e-3


# --- what cannot be used -------------------------------------------------------------------------


@pytest.fixture
def refused(tmp_path):
    """`drift run` on a model that cannot be used: its one line."""

    def run(shape, path, weights, *changes, backend="mlx"):
        words = ["run", "emoji-grpo", "--backend", backend, "--out", str(tmp_path / "run")]
        own = [f"model.family={SHAPES[shape][0]}", f"model.path={path}"]
        own += [f"model.weights={weights}"] if weights else []
        for change in [*own, "rollout.schedule=model", "prompts.names=[]", *changes]:
            words += ["--set", change]
        result = CliRunner().invoke(command, words)
        assert result.exit_code == 2, result.output
        (line,) = result.stderr.strip().splitlines()
        assert not (tmp_path / "run").exists()
        return line

    return run


def test_files_that_are_not_it_are_one_line(folders, refused, tmp_path):
    whole, bare, kits = folders("schnell")
    file = tmp_path / "weights.safetensors"

    def changed(change):
        denoiser = load_file(kits / "flux-schnell.safetensors")
        change(denoiser)
        save_file(denoiser, file)
        return refused("schnell", whole, file)

    def drop(*names):
        return lambda arrays: [arrays.pop(name) for name in names]

    before = f"model.weights = '{file}'"
    line = changed(drop("double_blocks.0.img_mod.lin.bias"))
    assert f"{before}: transformer: 'transformer_blocks.0.norm1.linear.bias' is missing" in line
    line = changed(drop("img_in.weight"))
    assert f"{before}: transformer: 'x_embedder.proj.weight' is missing" in line
    line = changed(lambda a: a.update(img_out=np.zeros(3, np.float32)))
    assert f"{before}: transformer: 'img_out' is surplus" in line
    line = changed(lambda a: a.update({"txt_in.bias": np.zeros(3, np.float32)}))
    assert "'context_embedder.bias' has shape [3], not [32]" in line
    line = changed(lambda a: a.update({"single_blocks.0.linear1.bias": np.zeros(3, np.float32)}))
    assert f"{before}: transformer: 'single_transformer_blocks.0.attn.to_k.bias' has shape" in line
    line = changed(lambda a: a.update({"img_in.weight": np.zeros(3, np.float32)}))
    assert "transformer: 'x_embedder.weight' has shape [3], not [32, 16]" in line
    line = changed(lambda a: a.update({"single_blocks.0.linear2.weight": np.zeros(3, np.float32)}))
    assert f"{before}: transformer: a tensor's shape: " in line
    line = changed(drop(*load_file(kits / "flux-schnell.safetensors").keys() - {"txt_in.bias"}))
    assert f"{before} holds 'txt_in.bias' and the like, none of an SD3 or FLUX" in line
    file.write_bytes(b"\0" * 40)
    assert f"{before}: weights.safetensors: " in refused("schnell", whole, file)

    for name in ("one", "two"):
        (tmp_path / "both").mkdir(exist_ok=True)
        shutil.copy(kits / "flux-schnell.safetensors", tmp_path / f"both/{name}.safetensors")
    line = refused("schnell", whole, tmp_path / "both")
    assert "is in two.safetensors and in another of its 2 files; name one file" in line
    (tmp_path / "none").mkdir()
    assert "no .safetensors file is in it" in refused("schnell", whole, tmp_path / "none")
    assert "no such file or folder, and no repository name" in refused(
        "schnell", bare, "no/such/one"
    )
    vae = tmp_path / "vae.safetensors"
    shutil.copy(kits / "ae.safetensors", vae)
    assert "holds no denoiser at all, none of" in refused("schnell", whole, vae)
    broken = load_file(kits / "ae.safetensors")
    broken.pop("decoder.conv_out.weight")
    save_file(broken | load_file(kits / "flux-schnell.safetensors"), file)
    lost = "vae: 'decoder.conv_out.weight' is missing"
    assert f"{before}: {lost}" in refused("schnell", whole, file)


def test_other_requests_that_cannot_be_met_are_one_line(folders, refused, tmp_path):
    whole, bare, kits = folders("schnell")
    medium = folders("sd3")[2]
    line = refused("sd3", folders("sd3")[0], kits)
    assert "holds a flux, not a sd3: model.family = 'flux'" in line
    # Depth and sizes are those of path's configuration.
    line = refused("sd35", folders("sd35")[0], medium)
    assert "model.weights = " in line
    assert "is missing" in line
    assert "diffusion_pytorch_model.safetensors is missing" in refused("schnell", bare, None)
    line = refused("schnell", whole, kits, backend="cpu")
    assert f"model.weights = '{kits}' is for --backend mlx; here: none" in line

    packed, _ = made_by_diffusionkit(whole)
    file = tmp_path / "four.safetensors"
    save_file(packed, file)
    wanted = "holds weights of 4 bits, on which only a low-rank adapter can be trained"
    for change in ("adapter.kind=full", "model.quantize=8"):
        assert wanted in refused("schnell", whole, file, change)
    half = "unified_transformer_blocks.0.transformer_block.mlp.fc2.scales"
    packed.pop(half)
    save_file(packed, file)
    assert f"'{half}' is missing" in refused("schnell", whole, file, "model.quantize=4")


def test_a_published_folder_given_as_path_says_where_it_belongs(folders, refused):
    for shape, name in (("sd3", "sd3_medium"), ("schnell", "ae")):
        kits = folders(shape)[2]
        line = refused(shape, kits, None)
        assert f"model_index.json is missing; {name}.safetensors is weights alone" in line
        assert "model.weights takes DiffusionKit's, on --backend mlx" in line
        assert f"{name}.safetensors is weights alone" in refused(
            shape, f"{kits}/{name}.safetensors", None
        )


@pytest.mark.parametrize("broken", [False, True])
def test_without_diffusionkit_it_says_what_to_install(
    broken, folders, refused, tmp_path, monkeypatch
):
    whole, _, kits = folders("sd3")
    fake = tmp_path / "diffusionkit" / "mlx"
    fake.mkdir(parents=True)
    (fake / "config.py").write_text("import nothing_of_this_name\n")
    found = importlib.machinery.ModuleSpec("diffusionkit", None, is_package=True)
    found.submodule_search_locations = [str(fake.parent)]
    monkeypatch.setattr(kit, "find_spec", lambda name: found if broken else None)
    kit.load.cache_clear()
    try:
        line = refused("sd3", whole, kits)
        why = "broken (ModuleNotFoundError: No module" if broken else "not installed"
        assert f"model.weights = '{kits}': diffusionkit is {why}" in line
        assert line.endswith("pip install --no-deps diffusionkit==0.5.2 beartype")
        assert f"  diffusionkit: {why}" in CliRunner().invoke(command, ["doctor"]).output
    finally:
        kit.load.cache_clear()


def test_doctor_says_that_it_works_and_what_for():
    output = CliRunner().invoke(command, ["doctor"]).output
    assert "diffusionkit: 0.5.2 works, for model.weights, weights as argmaxinc/mlx-*" in output
