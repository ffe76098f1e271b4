"""From the names that DiffusionKit's `model_io` gives to diffusers' names, and its layouts too.

Its maps lose tensors and its networks hold some in another shape or order than diffusers:

* SD3's map drops the bias of every key projection, and leaves SD3.5-medium's second attention be;
* a block of FLUX's single stream has one output projection, which it holds as two, each with the
  whole bias;
* the last modulations are (shift, scale); diffusers has (scale, shift);
* convolutions have their input channels last, FLUX's first linear is one, and the blocks of a
  decoder are counted from its end.
"""

import re
from collections.abc import Mapping
from typing import Any

import mlx.core as mx

__all__ = ["Arrays", "diffusers_decoder", "diffusers_denoiser", "flux_named", "sd3_named"]

Arrays = dict[str, mx.array]

DOUBLE = r"multimodal_transformer_blocks\.(\d+)\."
IMAGE, TEXT = rf"{DOUBLE}image_transformer_block\.", rf"{DOUBLE}text_transformer_block\."
SINGLE = r"unified_transformer_blocks\.(\d+)\.transformer_block\."
TWO, ONE = r"transformer_blocks.\1.", r"single_transformer_blocks.\1."
MODULATION = r"adaLN_modulation\.layers\.1"

PARTS = (
    (rf"{IMAGE}attn\.([qkv])_proj", rf"{TWO}attn.to_\2"),
    (rf"{IMAGE}attn\.o_proj", rf"{TWO}attn.to_out.0"),
    (rf"{IMAGE}qk_norm\.([qk])_norm", rf"{TWO}attn.norm_\2"),
    (rf"{IMAGE}attn2\.to_([qkv])", rf"{TWO}attn2.to_\2"),
    (rf"{IMAGE}attn2\.proj", rf"{TWO}attn2.to_out.0"),
    (rf"{IMAGE}attn2\.ln_([qk])", rf"{TWO}attn2.norm_\2"),
    (rf"{IMAGE}mlp\.fc1", rf"{TWO}ff.net.0.proj"),
    (rf"{IMAGE}mlp\.fc2", rf"{TWO}ff.net.2"),
    (rf"{IMAGE}{MODULATION}", rf"{TWO}norm1.linear"),
    (rf"{TEXT}attn\.([qkv])_proj", rf"{TWO}attn.add_\2_proj"),
    (rf"{TEXT}attn\.o_proj", rf"{TWO}attn.to_add_out"),
    (rf"{TEXT}qk_norm\.([qk])_norm", rf"{TWO}attn.norm_added_\2"),
    (rf"{TEXT}mlp\.fc1", rf"{TWO}ff_context.net.0.proj"),
    (rf"{TEXT}mlp\.fc2", rf"{TWO}ff_context.net.2"),
    (rf"{TEXT}{MODULATION}", rf"{TWO}norm1_context.linear"),
    (rf"{SINGLE}attn\.([qkv])_proj", rf"{ONE}attn.to_\2"),
    (rf"{SINGLE}attn\.o_proj", rf"{ONE}proj_out"),
    (rf"{SINGLE}qk_norm\.([qk])_norm", rf"{ONE}attn.norm_\2"),
    (rf"{SINGLE}mlp\.fc1", rf"{ONE}proj_mlp"),
    (rf"{SINGLE}{MODULATION}", rf"{ONE}norm.linear"),
    (r"t_embedder\.mlp\.layers\.0", "time_text_embed.timestep_embedder.linear_1"),
    (r"t_embedder\.mlp\.layers\.2", "time_text_embed.timestep_embedder.linear_2"),
    (r"y_embedder\.mlp\.layers\.0", "time_text_embed.text_embedder.linear_1"),
    (r"y_embedder\.mlp\.layers\.2", "time_text_embed.text_embedder.linear_2"),
    (r"guidance_in\.mlp\.layers\.0", "time_text_embed.guidance_embedder.linear_1"),
    (r"guidance_in\.mlp\.layers\.2", "time_text_embed.guidance_embedder.linear_2"),
    (r"final_layer\.linear", "proj_out"),
    (rf"final_layer\.{MODULATION}", "norm_out.linear"),
)
"""Parts of a denoiser: DiffusionKit's name, diffusers' name. Others are called the same."""

DECODER = (
    (r"^mid_blocks\.0\.", "mid_block.resnets.0."),
    (r"^mid_blocks\.1\.", "mid_block.attentions.0."),
    (r"^mid_blocks\.2\.", "mid_block.resnets.1."),
    (r"\.upsample\.", ".upsamplers.0.conv."),
    (r"\.query_proj\.", ".to_q."),
    (r"\.key_proj\.", ".to_k."),
    (r"\.value_proj\.", ".to_v."),
    (r"\.out_proj\.", ".to_out.0."),
)
"""The same for parts of names in a decoder."""

PATCHES, POSITIONS = "x_embedder.proj.", "x_pos_embedder.pos_embed.weight"


def sd3_named(given: Mapping[str, mx.array], io: Any) -> Arrays:
    """DiffusionKit's names for Stability's. KeyError for a tensor that its map cannot do without.

    io: its `model_io`. The biases of keys, which its map drops, are kept: softmax ignores a bias
    that all keys share, but image and text have one each, and SD3.5 normalises the sum.
    """
    # Under another name than bias they pass. The map strips a set of letters where it means a
    # prefix, and repairs what that leaves of `final_layer`.
    renamed = {
        re.sub(r"\.bias$", ".offset", name).replace("final_layer.", "al_layer."): array
        for name, array in given.items()
    }
    named = io.mmdit_state_dict_adjustments(renamed)
    named = {re.sub(r"\.offset$", ".bias", name): array for name, array in named.items()}
    for name in [name for name in named if ".attn2.qkv." in name]:
        for part, array in zip("qkv", mx.split(named.pop(name), 3), strict=True):
            named[name.replace(".qkv.", f".to_{part}.")] = array
    return named


def flux_named(given: Mapping[str, mx.array], io: Any) -> Arrays:
    """DiffusionKit's names for Black Forest Labs'; KeyError as in `sd3_named`."""
    rows, width = given["single_blocks.0.linear1.weight"].shape
    ratio = rows // width - 3  # q, k, v and the MLP's first layer are one matrix
    return io.flux_state_dict_adjustments(dict(given), hidden_size=width, mlp_ratio=ratio)


def diffusers_denoiser(named: Mapping[str, mx.array], *, flux: bool) -> Arrays:
    """Diffusers' names and PyTorch's layout for a denoiser in DiffusionKit's.

    A quantised linear's scales and biases go where its weight goes. KeyError names half of a
    projection that is missing; a name that is not known is not changed.
    """
    converted: Arrays = {}
    for name, array in named.items():
        if name.startswith(PATCHES):
            leaf = name.removeprefix(PATCHES)
            flat = array[:, 0, 0] if leaf == "weight" and flux else array
            last = flat.transpose(0, 3, 1, 2) if flat.ndim == 4 else flat
            converted[f"{'x_embedder' if flux else 'pos_embed.proj'}.{leaf}"] = last
        elif name == POSITIONS:
            converted["pos_embed.pos_embed"] = array[None]
        elif re.match(rf"{SINGLE}mlp\.fc2\.", name):
            continue  # the other half of `proj_out`
        else:
            if re.match(rf"{SINGLE}attn\.o_proj\.", name) and not name.endswith(".bias"):
                half = named[name.replace("attn.o_proj", "mlp.fc2")]
                array = mx.concatenate([array, half], axis=1)
            converted[_part(name)] = array
    last = max(
        (int(name.split(".")[1]) for name in converted if name.startswith("transf")), default=0
    )
    swapped = ["norm_out.linear"] + ([] if flux else [f"transformer_blocks.{last}.norm1_context."])
    for name in [name for name in converted if name.startswith(tuple(swapped))]:
        shift, scale = mx.split(converted[name], 2)
        converted[name] = mx.concatenate([scale, shift])
    return converted


def diffusers_decoder(named: Mapping[str, mx.array]) -> Arrays:
    """The same as `diffusers_denoiser` for the decoder of a VAE."""
    last = max((int(name.split(".")[1]) for name in named if name.startswith("up_bl")), default=0)
    converted: Arrays = {}
    for name, array in named.items():
        for theirs, ours in DECODER:
            name = re.sub(theirs, ours, name)
        name = re.sub(r"^up_blocks\.(\d+)", lambda at: f"up_blocks.{last - int(at[1])}", name)
        if name.endswith("conv_shortcut.weight"):
            array = array[:, :, None, None]
        elif array.ndim == 4:
            array = array.transpose(0, 3, 1, 2)
        converted[f"decoder.{name}"] = array
    return converted


def _part(name: str) -> str:
    stem, dot, leaf = name.rpartition(".")
    for theirs, ours in PARTS:
        if match := re.fullmatch(theirs, stem):
            return f"{match.expand(ours)}.{leaf}"
    return f"{stem}{dot}{leaf}"
