"""Each network of `drift_mlx.networks` is diffusers' or transformers', part by part.

Tiny networks of the real classes with random weights and random biases, in PyTorch's float32 and
float64: outputs within 1e-5 relative, the gradient of every tensor within 1e-4. What a tiny
checkpoint of a family has not (SD2's linears, other activations) is built here.
"""

import json

import numpy as np
import pytest

torch = pytest.importorskip("torch")
loading = pytest.importorskip("drift_mlx.loading")  # before mlx.core: it loads OpenBLAS
mx = pytest.importorskip("mlx.core")

from common.arrays import sinusoid  # noqa: E402
from common.config import AdapterConfig, ModelConfig  # noqa: E402
from common.parity.measure import relative_error  # noqa: E402
from drift_mlx.networks import flux, layers, mmdit, text, unet, vae  # noqa: E402
from drift_mlx.policy import Tuned  # noqa: E402
from tests.shapes import SHAPES  # noqa: E402


def draw(seed, *shape):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def error(got, expected):
    return relative_error(np.asarray(got, dtype=np.float64), np.asarray(expected, dtype=np.float64))


@pytest.fixture(autouse=True)
def _quiet():
    from diffusers.utils import logging

    logging.set_verbosity_error()


def randomised(module):
    """A PyTorch module with random biases and norms too: zeros and ones would hide mistakes."""
    generator = torch.Generator().manual_seed(0)
    for parameter in module.parameters():
        if parameter.ndim == 1:
            parameter.data += 0.2 * torch.randn(parameter.shape, generator=generator)
    return module.requires_grad_(True)


def filled(module, reference, *, drop=()):
    """The MLX module with the PyTorch one's weights."""
    state = {k: mx.array(v.detach().float().numpy()) for k, v in reference.state_dict().items()}
    loading.fill(
        module, {k: v for k, v in state.items() if not k.startswith(drop)}, "it", mx.float32
    )
    return module


@pytest.fixture(scope="module")
def folder(checkpoint):
    def open_(shape):
        family, options = SHAPES[shape]
        path = checkpoint(family, **options)
        return loading.Folder(ModelConfig(family=family, path=str(path)))

    return open_


class Exact(torch.nn.Module):
    """The sinusoid of a timestep, from float64."""

    def __init__(self, width):
        super().__init__()
        self.width = width

    def forward(self, t):
        return torch.tensor(sinusoid(t.detach().double().numpy(), self.width))


# --- text encoders and VAE ---------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("shape", ["sd15", "sd35", "flux-dev"])
def test_text_encoders_of_a_pipeline(shape, dtype, folder):
    import transformers

    held = folder(shape)
    for name in ("text_encoder", "text_encoder_2", "text_encoder_3"):
        if not held.has(name):
            continue
        encoder, is_t5 = held.text_encoder(name, mx.float32), held.kind(name) == "T5EncoderModel"
        tokenizer = held.tokenizer(name.replace("text_encoder", "tokenizer"))
        words = tokenizer(
            ["a red fox", "owl 7 " * 3],
            padding="max_length",
            max_length=140 if is_t5 else 77,
            truncation=True,
        )
        ids = np.array(words.input_ids)
        kind = getattr(transformers, held.kind(name))
        reference = kind.from_pretrained(held._path / name, dtype=dtype)
        with torch.no_grad():
            expected = reference(torch.tensor(ids), output_hidden_states=True)
        got = encoder(ids)
        if is_t5:
            assert error(got, expected[0]) < 1e-5
            continue
        pooled = expected[0] if kind.__name__.endswith("Projection") else expected.pooler_output
        assert error(got.last, expected.last_hidden_state) < 1e-5
        assert error(got.penultimate, expected.hidden_states[-2]) < 1e-5
        assert error(got.pooled, pooled) < 1e-5
        assert np.abs(np.array(got.pooled[0] - got.pooled[1])).max() > 1e-3


def test_clip_with_an_erf_gelu_and_the_first_configurations_end_token():
    from transformers import CLIPTextConfig, CLIPTextModelWithProjection

    sizes = {"vocab_size": 60, "hidden_size": 16, "intermediate_size": 24, "projection_dim": 12}
    sizes |= {"num_hidden_layers": 3, "num_attention_heads": 4, "hidden_act": "gelu"}
    config = CLIPTextConfig(**sizes, bos_token_id=0, eos_token_id=2, pad_token_id=1)
    reference = randomised(CLIPTextModelWithProjection(config)).eval()
    own = text.CLIPText(text.CLIPTextConfig(**sizes), projected=True)
    state = {k.removeprefix("text_model."): v for k, v in reference.state_dict().items()}
    arrays = {k: mx.array(v.numpy()) for k, v in state.items() if not k.endswith("position_ids")}
    loading.fill(own, arrays, "clip", mx.float32)
    ids = np.random.default_rng(0).integers(3, 58, (3, 77))
    ids[[0, 1, 2], [5, 40, 76]] = 59  # the highest index ends a prompt
    with torch.no_grad():
        expected = reference(torch.tensor(ids), output_hidden_states=True)
    assert error(own(ids).pooled, expected.text_embeds) < 1e-5
    assert error(own(ids).penultimate, expected.hidden_states[-2]) < 1e-5


def test_buckets_of_t5_are_transformers():
    from transformers.models.t5.modeling_t5 import T5Attention

    offset = torch.arange(512)[None] - torch.arange(512)[:, None]
    expected = T5Attention._relative_position_bucket(offset, True, 32, 128)
    np.testing.assert_array_equal(text.relative_buckets(512, text.T5Config()), expected.numpy())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("shape", ["sd15", "sd3"])
def test_the_vae_whole_and_in_tiles(shape, dtype, folder):
    import diffusers

    held = folder(shape)
    decoder, config = held.vae()
    reference = diffusers.AutoencoderKL.from_pretrained(held._path / "vae", torch_dtype=dtype)
    z = draw(3, 2, 4, 40, 28)
    with torch.no_grad():
        whole = reference.decode(torch.tensor(z, dtype=dtype)).sample
        reference.enable_tiling()
        tiles = reference.decode(torch.tensor(z, dtype=dtype)).sample
    assert error(decoder(mx.array(z)), whole) < 1e-5
    assert error(vae.tiled(decoder, mx.array(z), config), tiles) < 1e-5
    assert error(tiles, whole) > 1e-3
    small = mx.array(z[:, :, :16, :16])
    np.testing.assert_array_equal(vae.tiled(decoder, small, config), decoder(small))


def test_a_vae_saved_under_the_old_names(checkpoint, tmp_path):
    import shutil

    from safetensors.numpy import load_file, save_file

    shutil.copytree(checkpoint("sd15"), tmp_path / "old")
    file = tmp_path / "old" / "vae" / "diffusion_pytorch_model.safetensors"
    old = {new: name for name, new in loading.OLD_ATTENTION.items()}
    arrays = load_file(file)
    renamed = {}
    for name, value in arrays.items():
        for new, before in old.items():
            if f".attentions.0.{new}." in name:
                name = name.replace(new, before)
                value = value[..., None, None] if value.ndim == 2 else value
        renamed[name] = np.ascontiguousarray(value)
    assert renamed.keys() != arrays.keys()
    save_file(renamed, file)
    z = mx.array(draw(1, 1, 4, 8, 8))
    images = [
        loading.Folder(ModelConfig(family="sd15", path=str(path))).vae()[0](z)
        for path in (checkpoint("sd15"), tmp_path / "old")
    ]
    np.testing.assert_array_equal(*images)


# --- denoisers ---------------------------------------------------------------------------------


class Whole(Tuned):
    """A network trained in full, in PyTorch's layout."""

    def __init__(self, network, frozen=frozenset()):
        for part in network.modules():
            if isinstance(part, layers.Conv2d):
                part.as_in_pytorch()
        self._tune(
            network, AdapterConfig(kind="full"), seed=0, again=lambda: network, frozen=frozen
        )

    def _forward(self, x, time, conditioning):
        raise AssertionError("these tests call the network itself")


def agree(reference, call, network, own_call, *, frozen=frozenset()):
    """Output, and the gradient of its product with a draw by every tensor, in both types."""
    from common import backends

    policy, backend = Whole(network, frozen), backends.load("mlx")
    output = own_call()
    weight = draw(99, *output.shape)
    _, _, gradients = backend.value_and_grad(
        policy, lambda: ((own_call() * mx.array(weight)).mean(), {})
    )()
    for dtype in (torch.float32, torch.float64):
        reference.to(dtype)
        expected = call(dtype)
        loss = (expected * torch.tensor(weight, dtype=dtype)).mean()
        found = torch.autograd.grad(loss, list(reference.parameters()))
        theirs = dict(zip(dict(reference.named_parameters()), found, strict=True))
        assert error(output, expected.detach()) < 1e-5, dtype
        assert gradients.keys() == theirs.keys()
        for name, gradient in theirs.items():
            assert gradients[name].shape == tuple(gradient.shape)
            assert error(gradients[name], gradient) < 1e-4, (name, dtype)


SD3 = {"num_layers": 3, "attention_head_dim": 8, "num_attention_heads": 2, "patch_size": 2}
SD3 |= {"sample_size": 16, "in_channels": 4, "out_channels": 4, "joint_attention_dim": 12}
SD3 |= {"caption_projection_dim": 16, "pooled_projection_dim": 20, "pos_embed_max_size": 12}


@pytest.mark.parametrize(
    "extra", [{}, {"dual_attention_layers": (0, 1), "qk_norm": "rms_norm"}], ids=["sd3", "sd3.5"]
)
def test_mmdit(extra):
    from diffusers import SD3Transformer2DModel

    reference = randomised(SD3Transformer2DModel(**SD3, **extra))
    reference.time_text_embed.time_proj = Exact(256)
    network = filled(mmdit.MMDiT(mmdit.MMDiTConfig(**SD3, **extra)), reference)
    x, tokens, pooled = draw(0, 3, 4, 12, 20), draw(1, 3, 7, 12), draw(2, 3, 20)
    t = np.array([981.25, 3.5, 412.0])

    def call(dtype):
        arrays = (torch.tensor(part, dtype=dtype) for part in (x, tokens, pooled))
        names = ("hidden_states", "encoder_hidden_states", "pooled_projections")
        given = dict(zip(names, arrays, strict=True))
        reference.time_text_embed.time_proj.register_forward_hook(lambda *a: a[2].to(dtype))
        return reference(**given, timestep=torch.tensor(t), return_dict=False)[0]

    features = mx.array(sinusoid(t, 256).astype(np.float32))
    inputs = mx.array(x), features, mx.array(tokens), mx.array(pooled)
    agree(reference, call, network, lambda: network(*inputs), frozen={"pos_embed.pos_embed"})


FLUX = {"in_channels": 16, "num_layers": 2, "num_single_layers": 2, "attention_head_dim": 16}
FLUX |= {"num_attention_heads": 2, "joint_attention_dim": 12, "pooled_projection_dim": 20}
FLUX |= {"axes_dims_rope": (4, 4, 8)}


@pytest.mark.parametrize("told", [True, False], ids=["dev", "schnell"])
def test_flux(told):
    from diffusers import FluxTransformer2DModel

    reference = randomised(FluxTransformer2DModel(**FLUX, guidance_embeds=told))
    reference.time_text_embed.time_proj = Exact(256)
    network = filled(flux.Flux(flux.FluxConfig(**FLUX, guidance_embeds=told)), reference)
    x, tokens, pooled = draw(0, 3, 15, 16), draw(1, 3, 7, 12), draw(2, 3, 20)
    t, guidance = np.array([0.98125, 0.0035, 0.412]), np.array([3.5, 3.5, 1.0])
    rows, columns = np.indices((3, 5)).reshape(2, -1)
    ids = torch.tensor(np.stack([0 * rows, rows, columns], axis=1))

    def call(dtype):
        arrays = (torch.tensor(part, dtype=dtype) for part in (x, tokens, pooled))
        names = ("hidden_states", "encoder_hidden_states", "pooled_projections")
        reference.time_text_embed.time_proj.register_forward_hook(lambda *a: a[2].to(dtype))
        return reference(
            **dict(zip(names, arrays, strict=True)),
            timestep=torch.tensor(t).to(dtype),
            guidance=torch.tensor(guidance).to(dtype) if told else None,
            img_ids=ids,
            txt_ids=torch.zeros(7, 3),
            return_dict=False,
        )[0]

    features, scales = (
        mx.array(sinusoid(1000 * part.astype(np.float32).astype(float), 256).astype(np.float32))
        for part in (t, guidance)
    )
    inputs = mx.array(x), features, mx.array(tokens), mx.array(pooled)
    how = {"guidance": scales if told else None, "size": (3, 5)}
    agree(reference, call, network, lambda: network(*inputs, **how))


UNET = {"block_out_channels": (8, 16, 24), "sample_size": 16, "cross_attention_dim": 20}
UNET |= {"norm_num_groups": 4, "layers_per_block": 2}
UNET |= {"down_block_types": ("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D")}
UNET |= {"up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D")}


@pytest.mark.parametrize(
    "extra",
    [{"attention_head_dim": 2}, {"attention_head_dim": (2, 4, 8), "use_linear_projection": True}],
    ids=["sd1", "sd2"],
)
def test_unet(extra):
    from diffusers import UNet2DConditionModel

    reference = randomised(UNet2DConditionModel(**UNET, **extra))
    reference.time_proj = Exact(8)
    network = filled(unet.UNet(unet.UNetConfig(**UNET, **extra)), reference)
    x, tokens, t = draw(0, 3, 4, 12, 8), draw(1, 3, 7, 20), np.array([981.0, 1.0, 412.0])

    def call(dtype):
        told = torch.tensor(tokens, dtype=dtype)
        return reference(torch.tensor(x, dtype=dtype), torch.tensor(t), told, return_dict=False)[0]

    features = mx.array(sinusoid(t, 8).astype(np.float32))
    inputs = mx.array(x), features, mx.array(tokens)
    agree(reference, call, network, lambda: network(*inputs))


def test_both_ways_of_group_norm():
    norm = layers.GroupNorm(4, 12)
    norm.weight, norm.bias = mx.array(draw(0, 12)), mx.array(draw(1, 12))
    x = draw(2, 2, 5, 7, 12)
    told = torch.tensor(x).permute(0, 3, 1, 2).double()
    weight, bias = (torch.tensor(np.array(part)).double() for part in (norm.weight, norm.bias))
    expected = torch.nn.functional.group_norm(told, 4, weight, bias).permute(0, 2, 3, 1)
    for way in (norm.by_axes, norm.at_once):
        assert error(way(mx.array(x)) * norm.weight + norm.bias, expected) < 1e-6


def test_a_sharded_file_and_one_of_float16(checkpoint, tmp_path):
    import shutil

    from safetensors.numpy import load_file, save_file

    shutil.copytree(checkpoint("sd3"), tmp_path / "m")
    part = tmp_path / "m" / "transformer"
    whole = part / "diffusion_pytorch_model.safetensors"
    arrays = load_file(whole)
    names = sorted(arrays)
    shards = {"a.safetensors": names[::2], "b.safetensors": names[1::2]}
    for file, held in shards.items():
        save_file({name: arrays[name] for name in held}, part / file)
    table = {name: file for file, held in shards.items() for name in held}
    whole.unlink()
    index = part / "diffusion_pytorch_model.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": table}))
    held = loading.Folder(ModelConfig(family="sd3", path=str(tmp_path / "m")))
    read = held.weights("transformer")
    assert read.keys() == arrays.keys()
    for name, value in arrays.items():
        np.testing.assert_array_equal(np.array(read[name]), value)
    index.unlink()
    small = {name: value.astype(np.float16) for name, value in arrays.items()}
    save_file(small, part / "diffusion_pytorch_model.fp16.safetensors")
    read = held.weights("transformer")
    assert read[names[0]].dtype == mx.float16
