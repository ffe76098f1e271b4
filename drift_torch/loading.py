"""Loading a diffusers pipeline from a folder or the hub, and saying in one line why it fails."""

import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from common.config import ModelConfig

__all__ = ["check_dtype", "pipeline", "tf32"]

FAMILIES = {
    "StableDiffusionPipeline": "sd15",
    "StableDiffusion3Pipeline": "sd3",
    "FluxPipeline": "flux",
}
"""The family of each pipeline class that is known here."""

OPTIONAL = ("safety_checker", "feature_extractor", "image_encoder")
"""Components that text-to-image does without."""

INDEX = "model_index.json"
REPOSITORY = re.compile(r"[\w-][\w.-]*(/[\w-][\w.-]*)?")


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


def pipeline(model: ModelConfig, expected: str, dtype: torch.dtype, **parts: Any) -> Any:
    """The pipeline at `model.path`, on the host, its VAE in float32 and all else in `dtype`.

    expected: name of its class. parts: components to put in; None leaves one out. Raises
    ValueError in one line for a name or folder that is not there, is of another family, lacks a
    component or cannot be read, and when the hub cannot be reached or refuses.
    """
    path = str(model.path)
    folder = Path(path).expanduser()
    index = _index(path, folder)
    found = str(index.get("_class_name"))
    if found != expected:
        family = FAMILIES.get(found)
        hint = f": model.family = '{family}'" if family else f"; '{model.family}' is {expected}"
        raise ValueError(f"model.path = '{path}' holds a {found}, not a {expected}{hint}")
    _check_components(folder if folder.is_dir() else None, path, index, parts)
    import diffusers
    from diffusers.utils import logging as diffusers_logging
    from transformers.utils import logging as transformers_logging

    for library in (diffusers_logging, transformers_logging):
        library.set_verbosity_error()
        library.disable_progress_bar()
    with _explained(path), warnings.catch_warnings():
        # `torch_dtype` is what every diffusers since 0.35 knows; its successor is not.
        warnings.simplefilter("ignore", FutureWarning)
        return getattr(diffusers, expected).from_pretrained(
            str(folder) if folder.is_dir() else path,
            torch_dtype={"vae": torch.float32, "default": dtype},
            **parts,
        )


@contextmanager
def tf32(on: bool) -> Iterator[None]:
    """Within it, convolutions of float32 on CUDA may be rounded to TF32's 10 bits, if `on`."""
    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = on or before
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32 = before


def _index(path: str, folder: Path) -> dict[str, Any]:
    """What `model_index.json` says."""
    import json

    file = folder / INDEX
    if not folder.is_dir():
        if not REPOSITORY.fullmatch(path):
            raise ValueError(f"model.path = '{path}': no such folder, and no repository name")
        from huggingface_hub import hf_hub_download

        with _explained(path):
            file = Path(hf_hub_download(path, INDEX))
    elif not file.is_file():
        raise ValueError(f"model.path = '{path}' is no diffusers pipeline: {INDEX} is missing")
    try:
        index = json.loads(file.read_text(encoding="utf-8"))
    except ValueError:
        index = None
    if not isinstance(index, dict):
        raise ValueError(f"model.path = '{path}': {INDEX} is damaged")
    return index


def _check_components(
    folder: Path | None, path: str, index: dict[str, Any], parts: dict[str, Any]
) -> None:
    """Raise ValueError for a component that the index says is none, or that the folder lacks."""
    for name, entry in sorted(index.items()):
        if not isinstance(entry, list) or name in OPTIONAL or name in parts:
            continue
        if entry[0] is None or (folder and not (folder / name).is_dir()):
            hint = "; model.text_encoder_3 = false does without" if name.endswith("_3") else ""
            raise ValueError(f"model.path = '{path}': its component '{name}' is missing{hint}")


@contextmanager
def _explained(path: str) -> Iterator[None]:
    """Within it, errors of the hub and of reading files become one line on `model.path`."""
    from huggingface_hub import errors
    from safetensors import SafetensorError

    where = f"model.path = '{path}'"
    try:
        yield
    except errors.GatedRepoError:
        raise ValueError(
            f"{where}: its licence must be accepted on the hub first; then `hf auth login`, or set "
            "HF_TOKEN"
        ) from None
    except errors.RepositoryNotFoundError:
        raise ValueError(
            f"{where}: the hub has no such repository; if it is private, `hf auth login`"
        ) from None
    except errors.EntryNotFoundError as error:
        if isinstance(error, errors.LocalEntryNotFoundError):
            raise ValueError(_unreachable(where)) from None
        raise ValueError(f"{where}: {_line(error)}") from None
    except errors.OfflineModeIsEnabled:
        raise ValueError(_unreachable(where)) from None
    except (OSError, ValueError, SafetensorError) as error:
        raise ValueError(f"{where} cannot be loaded: {_line(error)}") from None


def _unreachable(where: str) -> str:
    return (
        f"{where} is not a folder here nor in the cache, and the hub cannot be reached; download "
        "it where there is a network, with `hf download`, and give its folder"
    )


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())[:300]
