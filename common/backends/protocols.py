"""The protocols between the algorithm and a tensor library: Backend, Policy, Scorer, Optimizer.

A backend package (`drift_torch`, `drift_mlx`) fulfils them; everything else in `common` is
written against them. Nothing here computes anything.

Legend of dimension letters, for the whole project: P prompts of an update, G samples of a group,
N = P G images, B a batch, L tokens, D channels, T denoising steps, H W C an image.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, Protocol

import numpy as np

from common.algorithm.schedules import FlowSpacing
from common.errors import RequestError

if TYPE_CHECKING:
    from common.config import AdapterConfig, Config, ModelConfig, OptimizerConfig
    from common.prompts.language import LanguageModel

Array = Any
"""An array of the backend's library; it follows the Python array API."""

Parameters = dict[str, Array]
"""Trainable arrays (or their gradients) by name; names and shapes are the same on every backend."""


class BackendUnavailableError(RequestError, RuntimeError):
    """The backend cannot run here; the message says why and what to install."""


@dataclass(frozen=True)
class Block:
    """`length` consecutive tokens of one text encoder, which fills their first `channels`.

    What is beyond the channels is zero padding.
    """

    length: int
    channels: int


@dataclass(frozen=True)
class Conditioning:
    """What a policy is conditioned on.

    tokens: [B, L, D]; pooled: [B, D'] or None. blocks: the parts of the tokens, in order and L
    tokens in all; () is one block of all of them.
    """

    tokens: Array
    pooled: Array | None = None
    blocks: tuple[Block, ...] = ()

    def rows(self, index: Array) -> "Conditioning":
        """The conditioning of some samples, an integer array [B']."""
        pooled = None if self.pooled is None else self.pooled[index]
        return replace(self, tokens=self.tokens[index], pooled=pooled)


Prediction = Literal["velocity", "epsilon", "v_prediction"]
"""What a model gives: the velocity of a flow, or the noise or v of a diffusion."""


@dataclass(frozen=True)
class FlowSchedule:
    """How a flow model's own sampler spaces its noise levels: see `schedules.flow_sigmas`."""

    name: FlowSpacing = "linear"
    shift: float = 1.0


@dataclass(frozen=True)
class DiffusionSchedule:
    """The noise that a diffusion model was trained with.

    alpha_bars: float64 [training steps], falling. steps_offset: the last timestep of a sampler.
    final: the alpha_bar of a finished image.
    """

    alpha_bars: np.ndarray
    steps_offset: int
    final: float


class Policy(Protocol):
    """A generative model being tuned, with its trainable parameters and its frozen reference."""

    prediction: Prediction
    schedule: FlowSchedule | DiffusionSchedule
    latent_shape: tuple[int, ...]

    def check(self, prompts: Sequence[str]) -> None:
        """Read prompts without embedding them.

        Raises ValueError naming the prompt and the word when a prompt cannot be encoded; warns,
        with their number, when prompts are longer than what is encoded of them.
        """
        ...

    def encode(self, prompts: Sequence[str]) -> Conditioning:
        """Embed clean prompts. Frozen: no gradient, the same before and after training.

        Raises ValueError naming the prompt and the word when a prompt cannot be encoded.
        """
        ...

    def null(self, count: int) -> Conditioning:
        """The unconditional branch of classifier-free guidance, for `count` samples."""
        ...

    def embed_time(self, t: np.ndarray) -> Array:
        """Host times t float64 [B] as the network wants them on the device: [B, ...].

        t: the sigma of a flow (1 = noise), the timestep of a diffusion.
        """
        ...

    def predict(
        self, x: Array, time: Array, conditioning: Conditioning, *, constant: bool = False
    ) -> Array:
        """The model's prediction for x [B, *latent_shape], differentiable in the parameters.

        time: what `embed_time` made. Samples of one batch may have different times. constant: the
        same values without a gradient.
        """
        ...

    def trace(self, x: Array, time: Array, conditioning: Conditioning) -> dict[str, Array]:
        """Every intermediate result of `predict`, by layer name in order; for parity checks."""
        ...

    def decode(self, x: Array) -> np.ndarray:
        """Clean latents [B, *latent_shape] as images: uint8 [B, H, W, 3]."""
        ...

    def parameters(self) -> Parameters:
        """The trainable arrays as they are now, sorted by name."""
        ...

    def load_parameters(self, values: Mapping[str, np.ndarray]) -> None:
        """Replace every trainable array; ValueError names missing, extra or misshapen ones."""
        ...

    def reference(self) -> AbstractContextManager[None]:
        """Within it, `predict` is the model before tuning (adapter off, or first weights)."""
        ...


class Scorer(Protocol):
    """An image-text scorer with image features; runs wherever its backend runs."""

    def reads(self, prompts: Sequence[str]) -> bool:
        """Whether it knows every word of the prompts; without that, `score` raises ValueError."""
        ...

    def score(self, images: np.ndarray, prompts: Sequence[str]) -> np.ndarray:
        """Cosine of image and text for uint8 [N, H, W, 3] and N prompts: float64 [N] in [-1, 1]."""
        ...

    def features(self, images: np.ndarray) -> np.ndarray:
        """Unit-norm image features: float32 [N, F] of images of any size."""
        ...


class Optimizer(Protocol):
    """AdamW with gradient clipping over a policy's trainable parameters."""

    def step(self, gradients: Parameters) -> float:
        """Clip, update the policy in place, return the gradient norm before clipping.

        Raises NotFiniteError and changes nothing when the norm is not finite.
        """
        ...

    def state(self) -> dict[str, np.ndarray]:
        """`step` (int64 scalar), `first/<name>` and `second/<name>` (moments), on the host."""
        ...

    def load_state(self, state: Mapping[str, np.ndarray]) -> None:
        """Restore what `state` gave, on this or on another backend."""
        ...


LossFunction = Callable[..., tuple[Array, dict[str, Array]]]
"""(*arrays) -> (scalar loss, auxiliary arrays); reads the policy's parameters by closure."""


class Backend(Protocol):
    """A tensor library on a device."""

    name: str
    """The name it was asked for: "cpu", "cuda" or "mlx"."""
    dtype: str
    """"float32", or "float64" for a reference run (torch CPU only)."""
    gpu: bool
    """Whether the device is a GPU."""

    def asarray(self, values: np.ndarray) -> Array:
        """Host to device. Floats become the backend's dtype, integers int32, booleans bool."""
        ...

    def to_numpy(self, array: Array) -> np.ndarray:
        """Device to host, detached; bfloat16 comes back as float32."""
        ...

    def evaluate(self, *arrays: Array) -> None:
        """Compute lazy arrays now (MLX); does nothing elsewhere."""
        ...

    def synchronize(self) -> None:
        """Wait until the device has done what it was asked; for clocks."""
        ...

    def inference(self) -> AbstractContextManager[None]:
        """Within it no gradient is recorded."""
        ...

    def value_and_grad(
        self, policy: Policy, loss: LossFunction
    ) -> Callable[..., tuple[Array, dict[str, Array], Parameters]]:
        """A function (*arrays, onto=None) -> (loss, auxiliary, gradients by parameter name).

        onto: gradients of the same names that these are added to. Where `policy` is compiled, the
        whole of it is, if the library can: so whatever changes from call to call is an array.
        """
        ...

    def optimizer(self, policy: Policy, settings: "OptimizerConfig") -> Optimizer:
        """A fresh optimizer for the policy's trainable parameters."""
        ...

    def policy(self, model: "ModelConfig", adapter: "AdapterConfig", *, seed: int) -> Policy:
        """Load a model and attach the adapter, initialised from the seed (the same everywhere)."""
        ...

    def random_policy(
        self, model: "ModelConfig", adapter: "AdapterConfig", *, weights: bool = True
    ) -> Policy:
        """A published model at its full size with random weights; nothing is read or downloaded.

        weights: False gives one that is of use to `estimate` alone, and takes no memory.
        """
        ...

    def estimate(self, policy: Policy, config: "Config", prompt: str) -> dict[str, int]:
        """Bytes on the device at the peak of each stage of an update; {} where it cannot be told.

        Computes nothing. prompt: one that the policy can read.
        """
        ...

    def scorer(self, name: str) -> Scorer:
        """The embedded scorer of that name, "train" or "heldout": the same one at every call."""
        ...

    def language_model(self, name: str) -> "LanguageModel":
        """A causal language model by its folder or repository name.

        Raises common.prompts.language.LanguageModelError, in one line, when it cannot be had.
        """
        ...

    def out_of_memory(self, error: BaseException) -> bool:
        """Whether an error says that the device, or this machine, has no more memory."""
        ...

    def compiling_seconds(self) -> float:
        """Seconds that compiling the model has taken in this process; 0 where it is not compiled.

        Compiling happens in the first calls of a kind, so those take that much longer.
        """
        ...

    def device_memory(self) -> dict[str, int]:
        """Bytes: `peak` since the start of the process, `total` of the device, `active` if known.

        Of a GPU that shares the machine's memory, the total is what its maker recommends.
        """
        ...

    def describe(self) -> dict[str, str]:
        """Library and device names, versions and numerical switches, for `environment.json`."""
        ...

    def advice(self) -> list[str]:
        """What would make this backend faster here, one sentence each; mostly empty."""
        ...

    def packages(self) -> dict[str, str]:
        """Packages that it can do without: what each is good for here, or why it does not work."""
        ...
