"""Loading a diffusers pipeline from a folder or the hub, and saying in one line why it fails."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from common import pipelines
from common.config import ModelConfig

__all__ = ["check_dtype", "choose_kernels", "pipeline", "quiet", "tf32"]

ATTENTION = {
    "flash": torch.backends.cuda.enable_flash_sdp,
    "efficient": torch.backends.cuda.enable_mem_efficient_sdp,
    "cudnn": torch.backends.cuda.enable_cudnn_sdp,
}
"""Switches of the attention kernels beside the plain one, which is always there to fall back on."""


def check_dtype(dtype: str, device: torch.device) -> None:
    """Raise ValueError for a type that the device has no arithmetic for."""
    if dtype == "float16" and device.type == "cpu":
        raise ValueError("model.dtype = 'float16' needs a GPU; on a CPU: float32 or bfloat16")
    if (
        dtype == "bfloat16"
        and device.type == "cuda"
        and torch.cuda.get_device_capability() < (8, 0)
    ):
        name = torch.cuda.get_device_name(device)
        raise ValueError(f"model.dtype = 'bfloat16': {name} has none; valid: float16, float32")


def pipeline(model: ModelConfig, dtype: torch.dtype, **parts: Any) -> Any:
    """The pipeline at `model.path`, on the host, its VAE in float32 and all else in `dtype`.

    parts: components to put in; None leaves one out. Raises ValueError in one line for a name or
    folder that is not there, is of another family, lacks a component or cannot be read, and when
    the hub cannot be reached or refuses.
    """
    if model.quantize:
        raise ValueError(f"model.quantize = {model.quantize} is for --backend mlx; here: 0")
    if model.weights:
        raise ValueError(f"model.weights = '{model.weights}' is for --backend mlx; here: none")
    index = pipelines.check(model, parts)
    import diffusers

    quiet()
    path = str(model.path)
    folder = Path(path).expanduser()
    kind = getattr(diffusers, str(index["_class_name"]), None)
    if kind is None:
        raise ValueError(
            f"model.path = '{path}' holds a {index['_class_name']}, which diffusers "
            f"{diffusers.__version__} does not know"
        )
    with pipelines.load_errors_in_one_line(path), warnings.catch_warnings():
        # `torch_dtype` is what every diffusers since 0.35 knows; its successor is not.
        warnings.simplefilter("ignore", FutureWarning)
        return kind.from_pretrained(
            str(folder) if folder.is_dir() else path,
            torch_dtype={"vae": torch.float32, "default": dtype},
            **parts,
        )


def quiet() -> None:
    """Let diffusers and transformers report errors alone, without progress bars."""
    from diffusers.utils import logging as diffusers_logging
    from transformers.utils import logging as transformers_logging

    for library in (diffusers_logging, transformers_logging):
        library.set_verbosity_error()
        library.disable_progress_bar()


def choose_kernels(model: ModelConfig) -> None:
    """Set for the whole process which attention kernels and which rounding it may use.

    For the process, since gradient checkpointing computes a forward pass again in the backward one.
    """
    for name, switch in ATTENTION.items():
        switch(model.attention in ("auto", name))
    always = model.tf32 == "always"
    torch.set_float32_matmul_precision("high" if always else "highest")
    torch.backends.cudnn.allow_tf32 = always


@contextmanager
def tf32(on: bool) -> Iterator[None]:
    """Within it, convolutions of float32 on CUDA may be rounded to TF32's 10 bits, if `on`."""
    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = on or before
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32 = before
