"""Tiny checkpoints of the real classes: pipelines of a few thousand weights, saved as folders.

The sizes are chosen so that nothing coincides: both CLIPs, T5 and the pooled embedding have
widths of their own, so that SD3's tokens have padding channels as the real ones do.
"""

import string
from pathlib import Path

import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    FlowMatchEulerDiscreteScheduler,
    FluxPipeline,
    FluxTransformer2DModel,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
    StableDiffusionPipeline,
    UNet2DConditionModel,
)
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
    T5Config,
    T5EncoderModel,
    T5Tokenizer,
)

SIZE = 32
"""Pixels of a side; the VAE halves them."""

LETTERS = string.ascii_lowercase + string.digits
CLIP_SPECIAL = ("<|startoftext|>", "<|endoftext|>")
CLIP_VOCABULARY = [*LETTERS, *(f"{letter}</w>" for letter in LETTERS), *CLIP_SPECIAL]
T5_VOCABULARY = ["<pad>", "</s>", "<unk>", "▁", *LETTERS]


def clip_tokenizer():
    return CLIPTokenizer(
        vocab={word: index for index, word in enumerate(CLIP_VOCABULARY)},
        merges=[],
        model_max_length=77,
    )


def t5_tokenizer():
    scores = [(word, 0.0 if word.startswith("<") else -2.0) for word in T5_VOCABULARY]
    return T5Tokenizer(vocab=scores, extra_ids=0)


def clip(width, kind):
    end = CLIP_VOCABULARY.index("<|endoftext|>")
    return kind(
        CLIPTextConfig(
            vocab_size=len(CLIP_VOCABULARY),
            hidden_size=width,
            intermediate_size=2 * width,
            projection_dim=width,
            num_hidden_layers=2,
            num_attention_heads=2,
            bos_token_id=end - 1,
            eos_token_id=end,
            pad_token_id=end,
        )
    )


def t5(width):
    return T5EncoderModel(
        T5Config(
            vocab_size=len(T5_VOCABULARY),
            d_model=width,
            d_ff=2 * width,
            d_kv=8,
            num_layers=2,
            num_heads=2,
            feed_forward_proj="gated-gelu",
            dropout_rate=0.0,
        )
    )


def vae(blocks=(8, 16), **changes):
    return AutoencoderKL(
        block_out_channels=blocks,
        down_block_types=("DownEncoderBlock2D",) * len(blocks),
        up_block_types=("UpDecoderBlock2D",) * len(blocks),
        layers_per_block=1,
        norm_num_groups=4,
        latent_channels=4,
        sample_size=SIZE,
        **changes,
    )


def sd15(path, *, prediction="epsilon"):
    pipeline = StableDiffusionPipeline(
        vae=vae(scaling_factor=0.18215),
        text_encoder=clip(24, CLIPTextModel),
        tokenizer=clip_tokenizer(),
        unet=UNet2DConditionModel(
            block_out_channels=(8, 16),
            layers_per_block=1,
            sample_size=SIZE // 2,
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
            cross_attention_dim=24,
            attention_head_dim=2,
            norm_num_groups=4,
        ),
        scheduler=DDIMScheduler(
            beta_start=0.00085,
            beta_end=0.012,
            beta_schedule="scaled_linear",
            clip_sample=False,
            set_alpha_to_one=False,
            steps_offset=1,
            prediction_type=prediction,
        ),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    return _save(pipeline, path)


def sd3(path, *, t5_encoder=True, newer=False, as_published=False, large=False):
    """SD3-medium's shape, or 3.5's (`newer`: dual attention and normalised queries and keys).

    as_published: the VAE has no convolution before its decoder either. large: the VAE divides each
    side by 8, as the real ones do, and there are positions for 512 x 512 pixels.
    """
    extra = {"dual_attention_layers": (0,), "qk_norm": "rms_norm"} if newer else {}
    pipeline = StableDiffusion3Pipeline(
        transformer=SD3Transformer2DModel(
            sample_size=SIZE // 2,
            patch_size=2,
            in_channels=4,
            out_channels=4,
            num_layers=2,
            attention_head_dim=8,
            num_attention_heads=2,
            joint_attention_dim=32,
            caption_projection_dim=16,
            pooled_projection_dim=20,
            pos_embed_max_size=32 if large else 12,
            **extra,
        ),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
        vae=vae(
            (8, 8, 8, 16) if large else (8, 16),
            scaling_factor=1.5305,
            shift_factor=0.0609,
            use_quant_conv=False,
            use_post_quant_conv=not as_published,
        ),
        text_encoder=clip(8, CLIPTextModelWithProjection),
        tokenizer=clip_tokenizer(),
        text_encoder_2=clip(12, CLIPTextModelWithProjection),
        tokenizer_2=clip_tokenizer(),
        text_encoder_3=t5(32) if t5_encoder else None,
        tokenizer_3=t5_tokenizer() if t5_encoder else None,
    )
    return _save(pipeline, path)


def flux(path, *, guided=True, as_published=False):
    """FLUX.1-dev's shape (`guided`: by an input, with dynamic shift), or schnell's."""
    pipeline = FluxPipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(
            shift=3.0 if guided else 1.0,
            use_dynamic_shifting=guided,
            base_shift=0.5,
            max_shift=1.15,
        ),
        vae=vae(
            scaling_factor=0.3611,
            shift_factor=0.1159,
            use_quant_conv=False,
            use_post_quant_conv=not as_published,
        ),
        text_encoder=clip(12, CLIPTextModel),
        tokenizer=clip_tokenizer(),
        text_encoder_2=t5(32),
        tokenizer_2=t5_tokenizer(),
        transformer=FluxTransformer2DModel(
            in_channels=16,
            num_layers=1,
            num_single_layers=1,
            attention_head_dim=16,
            num_attention_heads=2,
            joint_attention_dim=32,
            pooled_projection_dim=12,
            guidance_embeds=guided,
            axes_dims_rope=(4, 4, 8),
        ),
    )
    return _save(pipeline, path)


BUILDERS = {"sd15": sd15, "sd3": sd3, "flux": flux}


def _save(pipeline, path):
    """Save with random biases and norms: a fresh model's zeros and ones would hide mistakes."""
    generator = torch.Generator().manual_seed(0)
    for part in pipeline.components.values():
        if isinstance(part, torch.nn.Module):
            for name, value in part.named_parameters():
                if name.endswith("bias") or "norm" in name:
                    value.data += 0.1 * torch.randn(value.shape, generator=generator)
    pipeline.save_pretrained(path)
    return Path(path)
