"""Loading a diffusers pipeline from a folder or the hub, and saying in one line why it fails."""

import importlib
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import safe_open
from torch import nn

from common import pipelines
from common.arrays import check_shapes
from common.config import ModelConfig
from common.pipelines import files

__all__ = ["check_dtype", "check_report", "choose_kernels", "pipeline", "quiet", "tf32"]

ATTENTION = {
    "flash": torch.backends.cuda.enable_flash_sdp,
    "efficient": torch.backends.cuda.enable_mem_efficient_sdp,
    "cudnn": torch.backends.cuda.enable_cudnn_sdp,
}
"""Switches of the attention kernels beside the plain one, which is always there to fall back on."""


class Shaped(NamedTuple):
    """Stands for an array of which only the shape is known."""

    shape: tuple[int, ...]


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


def pipeline(model: ModelConfig, dtype: torch.dtype, **parts: Any) -> tuple[Any, dict[str, Any]]:
    """The pipeline at `model.path`, on the host, its VAE in float32 and all else in `dtype`.

    With it come the settings that the file of its scheduler has.

    parts: components to put in; None leaves one out. Raises ValueError in one line for a name or
    folder that is not there, is of another family, lacks a component or a weight, or cannot be
    read, and when the hub cannot be reached or refuses.
    """
    if model.quantize:
        raise ValueError(f"model.quantize = {model.quantize} is for --backend mlx; here: 0")
    if model.weights:
        raise ValueError(f"model.weights = '{model.weights}' is for --backend mlx; here: none")
    index = pipelines.check(model, parts)
    import diffusers

    quiet()
    path, where = str(model.path), f"model.path = '{model.path}'"
    kind = getattr(diffusers, str(index["_class_name"]), None)
    if kind is None:
        raise ValueError(
            f"{where} holds a {index['_class_name']}, which diffusers "
            f"{diffusers.__version__} does not know"
        )
    folder = Path(path).expanduser()
    if not folder.is_dir():
        with pipelines.load_errors_in_one_line(path), warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            folder = _downloaded(kind, path, index, parts)
    libraries = files.components(index, parts)
    files.check_files(folder, libraries, where)
    if model.family in pipelines.PIPELINES:
        files.check_settings(folder, model.family, where)
    networks = {}
    for name, library in libraries.items():
        network = _network_class(library, index[name][1])
        if network is not None:
            precision = torch.float32 if name == "vae" else dtype
            networks[name] = _network(network, folder, name, library, precision, where)
    with pipelines.library_errors_in_one_line(where), warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        loaded = kind.from_pretrained(str(folder), **networks, **parts)
    # Raw: the pipeline has changed some of them.
    component, file = pipelines.SCHEDULER.split("/")
    scheduler = files.document(folder, component, file, where) if component in libraries else {}
    return loaded, scheduler


def _downloaded(kind: Any, path: str, index: Mapping[str, Any], parts: Mapping[str, Any]) -> Path:
    """The folder of a repository's pipeline; the weights are those of float16 without others."""
    folder = Path(kind.download(path, **parts))
    for name, library in files.components(index, parts).items():
        if (folder / name / "config.json").is_file() and not _has_weights(folder, name, library):
            return Path(kind.download(path, variant="fp16", **parts))
    return folder


def _has_weights(folder: Path, name: str, library: str) -> bool:
    if any((folder / name).glob("*.bin")):
        return True
    try:
        return bool(files.weight_files(folder, name, library, name))
    except ValueError:
        return False


def _network_class(library: str, name: str) -> Any:
    """A class of diffusers or transformers that has weights, or None."""
    if library not in files.STEMS:
        return None
    kind = getattr(importlib.import_module(library), name, None)
    return kind if isinstance(kind, type) and issubclass(kind, nn.Module) else None


def _network(
    kind: Any, folder: Path, name: str, library: str, dtype: torch.dtype, where: str
) -> nn.Module:
    """A network of a pipeline with all of its weights, and no others.

    Raises ValueError in one line for weights that are missing, surplus or of another shape: the
    libraries draw them, drop them, or leave them without content.
    """
    variant, paths, what = "", list[Path](), f"{where}: {name}"
    try:
        variant, paths = files.weight_files(folder, name, library, where)
        what += f"/{paths[0].name}" if len(paths) == 1 else ""
    except ValueError:
        if not any((folder / name).glob("*.bin")):
            raise
    how: dict[str, Any] = {"torch_dtype": dtype, "output_loading_info": True}
    how["use_safetensors"] = bool(paths)
    if variant:
        how["variant"] = variant
    if library == "transformers":
        how["ignore_mismatched_sizes"] = True  # they are in its report, and refused below
    with pipelines.library_errors_in_one_line(what), warnings.catch_warnings():
        # `torch_dtype` is what every diffusers since 0.35 knows; its successor is not.
        warnings.simplefilter("ignore", FutureWarning)
        try:
            module, report = kind.from_pretrained(str(folder / name), **how)
        except ValueError:
            if library == "diffusers":
                _check_common_shapes(kind, folder / name, paths, what)
            raise
    check_report(module, report, what)
    return module


def check_report(
    module: nn.Module, report: Mapping[str, Any], what: str, *, surplus: bool = True
) -> None:
    """Raise ValueError in one line unless a module has all of its weights, and no others.

    Args:
        module: what diffusers or transformers made.
        report: what they say of its weights, their `output_loading_info`.
        what: the first words of the line.
        surplus: whether weights that the module does not have are refused.
    """
    own = {name: tuple(value.shape) for name, value in module.state_dict().items()}
    given = {name: Shaped(shape) for name, shape in own.items()}
    for name in report["missing_keys"]:
        given.pop(name, None)
    for name in report["unexpected_keys"] if surplus else ():
        if not name.endswith("position_ids"):  # counted from 0, in files of old versions
            given[name] = Shaped(())
    given |= {name: Shaped(tuple(shape)) for name, shape, _ in report["mismatched_keys"]}
    check_shapes(given, own, what)


def _check_common_shapes(kind: Any, folder: Path, paths: Sequence[Path], what: str) -> None:
    """Raise ValueError for a weight in the files whose shape the configuration contradicts."""
    with torch.device("meta"):
        own = kind.from_config(kind.load_config(str(folder))).state_dict()
    for path in paths:
        with safe_open(path, framework="pt") as file:
            names = file.keys()  # it is no dictionary
            shapes = {name: tuple(file.get_slice(name).get_shape()) for name in names}
        common = shapes.keys() & own.keys()
        given = {name: Shaped(shapes[name]) for name in common}
        check_shapes(given, {name: tuple(own[name].shape) for name in common}, what)


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
