"""The decoder of Stable Diffusion's and FLUX's VAE: latents to images."""

from dataclasses import dataclass

import mlx.core as mx
from mlx import nn

from drift_mlx.networks.layers import Attention, Conv2d, Group, GroupNorm, ResnetBlock, Upsample

__all__ = ["Decoder", "VAEConfig", "tiled"]

EPS = 1e-6
"""Epsilon of the VAE's norms."""

OVERLAP = 0.25
"""Part of a tile that is shared with the next one, as diffusers has it."""


@dataclass(frozen=True)
class VAEConfig:
    """Sizes of an AutoencoderKL, under diffusers' names and with its defaults."""

    out_channels: int = 3
    latent_channels: int = 4
    block_out_channels: tuple[int, ...] = (64,)
    layers_per_block: int = 1
    norm_num_groups: int = 32
    sample_size: int | tuple[int, ...] = 32
    scaling_factor: float = 0.18215
    shift_factor: float | None = None
    use_post_quant_conv: bool = True
    mid_block_add_attention: bool = True

    @property
    def tile(self) -> int:
        """Pixels of a side of a tile, the size that the VAE was made for."""
        return self.sample_size[0] if isinstance(self.sample_size, tuple) else self.sample_size

    @property
    def scale(self) -> int:
        """Pixels of a side that one latent becomes."""
        return 2 ** (len(self.block_out_channels) - 1)


class Decoder(nn.Module):
    """Latents [B, C, h, w], scaled as the encoder gave them, to images [B, 3, H, W].

    It is never differentiated, so it is computed one convolution after the other: that halves
    what a CPU needs for it.
    """

    def __init__(self, config: VAEConfig):
        super().__init__()
        widths = config.block_out_channels[::-1]
        if config.use_post_quant_conv:
            self.post_quant_conv = Conv2d(config.latent_channels, config.latent_channels, 1)
        self.decoder = decoder = Group()
        decoder.conv_in = Conv2d(config.latent_channels, widths[0])
        decoder.mid_block = _Middle(widths[0], config)
        before, decoder.up_blocks = widths[0], []
        for i, width in enumerate(widths):
            last = i == len(widths) - 1
            decoder.up_blocks.append(_Up(before, width, config, upsample=not last))
            before = width
        decoder.conv_norm_out = GroupNorm(config.norm_num_groups, widths[-1], EPS)
        decoder.conv_out = Conv2d(widths[-1], config.out_channels)
        for part in self.modules():
            if isinstance(part, Conv2d):
                part.eager = True

    def __call__(self, latents: mx.array) -> mx.array:
        """[B, C, h, w] to [B, 3, H, W]."""
        x, decoder = latents.transpose(0, 2, 3, 1), self.decoder
        if "post_quant_conv" in self:
            x = self.post_quant_conv(x)
        x = decoder.mid_block(decoder.conv_in(x))
        for block in decoder.up_blocks:
            x = block(x)
        x = decoder.conv_out(nn.silu(decoder.conv_norm_out(x)))
        return x.transpose(0, 3, 1, 2)


class _Middle(nn.Module):
    def __init__(self, width: int, config: VAEConfig):
        super().__init__()
        groups = config.norm_num_groups
        self.resnets = [ResnetBlock(width, width, groups=groups, eps=EPS) for _ in range(2)]
        if config.mid_block_add_attention:
            self.attentions = [_PixelAttention(width, groups)]

    def __call__(self, x: mx.array) -> mx.array:
        x = self.resnets[0](x)
        if "attentions" in self:
            x = x + self.attentions[0].over(x)
        return self.resnets[1](x)


class _PixelAttention(Attention):
    def __init__(self, width: int, groups: int):
        super().__init__(width, 1, width)
        self.group_norm = GroupNorm(groups, width, EPS)

    def over(self, x: mx.array) -> mx.array:
        """Pixels [B, H, W, C] attend to each other, with one head."""
        B, H, W, C = x.shape
        return self(self.group_norm(x).reshape(B, H * W, C)).reshape(x.shape)


class _Up(nn.Module):
    def __init__(self, before: int, after: int, config: VAEConfig, *, upsample: bool):
        super().__init__()
        groups = config.norm_num_groups
        self.resnets = [
            ResnetBlock(before if i == 0 else after, after, groups=groups, eps=EPS)
            for i in range(config.layers_per_block + 1)
        ]
        if upsample:
            self.upsamplers = [Upsample(after)]

    def __call__(self, x: mx.array) -> mx.array:
        for resnet in self.resnets:
            x = resnet(x)
        return self.upsamplers[0](x) if "upsamplers" in self else x


def tiled(decoder: Decoder, latents: mx.array, config: VAEConfig) -> mx.array:
    """Decode in overlapping tiles, blended linearly: what diffusers' `enable_tiling` computes.

    Bounds memory for images larger than the VAE was made for; at their seams they may show.
    """
    size = config.tile // config.scale
    if max(latents.shape[2:]) <= size:
        return decoder(latents)
    step, shared = int(size * (1 - OVERLAP)), int(config.tile * OVERLAP)
    kept = config.tile - shared
    above: list[mx.array] = []
    rows = []
    for y in range(0, latents.shape[2], step):
        tiles: list[mx.array] = []
        for n, x in enumerate(range(0, latents.shape[3], step)):
            tile = decoder(latents[:, :, y : y + size, x : x + size])
            if above:
                tile = _blended(above[n], tile, shared, axis=2)
            if tiles:
                tile = _blended(tiles[-1], tile, shared, axis=3)
            mx.eval(tile)  # one tile's activations at a time
            tiles.append(tile)
        rows.append(mx.concatenate([tile[:, :, :kept, :kept] for tile in tiles], axis=3))
        above = tiles
    return mx.concatenate(rows, axis=2)


def _blended(before: mx.array, tile: mx.array, shared: int, *, axis: int) -> mx.array:
    """The tile, whose first `shared` rows or columns fade in over the last ones of `before`."""
    shared = min(shared, before.shape[axis], tile.shape[axis])
    weight = mx.arange(shared) / shared
    weight = weight[:, None] if axis == 2 else weight
    start, rest = mx.split(tile, [shared], axis=axis)
    end = mx.split(before, [before.shape[axis] - shared], axis=axis)[1]
    return mx.concatenate([end * (1 - weight) + start * weight, rest], axis=axis)
