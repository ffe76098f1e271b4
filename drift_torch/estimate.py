"""How much memory a run needs, by tracing its steps on tensors without content.

PyTorch's fake tensors have a shape, a type and a device but no values. Running a rollout's or an
update's forward and backward pass on them, while adding up the storages that are alive, gives the
peak of the real one but for what kernels allocate inside themselves, which is little.
"""

import weakref
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from common.backends import Policy
from common.config import Config
from common.sampling.process import Levels, Process, make_process
from drift_torch.policy import Tuned

__all__ = ["Ledger", "inference", "stages", "stored", "training", "without_content"]


class Ledger(TorchDispatchMode):
    """Adds up the bytes of storages that operations make, until they are freed.

    peak: the most that were alive at once since the ledger was opened.
    """

    def __init__(self) -> None:
        super().__init__()
        self.live = self.peak = 0
        self._known: set[int] = set()

    def __torch_dispatch__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        given = {storage._cdata for storage in _storages((args, kwargs))}
        result = func(*args, **(kwargs or {}))
        for storage in _storages(result):
            if storage._cdata not in self._known | given:
                self._enter(storage)
        return result

    def _enter(self, storage: torch.UntypedStorage) -> None:
        address, size = storage._cdata, storage.nbytes()
        self._known.add(address)
        self.live += size
        self.peak = max(self.peak, self.live)
        weakref.finalize(storage, self._leave, address, size)

    def _leave(self, address: int, size: int) -> None:
        self._known.discard(address)
        self.live -= size


def stages(policy: Tuned, config: Config, prompt: str) -> dict[str, int]:
    """Bytes on the device at the peak of each stage of an update, the optimizer's state included.

    prompt: one that the policy can read. What an allocator keeps to itself comes on top.
    """
    process = make_process(cast(Policy, policy), config.rollout)
    rollout, settings = config.rollout, config.objective
    with policy.with_memory_settings(config.model), torch.compiler.set_stance("force_eager"):
        resident = policy.resident()
        trained = sum(value.nbytes for value in policy.parameters().values())
        always = stored(resident) + 2 * trained  # AdamW's two moments
        peaks = {"rollout": always + inference(policy, process, rollout.batch_size, prompt)}
        for stage, (part, call) in policy.transient_parts(rollout.batch_size).items():
            peaks[stage] = (
                stored([*resident, part]) + 2 * trained + _alone(part, call, policy.device)
            )
        micro_batch = training(policy, process, settings.micro_batch, prompt)
        peaks["update"] = always + trained + micro_batch  # and the sum of earlier gradients
    return peaks


def stored(modules: Iterable[nn.Module]) -> int:
    """Bytes of the parameters and buffers of modules."""
    arrays = {
        id(array): array.nbytes
        for module in modules
        for array in (*module.parameters(), *module.buffers())
    }
    return sum(arrays.values())


def training(policy: Any, process: Process, batch: int, prompt: str) -> int:
    """Peak bytes of one micro-batch: its inputs, activations and gradients."""
    return _peak(policy, process, batch, prompt, gradients=True)


def inference(policy: Any, process: Process, batch: int, prompt: str) -> int:
    """Peak bytes of one denoising step of `batch` samples."""
    return _peak(policy, process, batch, prompt, gradients=False)


def _peak(policy: Any, process: Process, batch: int, prompt: str, *, gradients: bool) -> int:
    with torch.no_grad():
        clean = policy.encode([prompt])
        if process.guidance != 1.0:
            policy.null(1)  # encoded now, while numbers are real
    mode = FakeTensorMode(allow_non_fake_inputs=True)
    device = clean.tokens.device
    with without_content(policy.module, mode, device) as trained, mode, Ledger() as ledger:
        x = torch.zeros(batch, *policy.latent_shape, device=device)
        level = torch.zeros(batch, device=device)
        conditioning = clean.rows(torch.zeros(batch, dtype=torch.int64, device=device))
        levels = Levels(policy.embed_time(process.times[[0] * batch]), level, level)
        with torch.set_grad_enabled(gradients):
            prediction = process.predict(policy, x, levels, conditioning)
        if gradients:
            loss = prediction.square().mean()
            # In float16 the backward pass is tried with several loss scales: the graph is kept.
            half = getattr(policy, "dtype", None) == torch.float16
            kept = torch.autograd.grad(loss, trained, allow_unused=True, retain_graph=half)
            del kept
    return ledger.peak


def _alone(part: nn.Module, call: Callable[[], Any], device: torch.device) -> int:
    """Peak bytes of a call of a frozen part."""
    mode = FakeTensorMode(allow_non_fake_inputs=True)
    with without_content(part, mode, device), mode, Ledger() as ledger, torch.no_grad():
        kept = call()
        del kept
    return ledger.peak


@contextmanager
def without_content(
    module: nn.Module, mode: FakeTensorMode, device: torch.device
) -> Iterator[list[Tensor]]:
    """Within it the module's arrays are on the device, without content; gives the trained ones."""
    places: list[tuple[dict[str, Any], str, Tensor]] = [
        (table, name, array)
        for part in module.modules()
        for table in cast(tuple[dict[str, Any], ...], (part._parameters, part._buffers))
        for name, array in table.items()
        if array is not None
    ]
    fakes: dict[int, Tensor] = {}  # some arrays are in two places
    try:
        for table, name, array in places:
            if id(array) not in fakes:
                with mode:
                    fake = torch.empty_like(array, device=device)
                kept = isinstance(array, nn.Parameter)
                fakes[id(array)] = nn.Parameter(fake, array.requires_grad) if kept else fake
            table[name] = fakes[id(array)]
        yield [table[name] for table, name, array in places if array.requires_grad]
    finally:
        for table, name, array in places:
            table[name] = array


def _storages(tree: Any) -> list[torch.UntypedStorage]:
    return [leaf.untyped_storage() for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)]
