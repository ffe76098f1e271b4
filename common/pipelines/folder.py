"""Diffusers pipelines as folders or repositories: which family, which parts, or why not.

A pipeline's `model_index.json` names its class and its components; each component is a folder of
its own. Both backends read the same ones.
"""

import math
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from common import reading
from common.algorithm.schedules import TRAIN_STEPS, scaled_linear_alpha_bars
from common.backends import DiffusionSchedule, FlowSchedule
from common.config import ModelConfig

__all__ = [
    "FAMILIES",
    "INDEX",
    "PIPELINES",
    "check",
    "check_resolution",
    "diffusion_schedule",
    "flux_schedule",
    "index",
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

OPTIONAL = ("safety_checker", "feature_extractor", "image_encoder")
"""Components that text-to-image does without."""

INDEX = "model_index.json"
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
    if not isinstance(document, dict):
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
    for name, entry in sorted(document.items()):
        if not isinstance(entry, list) or name in OPTIONAL or name in without:
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


def diffusion_schedule(scheduler: Mapping[str, Any], path: str) -> DiffusionSchedule:
    """The noise that a Stable Diffusion 1 or 2 was trained with.

    Args:
        scheduler: settings of its scheduler, under diffusers' names; what is not in it has
            diffusers' default.
        path: what to call the model in a ValueError, for another kind of noise.
    """
    shape = "trained" if scheduler.get("trained_betas") else scheduler.get("beta_schedule")
    kind = scheduler.get("prediction_type", "epsilon")
    if kind not in ("epsilon", "v_prediction"):
        raise ValueError(
            f"model.path = '{path}': its scheduler's prediction_type is '{kind}'; valid: epsilon, "
            "v_prediction"
        )
    if shape != "scaled_linear" or scheduler.get("rescale_betas_zero_snr"):
        raise ValueError(
            f"model.path = '{path}': the noise schedule '{shape}' of its scheduler is none of "
            "Stable Diffusion's; valid: scaled_linear, not rescaled to zero signal"
        )
    alpha_bars = scaled_linear_alpha_bars(
        beta_start=scheduler.get("beta_start", 1e-4),
        beta_end=scheduler.get("beta_end", 0.02),
        train_steps=scheduler.get("num_train_timesteps", TRAIN_STEPS),
    )
    final = 1.0 if scheduler.get("set_alpha_to_one", True) else float(alpha_bars[0])
    return DiffusionSchedule(alpha_bars, int(scheduler.get("steps_offset", 0)), final)


def flux_schedule(scheduler: Mapping[str, Any], length: int) -> FlowSchedule:
    """FLUX's spacing of noise levels for `length` image tokens.

    Evenly spaced and shifted once by e^mu, where mu is linear in the number of tokens; schnell's
    scheduler has no such dynamic shift. scheduler: a FlowMatchEulerDiscreteScheduler's settings.
    """
    if not scheduler.get("use_dynamic_shifting"):
        return FlowSchedule("shift", float(scheduler.get("shift", 1.0)))
    short, long = scheduler.get("base_image_seq_len", 256), scheduler.get("max_image_seq_len", 4096)
    low, high = scheduler.get("base_shift", 0.5), scheduler.get("max_shift", 1.15)
    mu = low + (high - low) * (length - short) / (long - short)
    return FlowSchedule("shift", math.exp(mu))


@contextmanager
def load_errors_in_one_line(path: str, key: str = "model.path") -> Iterator[None]:
    """Errors of the hub and of files, raised within it, become a ValueError of one line.

    The line begins with the key and the path.
    """
    from huggingface_hub import errors

    where = f"{key} = '{path}'"
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
