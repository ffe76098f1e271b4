"""ImageReward v1 (Xu et al. 2023): BLIP reads the prompt beside the image, layers regress a score.

The published file names its weights as BLIP's first code did; here they go into transformers'
BLIP, so that nothing of the old package is needed.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from common.rewards.preprocess import CLIP_MEAN, CLIP_STD, cropped, normalised
from drift_torch.rewards import ImageRewardOptions, loading
from drift_torch.rewards.clip import regression

MEAN, STD = 0.16717362830052426, 1.0333394966054072
"""Mean and std of the raw scores on the authors' validation set; they standardise the score."""

TOKENS = 35
"""The prompt is padded or cut to them."""

HEAD_CHANNELS = 64

RENAMED = (
    (r"^cls_token$", "embeddings.class_embedding"),
    (r"^pos_embed$", "embeddings.position_embedding"),
    (r"^patch_embed\.proj\.", "embeddings.patch_embedding."),
    (r"^norm\.", "post_layernorm."),
    (r"^blocks\.", "encoder.layers."),
    (r"\.norm1\.", ".layer_norm1."),
    (r"\.norm2\.", ".layer_norm2."),
    (r"\.attn\.qkv\.", ".self_attn.qkv."),
    (r"\.attn\.proj\.", ".self_attn.projection."),
)


class ImageReward:
    """A score of image and prompt, standardised; higher is better."""

    def __init__(self, options: ImageRewardOptions, default: str) -> None:
        from transformers import AutoTokenizer

        name = options.path or default
        values = loading.weights(name)
        self._device, self._dtype = loading.device_of(options), loading.DTYPES[options.dtype]
        self._vision: Any = loading.ready(
            _vision(_under(values, "blip.visual_encoder."), name), options
        )
        self._text: Any = loading.ready(_text(_under(values, "blip.text_encoder."), name), options)
        self._layers = regression(_under(values, "mlp."), name, options)
        self._tokenizer: Any = loading.pretrained(AutoTokenizer, options.tokenizer)

    @torch.no_grad()
    def __call__(
        self,
        images: np.ndarray,
        prompts: Sequence[str],
        metadata: Sequence[Mapping[str, Any]],
    ) -> np.ndarray:
        """Float64 [N]."""
        size = self._vision.config.image_size
        pixels = normalised(cropped(images, size, rounded=True), CLIP_MEAN, CLIP_STD)
        seen = self._vision(
            pixel_values=torch.from_numpy(pixels).to(self._device, self._dtype)
        ).last_hidden_state
        tokens = self._tokenizer(
            list(prompts),
            padding="max_length",
            truncation=True,
            max_length=TOKENS,
            return_tensors="pt",
        ).to(self._device)
        read = self._text(
            input_ids=tokens["input_ids"],
            attention_mask=tokens["attention_mask"],
            encoder_hidden_states=seen,
            encoder_attention_mask=torch.ones(seen.shape[:2], device=self._device),
        ).last_hidden_state
        raw = self._layers(read[:, 0].float())[:, 0].double().cpu().numpy()
        return (raw - MEAN) / STD


def _vision(values: dict[str, Tensor], name: str) -> torch.nn.Module:
    from transformers import BlipVisionConfig, BlipVisionModel

    if "patch_embed.proj.weight" not in values:
        raise loading.RewardNameError(f"'{name}' is no ImageReward: it has no BLIP in it")
    width, _, patch, _ = values["patch_embed.proj.weight"].shape
    grid = round((values["pos_embed"].shape[1] - 1) ** 0.5)
    config = BlipVisionConfig(
        hidden_size=width,
        intermediate_size=len(values["blocks.0.mlp.fc1.weight"]),
        num_hidden_layers=_depth(values, "blocks."),
        num_attention_heads=max(width // HEAD_CHANNELS, 1),
        patch_size=patch,
        image_size=patch * grid,
        layer_norm_eps=1e-6,  # of BLIP's first code; transformers' own default is 1e-5
    )
    model = BlipVisionModel(config)
    renamed = {}
    for key, value in values.items():
        for old, new in RENAMED:
            key = re.sub(old, new, key)
        renamed[key] = value
    loading.fill(model, renamed, name)
    return model


def _text(values: dict[str, Tensor], name: str) -> torch.nn.Module:
    from transformers import BlipTextConfig, BlipTextModel

    vocabulary, width = values["embeddings.word_embeddings.weight"].shape
    key = "encoder.layer.0.crossattention.self.key.weight"
    config = BlipTextConfig(
        vocab_size=vocabulary,
        hidden_size=width,
        encoder_hidden_size=values[key].shape[1],
        intermediate_size=len(values["encoder.layer.0.intermediate.dense.weight"]),
        num_hidden_layers=_depth(values, "encoder.layer."),
        num_attention_heads=max(width // HEAD_CHANNELS, 1),
        max_position_embeddings=len(values["embeddings.position_embeddings.weight"]),
        is_decoder=True,  # only decoders have the attention to the image
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )
    model = BlipTextModel(config, add_pooling_layer=False)
    loading.fill(model, values, name)
    return model


def _under(values: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {k.removeprefix(prefix): v for k, v in values.items() if k.startswith(prefix)}


def _depth(values: dict[str, Tensor], prefix: str) -> int:
    start = len(prefix)
    return len({key[start:].split(".")[0] for key in values if key.startswith(prefix)})
