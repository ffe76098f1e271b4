"""The error of each part of DiffusionKit: the table of docs/backends.md.

    python -m scripts.diffusionkit_parts

Tiny models of the real classes, in which every tensor is random (zero biases of a new model would
hide a lost bias), are computed by PyTorch (diffusers, transformers) and by DiffusionKit's networks
with the same weights, named by its own maps. An error is |a - b| / |b|, of a whole array.
"""

from collections.abc import Callable, Iterator
from importlib import import_module
from typing import Any

import mlx.core as mx
import numpy as np
import torch
from mlx import nn
from mlx.utils import tree_flatten

from drift_mlx import kit
from drift_mlx.kit import names
from scripts.kit_layout import autoencoders, black_forests, stabilitys

diffusers: Any = import_module("diffusers")  # its lazy exports have no types
transformers: Any = import_module("transformers")

WIDTH, HEADS, SIZE, TOKENS, TIME = 16, 2, 8, 5, 500.0

PREFIX = "model.diffusion_model."

PARTS: dict[str, tuple[Callable[[], float], str]] = {}
"""Title -> its error, and whether this toolkit uses the part."""


def part(title: str, use: str) -> Callable[[Callable[[], float]], Callable[[], float]]:
    """Enter a measurement into the table."""

    def enter(measure: Callable[[], float]) -> Callable[[], float]:
        PARTS[title] = measure, use
        return measure

    return enter


@part("VAE decoder", "no: the epsilon of its norms is 1e-5, not 1e-6; no tiles")
def decoder() -> float:
    """AutoencoderKL's decoder."""
    return _half("decoder", kit.load().vae.VAEDecoder, (4, 3), layers=2)


@part("VAE encoder", "no: the same norms; nothing here encodes images")
def encoder() -> float:
    """AutoencoderKL's encoder: means and logarithms of variances."""
    return _half("encoder", kit.load().vae.VAEEncoder, (3, 8), layers=1)


def _half(name: str, network: Any, channels: tuple[int, int], *, layers: int) -> float:
    """Half of a VAE, from and to so many channels."""
    theirs = _vae()
    named = getattr(kit.load().model_io, f"vae_{name}_state_dict_adjustments")
    ours = network(*channels, [8, 16], layers_per_block=layers, resnet_groups=4)
    ours.load_weights([*named(_kits_vae(theirs)).items()])
    x = _random(2, channels[0], SIZE, SIZE)
    with torch.no_grad():
        expected = getattr(theirs, name)(torch.from_numpy(x))
    return _error(ours(mx.array(x.transpose(0, 2, 3, 1))).transpose(0, 3, 1, 2), expected)


def _clip(activation: str) -> float:
    """The worst of penultimate states, last states and the projected pooled one."""
    sizes = {"hidden_size": WIDTH, "intermediate_size": 4 * WIDTH, "projection_dim": WIDTH}
    theirs = _stirred(
        transformers.CLIPTextModelWithProjection(
            transformers.CLIPTextConfig(
                vocab_size=40,
                num_hidden_layers=2,
                num_attention_heads=HEADS,
                hidden_act=activation,
                eos_token_id=39,
                **sizes,
            )
        )
    )
    config = kit.load().config.CLIPTextModelConfig(2, WIDTH, HEADS, 77, 40, WIDTH, activation)
    ours, io = kit.load().clip.CLIPTextModel(config), kit.load().model_io
    named = dict(
        pair
        for n, w in _device(_host(theirs)).items()
        for pair in io.map_clip_text_encoder_weights(n, w)
    )
    ours.load_weights([*named.items()])
    tokens = np.array([[38, 3, 7, 39, 39], [38, 1, 39, 39, 39]])
    with torch.no_grad():
        expected = theirs(torch.from_numpy(tokens), output_hidden_states=True)
    computed = ours(mx.array(tokens))
    return max(
        _error(computed.hidden_states[-2], expected.hidden_states[-2]),
        _error(computed.last_hidden_state, expected.last_hidden_state),
        _error(computed.pooled_output, expected.text_embeds),
    )


@part("CLIP-L's text encoder", "no: ours has any width of MLP and end-of-text token")
def clip_l() -> float:
    """With the activation of CLIP-L."""
    return _clip("quick_gelu")


@part("CLIP-G's text encoder", "no: as CLIP-L's")
def clip_g() -> float:
    """With the activation of CLIP-G."""
    return _clip("gelu")


@part("T5", "no: erf GELU for tanh; its call fails without Metal")
def t5() -> float:
    """Its layers alone: a call of the whole model asks Metal for the memory size."""
    sizes = {"vocab_size": 40, "d_model": WIDTH, "d_ff": 2 * WIDTH, "d_kv": 8, "num_layers": 2}
    config = transformers.T5Config(
        num_heads=HEADS, feed_forward_proj="gated-gelu", dropout_rate=0.0, **sizes
    )
    theirs, io = _stirred(transformers.T5EncoderModel(config)), kit.load().model_io
    ours = kit.load().t5.SD3T5Encoder(config, low_memory_mode=False)
    given = _device(_host(theirs))
    given.setdefault("encoder.embed_tokens.weight", given["shared.weight"])
    ours.load_weights([*io.t5_encoder_state_dict_adjustments(given).items()])
    tokens = np.arange(2 * 30).reshape(2, 30) % 40
    with torch.no_grad():
        expected = theirs(torch.from_numpy(tokens)).last_hidden_state
    h, stack = ours.wte(mx.array(tokens)), ours.encoder
    bias = stack.relative_attention_bias(30, 30)
    for layer in stack.layers:
        h = layer(h, mask=bias)
    return _error(stack.ln(h), expected)


@part("MMDiT as SD3", "no: no biases of keys, erf GELU, one timestep a batch, no dual attention")
def sd3() -> float:
    """SD3Transformer2DModel, one timestep."""
    theirs = _sd3()
    ours = _mmdit(token_level_text_embed_dim=12, pooled_text_embed_dim=10, depth_multimodal=2)
    given = _device(stabilitys(_host(theirs)))
    _loaded(ours, kit.load().model_io.mmdit_state_dict_adjustments(given, PREFIX))
    x, tokens, pooled = _random(1, 4, SIZE, SIZE), _random(1, TOKENS, 12), _random(1, 10)
    with torch.no_grad():
        expected = theirs(
            *(torch.from_numpy(a) for a in (x, tokens, pooled)), torch.tensor([TIME])
        ).sample
    return _error(_predicted(ours, x, tokens, pooled), expected)


@part("MMDiT as FLUX.1-schnell", "no: as SD3's; dev's guidance is not computed")
def flux() -> float:
    """FluxTransformer2DModel, one timestep."""
    theirs = _flux()
    config = kit.load().config
    ours = _mmdit(
        token_level_text_embed_dim=12,
        pooled_text_embed_dim=10,
        depth_multimodal=1,
        depth_unified=1,
        use_qk_norm=True,
        patchify_via_reshape=True,
        pos_embed_type=config.PositionalEncoding.PreSDPARope,
        rope_axes_dim=(2, 2, 4),
    )
    given = _device(black_forests(_host(theirs)))
    _loaded(ours, kit.load().model_io.flux_state_dict_adjustments(given, hidden_size=WIDTH))
    x, tokens, pooled = _random(1, 4, SIZE, SIZE), _random(1, TOKENS, 12), _random(1, 10)
    side = SIZE // 2
    packed = x.reshape(1, 4, side, 2, side, 2).transpose(0, 2, 4, 1, 3, 5).reshape(1, side**2, 16)
    places = np.zeros((side**2, 3), np.float32)
    places[:, 1:] = np.indices((side, side)).reshape(2, -1).T
    with torch.no_grad():
        expected = theirs(
            torch.from_numpy(packed),
            encoder_hidden_states=torch.from_numpy(tokens),
            pooled_projections=torch.from_numpy(pooled),
            timestep=torch.tensor([TIME / 1000]),
            img_ids=torch.from_numpy(places),
            txt_ids=torch.zeros(TOKENS, 3),
        ).sample
    computed = _predicted(ours, x, tokens, pooled)
    computed = np.array(computed).reshape(1, 4, side, 2, side, 2).transpose(0, 2, 4, 1, 3, 5)
    return _error(computed.reshape(1, side**2, 16), expected)


@part("`ModelSamplingDiscreteFlow`", "no: ours is in float64, and has FLUX's shifts too")
def sampler() -> float:
    """All noise levels of SD3's scheduler."""
    expected = diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0).sigmas.flip(0)
    return _error(kit.load().sampler.ModelSamplingDiscreteFlow(shift=3.0).sigmas, expected)


@part("`model_io`'s map of SD3's weights", "yes: `model.weights`, with the biases it drops")
def sd3_map() -> float:
    """Every array, from the published names and back to diffusers'."""
    theirs, io = _host(_sd3()), kit.load().model_io
    given = {n.removeprefix(PREFIX): a for n, a in _device(stabilitys(theirs)).items()}
    return _worst(names.diffusers_denoiser(names.sd3_named(given, io), flux=False), theirs)


@part("`model_io`'s map of FLUX's weights", "yes: `model.weights`")
def flux_map() -> float:
    """As SD3's."""
    theirs, io = _host(_flux()), kit.load().model_io
    given = _device(black_forests(theirs))
    return _worst(names.diffusers_denoiser(names.flux_named(given, io), flux=True), theirs)


@part("`model_io`'s map of the VAE's weights", "yes: `model.weights`")
def vae_map() -> float:
    """As SD3's, of the decoder."""
    theirs = {n: a for n, a in _host(_vae()).items() if n.startswith("decoder.")}
    named = kit.load().model_io.vae_decoder_state_dict_adjustments(_device(autoencoders(theirs)))
    return _worst(names.diffusers_decoder(named), theirs)


def measured(title: str) -> float:
    """The error of a part, from the same weights each time."""
    torch.manual_seed(0)
    return PARTS[title][0]()


def table() -> Iterator[str]:
    """The lines of the table, each after its measurement."""
    yield "| part | error against PyTorch | used? |"
    yield "|---|---|---|"
    for title, (_, use) in PARTS.items():
        yield f"| {title} | {measured(title):.1e} | {use} |".replace("0.0e+00", "0")


# --- helpers -------------------------------------------------------------------------------------


def _random(*shape: int) -> np.ndarray:
    return np.random.default_rng(sum(shape)).standard_normal(shape).astype(np.float32)


def _stirred(module: Any) -> Any:
    """The module with random biases and norms, for inference."""
    generator = torch.Generator().manual_seed(0)
    for name, value in module.named_parameters():
        if name.endswith("bias") or "norm" in name:
            value.data += 0.1 * torch.randn(value.shape, generator=generator)
    return module.eval()


def _vae() -> Any:
    torch.manual_seed(0)
    return _stirred(
        diffusers.AutoencoderKL(
            block_out_channels=(8, 16),
            down_block_types=("DownEncoderBlock2D",) * 2,
            up_block_types=("UpDecoderBlock2D",) * 2,
            layers_per_block=1,
            norm_num_groups=4,
            latent_channels=4,
            use_quant_conv=False,
            use_post_quant_conv=False,
        )
    )


def _sd3() -> Any:
    return _stirred(
        diffusers.SD3Transformer2DModel(
            sample_size=SIZE,
            in_channels=4,
            out_channels=4,
            num_layers=2,
            attention_head_dim=WIDTH // HEADS,
            num_attention_heads=HEADS,
            joint_attention_dim=12,
            caption_projection_dim=WIDTH,
            pooled_projection_dim=10,
            pos_embed_max_size=SIZE,
        )
    )


def _flux() -> Any:
    return _stirred(
        diffusers.FluxTransformer2DModel(
            in_channels=16,
            num_layers=1,
            num_single_layers=1,
            attention_head_dim=WIDTH // HEADS,
            num_attention_heads=HEADS,
            joint_attention_dim=12,
            pooled_projection_dim=10,
            axes_dims_rope=(2, 2, 4),
        )
    )


def _kits_vae(module: Any) -> dict[str, mx.array]:
    return _device(autoencoders(_host(module)))


def _host(module: Any) -> dict[str, np.ndarray]:
    return {name: value.numpy().copy() for name, value in module.state_dict().items()}


def _device(arrays: dict[str, np.ndarray]) -> dict[str, mx.array]:
    return {name: mx.array(value) for name, value in arrays.items()}


def _mmdit(**changes: Any) -> Any:
    sizes = {"num_heads": HEADS, "hidden_size_override": WIDTH, "max_latent_resolution": SIZE}
    common = {"vae_latent_dim": 4, "dtype": mx.float32, "low_memory_mode": False}
    return kit.load().mmdit.MMDiT(kit.load().config.MMDiTConfig(**sizes, **common, **changes))


def _loaded(network: nn.Module, named: dict[str, mx.array]) -> None:
    """Load the arrays that the network has; it has no biases of keys."""
    flat: Any = tree_flatten(network.parameters())
    places = dict(flat).keys()
    assert not places - named.keys()
    network.load_weights([(name, array) for name, array in named.items() if name in places])


def _predicted(network: Any, x: np.ndarray, tokens: np.ndarray, pooled: np.ndarray) -> np.ndarray:
    """The output of an MMDiT of DiffusionKit at TIME: [B, C, H, W] like x."""
    time = mx.array([TIME])
    network.cache_modulation_params(mx.array(pooled), time)
    computed = network(mx.array(x.transpose(0, 2, 3, 1)), mx.array(tokens)[:, :, None], time)
    return np.array(computed.transpose(0, 3, 1, 2))


def _worst(computed: dict[str, mx.array], expected: dict[str, np.ndarray]) -> float:
    """The largest error of an array; infinite if an array is missing or extra."""
    if computed.keys() != expected.keys():
        return float("inf")
    return max(_error(computed[name], torch.from_numpy(value)) for name, value in expected.items())


def _error(computed: Any, expected: torch.Tensor) -> float:
    gap = np.array(computed, dtype=np.float64) - expected.double().numpy()
    return float(np.linalg.norm(gap) / np.linalg.norm(expected.double().numpy()))


if __name__ == "__main__":
    for line in table():
        print(line, flush=True)
