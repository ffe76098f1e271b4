"""The names of linears in the code that a model was published with, from those of diffusers.

sd-scripts and ComfyUI know SD3 and FLUX.1 by these names. There one linear computes what several do
in diffusers: its weight is theirs, one below the other. In the last layer (and in the last context
block of SD3) the two halves of the modulation are in the other order. The same tables are, read the
other way, in diffusers' `single_file_utils.py` (`convert_sd3_transformer_checkpoint_to_diffusers`,
`convert_flux_transformer_checkpoint_to_diffusers`).
"""

import re
from dataclasses import dataclass

__all__ = ["Place", "place"]


@dataclass(frozen=True)
class Place:
    """Where a linear of diffusers is in the original code.

    name: the original module. part: the rows of its weight, by number; sizes: the rows of each
    part, in multiples of the linear's input width; () where the linear is the whole of it. swapped:
    whether the halves of the rows change places.
    """

    name: str
    part: int = 0
    sizes: tuple[int, ...] = ()
    swapped: bool = False


_QKV, _QKV_MLP = (1, 1, 1), (1, 1, 1, 4)

_SD3_BLOCK = {
    "attn.to_q": Place("x_block.attn.qkv", 0, _QKV),
    "attn.to_k": Place("x_block.attn.qkv", 1, _QKV),
    "attn.to_v": Place("x_block.attn.qkv", 2, _QKV),
    "attn.add_q_proj": Place("context_block.attn.qkv", 0, _QKV),
    "attn.add_k_proj": Place("context_block.attn.qkv", 1, _QKV),
    "attn.add_v_proj": Place("context_block.attn.qkv", 2, _QKV),
    "attn.to_out.0": Place("x_block.attn.proj"),
    "attn.to_add_out": Place("context_block.attn.proj"),
    "attn2.to_q": Place("x_block.attn2.qkv", 0, _QKV),
    "attn2.to_k": Place("x_block.attn2.qkv", 1, _QKV),
    "attn2.to_v": Place("x_block.attn2.qkv", 2, _QKV),
    "attn2.to_out.0": Place("x_block.attn2.proj"),
    "norm1.linear": Place("x_block.adaLN_modulation.1"),
    "norm1_context.linear": Place("context_block.adaLN_modulation.1"),
    "ff.net.0.proj": Place("x_block.mlp.fc1"),
    "ff.net.2": Place("x_block.mlp.fc2"),
    "ff_context.net.0.proj": Place("context_block.mlp.fc1"),
    "ff_context.net.2": Place("context_block.mlp.fc2"),
}

_FLUX_DOUBLE = {
    "attn.to_q": Place("img_attn.qkv", 0, _QKV),
    "attn.to_k": Place("img_attn.qkv", 1, _QKV),
    "attn.to_v": Place("img_attn.qkv", 2, _QKV),
    "attn.add_q_proj": Place("txt_attn.qkv", 0, _QKV),
    "attn.add_k_proj": Place("txt_attn.qkv", 1, _QKV),
    "attn.add_v_proj": Place("txt_attn.qkv", 2, _QKV),
    "attn.to_out.0": Place("img_attn.proj"),
    "attn.to_add_out": Place("txt_attn.proj"),
    "norm1.linear": Place("img_mod.lin"),
    "norm1_context.linear": Place("txt_mod.lin"),
    "ff.net.0.proj": Place("img_mlp.0"),
    "ff.net.2": Place("img_mlp.2"),
    "ff_context.net.0.proj": Place("txt_mlp.0"),
    "ff_context.net.2": Place("txt_mlp.2"),
}

_FLUX_SINGLE = {
    "attn.to_q": Place("linear1", 0, _QKV_MLP),
    "attn.to_k": Place("linear1", 1, _QKV_MLP),
    "attn.to_v": Place("linear1", 2, _QKV_MLP),
    "proj_mlp": Place("linear1", 3, _QKV_MLP),
    "proj_out": Place("linear2"),
    "norm.linear": Place("modulation.lin"),
}

_BLOCKS = {
    "sd3": {"transformer_blocks": ("joint_blocks", _SD3_BLOCK)},
    "flux": {
        "transformer_blocks": ("double_blocks", _FLUX_DOUBLE),
        "single_transformer_blocks": ("single_blocks", _FLUX_SINGLE),
    },
}

_OTHERS = {
    "sd3": {
        "context_embedder": Place("context_embedder"),
        "time_text_embed.timestep_embedder.linear_1": Place("t_embedder.mlp.0"),
        "time_text_embed.timestep_embedder.linear_2": Place("t_embedder.mlp.2"),
        "time_text_embed.text_embedder.linear_1": Place("y_embedder.mlp.0"),
        "time_text_embed.text_embedder.linear_2": Place("y_embedder.mlp.2"),
        "norm_out.linear": Place("final_layer.adaLN_modulation.1", swapped=True),
        "proj_out": Place("final_layer.linear"),
    },
    "flux": {
        "x_embedder": Place("img_in"),
        "context_embedder": Place("txt_in"),
        "time_text_embed.timestep_embedder.linear_1": Place("time_in.in_layer"),
        "time_text_embed.timestep_embedder.linear_2": Place("time_in.out_layer"),
        "time_text_embed.text_embedder.linear_1": Place("vector_in.in_layer"),
        "time_text_embed.text_embedder.linear_2": Place("vector_in.out_layer"),
        "time_text_embed.guidance_embedder.linear_1": Place("guidance_in.in_layer"),
        "time_text_embed.guidance_embedder.linear_2": Place("guidance_in.out_layer"),
        "norm_out.linear": Place("final_layer.adaLN_modulation.1", swapped=True),
        "proj_out": Place("final_layer.linear"),
    },
}

_IN_BLOCK = re.compile(r"(\w+)\.(\d+)\.(.+)")


def place(family: str, name: str, shape: tuple[int, int]) -> Place | None:
    """The place of a linear; None where the family's original code has no such linear.

    Args:
        family: "sd15", whose programs use the names of diffusers, "sd3" or "flux".
        name: of the linear in diffusers.
        shape: [out, in] of its weight.
    """
    if family == "sd15":
        return Place(name)
    if known := _OTHERS[family].get(name):
        return known
    match = _IN_BLOCK.fullmatch(name)
    blocks, places = _BLOCKS[family].get(match[1], ("", {})) if match else ("", {})
    if not match or not (known := places.get(match[3])):
        return None
    # The last context block of SD3 has a scale and a shift instead of six values.
    swapped = family == "sd3" and match[3] == "norm1_context.linear" and shape[0] == 2 * shape[1]
    return Place(f"{blocks}.{match[2]}.{known.name}", known.part, known.sizes, swapped)
