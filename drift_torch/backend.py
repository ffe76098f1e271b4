"""PyTorch as a backend: arrays, gradients, AdamW, and what the device is."""

import ctypes
import importlib
import os
import platform
import resource
import sys
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim.adamw import adamw

from common import backends, imports
from common.arrays import check_shapes
from common.backends import BackendUnavailableError, LossFunction, Parameters, protocols
from common.backends.world import Copies
from common.config import AdapterConfig, Config, ModelConfig, OptimizerConfig
from common.errors import NotFiniteError
from common.machine import cores
from common.prompts.language import LanguageModel
from drift_torch import lora
from drift_torch.embedded import EmbeddedPolicy, EmbeddedScorer
from drift_torch.gradients import gradients_of
from drift_torch.policy import Tuned

__all__ = ["AdamW", "Backend", "cpu", "cuda"]

MOMENTS = ("first", "second")
POLICIES = {
    "sd15": "drift_torch.sd15:SD15Policy",
    "sd3": "drift_torch.sd3:SD3Policy",
    "flux": "drift_torch.flux:FluxPolicy",
}
"""Model families over diffusers; each is imported when it is asked for."""

DTYPES = {"float32": torch.float32, "float64": torch.float64}


def cpu(dtype: str = "float32") -> backends.Backend:
    """PyTorch on the CPU; dtype "float32", or "float64" for a reference run."""
    _keep_freed_memory()
    return Backend("cpu", torch.device("cpu"), dtype)


def cuda(dtype: str = "float32") -> backends.Backend:
    """PyTorch on the current CUDA device; raises BackendUnavailableError without one."""
    if not torch.cuda.is_available():
        built = torch.version.cuda
        reason = (
            f"PyTorch {torch.__version__} was built for CUDA {built} but finds no usable GPU; "
            "check the driver with nvidia-smi"
            if built
            else f"PyTorch {torch.__version__} was built without CUDA; install a CUDA build from "
            "https://pytorch.org/get-started"
        )
        raise BackendUnavailableError(reason)
    rank, count = os.environ.get("LOCAL_RANK", ""), torch.cuda.device_count()
    if rank.isdecimal() and count > 1:  # of several processes on this machine
        if int(rank) >= count:
            raise BackendUnavailableError(
                f"process {rank} of this machine has no GPU: there are {count}"
            )
        torch.cuda.set_device(int(rank))
    return Backend("cuda", torch.device("cuda", torch.cuda.current_device()), dtype)


class Backend:
    """PyTorch on one device; fulfils `common.backends.Backend`."""

    def __init__(self, name: str, device: torch.device, dtype: str):
        if dtype not in DTYPES:
            raise ValueError(f"dtype '{dtype}' of backend {name}; valid: {', '.join(DTYPES)}")
        self.name, self.dtype, self.device = name, dtype, device
        self.gpu = device.type == "cuda"
        self.shares_memory, self.has_slices = not self.gpu, True
        self._dtype = DTYPES[dtype]
        self._scorers: dict[str, EmbeddedScorer] = {}
        self.world: backends.World = backends.Alone()
        _exact()

    def connect(self) -> None:
        """Join the processes that torchrun or another launcher started."""
        from drift_torch import world  # torch.distributed is slow to import

        self.world = world.connect(self.device)

    def asarray(self, values: np.ndarray) -> Tensor:
        """Host to device. Floats become the backend's dtype, integers int32, booleans bool."""
        values = np.asarray(values)
        kinds = {"f": self._dtype, "i": torch.int32, "u": torch.int32, "b": torch.bool}
        if values.dtype.kind not in kinds:
            raise ValueError(f"cannot put an array of {values.dtype} on a device")
        return torch.tensor(values, dtype=kinds[values.dtype.kind], device=self.device)

    def to_numpy(self, array: Tensor) -> np.ndarray:
        """Device to host, detached and copied; bfloat16 comes back as float32."""
        array = array.detach()
        wide = array.float() if array.dtype == torch.bfloat16 else array
        return np.array(wide.cpu().numpy())

    def evaluate(self, *arrays: Tensor) -> None:
        """Nothing to do: PyTorch computes at once."""

    def synchronize(self) -> None:
        """Wait until the device has done what it was asked."""
        if self.gpu:
            torch.cuda.synchronize(self.device)

    def inference(self) -> AbstractContextManager[None]:
        """Within it no gradient is recorded; tensors made there may be used in an update."""
        return torch.no_grad()

    def value_and_grad(
        self, policy: protocols.Policy, loss: LossFunction
    ) -> Callable[..., tuple[Tensor, dict[str, Tensor], Parameters]]:
        """A function (*arrays, onto=None) -> (loss, auxiliary, onto + gradients, by name).

        What is compiled of it is the denoiser, forward and backward, where the policy asks for it.
        """
        module, half = _module(policy), getattr(policy, "dtype", None) == torch.float16

        def run(
            *arrays: Tensor, onto: Parameters | None = None
        ) -> tuple[Tensor, dict[str, Tensor], Parameters]:
            parameters = lora.trainable(module)
            with torch.enable_grad():
                value, auxiliary = loss(*arrays)
            gradients = gradients_of(
                value, [*parameters.values()], half=half, more=self._any_of_all
            )
            detached = {name: array.detach() for name, array in auxiliary.items()}
            summed = dict(zip(parameters, gradients, strict=True))
            if onto is not None:
                summed = {name: onto[name] + g for name, g in summed.items()}
            return value.detach(), detached, summed

        return run

    def _any_of_all(self, wanted: bool) -> bool:
        """In lockstep, whether any process wants something; else whether this one does."""
        if not self.world.lockstep:
            return wanted
        return any(self.world.share(lambda: wanted, "the update"))

    def optimizer(self, policy: protocols.Policy, settings: OptimizerConfig) -> protocols.Optimizer:
        """A fresh AdamW for the policy's trainable parameters."""
        return AdamW(policy, settings)

    def policy(self, model: ModelConfig, adapter: AdapterConfig, *, seed: int) -> protocols.Policy:
        """Load a model and attach the adapter, initialised from the seed.

        Raises ValueError in one line for a model that cannot be loaded or run here.
        """
        if model.family == "embedded":
            return EmbeddedPolicy(model, adapter, seed=seed, device=self.device, dtype=self._dtype)
        if self._dtype != torch.float32:
            raise ValueError(f"model.family = '{model.family}' has no {self.dtype} reference")
        try:
            kind = self._kind(model)
            if model.shard == "none":
                return kind(model, adapter, seed=seed, device=self.device)
            from drift_torch import sharding

            return sharding.policy(
                kind, model, adapter, seed=seed, device=self.device, world=self.world
            )
        except ImportError as error:
            raise _lacking(model.family, error) if model.family in POLICIES else error from None

    @staticmethod
    def _kind(model: ModelConfig) -> Any:
        """The class of `model.family`."""
        if model.family not in POLICIES:
            return imports.resolve_class("model.family", model.family)
        module, _, name = POLICIES[model.family].partition(":")
        return getattr(importlib.import_module(module), name)

    def random_policy(
        self, model: ModelConfig, adapter: AdapterConfig, *, weights: bool = True
    ) -> protocols.Policy:
        """A published model at its full size with random weights, or without content."""
        try:
            from drift_torch import full_size

            if weights:
                return full_size.policy(model, adapter, device=self.device)
            return full_size.without_content(model, adapter)
        except ImportError as error:
            raise _lacking(model.family, error) from None

    def estimate(
        self, policy: protocols.Policy, config: Config, prompt: str, processes: int = 1
    ) -> dict[str, int]:
        """Bytes on the device at the peak of each stage of an update."""
        from drift_torch import estimate, sharding

        if not isinstance(policy, Tuned) or self.world.lockstep:  # it needs weights that are whole
            return {}
        peaks = estimate.stages(policy, config, prompt)
        return sharding.peaks_in_slices(peaks, policy, config, processes)

    def scorer(self, name: str) -> protocols.Scorer:
        """The embedded scorer "train" or "heldout", the same one at every call."""
        if name not in self._scorers:
            self._scorers[name] = EmbeddedScorer(name, device=self.device, dtype=self._dtype)
        return self._scorers[name]

    def language_model(self, name: str) -> LanguageModel:
        """A causal language model by its folder or repository name."""
        from drift_torch import rewriter

        return rewriter.LanguageModel(name, self.device)

    def copies(self, size: int, lanes: int) -> Copies:
        """What a process has in memory while `size` processes exchange data."""
        from drift_torch import world

        return world.copies(size, lanes)

    def out_of_memory(self, error: BaseException) -> bool:
        """Whether an error says that the device, or this machine, has no more memory."""
        # On a CPU PyTorch raises a plain RuntimeError.
        no_room = isinstance(error, RuntimeError) and "DefaultCPUAllocator" in str(error)
        return no_room or isinstance(error, torch.OutOfMemoryError | MemoryError)

    def compiling_seconds(self) -> float:
        """Seconds that torch.compile has taken in this process, its backward passes included."""
        dynamo = sys.modules.get("torch._dynamo.utils")
        return dynamo.calculate_time_spent()["total_wall_time"] if dynamo else 0.0

    def device_memory(self) -> dict[str, int]:
        """Bytes: `peak`, `total`, and `active` on CUDA; on a CPU, the peak is of the process."""
        if self.gpu:
            return {
                "peak": torch.cuda.max_memory_allocated(self.device),
                "total": torch.cuda.get_device_properties(self.device).total_memory,
                "active": torch.cuda.memory_allocated(self.device),
            }
        unit = 1 if sys.platform == "darwin" else 1024
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
        return {"peak": peak, "total": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")}

    def describe(self) -> dict[str, str]:
        """Versions, device and numerical switches, for `environment.json`."""
        facts = {
            "library": f"torch {torch.__version__}",
            "device": platform.processor() or platform.machine(),
            "dtype": self.dtype,
            "threads": str(torch.get_num_threads()),
            "deterministic": str(torch.are_deterministic_algorithms_enabled()),
        }
        if self.device.type == "cuda":
            facts["device"] = torch.cuda.get_device_name(self.device)
            facts["cuda"] = str(torch.version.cuda)
            facts["float32_products"] = torch.get_float32_matmul_precision()
        return facts

    def packages(self) -> dict[str, str]:
        """None."""
        return {}

    def advice(self) -> list[str]:
        """What would make this backend faster here, one sentence each."""
        threads, available = torch.get_num_threads(), cores()
        if self.device.type == "cpu" and threads < available // 2:
            return [
                f"PyTorch uses {threads} of {available} cores; unset OMP_NUM_THREADS or raise it."
            ]
        return []


class AdamW:
    """AdamW behind a gradient clip; fulfils `common.backends.Optimizer`.

    PyTorch's function, not `torch.optim.AdamW`: making one imports the compiler, which takes 2 s.
    """

    def __init__(self, policy: protocols.Policy, settings: OptimizerConfig):
        self._parameters = lora.trainable(_module(policy))
        self._settings = settings
        self._step = 0
        self._moments: dict[str, dict[str, Tensor]] = {}  # empty before the first step

    @torch.no_grad()
    def step(self, gradients: Parameters) -> float:
        """Scale gradients by min(1, max_norm / (norm + 1e-6)), update, return the norm.

        Raises NotFiniteError and changes nothing when the norm is not finite.
        """
        values = [gradients[name] for name in self._parameters]
        norm = torch.linalg.vector_norm(torch.stack([torch.linalg.vector_norm(v) for v in values]))
        if not torch.isfinite(norm):
            raise NotFiniteError(f"the gradient norm is {float(norm)}; nothing was updated")
        settings = self._settings
        scale = torch.clamp(settings.max_grad_norm / (norm + 1e-6), max=1.0)
        moments = self._moments = self._moments or self._zeros()
        adamw(
            list(self._parameters.values()),
            [value * scale for value in values],
            *(list(moments[moment].values()) for moment in MOMENTS),
            max_exp_avg_sqs=[],
            state_steps=[torch.tensor(float(self._step)) for _ in values],
            amsgrad=False,
            maximize=False,
            lr=settings.learning_rate,
            beta1=settings.beta1,
            beta2=settings.beta2,
            eps=settings.eps,
            weight_decay=settings.weight_decay,
        )
        self._step += 1
        return float(norm)

    def state(self) -> dict[str, np.ndarray]:
        """`step` (int64 scalar), `first/<name>` and `second/<name>` (moments), on the host."""
        state = {"step": np.array(self._step, dtype=np.int64)}
        for moment, arrays in (self._moments or self._zeros()).items():
            for name, array in arrays.items():
                state[f"{moment}/{name}"] = np.array(array.cpu().numpy())
        return state

    def load_state(self, state: Mapping[str, np.ndarray]) -> None:
        """Restore what `state` gave; ValueError names missing, extra or misshapen arrays."""
        shapes = {name: tuple(p.shape) for name, p in self._parameters.items()}
        expected = {f"{m}/{name}": shape for m in MOMENTS for name, shape in shapes.items()}
        check_shapes(state, {"step": ()} | expected, "optimizer state")
        self._step = int(state["step"])
        self._moments = {
            moment: {
                name: torch.tensor(state[f"{moment}/{name}"]).to(parameter.detach())
                for name, parameter in self._parameters.items()
            }
            for moment in MOMENTS
        }

    def _zeros(self) -> dict[str, dict[str, Tensor]]:
        return {
            moment: {name: torch.zeros_like(p) for name, p in self._parameters.items()}
            for moment in MOMENTS
        }


def _module(policy: protocols.Policy) -> nn.Module:
    module = getattr(policy, "module", None)
    if not isinstance(module, nn.Module):
        raise TypeError(f"{type(policy).__name__} is not a policy of the PyTorch backend")
    return module


def _lacking(family: str, error: ImportError) -> BackendUnavailableError:
    return BackendUnavailableError(
        f"model.family = '{family}' needs {error.name}: pip install 'drift-toolkit[torch]'"
    )


def _keep_freed_memory() -> None:
    """Let glibc reuse the memory of activations instead of asking for new pages each time.

    Zeroing new pages takes a quarter of a small model's forward pass.
    """
    if sys.platform != "linux":
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        most_mapped, trim_threshold = -4, -1  # M_MMAP_MAX, M_TRIM_THRESHOLD of malloc.h
        mallopt(most_mapped, 0)
        mallopt(trim_threshold, 2**31 - 1)


def _exact() -> None:
    """Full float32 products, and kernels that repeat their result bit for bit."""
    torch.set_float32_matmul_precision("highest")
    torch.backends.cudnn.allow_tf32 = False
    # cuBLAS reads it when its first handle is made; without it deterministic products fail.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    # Not `use_deterministic_algorithms`, which imports the compiler (2 s): see `Tuned._compile`.
    torch.set_deterministic_debug_mode("error")
    # Filling new memory with NaN helps debugging only, and costs time.
    setattr(torch.utils.deterministic, "fill_uninitialized_memory", False)  # noqa: B010
