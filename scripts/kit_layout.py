"""Tiny diffusers models in the layout that DiffusionKit publishes: no hub is needed to test it.

The names are those of the original checkpoints (Stability's SD3, Black Forest Labs' FLUX.1 and
VAE), so this is the inverse of what diffusers does to load them.
"""

import re
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file

__all__ = ["autoencoders", "black_forests", "published", "stabilitys", "swapped"]

Arrays = dict[str, np.ndarray]


def published(path: Path, family: str) -> tuple[Arrays, Arrays]:
    """The arrays of a diffusers folder in the published layout: of the denoiser, of the VAE."""
    denoiser = load_file(path / "transformer/diffusion_pytorch_model.safetensors")
    vae = autoencoders(load_file(path / "vae/diffusion_pytorch_model.safetensors"))
    if family == "flux":
        return black_forests(denoiser), vae
    return stabilitys(denoiser), {f"first_stage_model.{name}": a for name, a in vae.items()}


def joined(arrays: Arrays, *names: str) -> np.ndarray:
    """Remove arrays, and return them concatenated by rows."""
    return np.concatenate([arrays.pop(name) for name in names])


def swapped(array: np.ndarray) -> np.ndarray:
    """The two halves of the rows swapped: (scale, shift) to (shift, scale)."""
    return np.concatenate(np.split(array, 2)[::-1])


def renamed(arrays: Arrays, table: list[tuple[str, str]]) -> Arrays:
    """The arrays, with the second prefix of each pair replaced by the first."""
    result = {}
    for name, array in arrays.items():
        for theirs, ours in table:
            if name.startswith(ours):
                name = theirs + name.removeprefix(ours)
                break
        result[name] = array
    return result


STABILITY_PROJECTIONS = (
    ("x_block", "attn", ("to_q", "to_k", "to_v")),
    ("x_block", "attn2", ("to_q", "to_k", "to_v")),
    ("context_block", "attn", ("add_q_proj", "add_k_proj", "add_v_proj")),
)
"""(stream, attention, its projections) that SD3's published file joins into one array."""


def stabilitys(arrays: Arrays) -> Arrays:
    """SD3's denoiser as in sd3_medium.safetensors."""
    arrays = dict(arrays)
    blocks = sorted({int(name.split(".")[1]) for name in arrays if name.startswith("transf")})
    table = [
        ("x_embedder.proj.", "pos_embed.proj."),
        ("pos_embed", "pos_embed.pos_embed"),
        ("t_embedder.mlp.0.", "time_text_embed.timestep_embedder.linear_1."),
        ("t_embedder.mlp.2.", "time_text_embed.timestep_embedder.linear_2."),
        ("y_embedder.mlp.0.", "time_text_embed.text_embedder.linear_1."),
        ("y_embedder.mlp.2.", "time_text_embed.text_embedder.linear_2."),
        ("final_layer.linear.", "proj_out."),
        ("final_layer.adaLN_modulation.1.", "norm_out.linear."),
    ]
    for leaf in ("weight", "bias"):
        for name in ("norm_out.linear.", f"transformer_blocks.{blocks[-1]}.norm1_context.linear."):
            arrays[name + leaf] = swapped(arrays[name + leaf])
        for i in blocks:
            ours, theirs = f"transformer_blocks.{i}.", f"joint_blocks.{i}."
            for stream, attn, parts in STABILITY_PROJECTIONS:
                names = [f"{ours}{attn}.{part}.{leaf}" for part in parts]
                if names[0] in arrays:
                    arrays[f"{theirs}{stream}.{attn}.qkv.{leaf}"] = joined(arrays, *names)
    for i in blocks:
        ours, x, context = (
            f"transformer_blocks.{i}.",
            f"joint_blocks.{i}.x_block.",
            f"joint_blocks.{i}.context_block.",
        )
        table += [
            (f"{x}attn.proj.", f"{ours}attn.to_out.0."),
            (f"{context}attn.proj.", f"{ours}attn.to_add_out."),
            (f"{x}attn.ln_q.", f"{ours}attn.norm_q."),
            (f"{x}attn.ln_k.", f"{ours}attn.norm_k."),
            (f"{context}attn.ln_q.", f"{ours}attn.norm_added_q."),
            (f"{context}attn.ln_k.", f"{ours}attn.norm_added_k."),
            (f"{x}attn2.proj.", f"{ours}attn2.to_out.0."),
            (f"{x}attn2.ln_q.", f"{ours}attn2.norm_q."),
            (f"{x}attn2.ln_k.", f"{ours}attn2.norm_k."),
            (f"{x}adaLN_modulation.1.", f"{ours}norm1.linear."),
            (f"{context}adaLN_modulation.1.", f"{ours}norm1_context.linear."),
            (f"{x}mlp.fc1.", f"{ours}ff.net.0.proj."),
            (f"{x}mlp.fc2.", f"{ours}ff.net.2."),
            (f"{context}mlp.fc1.", f"{ours}ff_context.net.0.proj."),
            (f"{context}mlp.fc2.", f"{ours}ff_context.net.2."),
        ]
    return {f"model.diffusion_model.{n}": a for n, a in renamed(arrays, table).items()}


def black_forests(arrays: Arrays) -> Arrays:
    """FLUX's denoiser as in flux-schnell.safetensors; one block of each kind."""
    arrays = dict(arrays)
    table = [("img_in.", "x_embedder."), ("txt_in.", "context_embedder.")]
    for theirs, ours in (("time", "timestep"), ("vector", "text"), ("guidance", "guidance")):
        table += [
            (f"{theirs}_in.in_layer.", f"time_text_embed.{ours}_embedder.linear_1."),
            (f"{theirs}_in.out_layer.", f"time_text_embed.{ours}_embedder.linear_2."),
        ]
    single, ours, theirs = (
        "single_transformer_blocks.0.",
        "transformer_blocks.0.",
        "double_blocks.0.",
    )
    for leaf in ("weight", "bias"):
        arrays[f"norm_out.linear.{leaf}"] = swapped(arrays[f"norm_out.linear.{leaf}"])
        parts = ("attn.to_q", "attn.to_k", "attn.to_v", "proj_mlp")
        names = [f"{single}{part}.{leaf}" for part in parts]
        arrays[f"single_blocks.0.linear1.{leaf}"] = joined(arrays, *names)
        for stream, part in (("img", "to_{}"), ("txt", "add_{}_proj")):
            names = [f"{ours}attn.{part.format(letter)}.{leaf}" for letter in "qkv"]
            arrays[f"{theirs}{stream}_attn.qkv.{leaf}"] = joined(arrays, *names)
    table += [
        ("single_blocks.0.linear2.", f"{single}proj_out."),
        ("single_blocks.0.modulation.lin.", f"{single}norm.linear."),
        ("single_blocks.0.norm.query_norm.scale", f"{single}attn.norm_q.weight"),
        ("single_blocks.0.norm.key_norm.scale", f"{single}attn.norm_k.weight"),
        (f"{theirs}img_attn.norm.query_norm.scale", f"{ours}attn.norm_q.weight"),
        (f"{theirs}img_attn.norm.key_norm.scale", f"{ours}attn.norm_k.weight"),
        (f"{theirs}txt_attn.norm.query_norm.scale", f"{ours}attn.norm_added_q.weight"),
        (f"{theirs}txt_attn.norm.key_norm.scale", f"{ours}attn.norm_added_k.weight"),
        (f"{theirs}img_attn.proj.", f"{ours}attn.to_out.0."),
        (f"{theirs}txt_attn.proj.", f"{ours}attn.to_add_out."),
        (f"{theirs}img_mod.lin.", f"{ours}norm1.linear."),
        (f"{theirs}txt_mod.lin.", f"{ours}norm1_context.linear."),
        (f"{theirs}img_mlp.0.", f"{ours}ff.net.0.proj."),
        (f"{theirs}img_mlp.2.", f"{ours}ff.net.2."),
        (f"{theirs}txt_mlp.0.", f"{ours}ff_context.net.0.proj."),
        (f"{theirs}txt_mlp.2.", f"{ours}ff_context.net.2."),
        ("final_layer.linear.", "proj_out."),
        ("final_layer.adaLN_modulation.1.", "norm_out.linear."),
    ]
    return renamed(arrays, table)


def autoencoders(arrays: Arrays) -> Arrays:
    """A VAE as in ae.safetensors: blocks counted by resolution, linears as 1 x 1 convolutions."""
    levels = len({name.split(".")[2] for name in arrays if name.startswith("decoder.up_")})
    result = {}
    for name, array in arrays.items():
        name = name.replace("mid_block.resnets.0", "mid.block_1")
        name = name.replace("mid_block.resnets.1", "mid.block_2")
        name = name.replace("mid_block.attentions.0.group_norm", "mid.attn_1.norm")
        name = name.replace("mid_block.attentions.0.to_out.0", "mid.attn_1.proj_out")
        name = re.sub(r"mid_block\.attentions\.0\.to_([qkv])", r"mid.attn_1.\1", name)
        name = re.sub(r"up_blocks\.(\d+)", lambda at: f"up.{levels - 1 - int(at[1])}", name)
        name = name.replace("down_blocks.", "down.").replace(".resnets.", ".block.")
        name = name.replace("upsamplers.0", "upsample").replace("downsamplers.0", "downsample")
        name = name.replace("conv_shortcut", "nin_shortcut").replace("conv_norm_out", "norm_out")
        is_linear = "attn_1" in name and array.ndim == 2
        result[name] = array[:, :, None, None] if is_linear else array
    return result
