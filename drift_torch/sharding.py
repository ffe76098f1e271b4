"""Frozen weights spread over the processes of a run, by PyTorch's FSDP2.

A process keeps a slice of every frozen array of the denoiser. A forward pass gathers one layer
after the other from all processes and frees it behind itself, and so does the backward pass. All
must therefore make the same passes: see `World.lockstep`. What is trained is whole everywhere.
Gathered arrays have the bytes of the whole ones, so no result changes.
"""

import inspect
import warnings
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import nn

from common.backends import World
from common.config import AdapterConfig, ModelConfig
from drift_torch import estimate, lora
from drift_torch.diffusion import DiffusersPolicy

if TYPE_CHECKING:
    from drift_torch.world import Processes  # slow to import

__all__ = ["policy", "shard"]


def policy(
    kind: Any,
    model: ModelConfig,
    adapter: AdapterConfig,
    *,
    seed: int,
    device: torch.device,
    world: World,
) -> DiffusersPolicy:
    """A policy whose frozen weights are spread over the processes, as `model.shard` says.

    Every process calls it. kind: the class of `model.family`. Warns where "fsdp" has no effect,
    in one process. Raises ValueError for a class that it is not for.
    """
    if not issubclass(kind, DiffusersPolicy):
        raise ValueError(
            f"model.shard = '{model.shard}' is for classes derived from DiffusersPolicy, which "
            f"model.family = '{model.family}' is not"
        )
    auto = model.shard == "auto"
    if world.size == 1 or (auto and not _can_be(model, adapter, device)):
        if not auto:
            warnings.warn("model.shard = 'fsdp' has no effect in one process", stacklevel=3)
        whole = model.model_copy(update={"shard": "none"})
        return kind(whole, adapter, seed=seed, device=device)
    made = kind(model, adapter, seed=seed, device=device)
    if auto and not any(world.share(lambda: _is_large(made), "loading the model")):
        made.module.to(device)
        return made
    shard(made.module, made.layers(), cast("Processes", world), device)
    world.lockstep = True
    return made


def _can_be(model: ModelConfig, adapter: AdapterConfig, device: torch.device) -> bool:
    whole = adapter.kind == "full" or model.compile or model.dtype == "float16"
    return device.type == "cuda" and not whole


def _is_large(policy: DiffusersPolicy) -> bool:
    """Whether the weights leave less than half of the device for activations."""
    weights = estimate.stored(policy.resident())
    device = torch.cuda.get_device_properties(policy.device).total_memory
    if 2 * weights <= device:
        return False
    warnings.warn(
        f"the weights take {weights / 1e9:.1f} of {device / 1e9:.1f} GB of a device, so "
        "model.shard = 'auto' spreads them over the processes",
        stacklevel=2,
    )
    return True


def shard(
    module: nn.Module, layers: Iterable[nn.Module], world: "Processes", device: torch.device
) -> None:
    """Keep only this process's slice of every frozen array of a module, on the device.

    layers: parts of the module that are gathered one by one; the rest is gathered together.
    """
    from torch.distributed.fsdp import fully_shard

    if "ignored_params" not in inspect.signature(fully_shard).parameters:
        raise ValueError(f"model.shard = 'fsdp' needs torch 2.7 or newer; here {torch.__version__}")
    # What a view of an output is warned of for, changing it in place, no denoiser does.
    warnings.filterwarnings("ignore", "FSDP2-wrapped module", UserWarning)
    trained = set(lora.trainable(module).values())
    for parameter in trained:
        parameter.data = parameter.data.to(device)
    mesh = world.mesh(device)
    for part in (*layers, module):
        fully_shard(part, mesh=mesh, reshard_after_forward=True, ignored_params=trained)
