"""A CLIP that open_clip saved, in transformers' classes: the same weights under other names."""

import re
from typing import Any

import torch
from torch import Tensor

from drift_torch.rewards import loading

HEAD_CHANNELS = 64
"""Width of an attention head in every text tower, and in all vision towers but those of 80."""

RENAMED = (
    (r"^visual\.class_embedding$", "vision_model.embeddings.class_embedding"),
    (r"^visual\.positional_embedding$", "vision_model.embeddings.position_embedding.weight"),
    (r"^visual\.conv1\.", "vision_model.embeddings.patch_embedding."),
    (r"^visual\.ln_pre\.", "vision_model.pre_layrnorm."),
    (r"^visual\.ln_post\.", "vision_model.post_layernorm."),
    (r"^visual\.transformer\.resblocks\.", "vision_model.encoder.layers."),
    (r"^token_embedding\.", "text_model.embeddings.token_embedding."),
    (r"^positional_embedding$", "text_model.embeddings.position_embedding.weight"),
    (r"^ln_final\.", "text_model.final_layer_norm."),
    (r"^transformer\.resblocks\.", "text_model.encoder.layers."),
    (r"\.ln_1\.", ".layer_norm1."),
    (r"\.ln_2\.", ".layer_norm2."),
    (r"\.mlp\.c_fc\.", ".mlp.fc1."),
    (r"\.mlp\.c_proj\.", ".mlp.fc2."),
    (r"\.attn\.out_proj\.", ".self_attn.out_proj."),
)


def load(name: str) -> torch.nn.Module:
    """A transformers CLIPModel with the weights of an open_clip file; RewardNameError."""
    from transformers import CLIPModel

    values = loading.weights(name)
    if "visual.conv1.weight" not in values or "text_projection" not in values:
        raise loading.RewardNameError(f"'{name}' is no CLIP of open_clip")
    model = CLIPModel(_config(values))
    loading.fill(model, renamed(values), name)
    return model


def renamed(values: dict[str, Tensor]) -> dict[str, Tensor]:
    """The weights under transformers' names; values that need no other name are not changed."""
    renamed_values: dict[str, Tensor] = {"logit_scale": values["logit_scale"].reshape(())}
    # open_clip multiplies from the right, transformers with a linear layer.
    renamed_values["text_projection.weight"] = values["text_projection"].T.contiguous()
    renamed_values["visual_projection.weight"] = values["visual.proj"].T.contiguous()
    for key, value in values.items():
        for old, new in RENAMED:
            key = re.sub(old, new, key)
        if ".attn.in_proj_" in key:
            for part, third in zip("qkv", value.chunk(3), strict=True):
                renamed_values[key.replace(".attn.in_proj_", f".self_attn.{part}_proj.")] = third
        else:
            renamed_values.setdefault(key, value)
    return renamed_values


def _config(values: dict[str, Tensor]) -> Any:
    """The architecture, from the shapes of the weights."""
    from transformers import CLIPConfig

    width, _, patch, _ = values["visual.conv1.weight"].shape
    grid = round((len(values["visual.positional_embedding"]) - 1) ** 0.5)
    text = values["token_embedding.weight"].shape[1]
    vocabulary = len(values["token_embedding.weight"])
    channels = 80 if width == 1280 else HEAD_CHANNELS
    shared = {"projection_dim": values["text_projection"].shape[1], "hidden_act": "gelu"}
    return CLIPConfig(
        projection_dim=shared["projection_dim"],
        vision_config={
            "hidden_size": width,
            "intermediate_size": len(values["visual.transformer.resblocks.0.mlp.c_fc.weight"]),
            "num_hidden_layers": _depth(values, "visual.transformer.resblocks."),
            "num_attention_heads": max(width // channels, 1),
            "patch_size": patch,
            "image_size": patch * grid,
            **shared,
        },
        text_config={
            "vocab_size": vocabulary,
            "hidden_size": text,
            "intermediate_size": len(values["transformer.resblocks.0.mlp.c_fc.weight"]),
            "num_hidden_layers": _depth(values, "transformer.resblocks."),
            "num_attention_heads": max(text // HEAD_CHANNELS, 1),
            "max_position_embeddings": len(values["positional_embedding"]),
            "bos_token_id": vocabulary - 2,
            "eos_token_id": vocabulary - 1,
            "pad_token_id": 0,
            **shared,
        },
    )


def _depth(values: dict[str, Tensor], prefix: str) -> int:
    start = len(prefix)
    return len({key[start:].split(".")[0] for key in values if key.startswith(prefix)})
