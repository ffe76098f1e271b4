"""The transformer of FLUX.1: blocks of two streams, then blocks of one, with rotary positions."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import mlx.core as mx
import numpy as np
from mlx import nn

from drift_mlx.networks.blocks import Blocks, Trace
from drift_mlx.networks.layers import (
    Attention,
    Embedder,
    FeedForward,
    Group,
    Modulation,
    gelu,
    modulate,
)
from drift_mlx.networks.mmdit import TIME_WIDTH

__all__ = ["Flux", "FluxConfig"]

Turn = Callable[[mx.array], mx.array]
"""Puts positions into queries or keys [B, h, L, d]."""

THETA = 1e4
"""Base of the rotary frequencies."""


@dataclass(frozen=True)
class FluxConfig:
    """Sizes, under diffusers' names and with its defaults."""

    in_channels: int = 64
    out_channels: int | None = None
    num_layers: int = 19
    num_single_layers: int = 38
    attention_head_dim: int = 128
    num_attention_heads: int = 24
    joint_attention_dim: int = 4096
    pooled_projection_dim: int = 768
    guidance_embeds: bool = False
    axes_dims_rope: tuple[int, ...] = (16, 56, 56)

    @property
    def width(self) -> int:
        """Channels of a token."""
        return self.num_attention_heads * self.attention_head_dim


class Flux(Blocks):
    """Predicts the velocity of packed latents (Black Forest Labs 2024)."""

    def __init__(self, config: FluxConfig):
        super().__init__()
        width = config.width
        self._config = config
        self.time_text_embed = embed = Group()
        embed.timestep_embedder = Embedder(TIME_WIDTH, width)
        if config.guidance_embeds:
            embed.guidance_embedder = Embedder(TIME_WIDTH, width)
        embed.text_embedder = Embedder(config.pooled_projection_dim, width)
        self.context_embedder = nn.Linear(config.joint_attention_dim, width)
        self.x_embedder = nn.Linear(config.in_channels, width)
        self.transformer_blocks = [DoubleBlock(config) for _ in range(config.num_layers)]
        self.single_transformer_blocks = [
            SingleBlock(config) for _ in range(config.num_single_layers)
        ]
        self.norm_out = Modulation(width, 2)
        self.proj_out = nn.Linear(width, config.out_channels or config.in_channels)

    def __call__(
        self,
        x: mx.array,
        time: mx.array,
        tokens: mx.array,
        pooled: mx.array,
        *,
        guidance: mx.array | None,
        size: tuple[int, int],
        trace: Trace | None = None,
    ) -> mx.array:
        """Velocity like x.

        Args:
            x: packed latents [B, L, C], row by row.
            time: features of the time [B, 256].
            tokens: [B, L', D] of T5.
            pooled: [B, D'] of CLIP.
            guidance: features of the guidance scale [B, 256], for a model that has an input for it.
            size: rows and columns of the L packed latents.
            trace: filled with the results of the parts.
        """
        keep, embed = self.keeper(trace), self.time_text_embed
        h = keep("x_embedder", self.x_embedder(x))
        e = embed.timestep_embedder(time.astype(x.dtype))
        if guidance is not None:
            e = e + embed.guidance_embedder(guidance.astype(x.dtype))
        e = keep("time_text_embed", e + embed.text_embedder(pooled))
        context = keep("context_embedder", self.context_embedder(tokens))
        cos, sin = rotary(tokens.shape[1], size, self._config.axes_dims_rope)
        for i, block in enumerate(self.transformer_blocks):
            h, context = self.run(block, h, context, e, cos, sin)
            keep(f"transformer_blocks.{i}", context)
        length = context.shape[1]
        both = mx.concatenate([context, h], axis=1)
        for i, block in enumerate(self.single_transformer_blocks):
            both = self.run(block, both, e, cos, sin)
            keep(f"single_transformer_blocks.{i}", both[:, :length])
        scale, shift = self.norm_out(e)
        h = keep("norm_out", modulate(both[:, length:], shift, scale))
        return keep("proj_out", self.proj_out(h))


class DoubleBlock(nn.Module):
    """Both streams modulated, attending together, each with an MLP of its own."""

    def __init__(self, config: FluxConfig):
        super().__init__()
        width = config.width
        self.norm1, self.norm1_context = Modulation(width, 6), Modulation(width, 6)
        self.attn = Attention(
            width,
            config.num_attention_heads,
            config.attention_head_dim,
            normed=True,
            context=width,
        )
        self.ff, self.ff_context = FeedForward(width), FeedForward(width)

    def __call__(
        self, x: mx.array, context: mx.array, e: mx.array, cos: mx.array, sin: mx.array
    ) -> tuple[mx.array, mx.array]:
        """x: [B, L, D] of the image; context: [B, L', D] of the text; e: [B, D]."""
        shift1, scale1, gate1, shift2, scale2, gate2 = self.norm1(e)
        shift3, scale3, gate3, shift4, scale4, gate4 = self.norm1_context(e)
        attended, of_context = self.attn.joint(
            modulate(x, shift1, scale1),
            modulate(context, shift3, scale3),
            turn=partial(_turned, cos=cos, sin=sin),
        )
        assert of_context is not None
        x = x + gate1 * attended
        x = x + gate2 * self.ff(modulate(x, shift2, scale2))
        context = context + gate3 * of_context
        context = context + gate4 * self.ff_context(modulate(context, shift4, scale4))
        return x, _finite(context)


class SingleBlock(nn.Module):
    """Attention and MLP side by side over text and image as one stream."""

    def __init__(self, config: FluxConfig):
        super().__init__()
        width = config.width
        self.norm = Modulation(width, 3)
        self.proj_mlp = nn.Linear(width, 4 * width)
        self.proj_out = nn.Linear(5 * width, width)
        self.attn = Attention(
            width, config.num_attention_heads, config.attention_head_dim, normed=True, out=False
        )

    def __call__(self, x: mx.array, e: mx.array, cos: mx.array, sin: mx.array) -> mx.array:
        """x: [B, L' + L, D], the text first; e: [B, D]."""
        shift, scale, gate = self.norm(e)
        normed = modulate(x, shift, scale)
        attended = self.attn(normed, turn=partial(_turned, cos=cos, sin=sin))
        both = mx.concatenate([attended, gelu(self.proj_mlp(normed))], axis=-1)
        return _finite(x + gate * self.proj_out(both))


def rotary(length: int, size: tuple[int, int], axes: tuple[int, ...]) -> tuple[mx.array, mx.array]:
    """Cosines and sines of the positions of `length` text tokens, then of an image's: [L, d / 2].

    A position is (0, row, column), (0, 0, 0) for text; each axis has its own channels of a head.
    Angles are computed in float64.
    """
    rows, columns = np.indices(size).reshape(2, -1)
    positions = np.zeros((length + len(rows), len(axes)))
    positions[length:, 1], positions[length:, 2] = rows, columns
    angles = [
        positions[:, [axis]] * THETA ** -(np.arange(0, width, 2) / width)
        for axis, width in enumerate(axes)
    ]
    angle = np.concatenate(angles, axis=1)
    return mx.array(np.cos(angle).astype(np.float32)), mx.array(np.sin(angle).astype(np.float32))


def _turned(x: mx.array, *, cos: mx.array, sin: mx.array) -> mx.array:
    """Neighbouring channels of [B, h, L, d] turned by an angle, in float32."""
    pairs = x.astype(mx.float32).reshape(*x.shape[:-1], -1, 2)
    a, b = pairs[..., 0], pairs[..., 1]
    return mx.stack([a * cos - b * sin, b * cos + a * sin], -1).reshape(x.shape).astype(x.dtype)


def _finite(x: mx.array) -> mx.array:
    """In float16, what is beyond its largest number becomes it."""
    return mx.clip(x, -65504, 65504) if x.dtype == mx.float16 else x
