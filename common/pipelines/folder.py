"""Diffusers pipelines as folders or repositories: which family, which parts, or why not.

A pipeline's `model_index.json` names its class and its components; each component is a folder of
its own. Both backends read the same ones.
"""

import re
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from common import hub, reading
from common.config import ModelConfig

__all__ = [
    "FAMILIES",
    "INDEX",
    "PIPELINES",
    "check",
    "check_resolution",
    "index",
    "library_errors_in_one_line",
    "load_errors_in_one_line",
]

FAMILIES = {
    "StableDiffusionPipeline": "sd15",
    "StableDiffusion3Pipeline": "sd3",
    "FluxPipeline": "flux",
}
"""The family of each pipeline class that is known here."""

PIPELINES = {family: name for name, family in FAMILIES.items()}
"""The pipeline class of each family."""

REQUIRED = {
    "sd15": ("scheduler", "text_encoder", "tokenizer", "unet", "vae"),
    "sd3": (
        "scheduler",
        "text_encoder",
        "text_encoder_2",
        "text_encoder_3",
        "tokenizer",
        "tokenizer_2",
        "tokenizer_3",
        "transformer",
        "vae",
    ),
    "flux": (
        "scheduler",
        "text_encoder",
        "text_encoder_2",
        "tokenizer",
        "tokenizer_2",
        "transformer",
        "vae",
    ),
}
"""The components of each family, which an index must name."""

OPTIONAL = ("safety_checker", "feature_extractor", "image_encoder")
"""Components that text-to-image does without."""

INDEX = "model_index.json"
UNCLEAR = ("above report", "meta tensor")
"""Words of errors of transformers and diffusers that name no weight."""

REPOSITORY = re.compile(r"[\w-][\w.-]*(/[\w-][\w.-]*)?")


def index(path: str) -> dict[str, Any]:
    """The content of the `model_index.json` of a folder or repository.

    Raises ValueError in one line where there is none, or the hub cannot be reached or refuses.
    """
    folder = Path(path).expanduser()
    file = folder / INDEX
    if not folder.is_dir():
        if not REPOSITORY.fullmatch(path):
            hint = _weights([folder])
            raise ValueError(f"model.path = '{path}': no such folder, and no repository name{hint}")
        from huggingface_hub import hf_hub_download

        with load_errors_in_one_line(path):
            file = Path(hf_hub_download(path, INDEX))
    elif not file.is_file():
        hint = _weights(sorted(folder.iterdir()))
        raise ValueError(
            f"model.path = '{path}' is no diffusers pipeline: {INDEX} is missing{hint}"
        )
    try:
        document = reading.json_document(reading.content(file))
    except (ValueError, OSError):
        document = None
    if not isinstance(document, dict) or not all(map(_is_entry, document.items())):
        raise ValueError(f"model.path = '{path}': {INDEX} is damaged")
    return document


def check(model: ModelConfig, without: Collection[str] = ()) -> dict[str, Any]:
    """The index of the pipeline at `model.path`, which is one of its family and complete.

    A family that does not ship may have a pipeline of any class.

    Args:
        model: path and family of the pipeline.
        without: components that it may lack.

    Raises:
        ValueError: in one line, for what `index` refuses, for another family, and for a component
            that the index says is none or that the folder lacks.
    """
    path, expected = str(model.path), PIPELINES.get(model.family)
    document = index(path)
    kind = str(document.get("_class_name"))
    if expected is not None and kind != expected:
        family = FAMILIES.get(kind)
        hint = f": model.family = '{family}'" if family else f"; '{model.family}' is {expected}"
        raise ValueError(f"model.path = '{path}' holds a {kind}, not a {expected}{hint}")
    folder = Path(path).expanduser()
    parts = {name: [None, None] for name in REQUIRED.get(model.family, ())}
    parts |= {name: entry for name, entry in document.items() if isinstance(entry, list)}
    for name, entry in sorted(parts.items()):
        if name in OPTIONAL or name in without:
            continue
        if entry[0] is None or (folder.is_dir() and not (folder / name).is_dir()):
            hint = "; model.text_encoder_3 = false does without" if name.endswith("_3") else ""
            raise ValueError(f"model.path = '{path}': its component '{name}' is missing{hint}")
    return document


def check_resolution(pixels: int, multiple: int) -> None:
    """ValueError, with the nearest that are, unless the side is a multiple of so many pixels."""
    if pixels % multiple:
        down = max(pixels // multiple, 1) * multiple
        raise ValueError(
            f"model.resolution = {pixels} must be a multiple of {multiple}, as {down} or "
            f"{down + multiple}"
        )


@contextmanager
def load_errors_in_one_line(path: str, key: str = "model.path") -> Iterator[None]:
    """Errors of the hub and of files, raised within it, become a ValueError of one line.

    The line begins with the key and the path.
    """
    from huggingface_hub import errors

    where = f"{key} = '{path}'"
    try:
        with hub.asked(path):
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
    except (OSError, ValueError, SafetensorError, errors.EntryNotFoundError) as error:
        if hub.out_of_reach(error):
            raise ValueError(_unreachable(where)) from None
        what = "" if isinstance(error, errors.EntryNotFoundError) else " cannot be loaded"
        raise ValueError(f"{where}{what}: {_line(error)}") from None


@contextmanager
def library_errors_in_one_line(what: str) -> Iterator[None]:
    """An error of diffusers or transformers, raised within it, becomes a ValueError of one line.

    They raise whatever a wrong file leads to. what: the first words of that line.
    """
    try:
        yield
    except Exception as error:
        # An error that is one line already, and no more memory on this machine, stay.
        text = str(error)
        if text.startswith(what) or isinstance(error, MemoryError) or "DefaultCPUAll" in text:
            raise
        kind = "" if isinstance(error, OSError | ValueError) else f"{type(error).__name__}: "
        line = reading.printable(f"{kind}{text}", 300)
        if any(words in line for words in UNCLEAR):
            line = "its weights do not go with its config.json"
        raise ValueError(f"{what} cannot be loaded: {line}") from error


def _is_entry(item: tuple[str, Any]) -> bool:
    """Whether an item of an index is a setting, or a component: a plain name with its class."""
    name, entry = item
    if not isinstance(entry, list):
        return True
    return (
        len(entry) == 2
        and all(part is None or isinstance(part, str) for part in entry)
        and Path(name).name == name
    )


def _weights(paths: Sequence[Path]) -> str:
    """A hint where there are weights without a pipeline around them."""
    file = next((p for p in paths if p.suffix == ".safetensors" and p.is_file()), None)
    if file is None:
        return ""
    return f"; {file.name} is weights alone: model.weights takes DiffusionKit's, on --backend mlx"


def _unreachable(where: str) -> str:
    return (
        f"{where} is not a folder here nor in the cache, and the hub cannot be reached; download "
        "it where there is a network, with `hf download`, and give its folder"
    )


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())[:300]
