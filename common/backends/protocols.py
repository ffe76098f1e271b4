"""The protocols of what a backend makes, Policy, Scorer and Optimizer, and the data between them.

A backend package (`drift_torch`, `drift_mlx`) fulfils them; everything else in `common` is
written against them. Nothing here computes anything.

Legend of dimension letters, for the whole project: P prompts of an update, G samples of a group,
N = P G images, B a batch, L tokens, D channels, T denoising steps, H W C an image.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import Any, Literal, Protocol

import numpy as np

from common.algorithm.schedules import DiffusionSpacing, FlowConversion, FlowSpacing
from common.errors import RequestError

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
    """The input of a policy that comes from a prompt.

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
"""The prediction of a model: the velocity of a flow, or the noise or v of a diffusion."""


@dataclass(frozen=True)
class FlowSchedule:
    """How a flow model's own sampler spaces its noise levels: see `schedules.flow_sigmas`."""

    name: FlowSpacing = "linear"
    shift: float = 1.0
    end_shift: float | None = None
    terminal: float = 0.0
    conversion: FlowConversion = "none"


@dataclass(frozen=True)
class DiffusionSchedule:
    """The noise that a diffusion model was trained with, and the timesteps of its sampler.

    alpha_bars: float64 [training steps], falling. steps_offset: the last timestep of a sampler
    with leading spacing. final: the alpha_bar of a finished image. spacing: of the timesteps, see
    `schedules.ddim_timesteps`.
    """

    alpha_bars: np.ndarray
    steps_offset: int
    final: float
    spacing: DiffusionSpacing = "leading"


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

    def can_read(self, prompts: Sequence[str]) -> bool:
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
