"""Weights of scorers from a folder, a file or the hub; errors are one line."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn

from common import hub
from common.rewards.registry import RewardNameError
from common.rewards.spec import TorchOptions
from drift_torch.loading import check_report

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def device_of(options: TorchOptions) -> torch.device:
    """The device of a scorer; RewardNameError when it does not exist here."""
    mps = torch.backends.mps.is_available()
    if options.device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "mps" if mps else "cpu")
    if (options.device == "cuda" and not torch.cuda.is_available()) or (
        options.device == "mps" and not mps
    ):
        raise RewardNameError(f"device = '{options.device}' is not there; valid here: cpu, auto")
    return torch.device(options.device)


def pretrained(kind: Any, name: str, **settings: Any) -> Any:
    """`kind.from_pretrained(name)` without progress bars; RewardNameError in one line.

    A network's missing or misshapen weight is an error too: transformers would draw it.
    """
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    name = os.path.expanduser(name)
    with load_errors_in_one_line(name):
        load: Any = kind.from_pretrained
        if not (isinstance(kind, type) and issubclass(kind, nn.Module)):
            return load(name, **settings)
        module, report = load(
            name, output_loading_info=True, ignore_mismatched_sizes=True, **settings
        )
        check_report(module, report, "they do not fit", surplus=False)
        return module


def ready(module: nn.Module, options: TorchOptions) -> Any:
    """A frozen module on its device, in its dtype."""
    return module.requires_grad_(False).eval().to(device_of(options), DTYPES[options.dtype])


def weights(name: str) -> dict[str, torch.Tensor]:
    """Named tensors of a file: a path, or `repository:file` on the hub.

    A .pt or .pth file is read without running what is pickled in it. Raises RewardNameError.
    """
    file = Path(name).expanduser()
    if not file.is_file():
        repository, colon, inside = name.partition(":")
        if not colon:
            raise RewardNameError(f"'{name}': no such file, and no repository:file of the hub")
        from huggingface_hub import hf_hub_download

        with load_errors_in_one_line(name):
            file = Path(hf_hub_download(repository, inside))
    with load_errors_in_one_line(name):
        if file.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(file)
        values = torch.load(file, map_location="cpu", weights_only=True)
    values = values.get("state_dict", values) if isinstance(values, dict) else None
    if not values or not all(isinstance(value, torch.Tensor) for value in values.values()):
        raise RewardNameError(f"'{name}' holds no named tensors")
    return values


def fill(module: nn.Module, values: dict[str, torch.Tensor], name: str) -> None:
    """Load every parameter of a module; RewardNameError names one that lacks or does not fit."""
    own = {key: value for key, value in module.state_dict().items() if not _is_computed(key)}
    for key, value in own.items():
        if key not in values:
            raise RewardNameError(f"'{name}' lacks {key}: these are other weights")
        if values[key].shape != value.shape:
            shapes = f"{list(values[key].shape)}, not {list(value.shape)}"
            raise RewardNameError(f"'{name}': {key} is {shapes}: these are other weights")
    module.load_state_dict({key: values[key] for key in own}, strict=False)


def _is_computed(key: str) -> bool:
    """Whether the module computes the array of that name by itself."""
    return key.endswith(("position_ids", "num_batches_tracked"))


@contextmanager
def load_errors_in_one_line(name: str) -> Iterator[None]:
    """Errors of the hub and of files, raised within it, become a RewardNameError of one line."""
    import pickle

    from huggingface_hub import errors
    from safetensors import SafetensorError

    try:
        with hub.asked(name):
            yield
    except errors.GatedRepoError:
        raise RewardNameError(
            f"'{name}': accept its licence on the hub, then `hf auth login`"
        ) from None
    except errors.RepositoryNotFoundError:
        raise RewardNameError(f"'{name}': the hub has no such repository") from None
    except (OSError, ValueError, KeyError, RuntimeError, EOFError) as error:
        if hub.out_of_reach(error):
            raise RewardNameError(
                f"weights '{name}' are not here nor in the cache, and the hub cannot be reached; "
                "download them where there is a network, and give their place as `path`"
            ) from None
        raise RewardNameError(f"weights '{name}' cannot be loaded: {_line(error)}") from None
    except (SafetensorError, pickle.UnpicklingError) as error:
        raise RewardNameError(f"weights '{name}' are damaged: {_line(error)}") from None


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())[:200]
