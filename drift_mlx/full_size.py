"""Policies of the published sizes with drawn weights: to estimate and to time, without a download.

The sizes are those of the configurations that the models were published with.
"""

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import mlx.core as mx
from mlx.utils import tree_map

from common.config import AdapterConfig, ModelConfig
from drift_mlx import loading
from drift_mlx.diffusion import DiffusersPolicy
from drift_mlx.flux import FluxPolicy
from drift_mlx.networks.flux import Flux, FluxConfig
from drift_mlx.networks.mmdit import MMDiT, MMDiTConfig
from drift_mlx.networks.text import CLIPText, CLIPTextConfig, T5Config, T5Encoder
from drift_mlx.networks.unet import UNet, UNetConfig
from drift_mlx.networks.vae import Decoder, VAEConfig
from drift_mlx.sd3 import SD3Policy
from drift_mlx.sd15 import SD15Policy

__all__ = ["MODELS", "policy"]

T5_XXL = T5Config(
    d_model=4096, d_ff=10240, num_layers=24, num_heads=64, feed_forward_proj="gated-gelu"
)
CLIP_L = CLIPTextConfig()
CLIP_G = CLIPTextConfig(
    hidden_size=1280,
    intermediate_size=5120,
    projection_dim=1280,
    num_hidden_layers=32,
    num_attention_heads=20,
    hidden_act="gelu",
)
WIDTHS = (128, 256, 512, 512)
SD_VAE = VAEConfig(block_out_channels=WIDTHS, layers_per_block=2, sample_size=512)
FLOW_VAE = VAEConfig(
    block_out_channels=WIDTHS,
    layers_per_block=2,
    sample_size=1024,
    latent_channels=16,
    scaling_factor=1.5305,
    shift_factor=0.0609,
    use_post_quant_conv=False,
)
MODELS: dict[str, dict[str, Any]] = {
    "sd15": {"unet": UNetConfig(cross_attention_dim=768), "vae": SD_VAE, "text_encoder": CLIP_L},
    "sd3": {
        "transformer": MMDiTConfig(
            num_layers=24,
            num_attention_heads=24,
            caption_projection_dim=1536,
            pos_embed_max_size=384,
            dual_attention_layers=tuple(range(13)),
            qk_norm="rms_norm",
        ),
        "vae": FLOW_VAE,
        "text_encoder": CLIP_L,
        "text_encoder_2": CLIP_G,
        "text_encoder_3": T5_XXL,
    },
    "flux": {
        "transformer": FluxConfig(),
        "vae": FLOW_VAE,
        "text_encoder": CLIP_L,
        "text_encoder_2": T5_XXL,
    },
}
"""Sizes by family: Stable Diffusion 1.5, 3.5 medium and FLUX.1."""

POLICIES = {"sd15": SD15Policy, "sd3": SD3Policy, "flux": FluxPolicy}
NETWORKS = {UNetConfig: UNet, MMDiTConfig: MMDiT, FluxConfig: Flux}
SCHEDULER = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}
SCHEDULER |= {"steps_offset": 1, "set_alpha_to_one": False}


def policy(model: ModelConfig, adapter: AdapterConfig) -> DiffusersPolicy:
    """The policy of `model.family` with weights that are drawn when they are first used.

    Nothing is read from `model.path`; of FLUX.1, it tells schnell from dev. What a prompt says is
    of no matter: its letters are its tokens.
    """
    sizes = MODELS[model.family]
    if model.family == "flux":
        told = "schnell" not in str(model.path)
        sizes = sizes | {"transformer": replace(sizes["transformer"], guidance_embeds=told)}

    class Full(POLICIES[model.family]):  # type: ignore[misc]
        def _open(self) -> Any:
            return _Drawn(sizes)

    return Full(model, adapter, seed=0)


class _Drawn:
    """What `loading.Folder` is to a policy, without a folder."""

    def __init__(self, sizes: dict[str, Any]):
        self._sizes = sizes

    def has(self, component: str) -> bool:
        return component in self._sizes

    def origin(self, component: str) -> str:
        return f"drawn weights: {component}"

    def document(self, component: str, file: str = "config.json") -> dict[str, Any]:
        return SCHEDULER

    def settings(self, component: str, kind: type) -> Any:
        return self._sizes[component]

    def tokenizer(self, component: str) -> Any:
        return _Letters(self._sizes[component.replace("tokenizer", "text_encoder")].vocab_size)

    def weights(self, component: str) -> dict[str, mx.array]:
        sizes = self._sizes[component]
        flat = loading.flat(NETWORKS[type(sizes)](sizes))
        drawn = {name: 0.02 * mx.random.normal(array.shape) for name, array in flat.items()}
        return {n: w.transpose(0, 3, 1, 2) if w.ndim == 4 else w for n, w in drawn.items()}

    def text_encoder(self, component: str, dtype: mx.Dtype, bits: int = 0) -> Any:
        sizes = self._sizes[component]
        if isinstance(sizes, T5Config):
            module: Any = T5Encoder(sizes)
            module.update(tree_map(lambda array: array.astype(dtype), module.parameters()))
            loading.quantized(module, bits)
            return module
        module = CLIPText(sizes, projected=len(self._sizes) > 4)
        module.update(tree_map(lambda array: array.astype(dtype), module.parameters()))
        return module

    def vae(self) -> tuple[Decoder, VAEConfig]:
        return Decoder(self._sizes["vae"]), self._sizes["vae"]


class _Letters:
    """A tokenizer to which each letter is a token; the last of its vocabulary ends a text."""

    model_max_length = 77

    def __init__(self, vocabulary: int):
        self._end = vocabulary - 1

    def __call__(self, prompts: list[str], *, max_length: int = 0, **_: Any) -> SimpleNamespace:
        texts = [[ord(letter) % self._end for letter in prompt] for prompt in prompts]
        if not max_length:
            return SimpleNamespace(input_ids=[[*text, self._end] for text in texts])
        cut = [text[: max_length - 1] for text in texts]
        padded = [text + [self._end] * (max_length - len(text)) for text in cut]
        return SimpleNamespace(input_ids=padded)
