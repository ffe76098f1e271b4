"""Frozen weights spread over the processes of a run, by PyTorch's FSDP2.

A process keeps a slice of every frozen array of the denoiser. A forward pass gathers one layer
after the other from all processes and frees it behind itself, and so does the backward pass. All
must therefore make the same passes: see `World.lockstep`. What is trained is whole everywhere.
Gathered arrays have the bytes of the whole ones, so no result changes.
"""

import inspect
import warnings
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import nn

from common.backends import World
from common.config import AdapterConfig, Config, ModelConfig
from drift_torch import estimate, lora
from drift_torch.diffusion import DiffusersPolicy
from drift_torch.policy import Tuned

if TYPE_CHECKING:
    from drift_torch.world import Processes  # slow to import

__all__ = ["peaks_in_slices", "policy", "shard"]

PASSES = ("rollout", "update")
"""The stages of an estimate in which the denoiser works."""


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

    Every process calls it; in one process the weights stay whole. kind: the class of
    `model.family`. Raises ValueError for one that it is not for.
    """
    if not issubclass(kind, DiffusersPolicy):
        raise ValueError(
            f"model.shard = '{model.shard}' is for classes derived from DiffusersPolicy, which "
            f"model.family = '{model.family}' is not"
        )
    auto = model.shard == "auto"
    if world.size == 1 or (auto and not _can_be(model, adapter, device)):
        whole = model.model_copy(update={"shard": "none"})
        return kind(whole, adapter, seed=seed, device=device)
    loaded: list[DiffusersPolicy] = []
    # All get their model, or all hear why one does not, before they connect for its weights.
    world.share(
        lambda: loaded.append(kind(model, adapter, seed=seed, device=device)), "loading the model"
    )
    (made,) = loaded
    if auto and not any(world.share(lambda: _is_large(made), "loading the model")):
        made.module.to(device)
        return made
    shard(made.module, made.layers(), cast("Processes", world), device)
    world.lockstep = True
    return made


def peaks_in_slices(
    peaks: Mapping[str, int], whole: Tuned, config: Config, processes: int
) -> dict[str, int]:
    """Peaks of each stage as they are where `model.shard` spreads the frozen weights.

    A pass has what is outside of the layers whole all the time, and two layers: the one that works
    and the next, or the one that is gathered and what it is gathered from.

    Args:
        peaks: bytes with whole weights, by stage: `estimate.stages`.
        whole: the policy that they are of.
        config: of the run.
        processes: over which the weights are spread.
    """
    if processes == 1 or not isinstance(whole, DiffusersPolicy) or not _spreads(whole, config):
        return dict(peaks)
    layers = [_frozen(layer) for layer in whole.layers()]
    frozen = _frozen(whole.module)
    spared = frozen - -(-frozen // processes)
    gathered = min(frozen - sum(layers) + 2 * max(layers, default=0), spared)
    return {
        stage: peak - spared + (gathered if stage in PASSES else 0) for stage, peak in peaks.items()
    }


def _spreads(whole: DiffusersPolicy, config: Config) -> bool:
    """Whether a run of several processes has slices."""
    if config.model.shard != "auto":
        return config.model.shard == "fsdp"
    return _can_be(config.model, config.adapter, whole.device) and _is_large(whole)


def _frozen(module: nn.Module) -> int:
    """Bytes of the parameters that are not trained."""
    return sum(each.nbytes for each in module.parameters() if not each.requires_grad)


def _can_be(model: ModelConfig, adapter: AdapterConfig, device: torch.device) -> bool:
    return device.type == "cuda" and adapter.kind == "lora" and not model.compile


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
