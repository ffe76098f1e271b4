"""How much memory a run needs, from the shapes of what its networks give: nothing is computed.

MLX builds a graph before it computes anything, so a network can be called for the shapes alone.
What its layers give is added up; the elementwise work between them is counted by factors that were
measured. Activations are therefore right within a factor of two, weights exactly.

What a layer needs while it works depends on the device: a CPU unfolds an image for a convolution,
Metal may transform it, and attention has its scores in memory where no fused kernel takes them.
The factors and the CPU's workspace are measured; Metal's is read off its kernels in MLX's source.
"""

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import mlx.core as mx
import numpy as np
from mlx import nn
from mlx.utils import tree_flatten

from common.backends import Conditioning
from common.config import Config
from common.sampling.process import make_process
from drift_mlx import lora
from drift_mlx.embedded import Block
from drift_mlx.networks import layers
from drift_mlx.networks.blocks import Blocks

__all__ = ["Tally", "counted", "decoding", "embedded_stages", "nbytes", "stages", "weight_nbytes"]

KEPT = 1.7
"""Bytes in memory in a backward pass, per byte of the layers' results. Measured on a CPU on
networks of 36 to 254 MB of results: 1.3 (SD3, UNet), 1.7 (FLUX)."""

RECOMPUTED = 4.5
"""The same with gradient checkpointing, per byte of the largest block: 2.5 to 4.5."""

LIVE = 6.0
"""The most that a forward pass holds at once besides workspace, per byte of its largest result:
1.2 to 5.7."""

ELEMENTWISE = 10.0
"""Bytes of the elementwise results in a block of the emoji model, per byte of what enters it."""

FUSED = (64, 80, 128)
"""Widths of a head whose attention Metal computes without keeping its scores."""


@dataclass
class Tally:
    """Bytes that layers gave: in each block, outside of blocks, at most at once.

    on_cpu: it is for a CPU, else for Metal. inputs: what entered each block. workspace: the most
    that a layer needs besides what enters it and what it gives.
    """

    on_cpu: bool = True
    blocks: list[int] = field(default_factory=list)
    inputs: list[int] = field(default_factory=list)
    outside: int = 0
    largest: int = 0
    workspace: float = 0.0
    _inside: bool = False

    def add(self, size: int, *, fused: bool = False) -> None:
        """Count a result; fused: one that only a backward pass has in memory."""
        if not fused:
            self.largest = max(self.largest, size)
        if self._inside:
            self.blocks[-1] += size
        else:
            self.outside += size

    def training(self, *, checkpointing: bool) -> float:
        """Peak of a forward and backward pass."""
        whole = KEPT * (sum(self.blocks) + self.outside)
        if not checkpointing:
            return whole
        spared = sum(self.inputs) + RECOMPUTED * max(self.blocks, default=0) + KEPT * self.outside
        return min(spared, whole)  # of two or three blocks nothing is spared

    def inference(self) -> float:
        """Peak of a forward pass, whose results are freed after their use."""
        return LIVE * self.largest + self.workspace + max(self.inputs, default=0)

    def add_attention(self, result: mx.array, keys: int) -> None:
        """Count what attention to so many keys gives, [B, h, L, d], and its scores."""
        self.add(result.nbytes)
        width = result.shape[-1]
        scores = result.nbytes // width * keys  # one for each pair of tokens
        self.add(scores, fused=True)
        if self.on_cpu or width not in FUSED:
            self.need(scores)

    @contextmanager
    def block(self, *arrays: mx.array) -> Iterator[None]:
        """Results within it count for one block, whose inputs are the arrays."""
        self.blocks.append(0)
        self.inputs.append(sum(array.nbytes for array in arrays))
        self._inside = True
        try:
            yield
        finally:
            self._inside = False

    def need(self, size: float) -> None:
        """Count the workspace of a layer."""
        self.workspace = max(self.workspace, size)


class _CountedLayer(nn.Module):
    """Mixin of a layer whose results are added up."""

    tally: Tally

    def __call__(self, *arrays: mx.array) -> mx.array:
        result = super().__call__(*arrays)  # type: ignore[misc]
        self.tally.add(result.nbytes)
        return result


class _CountedMergedLinear(_CountedLayer, lora.LoRALinear):
    def __call__(self, x: mx.array) -> mx.array:  # type: ignore[override]
        merged = self.base.weight.nbytes
        self.tally.add(merged, fused=True)
        self.tally.need(2 * merged)
        return super().__call__(x)


class _CountedByItsBase(nn.Module):
    """Mixin of an adapted layer whose own linear is counted."""


class _CountedConv2d(_CountedLayer, layers.Conv2d):
    def __call__(self, x: mx.array) -> mx.array:  # type: ignore[override]
        result = super().__call__(x)
        self.tally.need(_convolving(x, self, result, on_cpu=self.tally.on_cpu))
        return result


class _CountedAttention(layers.Attention):
    tally: Tally

    def attend(self, q: mx.array, k: mx.array, v: mx.array) -> mx.array:
        result = super().attend(q, k, v)
        self.tally.add_attention(result, k.shape[2])
        return result


class _CountedBlocks(Blocks):
    tally: Tally

    def run(self, block: Callable[..., Any], *arrays: mx.array) -> Any:
        with self.tally.block(*arrays):
            return block(*arrays)


class _CountedEmojiBlock(Block):
    """A block of the emoji model, which calls attention as a function."""

    tally: Tally

    def __call__(self, h: mx.array, modulation: mx.array) -> mx.array:
        with self.tally.block(h):
            self.tally.add(round(ELEMENTWISE * h.nbytes), fused=True)
            self.tally.need(2 * ELEMENTWISE * h.nbytes)
            return super().__call__(h, modulation)

    def attention(self, h: mx.array) -> mx.array:
        batch, length, _ = h.shape
        scores = h.itemsize * batch * self.heads * length**2
        self.tally.add(scores, fused=True)
        self.tally.need(scores)
        return super().attention(h)


COUNTED: dict[type[nn.Module], type[nn.Module]] = {
    nn.Linear: _CountedLayer,
    nn.QuantizedLinear: _CountedLayer,
    nn.LayerNorm: _CountedLayer,
    nn.RMSNorm: _CountedLayer,
    layers.GroupNorm: _CountedLayer,
    layers.Conv2d: _CountedConv2d,
    layers.Attention: _CountedAttention,
    Blocks: _CountedBlocks,
    Block: _CountedEmojiBlock,
    lora.MixedLoRALinear: _CountedByItsBase,
    lora.LoRALinear: _CountedMergedLinear,
}
"""Class of a module -> the mixin that reports its results to a tally."""


def counted(network: nn.Module, tally: Tally) -> Any:
    """A copy of a network that reports to a tally and computes nothing; its arrays are shared."""
    arrays = {id(array): array for _, array in tree_flatten(network.parameters())}
    copied = copy.deepcopy(network, arrays)
    parts: list[Any] = copied.modules()
    for part in parts:
        mixed = next((COUNTED[kind] for kind in type(part).__mro__ if kind in COUNTED), None)
        if mixed is not None:
            part.__class__ = type(type(part).__name__, (mixed, type(part)), {})
            part.tally = tally
        if isinstance(part, layers.Conv2d):
            part.eager = False
    return copied


def stages(policy: Any, config: Config, *, on_cpu: bool) -> dict[str, int]:
    """Bytes at the peak of each stage of an update, the weights and the optimizer's state included.

    policy: one over a diffusers folder; none of its weights is read from disk. on_cpu: on a CPU,
    else on Metal.
    """
    encoders = sum(part.size for part in policy._encoders.values())
    offload = config.model.offload
    beside = 0 if offload else encoders + policy._vae.size
    always = _tuned_nbytes(policy) + beside
    vae = decoding(policy, config, on_cpu=on_cpu)
    rollout, update = _denoising(policy, config, on_cpu=on_cpu, shaped=policy.shaped)
    peaks = {
        "encoding": encoders if offload else 0,
        "rollout": rollout,
        "decoding": (policy._vae.size if offload else 0) + vae,
        "update": update,
    }
    return {stage: round(always + size) for stage, size in peaks.items()}


def embedded_stages(policy: Any, config: Config, *, on_cpu: bool) -> dict[str, int]:
    """The same of the emoji model, which has no encoders and no VAE."""
    always = _tuned_nbytes(policy)
    rollout, update = _denoising(policy, config, on_cpu=on_cpu, shaped=policy.null)
    return {"rollout": round(always + rollout), "update": round(always + update)}


def _tuned_nbytes(policy: Any) -> int:
    """Bytes of the denoiser, of the copy of it before tuning, and of AdamW's two moments."""
    base = 0 if policy._base is None else nbytes(policy._base.parameters())
    trained = nbytes(policy.module.trainable_parameters())
    return nbytes(policy.module.parameters()) + base + 2 * trained


def _denoising(
    policy: Any, config: Config, *, on_cpu: bool, shaped: Callable[[int], Conditioning]
) -> tuple[float, float]:
    """What a rollout's step, and a micro-batch of an update, need besides the weights."""
    rollout, settings = config.rollout, config.objective
    branches = 1 if make_process(policy, rollout).guidance == 1.0 else 2
    at_once = branches if rollout.guidance_batch == "joined" else 1
    sampled = _tally(policy, at_once * rollout.batch_size, on_cpu, shaped)
    trained_on = _tally(policy, settings.micro_batch, on_cpu, shaped)
    kept = trained_on.training(checkpointing=config.model.gradient_checkpointing)
    if rollout.guidance_gradient == "both":
        kept *= branches
    return sampled.inference(), nbytes(policy.module.trainable_parameters()) + kept


def weight_nbytes(policy: Any) -> int:
    """Bytes of the weights that a policy over a diffusers folder has in memory at once."""
    weights = nbytes(policy.module.parameters())
    encoders = sum(part.size for part in policy._encoders.values())
    if policy._settings.offload:
        return weights + max(encoders, policy._vae.size)
    return weights + encoders + policy._vae.size


def nbytes(tree: Any) -> int:
    """Bytes of all arrays of a tree, each counted once."""
    flat: Any = tree_flatten(tree)
    return sum({id(array): array.nbytes for _, array in flat}.values())


def _tally(policy: Any, batch: int, on_cpu: bool, shaped: Callable[[int], Conditioning]) -> Tally:
    tally = Tally(on_cpu)
    x = mx.zeros((batch, *policy.latent_shape))
    time = policy.embed_time(np.zeros(batch))
    conditioning = shaped(batch)
    with policy.denoising_with(counted(policy.module, tally)):
        policy._forward(x.astype(conditioning.tokens.dtype), time, conditioning)
    return tally


def decoding(policy: Any, config: Config, *, on_cpu: bool) -> float:
    """Bytes at the peak of decoding a rollout's batch, the VAE's weights not included."""
    tally, side = Tally(on_cpu), policy.latent_shape[1]
    batch = 1 if config.model.vae_slicing else config.rollout.batch_size
    if config.model.vae_tiling:
        side = min(side, policy._vae_config.sample_size // policy._vae_config.scale)
    with policy._vae.present() as (decoder, _):
        counted(decoder, tally)(mx.zeros((batch, policy.latent_shape[0], side, side)))
    return tally.inference()


def _convolving(x: mx.array, layer: layers.Conv2d, y: mx.array, *, on_cpu: bool) -> float:
    """Workspace of a convolution of x to y, images [B, H, W, C].

    A CPU pads the image, then copies what each pixel of y is made of, k x k pixels, in float32.
    Metal's Winograd F(6 x 6, 3 x 3) pads it, then holds 8 x 8 numbers for each 6 x 6 pixels of x
    and of y; it is taken for many channels, and otherwise nothing is unfolded.
    """
    kernel, pixels = layer.weight.shape[2], y.shape[0] * y.shape[1] * y.shape[2]
    before, after = x.shape[-1], y.shape[-1]
    if on_cpu:
        return 4 * (x.size + pixels * kernel**2 * before)
    channels, even = before + after, before % 32 == 0 and after % 32 == 0
    many = channels >= 512 or (channels >= 256 and x[0].size >= 2**18)
    if kernel == 3 and layer.stride == 1 and even and many:
        return x.nbytes + 64 / 36 * (x.nbytes + y.nbytes)
    return 0.0
