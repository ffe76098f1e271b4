"""The transformer of Stable Diffusion 3 and 3.5: image and text tokens attend to each other."""

from dataclasses import dataclass

import mlx.core as mx
from mlx import nn

from drift_mlx.networks.blocks import Blocks, Trace
from drift_mlx.networks.layers import (
    Attention,
    Conv2d,
    Embedder,
    FeedForward,
    Group,
    Modulation,
    modulate,
)

__all__ = ["TIME_WIDTH", "MMDiT", "MMDiTConfig"]

TIME_WIDTH = 256
"""Features that a time is given as."""


@dataclass(frozen=True)
class MMDiTConfig:
    """Sizes, under diffusers' names and with its defaults (those of SD3-medium, but for depth)."""

    sample_size: int = 128
    patch_size: int = 2
    in_channels: int = 16
    out_channels: int | None = 16
    num_layers: int = 18
    attention_head_dim: int = 64
    num_attention_heads: int = 18
    joint_attention_dim: int = 4096
    caption_projection_dim: int = 1152
    pooled_projection_dim: int = 2048
    pos_embed_max_size: int = 96
    dual_attention_layers: tuple[int, ...] = ()
    qk_norm: str | None = None

    QK_NORM = (None, "rms_norm")

    @property
    def width(self) -> int:
        """Channels of a token."""
        return self.num_attention_heads * self.attention_head_dim


class MMDiT(Blocks):
    """Predicts the velocity (Esser et al. 2024, arXiv:2403.03206, section 4).

    SD3.5-medium's first blocks have a second attention, over the image alone.
    """

    def __init__(self, config: MMDiTConfig):
        super().__init__()
        width, pooled, last = config.width, config.pooled_projection_dim, config.num_layers - 1
        self._config = config
        self.pos_embed = _Patches(config)
        self.time_text_embed = Group()
        self.time_text_embed.timestep_embedder = Embedder(TIME_WIDTH, width)
        self.time_text_embed.text_embedder = Embedder(pooled, width)
        self.context_embedder = nn.Linear(config.joint_attention_dim, width)
        self.transformer_blocks = [
            JointBlock(config, dual=i in config.dual_attention_layers, last=i == last)
            for i in range(config.num_layers)
        ]
        self.norm_out = Modulation(width, 2)
        patch = config.patch_size**2 * (config.out_channels or config.in_channels)
        self.proj_out = nn.Linear(width, patch)

    def __call__(
        self,
        x: mx.array,
        time: mx.array,
        tokens: mx.array,
        pooled: mx.array,
        *,
        trace: Trace | None = None,
    ) -> mx.array:
        """x: [B, C, H, W]; time: features [B, 256]; tokens: [B, L, D]; pooled: [B, D']."""
        keep = self.keeper(trace)
        embed = self.time_text_embed
        h = keep("pos_embed", self.pos_embed(x))
        e = embed.timestep_embedder(time.astype(x.dtype)) + embed.text_embedder(pooled)
        e = keep("time_text_embed", e)
        context = keep("context_embedder", self.context_embedder(tokens))
        for i, block in enumerate(self.transformer_blocks):
            h, context = self.run(block, h, context, e)
            keep(f"transformer_blocks.{i}", h if i == len(self.transformer_blocks) - 1 else context)
        scale, shift = self.norm_out(e)
        h = keep("norm_out", modulate(h, shift, scale))
        return self._unpatched(keep("proj_out", self.proj_out(h)), *x.shape[2:])

    def _unpatched(self, patches: mx.array, height: int, width: int) -> mx.array:
        """Patches [B, L, p p C], each as (py, px, c), to [B, C, H, W]."""
        p = self._config.patch_size
        x = patches.reshape(-1, height // p, width // p, p, p, patches.shape[-1] // p**2)
        return x.transpose(0, 5, 1, 3, 2, 4).reshape(len(x), -1, height, width)


class JointBlock(nn.Module):
    """One block: both streams modulated, attending together, each with an MLP of its own.

    dual: the image also attends to itself alone. last: nothing comes out for the text.
    """

    def __init__(self, config: MMDiTConfig, *, dual: bool, last: bool):
        super().__init__()
        width, normed = config.width, config.qk_norm is not None
        sizes = width, config.num_attention_heads, config.attention_head_dim
        self._dual, self._last = dual, last
        self.norm1 = Modulation(width, 9 if dual else 6)
        self.norm1_context = Modulation(width, 2 if last else 6)
        self.attn = Attention(*sizes, normed=normed, context=width, context_out=not last)
        if dual:
            self.attn2 = Attention(*sizes, normed=normed)
        self.ff = FeedForward(width)
        if not last:
            self.ff_context = FeedForward(width)

    def __call__(self, x: mx.array, context: mx.array, e: mx.array) -> tuple[mx.array, mx.array]:
        """x: [B, L, D] of the image; context: [B, L', D] of the text; e: [B, D]."""
        shift1, scale1, gate1, shift2, scale2, gate2, *own = self.norm1(e)
        context_shift, context_scale, *rest = self.norm1_context(e)
        if self._last:  # this norm is diffusers' other kind, which says its two in this order
            context_scale, context_shift = context_shift, context_scale
        attended, of_context = self.attn.joint(
            modulate(x, shift1, scale1), modulate(context, context_shift, context_scale)
        )
        before = x
        x = x + gate1 * attended
        if self._dual:
            shift, scale, gate = own
            x = x + gate * self.attn2(modulate(before, shift, scale))
        x = x + gate2 * self.ff(modulate(x, shift2, scale2))
        if of_context is None:
            return x, context
        gate, shift, scale, gate_ff = rest
        context = context + gate * of_context
        return x, context + gate_ff * self.ff_context(modulate(context, shift, scale))


class _Patches(nn.Module):
    """Patches of an image as tokens, and the middle of a frozen table of positions."""

    def __init__(self, config: MMDiTConfig):
        super().__init__()
        self._size = config.pos_embed_max_size
        self.proj = Conv2d(
            config.in_channels, config.width, config.patch_size, stride=config.patch_size
        )
        self.pos_embed = mx.zeros((1, self._size**2, config.width))

    def __call__(self, x: mx.array) -> mx.array:
        """[B, C, H, W] to [B, L, D]."""
        patches = self.proj(x.transpose(0, 2, 3, 1))
        B, rows, columns, width = patches.shape
        top, left = (self._size - rows) // 2, (self._size - columns) // 2
        table = self.pos_embed.reshape(self._size, self._size, width)
        patches = patches + table[top : top + rows, left : left + columns]
        return patches.reshape(B, rows * columns, width)
