"""What published model families are made of: their configurations, without their weights.

A pipeline is described as in its files, under the names of diffusers and transformers: a component
and what its config.json holds. Estimates and timings at full size draw weights for it.
Not here: anything that is read from disk, and the classes of a tensor library.
"""

from collections.abc import Mapping
from typing import Any, Literal

__all__ = ["Documents", "Size", "documents"]

Documents = Mapping[str, Mapping[str, Any]]
"""Component -> its configuration."""

Size = Literal["full", "shallow", "middle", "tiny"]
"""full: as published. shallow: the same widths, few layers. middle: millions of weights, for a CPU.
tiny: a few thousand."""

SHALLOW = 2
LAYERS = ("num_layers", "num_single_layers", "num_hidden_layers")
"""Keys that count the layers of a transformer."""

CLIP_L = {
    "hidden_act": "quick_gelu",
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_attention_heads": 12,
    "num_hidden_layers": 12,
    "projection_dim": 768,
    "vocab_size": 49408,
}
CLIP_G = {
    "hidden_act": "gelu",
    "hidden_size": 1280,
    "intermediate_size": 5120,
    "num_attention_heads": 20,
    "num_hidden_layers": 32,
    "projection_dim": 1280,
    "vocab_size": 49408,
}
T5_XXL = {
    "d_ff": 10240,
    "d_kv": 64,
    "d_model": 4096,
    "dropout_rate": 0.0,
    "feed_forward_proj": "gated-gelu",
    "num_heads": 64,
    "num_layers": 24,
    "vocab_size": 32128,
}
TINY_CLIP = CLIP_L | {
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_attention_heads": 2,
    "num_hidden_layers": 2,
    "projection_dim": 16,
    "vocab_size": 74,
}
TINY_T5 = T5_XXL | {
    "d_ff": 64,
    "d_kv": 8,
    "d_model": 32,
    "num_heads": 2,
    "num_layers": 2,
    "vocab_size": 40,
}
MIDDLE_CLIP = TINY_CLIP | {
    "hidden_size": 256,
    "intermediate_size": 512,
    "num_attention_heads": 4,
    "projection_dim": 256,
}
MIDDLE_T5 = TINY_T5 | {"d_ff": 1024, "d_kv": 64, "d_model": 512, "num_heads": 8}

ALONE = {"architectures": ["CLIPTextModel"]}
PROJECTED = {"architectures": ["CLIPTextModelWithProjection"]}
T5 = {"architectures": ["T5EncoderModel"]}

LEVELS = {
    "block_out_channels": (128, 256, 512, 512),
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "layers_per_block": 2,
    "norm_num_groups": 32,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
}
TINY_LEVELS = {
    "block_out_channels": (8, 16),
    "down_block_types": ("DownEncoderBlock2D",) * 2,
    "latent_channels": 4,
    "layers_per_block": 1,
    "norm_num_groups": 4,
    "sample_size": 32,
    "up_block_types": ("UpDecoderBlock2D",) * 2,
}
MIDDLE_LEVELS = {
    "block_out_channels": (32, 64, 128, 128),
    "layers_per_block": 1,
    "sample_size": 256,
}
FLOW_VAE = LEVELS | {
    "latent_channels": 16,
    "sample_size": 1024,
    "use_post_quant_conv": False,
    "use_quant_conv": False,
}
VAES = {
    "sd15": LEVELS | {"latent_channels": 4, "sample_size": 512, "scaling_factor": 0.18215},
    "sd3": FLOW_VAE | {"scaling_factor": 1.5305, "shift_factor": 0.0609},
    "flux": FLOW_VAE | {"scaling_factor": 0.3611, "shift_factor": 0.1159},
}

SCHEDULERS = {
    "sd15": {
        "beta_end": 0.012,
        "beta_schedule": "scaled_linear",
        "beta_start": 0.00085,
        "clip_sample": False,
        "set_alpha_to_one": False,
        "steps_offset": 1,
    },
    "sd3": {"shift": 3.0},
    "flux": {
        "base_shift": 0.5,
        "max_shift": 1.15,
        "shift": 3.0,
        "use_dynamic_shifting": True,
    },
}

FULL: dict[str, Documents] = {
    "sd15": {
        "unet": {"cross_attention_dim": 768, "sample_size": 64},
        "vae": VAES["sd15"],
        "text_encoder": CLIP_L | ALONE,
        "scheduler": SCHEDULERS["sd15"],
    },
    "sd3": {
        "transformer": {
            "attention_head_dim": 64,
            "caption_projection_dim": 1536,
            "dual_attention_layers": tuple(range(13)),
            "in_channels": 16,
            "joint_attention_dim": 4096,
            "num_attention_heads": 24,
            "num_layers": 24,
            "out_channels": 16,
            "pooled_projection_dim": 2048,
            "pos_embed_max_size": 384,
            "qk_norm": "rms_norm",
            "sample_size": 128,
        },
        "vae": VAES["sd3"],
        "text_encoder": CLIP_L | PROJECTED,
        "text_encoder_2": CLIP_G | PROJECTED,
        "text_encoder_3": T5_XXL | T5,
        "scheduler": SCHEDULERS["sd3"],
    },
    "flux": {
        "transformer": {"guidance_embeds": True, "num_layers": 19, "num_single_layers": 38},
        "vae": VAES["flux"],
        "text_encoder": CLIP_L | ALONE,
        "text_encoder_2": T5_XXL | T5,
        "scheduler": SCHEDULERS["flux"],
    },
}
"""Stable Diffusion 1.5, Stable Diffusion 3.5 medium and FLUX.1-dev, by family.

What is not named is the default of diffusers' or transformers' class."""

TINY: dict[str, Documents] = {
    "sd15": {
        "unet": {
            "attention_head_dim": 2,
            "block_out_channels": (8, 16),
            "cross_attention_dim": 16,
            "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
            "layers_per_block": 1,
            "norm_num_groups": 4,
            "sample_size": 16,
            "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
        },
        "vae": VAES["sd15"] | TINY_LEVELS,
        "text_encoder": TINY_CLIP | ALONE,
        "scheduler": SCHEDULERS["sd15"],
    },
    "sd3": {
        "transformer": {
            "attention_head_dim": 8,
            "caption_projection_dim": 16,
            "dual_attention_layers": (0,),
            "in_channels": 4,
            "joint_attention_dim": 32,
            "num_attention_heads": 2,
            "num_layers": 2,
            "out_channels": 4,
            "pooled_projection_dim": 32,
            "pos_embed_max_size": 12,
            "qk_norm": "rms_norm",
            "sample_size": 16,
        },
        "vae": VAES["sd3"] | TINY_LEVELS,
        "text_encoder": TINY_CLIP | PROJECTED,
        "text_encoder_2": TINY_CLIP | PROJECTED,
        "text_encoder_3": TINY_T5 | T5,
        "scheduler": SCHEDULERS["sd3"],
    },
    "flux": {
        "transformer": {
            "attention_head_dim": 16,
            "axes_dims_rope": (4, 4, 8),
            "guidance_embeds": True,
            "in_channels": 16,
            "joint_attention_dim": 32,
            "num_attention_heads": 2,
            "num_layers": 1,
            "num_single_layers": 1,
            "pooled_projection_dim": 16,
        },
        "vae": VAES["flux"] | TINY_LEVELS,
        "text_encoder": TINY_CLIP | ALONE,
        "text_encoder_2": TINY_T5 | T5,
        "scheduler": SCHEDULERS["flux"],
    },
}
"""The same classes with a few thousand weights."""

MIDDLE: dict[str, Documents] = {
    "sd15": {
        "unet": {
            "block_out_channels": (64, 128, 256),
            "cross_attention_dim": 256,
            "down_block_types": ("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
            "sample_size": 32,
            "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
        },
        "vae": VAES["sd15"] | MIDDLE_LEVELS,
        "text_encoder": MIDDLE_CLIP | ALONE,
        "scheduler": SCHEDULERS["sd15"],
    },
    "sd3": {
        "transformer": {
            **FULL["sd3"]["transformer"],
            "caption_projection_dim": 512,
            "dual_attention_layers": (0, 1, 2),
            "joint_attention_dim": 512,
            "num_attention_heads": 8,
            "num_layers": 6,
            "pooled_projection_dim": 512,
            "pos_embed_max_size": 48,
            "sample_size": 32,
        },
        "vae": VAES["sd3"] | MIDDLE_LEVELS,
        "text_encoder": MIDDLE_CLIP | PROJECTED,
        "text_encoder_2": MIDDLE_CLIP | PROJECTED,
        "text_encoder_3": MIDDLE_T5 | T5,
        "scheduler": SCHEDULERS["sd3"],
    },
    "flux": {
        "transformer": {
            "guidance_embeds": True,
            "joint_attention_dim": 512,
            "num_attention_heads": 4,
            "num_layers": 2,
            "num_single_layers": 4,
            "pooled_projection_dim": 256,
        },
        "vae": VAES["flux"] | MIDDLE_LEVELS,
        "text_encoder": MIDDLE_CLIP | ALONE,
        "text_encoder_2": MIDDLE_T5 | T5,
        "scheduler": SCHEDULERS["flux"],
    },
}
"""The same classes with a few million weights, and latents of 32 x 32: what a CPU can measure."""

SIZES = {"middle": MIDDLE, "tiny": TINY}


def documents(family: str, path: str | None, *, size: Size = "full") -> Documents:
    """The components of a family; of FLUX.1, the path decides between schnell and dev.

    Raises KeyError for a family that none is published of.
    """
    components = SIZES.get(size, FULL)[family]
    if family == "flux":
        dev = "schnell" not in str(path)
        components = {
            **components,
            "transformer": {**components["transformer"], "guidance_embeds": dev},
        }
    return _shallow(components) if size == "shallow" else components


def _shallow(documents: Documents) -> Documents:
    """The same widths with few layers of each transformer; a U-Net keeps its levels."""
    few = {
        name: document | {key: SHALLOW for key in LAYERS if key in document}
        for name, document in ((name, dict(document)) for name, document in documents.items())
    }
    for name in few.keys() & {"unet"}:
        few[name]["layers_per_block"] = 1
    return few
