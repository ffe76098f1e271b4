"""Real model families at their full size, with random weights: nothing is downloaded.

The shapes are those of the published configurations. `tiny` makes a few thousand weights of the
same classes. Text is read with a vocabulary of letters: what a prompt says is of no matter here.
"""

import importlib
import string
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from common.backend import Conditioning
from common.config import AdapterConfig, ModelConfig
from drift_torch import estimate, loading
from drift_torch.diffusion import DTYPES, DiffusersPolicy
from drift_torch.flux import FluxPolicy
from drift_torch.sd3 import SD3Policy
from drift_torch.sd15 import SD15Policy

__all__ = ["policy", "without_content"]

POLICIES: dict[str, type[DiffusersPolicy]] = {
    "sd15": SD15Policy,
    "sd3": SD3Policy,
    "flux": FluxPolicy,
}

LETTERS = string.ascii_lowercase + string.digits
WORDS = [*LETTERS, *(f"{letter}</w>" for letter in LETTERS), "<|startoftext|>", "<|endoftext|>"]
PIECES = ["<pad>", "</s>", "<unk>", "▁", *LETTERS]

CLIP_L = {"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12}
CLIP_G = {"hidden_size": 1280, "intermediate_size": 5120, "num_hidden_layers": 32}
T5_XXL = {"d_model": 4096, "d_ff": 10240, "d_kv": 64, "num_layers": 24, "num_heads": 64}
SMALL_CLIP = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2}
SMALL_T5 = {"d_model": 32, "d_ff": 64, "d_kv": 8, "num_layers": 2, "num_heads": 2}

DENOISERS: dict[str, dict[str, Any]] = {
    "sd15": {"sample_size": 64, "cross_attention_dim": 768},
    "sd3": {
        "sample_size": 128,
        "num_layers": 24,
        "attention_head_dim": 64,
        "num_attention_heads": 24,
        "joint_attention_dim": 4096,
        "caption_projection_dim": 1536,
        "pooled_projection_dim": 2048,
        "in_channels": 16,
        "out_channels": 16,
        "pos_embed_max_size": 384,
        "dual_attention_layers": tuple(range(13)),
        "qk_norm": "rms_norm",
    },
    "flux": {},
}
"""Stable Diffusion 1.5, 3.5 medium and FLUX.1; what is not named is the class's default."""

TINY_DENOISERS: dict[str, dict[str, Any]] = {
    "sd15": {
        "sample_size": 16,
        "block_out_channels": (8, 16),
        "layers_per_block": 1,
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
        "cross_attention_dim": 16,
        "attention_head_dim": 2,
        "norm_num_groups": 4,
    },
    "sd3": {
        "sample_size": 16,
        "num_layers": 2,
        "attention_head_dim": 8,
        "num_attention_heads": 2,
        "joint_attention_dim": 32,
        "caption_projection_dim": 16,
        "pooled_projection_dim": 32,
        "in_channels": 4,
        "out_channels": 4,
        "pos_embed_max_size": 12,
        "dual_attention_layers": (0,),
        "qk_norm": "rms_norm",
    },
    "flux": {
        "in_channels": 16,
        "num_layers": 1,
        "num_single_layers": 1,
        "attention_head_dim": 16,
        "num_attention_heads": 2,
        "joint_attention_dim": 32,
        "pooled_projection_dim": 16,
        "axes_dims_rope": (4, 4, 8),
    },
}

DECODERS: dict[str, dict[str, Any]] = {
    "sd15": {"latent_channels": 4, "scaling_factor": 0.18215},
    "sd3": {"latent_channels": 16, "scaling_factor": 1.5305, "shift_factor": 0.0609},
    "flux": {"latent_channels": 16, "scaling_factor": 0.3611, "shift_factor": 0.1159},
}


def policy(
    model: ModelConfig, adapter: AdapterConfig, *, device: torch.device, tiny: bool = False
) -> DiffusersPolicy:
    """The policy of `model.family` with random weights; nothing is read from `model.path`.

    Args:
        model: family, dtype and memory settings; of FLUX.1, the path tells schnell from dev.
        adapter: what is trained.
        device: where the weights are made; "meta" makes none at all.
        tiny: small shapes of the same classes.
    """

    def build(*_: Any, **__: Any) -> Any:
        return _pipeline(model, device, tiny)

    loading.quiet()
    with mock.patch.object(loading, "pipeline", build):
        return POLICIES[model.family](model, adapter, seed=0, device=device)


def without_content(
    model: ModelConfig, adapter: AdapterConfig, *, tiny: bool = False
) -> DiffusersPolicy:
    """The same policy of arrays without content that act as on a CPU: for estimates alone."""
    device = torch.device("cpu")
    made: Any = policy(model, adapter, device=torch.device("meta"), tiny=tiny)
    made.device = device
    for name, value in vars(made).items():
        if isinstance(value, torch.Tensor):
            setattr(made, name, torch.zeros_like(value, device=device))
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        encoders = nn.ModuleList(made._encoders)
        with estimate.without_content(encoders, mode, device):
            read = made._encode("")
    tokens = torch.zeros(read.tokens.shape, dtype=read.tokens.dtype)
    pooled = None if read.pooled is None else torch.zeros(read.pooled.shape, dtype=tokens.dtype)
    made._null = told = Conditioning(tokens, pooled, read.blocks)
    made._on_host = lambda prompts: [told] * len(prompts)
    return made


def _pipeline(model: ModelConfig, device: torch.device, tiny: bool) -> Any:
    """The container that `from_pretrained` would have given."""
    diffusers, family, dtype = _library("diffusers"), model.family, DTYPES[model.dtype]
    large, small = (CLIP_L, CLIP_G) if not tiny else (SMALL_CLIP, SMALL_CLIP)
    t5 = SMALL_T5 if tiny else T5_XXL
    shapes = (TINY_DENOISERS if tiny else DENOISERS)[family]
    if family == "flux":
        shapes = shapes | {"guidance_embeds": "schnell" not in str(model.path)}
    kinds = {
        "sd15": diffusers.UNet2DConditionModel,
        "sd3": diffusers.SD3Transformer2DModel,
        "flux": diffusers.FluxTransformer2DModel,
    }
    with _made(device, dtype):
        denoiser = kinds[family](**shapes)
    with _made(device, torch.float32):
        vae = _vae(family, tiny)
    with _made(device, dtype):
        encoders = {
            "sd15": lambda: {"text_encoder": _clip(large, projected=False)},
            "sd3": lambda: {
                "text_encoder": _clip(large, projected=True),
                "text_encoder_2": _clip(small, projected=True),
                "text_encoder_3": _t5(t5),
            },
            "flux": lambda: {
                "text_encoder": _clip(large, projected=False),
                "text_encoder_2": _t5(t5),
            },
        }[family]()
    if model.offload and device.type == "cuda":
        for part in (vae, *encoders.values()):
            part.to("cpu")
    return _container(family, denoiser, vae, encoders)


def _container(family: str, denoiser: nn.Module, vae: nn.Module, encoders: dict[str, Any]) -> Any:
    diffusers = _library("diffusers")
    flow = diffusers.FlowMatchEulerDiscreteScheduler
    parts: dict[str, Any] = {"vae": vae, "tokenizer": _words(), **encoders}
    if family == "sd15":
        scheduler = diffusers.DDIMScheduler(
            beta_start=0.00085,
            beta_end=0.012,
            beta_schedule="scaled_linear",
            clip_sample=False,
            set_alpha_to_one=False,
            steps_offset=1,
        )
        none = {"safety_checker": None, "feature_extractor": None}
        return diffusers.StableDiffusionPipeline(
            unet=denoiser, scheduler=scheduler, requires_safety_checker=False, **none, **parts
        )
    if family == "sd3":
        return diffusers.StableDiffusion3Pipeline(
            transformer=denoiser,
            scheduler=flow(shift=3.0),
            tokenizer_2=_words(),
            tokenizer_3=_pieces(),
            **parts,
        )
    return diffusers.FluxPipeline(
        transformer=denoiser,
        scheduler=flow(shift=3.0, use_dynamic_shifting=True, base_shift=0.5, max_shift=1.15),
        tokenizer_2=_pieces(),
        **parts,
    )


@contextmanager
def _made(device: torch.device, dtype: torch.dtype) -> Iterator[None]:
    """Within it, modules are made on the device and in the dtype."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with device:
            yield
    finally:
        torch.set_default_dtype(before)


def _vae(family: str, tiny: bool) -> nn.Module:
    widths, layers, groups = ((8, 16), 1, 4) if tiny else ((128, 256, 512, 512), 2, 32)
    shapes = DECODERS[family] | ({"latent_channels": 4} if tiny else {})
    quantised = {} if family == "sd15" else {"use_quant_conv": False, "use_post_quant_conv": False}
    return _library("diffusers").AutoencoderKL(
        block_out_channels=widths,
        down_block_types=("DownEncoderBlock2D",) * len(widths),
        up_block_types=("UpDecoderBlock2D",) * len(widths),
        layers_per_block=layers,
        norm_num_groups=groups,
        sample_size=32 if tiny else 512,
        **shapes,
        **quantised,
    )


def _clip(shapes: dict[str, int], *, projected: bool) -> nn.Module:
    transformers, end = _library("transformers"), WORDS.index("<|endoftext|>")
    kind = transformers.CLIPTextModelWithProjection if projected else transformers.CLIPTextModel
    return kind(
        transformers.CLIPTextConfig(
            vocab_size=49408 if shapes["hidden_size"] > 100 else len(WORDS),
            projection_dim=shapes["hidden_size"],
            num_attention_heads=max(shapes["hidden_size"] // 64, 2),
            bos_token_id=end - 1,
            eos_token_id=end,
            pad_token_id=end,
            **shapes,
        )
    ).eval()


def _t5(shapes: dict[str, int]) -> nn.Module:
    transformers = _library("transformers")
    vocabulary = 32128 if shapes["d_model"] > 100 else len(PIECES)
    settings = {"feed_forward_proj": "gated-gelu", "dropout_rate": 0.0}
    config = transformers.T5Config(vocab_size=vocabulary, **settings, **shapes)
    return transformers.T5EncoderModel(config).eval()


def _words() -> Any:
    vocabulary = {word: index for index, word in enumerate(WORDS)}
    return _library("transformers").CLIPTokenizer(vocab=vocabulary, merges=[], model_max_length=77)


def _pieces() -> Any:
    scores = [(piece, 0.0 if piece.startswith("<") else -2.0) for piece in PIECES]
    return _library("transformers").T5Tokenizer(vocab=scores, extra_ids=0)


def _library(name: str) -> Any:
    """A library that takes seconds to import, and whose types are not told."""
    return importlib.import_module(name)
