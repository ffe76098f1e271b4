"""Tiny checkpoints of the scorers' real classes, saved as they are published, and a plain resize.

What is saved under other names (open_clip's, BLIP's first code's) is renamed here by rules of the
tests' own, so that a wrong rule in the toolkit shows.
"""

import runpy
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch
from transformers import (
    BertTokenizer,
    BlipTextConfig,
    BlipTextModel,
    BlipVisionConfig,
    BlipVisionModel,
    CLIPConfig,
    CLIPModel,
    Owlv2Config,
    Owlv2ForObjectDetection,
)

tiny = SimpleNamespace(**runpy.run_path(str(Path(__file__).with_name("tiny.py"))))

MEAN = np.array([0.48145466, 0.4578275, 0.40821073])
STD = np.array([0.26862954, 0.26130258, 0.27577711])


def scrambled(model, seed=0):
    """Every weight random: a fresh model's zeros and ones would hide mistakes.

    Their scale keeps the scale of what passes through, so that rounding is not amplified.
    """
    generator = torch.Generator().manual_seed(seed)
    for name, value in model.named_parameters():
        if not name.endswith("logit_scale"):
            noise = torch.randn(value.shape, generator=generator)
            start = 1.0 if "norm" in name.lower() and name.endswith("weight") else 0.0
            fan_in = value.numel() / len(value)
            value.data = noise / fan_in**0.5 if value.ndim > 1 else start + 0.2 * noise
    return model.eval()


def clip(*, act="quick_gelu", size=16):
    words = tiny.CLIP_VOCABULARY
    shared = {"num_attention_heads": 1, "num_hidden_layers": 2, "hidden_act": act}
    config = CLIPConfig(
        projection_dim=12,
        text_config={
            "vocab_size": len(words), "hidden_size": 64, "intermediate_size": 96,
            "max_position_embeddings": 77, "bos_token_id": len(words) - 2,
            "eos_token_id": len(words) - 1, "pad_token_id": len(words) - 1, **shared,
        },
        vision_config={
            "hidden_size": 64, "intermediate_size": 80, "image_size": size, "patch_size": 8,
            **shared,
        },
    )  # fmt: skip
    model = scrambled(CLIPModel(config))
    model.logit_scale.data.fill_(2.5)
    return model


def clip_folder(path, **changes):
    model = clip(**changes)
    model.save_pretrained(path)
    tiny.clip_tokenizer().save_pretrained(path)
    return model


def open_clip_state(model):
    """The weights of a transformers CLIP as open_clip names them."""
    state = {}
    for name, value in model.state_dict().items():
        tower, _, rest = name.partition(".")
        prefix = "visual." if tower == "vision_model" else ""
        if name in ("logit_scale",):
            state[name] = value
        elif name == "text_projection.weight":
            state["text_projection"] = value.T.contiguous()
        elif name == "visual_projection.weight":
            state["visual.proj"] = value.T.contiguous()
        elif rest.startswith("encoder.layers."):
            layer, inner = rest.removeprefix("encoder.layers.").split(".", 1)
            inner = (
                {"layer_norm1": "ln_1", "layer_norm2": "ln_2"}.get(
                    inner.split(".")[0], inner.split(".")[0]
                )
                + "."
                + inner.split(".", 1)[1]
            )
            inner = inner.replace("mlp.fc1", "mlp.c_fc").replace("mlp.fc2", "mlp.c_proj")
            inner = inner.replace("self_attn.out_proj", "attn.out_proj")
            state[f"{prefix}transformer.resblocks.{layer}.{inner}"] = value
        else:
            plain = {
                "embeddings.class_embedding": "class_embedding",
                "embeddings.patch_embedding.weight": "conv1.weight",
                "embeddings.position_embedding.weight": "positional_embedding",
                "embeddings.token_embedding.weight": "token_embedding.weight",
                "pre_layrnorm.weight": "ln_pre.weight", "pre_layrnorm.bias": "ln_pre.bias",
                "post_layernorm.weight": "ln_post.weight", "post_layernorm.bias": "ln_post.bias",
                "final_layer_norm.weight": "ln_final.weight",
                "final_layer_norm.bias": "ln_final.bias",
            }  # fmt: skip
            state[prefix + plain[rest]] = value
    for kind in ("weight", "bias"):
        for key in [key for key in state if key.endswith(f"self_attn.q_proj.{kind}")]:
            start = key.removesuffix(f"self_attn.q_proj.{kind}")
            parts = [state.pop(f"{start}self_attn.{p}_proj.{kind}") for p in "qkv"]
            state[f"{start}attn.in_proj_{kind}"] = torch.cat(parts)
    return state


def head(width, seed=1):
    """The weights of a regression: five layers, numbered with the dropout between them."""
    generator = torch.Generator().manual_seed(seed)
    widths, state = (width, 1024, 128, 64, 16, 1), {}
    for number, before, after in zip((0, 2, 4, 6, 7), widths, widths[1:], strict=False):
        state[f"layers.{number}.weight"] = torch.randn(after, before, generator=generator) * 0.1
        state[f"layers.{number}.bias"] = torch.randn(after, generator=generator) * 0.1
    return state


def regress(state, x):
    """The same layers in numpy, float64 [N, D] to [N]."""
    for number in (0, 2, 4, 6, 7):
        weight, bias = (state[f"layers.{number}.{k}"].double().numpy() for k in ("weight", "bias"))
        x = x @ weight.T + bias
    return x[:, 0]


def blip(folder):
    """An ImageReward: its file, its tokenizer's folder, and the two towers and layers inside."""
    vision = scrambled(BlipVisionModel(BlipVisionConfig(
        hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=1,
        patch_size=8, image_size=16, layer_norm_eps=1e-6,
    )), 2)  # fmt: skip
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "rose", "red", "owl"]
    text = scrambled(BlipTextModel(BlipTextConfig(
        vocab_size=len(words), hidden_size=64, encoder_hidden_size=64, intermediate_size=80,
        num_hidden_layers=2, num_attention_heads=1, max_position_embeddings=40, is_decoder=True,
    ), add_pooling_layer=False), 3)  # fmt: skip
    layers = head(64)
    state = {f"mlp.{key}": value for key, value in layers.items()}
    names = {
        "embeddings.class_embedding": "cls_token", "embeddings.position_embedding": "pos_embed",
        "embeddings.patch_embedding.weight": "patch_embed.proj.weight",
        "embeddings.patch_embedding.bias": "patch_embed.proj.bias",
        "post_layernorm.weight": "norm.weight", "post_layernorm.bias": "norm.bias",
    }  # fmt: skip
    for key, value in vision.state_dict().items():
        old = names.get(key) or key.removeprefix("encoder.layers.").join(["blocks.", ""])
        for new, before in (("layer_norm", "norm"), ("self_attn.qkv", "attn.qkv"),
                            ("self_attn.projection", "attn.proj")):  # fmt: skip
            old = old.replace(new, before)
        state[f"blip.visual_encoder.{old}"] = value
    state |= {f"blip.text_encoder.{key}": value for key, value in text.state_dict().items()}
    state["blip.image_queue"] = torch.zeros(2, 2)  # what training left, which scoring ignores
    folder.mkdir()
    torch.save(state, folder / "ImageReward.pt")
    (folder / "vocab.txt").write_text("\n".join(words))
    tokenizer = BertTokenizer(str(folder / "vocab.txt"))
    tokenizer.save_pretrained(folder / "bert")
    return folder / "ImageReward.pt", folder / "bert", tokenizer, vision, text, layers


def owl(folder):
    """An OWLv2 of a few thousand weights with its tokenizer."""
    words = tiny.CLIP_VOCABULARY
    shared = {"num_attention_heads": 2, "num_hidden_layers": 1, "hidden_size": 16}
    config = Owlv2Config(
        projection_dim=16,
        text_config={
            "vocab_size": len(words), "intermediate_size": 24, "max_position_embeddings": 16,
            "bos_token_id": len(words) - 2, "eos_token_id": len(words) - 1,
            "pad_token_id": 0, **shared,
        },
        vision_config={"intermediate_size": 24, "image_size": 32, "patch_size": 8, **shared},
    )  # fmt: skip
    model = scrambled(Owlv2ForObjectDetection(config), 4)
    model.save_pretrained(folder)
    tokenizer = tiny.clip_tokenizer()
    tokenizer.model_max_length = 16
    tokenizer.save_pretrained(folder)
    return model


# --- a resize without Pillow ---------------------------------------------------------------------


def bicubic(t):
    t = np.abs(t)
    near = (1.5 * t - 2.5) * t * t + 1
    far = ((-0.5 * t + 2.5) * t - 4) * t + 2
    return np.where(t < 1, near, np.where(t < 2, far, 0.0))


def weights(before, after):
    """[after, before]: Keys' kernel with a = -1/2, widened where it shrinks, cut at the edges."""
    scale = before / after
    wide = max(scale, 1.0)
    table = np.zeros((after, before))
    for i in range(after):
        centre = (i + 0.5) * scale
        low = max(int(centre - 2 * wide + 0.5), 0)
        high = min(int(centre + 2 * wide + 0.5), before)
        those = np.arange(low, high)
        table[i, low:high] = bicubic((those - centre + 0.5) / wide)
    return table / table.sum(axis=1, keepdims=True)


def resize(image, rows, columns):
    """uint8 [H, W, 3] to uint8 [rows, columns, 3]: across, to whole numbers, then down."""
    x = image.astype(np.float64)
    if columns != image.shape[1]:
        x = _whole(np.einsum("ij,hjc->hic", weights(image.shape[1], columns), x))
    if rows != image.shape[0]:
        x = _whole(np.einsum("ij,jwc->iwc", weights(image.shape[0], rows), x))
    return x


def _whole(x):
    return np.clip(np.floor(x + 0.5), 0, 255)


def pixels(image):
    """float64 [1, 3, H, W], normalised as CLIP's."""
    return ((np.asarray(image, dtype=np.float64) / 255 - MEAN) / STD).transpose(2, 0, 1)[None]
