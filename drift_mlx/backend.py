"""MLX as a backend: arrays, gradients, AdamW, and what the device is."""

import ctypes
import importlib
import os
import platform
import re
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from importlib.metadata import version
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np

from common import backends, imports
from common.backends import BackendUnavailableError, LossFunction, Parameters, protocols
from common.backends.world import Copies
from common.config import AdapterConfig, Config, ModelConfig, OptimizerConfig
from common.machine import cores
from common.prompts.language import LanguageModel
from drift_mlx import OPENBLAS, kit, metal, world
from drift_mlx.adamw import AdamW
from drift_mlx.compiling import check_compiler, spent
from drift_mlx.embedded import EmbeddedPolicy, EmbeddedScorer
from drift_mlx.gradients import Gradients

__all__ = ["AdamW", "Backend", "mlx"]

NO_ROOM = re.compile(r"\[[\w:]*malloc\w*\]|\[METAL\].*(Insufficient|OutOfMemory)", re.IGNORECASE)

POLICIES = {
    "sd15": "drift_mlx.sd15:SD15Policy",
    "sd3": "drift_mlx.sd3:SD3Policy",
    "flux": "drift_mlx.flux:FluxPolicy",
}
"""Model families over diffusers pipelines; each is imported when it is asked for."""


def mlx(dtype: str = "float32") -> backends.Backend:
    """MLX on its default device: Metal, CUDA, or the CPU.

    Raises BackendUnavailableError for float64, which MLX computes partly in float32.
    """
    if dtype == "float64":
        raise BackendUnavailableError(
            "MLX computes parts of float64 in float32; the float64 reference is backend cpu"
        )
    return Backend("mlx", mx.default_device(), dtype)


SLOW = "about 25 times slower than OpenBLAS"
"""The cost of a matrix product with the reference BLAS of MLX's Linux wheel."""

ON_CPU = "MLX finds neither Metal nor CUDA: it computes on the CPU"


class Backend:
    """MLX on one device; fulfils `common.backends.Backend`."""

    def __init__(self, name: str, device: mx.Device, dtype: str):
        if dtype != "float32":
            raise ValueError(f"dtype '{dtype}' of backend {name}; valid: float32")
        self.name, self.dtype, self.device = name, dtype, device
        self.gpu = device.type == mx.DeviceType.gpu
        self.shares_memory, self.has_slices = True, False
        self._limits = metal.set_limits(mx) if self.gpu else None
        self._scorers: dict[str, EmbeddedScorer] = {}
        self.world: backends.World = backends.Alone()

    def connect(self) -> None:
        """Join the processes that mlx.launch started."""
        self.world = world.connect()

    def asarray(self, values: np.ndarray) -> mx.array:
        """Host to device. Floats become the backend's dtype, integers int32, booleans bool."""
        values = np.asarray(values)
        kinds = {"f": mx.float32, "i": mx.int32, "u": mx.int32, "b": mx.bool_}
        if values.dtype.kind not in kinds:
            raise ValueError(f"cannot put an array of {values.dtype} on a device")
        return mx.array(values, dtype=kinds[values.dtype.kind])

    def to_numpy(self, array: mx.array) -> np.ndarray:
        """Device to host, copied; bfloat16 comes back as float32."""
        return np.array(array.astype(mx.float32) if array.dtype == mx.bfloat16 else array)

    def evaluate(self, *arrays: mx.array) -> None:
        """Compute lazy arrays now."""
        mx.eval(*arrays)

    def synchronize(self) -> None:
        """Wait until the device has done what it was asked."""
        mx.synchronize()

    def inference(self) -> AbstractContextManager[None]:
        """Nothing to switch off: MLX records no gradient outside `value_and_grad`."""
        return nullcontext()

    def value_and_grad(
        self, policy: protocols.Policy, loss: LossFunction
    ) -> Callable[..., tuple[mx.array, dict[str, mx.array], Parameters]]:
        """A function (*arrays, onto=None) -> (loss, auxiliary, onto + gradients, by name)."""
        return Gradients(policy, loss)

    def optimizer(self, policy: protocols.Policy, settings: OptimizerConfig) -> protocols.Optimizer:
        """A fresh AdamW for the policy's trainable parameters."""
        return AdamW(policy, settings)

    def policy(self, model: ModelConfig, adapter: AdapterConfig, *, seed: int) -> protocols.Policy:
        """Load a model and attach the adapter, initialised from the seed.

        Raises ValueError in one line for a model that cannot be loaded or run here.
        """
        if model.compile:
            check_compiler()
        if model.family == "embedded":
            return EmbeddedPolicy(model, adapter, seed=seed)
        if model.family not in POLICIES:
            return imports.resolve_class("model.family", model.family)(model, adapter, seed=seed)
        module, _, name = POLICIES[model.family].partition(":")
        try:
            kind = getattr(importlib.import_module(module), name)
            policy = kind(model, adapter, seed=seed)
        except ImportError as error:
            raise _lacking(model.family, error) from None
        _check_room(policy, model)
        return policy

    def random_policy(
        self, model: ModelConfig, adapter: AdapterConfig, *, weights: bool = True
    ) -> protocols.Policy:
        """A published model at its full size; its weights are drawn when they are first used."""
        if model.compile:
            check_compiler()
        try:
            from drift_mlx import full_size
        except ImportError as error:
            raise _lacking(model.family, error) from None
        return full_size.policy(model, adapter)

    def estimate(
        self, policy: protocols.Policy, config: Config, prompt: str, processes: int = 1
    ) -> dict[str, int]:
        """Bytes at the peak of each stage of an update, from shapes; {} for other classes."""
        from drift_mlx import estimate
        from drift_mlx.diffusion import DiffusersPolicy

        if isinstance(policy, EmbeddedPolicy):
            return estimate.embedded_stages(policy, config, on_cpu=not self.gpu)
        if not isinstance(policy, DiffusersPolicy):
            return {}
        return estimate.stages(policy, config, on_cpu=not self.gpu)

    def scorer(self, name: str) -> protocols.Scorer:
        """The embedded scorer "train" or "heldout", the same one at every call."""
        if name not in self._scorers:
            self._scorers[name] = EmbeddedScorer(name)
        return self._scorers[name]

    def language_model(self, name: str) -> LanguageModel:
        """A causal language model by its folder or repository name."""
        from drift_mlx import rewriter

        return rewriter.LanguageModel(name)

    def copies(self, size: int, lanes: int) -> Copies:
        """What a process has in memory while `size` processes exchange data."""
        return world.copies(size, lanes)

    def out_of_memory(self, error: BaseException) -> bool:
        """Whether an error says that the device, or this machine, has no more memory."""
        # MLX raises a plain RuntimeError that begins with the allocator's name.
        no_room = isinstance(error, RuntimeError) and bool(NO_ROOM.match(str(error)))
        return no_room or isinstance(error, MemoryError)

    def compiling_seconds(self) -> float:
        """Seconds of tracing, and on a CPU of g++; what Metal's compiler takes is not counted."""
        return spent.seconds

    def device_memory(self) -> dict[str, int]:
        """Bytes that MLX has allocated: `peak` since the start, `active` now, `total` allowed."""
        allocated = {"peak": mx.get_peak_memory(), "active": mx.get_active_memory()}
        return allocated | {"total": _room()}

    def describe(self) -> dict[str, str]:
        """Versions, device and numerical switches, for `environment.json`."""
        facts = {
            "library": f"mlx {version('mlx')}",
            "device": f"{_device(self.device)} ({platform.processor() or platform.machine()})",
            "dtype": self.dtype,
            "tf32": os.environ["MLX_ENABLE_TF32"],
            "threads": os.environ.get("OMP_NUM_THREADS", str(cores())),
        }
        if not self.gpu:
            facts["blas"] = _blas()
        return facts | (metal.describe(self._limits) if self._limits else {})

    def packages(self) -> dict[str, str]:
        """DiffusionKit, whose published weights `model.weights` reads."""
        return {"diffusionkit": kit.verdict()}

    def advice(self) -> list[str]:
        """What would make this backend faster here, one sentence each: none on a GPU."""
        if self.gpu:
            return []
        if platform.system() != "Linux":
            return [f"{ON_CPU}: --backend cpu, PyTorch, may be faster."]
        if _openblas_loaded():
            return [
                f"{ON_CPU}, with OpenBLAS; PyTorch, --backend cpu, was measured 2.7 times as fast."
            ]
        slow = f"{ON_CPU} and multiplies matrices with reference BLAS, {SLOW}"
        try:
            ctypes.CDLL(OPENBLAS)
        except OSError:
            return [
                f"{slow}, which is not installed: apt install libopenblas0-pthread "
                "(Debian, Ubuntu) is all it takes; or take PyTorch, --backend cpu."
            ]
        return [
            f"{slow}, which is installed, but MLX was imported before drift_mlx: "
            f"start with LD_PRELOAD={OPENBLAS}."
        ]


def _check_room(policy: Any, model: ModelConfig) -> None:
    """Raise ValueError where the weights alone are more than this machine's memory.

    None of them is read before they are used.
    """
    from drift_mlx import estimate

    needed, room = estimate.weight_nbytes(policy), _room()
    if needed <= room:
        return
    ways = {
        "model.offload = true": not model.offload,
        "model.dtype = 'bfloat16'": model.dtype == "float32",
        "model.quantize = 8": not model.quantize,
        "model.quantize = 4": model.quantize == 8,
    }
    smaller = next((way for way, open_ in ways.items() if open_), "a smaller model")
    raise ValueError(
        f"model.path = '{model.path}' needs {needed / 1e9:.1f} GB for its weights, this machine "
        f"has {room / 1e9:.1f}: try {smaller} (`drift recipes` lists what fits a Mac)"
    )


def _lacking(family: str, error: ImportError) -> BackendUnavailableError:
    return BackendUnavailableError(
        f"model.family = '{family}' needs {error.name}: pip install 'drift-toolkit[mlx]'"
    )


def _room() -> int:
    """Bytes that weights may take here: of a GPU what its maker recommends, else the memory."""
    info = mx.device_info()
    for key in (metal.RECOMMENDED, metal.MEMORY, "total_memory"):
        if (size := int(info.get(key, 0))) > 0:
            return size
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _blas() -> str:
    """The library that multiplies matrices on the CPU, and what a slow one costs."""
    if platform.system() != "Linux":
        return "Accelerate" if platform.system() == "Darwin" else "unknown"
    return "OpenBLAS" if _openblas_loaded() else f"reference BLAS, {SLOW}"


def _openblas_loaded() -> bool:
    # numpy carries an OpenBLAS of its own, called libscipy_openblas, which is of no use to MLX.
    maps = Path("/proc/self/maps")
    return maps.exists() and "/libopenblas" in maps.read_text()


def _device(device: mx.Device) -> str:
    if device.type == mx.DeviceType.cpu:
        return "CPU"
    return "Metal" if mx.metal.is_available() else "CUDA"
