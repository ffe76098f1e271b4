"""The UNet of Stable Diffusion 1 and 2: convolutions, and attention to a prompt, at four scales."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import mlx.core as mx
from mlx import nn

from drift_mlx.networks.blocks import Blocks, Trace
from drift_mlx.networks.layers import (
    Attention,
    Conv2d,
    Embedder,
    FeedForward,
    Group,
    GroupNorm,
    ResnetBlock,
    Upsample,
)

__all__ = ["UNet", "UNetConfig"]

DOWN = ("CrossAttnDownBlock2D", "DownBlock2D")
UP = ("CrossAttnUpBlock2D", "UpBlock2D")


@dataclass(frozen=True)
class UNetConfig:
    """Sizes, under diffusers' names and with its defaults.

    attention_head_dim: the number of heads; diffusers keeps the name that it was first given.
    FIXED: keys that other UNets set otherwise, and what they are here.
    """

    sample_size: int | tuple[int, ...] | None = 64
    in_channels: int = 4
    out_channels: int = 4
    down_block_types: tuple[str, ...] = (*(3 * DOWN[:1]), DOWN[1])
    up_block_types: tuple[str, ...] = (UP[1], *(3 * UP[:1]))
    block_out_channels: tuple[int, ...] = (320, 640, 1280, 1280)
    layers_per_block: int = 2
    norm_num_groups: int = 32
    norm_eps: float = 1e-5
    cross_attention_dim: int = 1280
    attention_head_dim: int | tuple[int, ...] = 8
    use_linear_projection: bool = False

    FIXED: ClassVar[dict[str, object]] = {
        "act_fn": "silu",
        "addition_embed_type": None,
        "center_input_sample": False,
        "class_embed_type": None,
        "conv_in_kernel": 3,
        "conv_out_kernel": 3,
        "downsample_padding": 1,
        "dual_cross_attention": False,
        "encoder_hid_dim": None,
        "flip_sin_to_cos": True,
        "freq_shift": 0,
        "mid_block_scale_factor": 1,
        "mid_block_type": "UNetMidBlock2DCrossAttn",
        "num_class_embeds": None,
        "only_cross_attention": False,
        "resnet_time_scale_shift": "default",
        "time_cond_proj_dim": None,
        "time_embedding_type": "positional",
        "transformer_layers_per_block": 1,
    }  # fmt: skip
    DOWN_BLOCK_TYPES, UP_BLOCK_TYPES = DOWN, UP

    @property
    def time_width(self) -> int:
        """Channels of the embedding of time; its features are a quarter of them."""
        return 4 * self.block_out_channels[0]

    def heads(self, level: int) -> int:
        """Heads of the attention of a level, 0 the finest."""
        given = self.attention_head_dim
        return given if isinstance(given, int) else given[level]


class UNet(Blocks):
    """Predicts noise or v of latents (Rombach et al. 2022, arXiv:2112.10752)."""

    def __init__(self, config: UNetConfig):
        super().__init__()
        widths, time = config.block_out_channels, config.time_width
        levels = range(len(widths))
        self.conv_in = Conv2d(config.in_channels, widths[0])
        self.time_embedding = Embedder(widths[0], time)
        self.down_blocks = [
            _Down(config, level, before=widths[max(level - 1, 0)]) for level in levels
        ]
        self.mid_block = _Middle(config)
        self.up_blocks = [_Up(config, level) for level in reversed(levels)]
        self.conv_norm_out = GroupNorm(config.norm_num_groups, widths[0], config.norm_eps)
        self.conv_out = Conv2d(widths[0], config.out_channels)

    def __call__(
        self, x: mx.array, time: mx.array, tokens: mx.array, *, trace: Trace | None = None
    ) -> mx.array:
        """x: [B, C, H, W]; time: features [B, D]; tokens: [B, L, D']. Returns noise or v like x."""
        keep = self.keeper(trace)
        e = keep("time_embedding", self.time_embedding(time.astype(x.dtype)))
        h = self.conv_in(x.transpose(0, 2, 3, 1))
        keep("conv_in", h.transpose(0, 3, 1, 2))
        kept = [h]
        for i, block in enumerate(self.down_blocks):
            kept += block.steps(self.run, h, e, tokens)
            h = kept[-1]
            keep(f"down_blocks.{i}", h.transpose(0, 3, 1, 2))
        h = self.mid_block.through(self.run, h, e, tokens)
        keep("mid_block", h.transpose(0, 3, 1, 2))
        for i, block in enumerate(self.up_blocks):
            h = block.through(self.run, h, kept, e, tokens)
            keep(f"up_blocks.{i}", h.transpose(0, 3, 1, 2))
        h = self.conv_out(nn.silu(self.conv_norm_out(h)))
        return keep("conv_out", h.transpose(0, 3, 1, 2))


class _Down(nn.Module):
    """Residual blocks, with attention if the level has it, then half the pixels."""

    def __init__(self, config: UNetConfig, level: int, before: int):
        super().__init__()
        after, count = config.block_out_channels[level], config.layers_per_block
        self.resnets = [_resnet(config, before if i == 0 else after, after) for i in range(count)]
        if config.down_block_types[level] == DOWN[0]:
            self.attentions = [Transformer(config, level) for _ in range(count)]
        if level < len(config.block_out_channels) - 1:
            self.downsamplers = [Group()]
            self.downsamplers[0].conv = Conv2d(after, after, stride=2)

    def steps(self, run: Any, h: mx.array, e: mx.array, tokens: mx.array) -> Iterator[mx.array]:
        """The result of each layer, in order."""
        for i, resnet in enumerate(self.resnets):
            h = run(resnet, h, e)
            if "attentions" in self:
                h = run(self.attentions[i], h, tokens)
            yield h
        if "downsamplers" in self:
            yield self.downsamplers[0].conv(h)


class _Middle(nn.Module):
    def __init__(self, config: UNetConfig):
        super().__init__()
        width, level = config.block_out_channels[-1], len(config.block_out_channels) - 1
        self.resnets = [_resnet(config, width, width) for _ in range(2)]
        self.attentions = [Transformer(config, level)]

    def through(self, run: Any, h: mx.array, e: mx.array, tokens: mx.array) -> mx.array:
        """A residual block, attention, a residual block."""
        h = run(self.attentions[0], run(self.resnets[0], h, e), tokens)
        return run(self.resnets[1], h, e)


class _Up(nn.Module):
    """Residual blocks with the results of the way down, last first, then twice the pixels."""

    def __init__(self, config: UNetConfig, level: int):
        super().__init__()
        widths, count = config.block_out_channels, config.layers_per_block + 1
        after, last = widths[level], len(widths) - 1
        before = widths[min(level + 1, last)]
        # The last layer gets the input of the level on the way down.
        seen = [after] * (count - 1) + [widths[max(level - 1, 0)]]
        self.resnets = [
            _resnet(config, (before if i == 0 else after) + seen[i], after) for i in range(count)
        ]
        if config.up_block_types[last - level] == UP[0]:
            self.attentions = [Transformer(config, level) for _ in range(count)]
        if level > 0:
            self.upsamplers = [Upsample(after)]

    def through(
        self, run: Any, h: mx.array, kept: list[mx.array], e: mx.array, tokens: mx.array
    ) -> mx.array:
        """Removes the results that it uses from the end of `kept`."""
        for i, resnet in enumerate(self.resnets):
            h = run(resnet, mx.concatenate([h, kept.pop()], axis=-1), e)
            if "attentions" in self:
                h = run(self.attentions[i], h, tokens)
        return self.upsamplers[0](h) if "upsamplers" in self else h


class Transformer(nn.Module):
    """Pixels attend to each other and to the prompt, around a shortcut."""

    def __init__(self, config: UNetConfig, level: int):
        super().__init__()
        width = config.block_out_channels[level]
        self._linear = config.use_linear_projection
        self.norm = GroupNorm(config.norm_num_groups, width, 1e-6)
        self.proj_in = nn.Linear(width, width) if self._linear else Conv2d(width, width, 1)
        self.transformer_blocks = [
            _TransformerBlock(width, config.heads(level), config.cross_attention_dim)
        ]
        self.proj_out = nn.Linear(width, width) if self._linear else Conv2d(width, width, 1)

    def __call__(self, x: mx.array, tokens: mx.array) -> mx.array:
        """x: [B, H, W, C]; tokens: [B, L, D]."""
        B, H, W, C = x.shape
        h = self.proj_in(self.norm(x)).reshape(B, H * W, C)
        h = self.transformer_blocks[0](h, tokens).reshape(B, H, W, C)
        return x + self.proj_out(h)


class _TransformerBlock(nn.Module):
    def __init__(self, width: int, count: int, source: int):
        super().__init__()
        sizes = width, count, width // count
        self.norm1, self.norm2, self.norm3 = (nn.LayerNorm(width) for _ in range(3))
        self.attn1 = Attention(*sizes, bias=False)
        self.attn2 = Attention(*sizes, bias=False, source=source)
        self.ff = FeedForward(width, gated=True)

    def __call__(self, x: mx.array, tokens: mx.array) -> mx.array:
        x = x + self.attn1(self.norm1(x))
        x = x + self.attn2(self.norm2(x), tokens)
        return x + self.ff(self.norm3(x))


def _resnet(config: UNetConfig, before: int, after: int) -> ResnetBlock:
    return ResnetBlock(
        before,
        after,
        groups=config.norm_num_groups,
        eps=config.norm_eps,
        time_width=config.time_width,
    )
