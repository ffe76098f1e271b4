"""The tables `[model]` and `[adapter]`: the model, and those of its arrays that are trained."""

from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from common.config.errors import closest
from common.config.types import AboveZero, NonNegative, Positive, Precision, Table, key

_DIFFUSERS = ("sd15", "sd3", "flux")
FAMILIES = ("embedded", *_DIFFUSERS)
"""Model families that ship; any other is a class of the user, written module:Class."""


class ModelConfig(Table):
    """`[model]`: the generative model being tuned."""

    family: str = key(
        "embedded",
        "embedded, sd15 (every Stable Diffusion 1 and 2), sd3 (also 3.5), flux, or module:Class",
    )
    path: str | None = key(
        None, "folder or repository name of a diffusers pipeline; of embedded, a weights file"
    )
    weights: str | None = key(
        None,
        "file, folder or repository of DiffusionKit: its denoiser and VAE replace path's; MLX",
    )
    dtype: Precision = key(
        "float32", "dtype of the frozen weights; a low-rank adapter and the kernels stay float32"
    )
    quantize: Literal[0, 4, 8] = key(
        0, "bits of the frozen linears in the blocks of denoiser and T5, on MLX; 0 = those of dtype"
    )
    resolution: Positive | None = key(None, "pixels of a side; unset = the model's own")
    max_tokens: Annotated[int, Field(ge=1, le=512)] = key(256, "tokens of a prompt for T5")
    text_encoder_3: bool = key(True, "load SD3's T5; without it its tokens are zeros")
    guidance_embedding: NonNegative = key(3.5, "guidance scale, an input of FLUX.1-dev")
    gradient_checkpointing: bool = key(False, "recompute activations in the backward pass")
    shard: Literal["none", "fsdp", "auto"] = key(
        "none",
        "fsdp: each of several processes keeps a slice of the frozen weights; auto: where a GPU is "
        "too small for all of them; PyTorch",
    )
    compile: bool = key(
        False, "torch.compile the denoiser; on MLX the gradient and the optimizer too"
    )
    attention: Literal["auto", "flash", "efficient", "cudnn", "math"] = key(
        "auto", "attention kernel of PyTorch, or math where it cannot run; auto = PyTorch's choice"
    )
    tf32: Literal["auto", "never", "always"] = key(
        "auto", "round float32 products on CUDA to TF32; auto = beside half weights, in decoding"
    )
    vae_slicing: bool = key(True, "decode one image at a time")
    vae_tiling: bool = key(False, "decode large images in tiles, which may show at their seams")
    offload: bool = key(False, "text encoders and VAE are on the device only while needed")

    @field_validator("family")
    @classmethod
    def _known(cls, family: str) -> str:
        if family not in FAMILIES and ":" not in family:
            hint = closest(family, FAMILIES)
            raise ValueError(f"'{family}' is no family{hint} (or write module:Class)")
        return family

    @model_validator(mode="after")
    def _check(self) -> "ModelConfig":
        if self.shard == "fsdp" and self.compile:
            raise ValueError(
                "shard = 'fsdp' does not go with compile = true: compiled code does not gather"
            )
        if self.family not in FAMILIES:  # a user's own family may use every key
            return self
        for name, families in _ONLY.items():
            value = getattr(self, name)
            if value != type(self).model_fields[name].default and self.family not in families:
                raise ValueError(
                    f"{name} = {value} is for family = {' or '.join(map(repr, families))}, "
                    f"not '{self.family}'"
                )
        if self.family != "embedded" and not self.path:
            raise ValueError(
                f"family = '{self.family}' needs path: a diffusers folder or repository name"
            )
        return self


_ONLY = {
    "weights": ("sd3", "flux"),
    "dtype": _DIFFUSERS,
    "quantize": _DIFFUSERS,
    "resolution": _DIFFUSERS,
    "max_tokens": ("sd3", "flux"),
    "text_encoder_3": ("sd3",),
    "guidance_embedding": ("flux",),
    "gradient_checkpointing": _DIFFUSERS,
    "attention": _DIFFUSERS,
    "shard": _DIFFUSERS,
    "tf32": _DIFFUSERS,
    "vae_slicing": _DIFFUSERS,
    "vae_tiling": _DIFFUSERS,
    "offload": _DIFFUSERS,
}
"""Keys of `[model]` that only some families use."""

_ATTENTION = ("to_k", "to_out.0", "to_q", "to_v")
_JOINT = ("add_k_proj", "add_q_proj", "add_v_proj", "to_add_out", *_ATTENTION)
_MLP = ("ff.net.0.proj", "ff.net.2", "ff_context.net.0.proj", "ff_context.net.2")

TARGETS = {
    "sd15": _ATTENTION,
    "sd3": tuple(f"attn.{name}" for name in _JOINT),
    "flux": (*(f"attn.{name}" for name in _JOINT), *_MLP),
}
"""Defaults of `adapter.targets`: those of DDPO for sd15, those of Flow-GRPO for the others."""


class AdapterConfig(Table):
    """`[adapter]`: which parameters are trained."""

    kind: Literal["lora", "full"] = key("lora", "low-rank adapter, or every weight")
    rank: Annotated[int, Field(ge=1, le=4096)] = key(8, "rank of the low-rank adapter")
    alpha: AboveZero = key(16.0, "the adapter is scaled by alpha / rank")
    init: Literal["kaiming", "gaussian"] = key(
        "kaiming", "first values of A, by PEFT's names; B starts at 0"
    )
    targets: tuple[str, ...] = key(
        ("qkv", "o", "m1", "m2"),
        "last parts of the names of adapted linears; unset = the family's published ones",
        min_length=1,
        strict=False,
    )
