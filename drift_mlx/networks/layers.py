"""Layers that denoisers, text encoders and the VAE share, under diffusers' names of parameters.

A width is a number of channels; L tokens of width D are [B, L, D], images [B, H, W, C].
"""

import math
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

import mlx.core as mx
from mlx import nn

__all__ = [
    "Attention",
    "Conv2d",
    "Embedder",
    "FeedForward",
    "Group",
    "GroupNorm",
    "Modulation",
    "ResnetBlock",
    "Upsample",
    "computed",
    "gelu",
    "heads",
    "merged",
    "modulate",
]

ROOT, CUBIC = math.sqrt(2 / math.pi), 0.044715
"""Constants of the tanh GELU."""

LIMIT = 9.0
"""From this argument on tanh is 1 in float32."""

NORM_EPS = 1e-6
"""Epsilon of the norms in flow transformers."""


class Group(nn.Module):
    """Parts under one name, which does nothing itself."""

    if TYPE_CHECKING:

        def __getattr__(self, key: str) -> Any: ...


class Conv2d(nn.Module):
    """Convolution of images with a bias.

    The weight is [out, ky, kx, in]; after `as_in_pytorch`, [out, in, ky, kx], so that the arrays
    of a network trained in full have the same shapes on both backends. eager: it is computed when
    it is called, so that its workspace (nine times its input, on a CPU) is gone before the next.
    """

    def __init__(self, before: int, after: int, kernel: int = 3, *, stride: int = 1):
        super().__init__()
        self.weight = mx.zeros((after, kernel, kernel, before))
        self.bias = mx.zeros(after)
        self.stride, self.padding = stride, (0 if kernel == stride else kernel // 2)
        self.first = self.eager = False

    def as_in_pytorch(self) -> None:
        """Store the weight with its input channels second from now on."""
        if not self.first:
            self.weight, self.first = self.weight.transpose(0, 3, 1, 2), True

    def __call__(self, x: mx.array) -> mx.array:
        """[B, H, W, C] to [B, H', W', C']."""
        weight = self.weight.transpose(0, 2, 3, 1) if self.first else self.weight
        y = mx.conv2d(x, weight, self.stride, self.padding) + self.bias
        return computed(y) if self.eager else y


class GroupNorm(nn.Module):
    """(x - mean) / sqrt(var + eps) weight + bias over pixels and neighbouring channels of a group.

    On a CPU nn.GroupNorm adds up the thousands of numbers of a group one after the other in
    float32, with an error of 3e-6; by channel, by column, then by row it is 1e-7. GPUs add in
    parallel, which is as exact.
    """

    def __init__(self, groups: int, channels: int, eps: float = 1e-5):
        super().__init__()
        self.groups, self.eps = groups, eps
        self.weight, self.bias = mx.ones(channels), mx.zeros(channels)

    def __call__(self, x: mx.array) -> mx.array:
        """x: images [B, H, W, C]. Returns the same shape."""
        normed = self.by_axes(x) if _on_cpu() else self.at_once(x)
        return normed * self.weight + self.bias

    def by_axes(self, x: mx.array) -> mx.array:
        """The normalised x, its sums taken over one axis at a time, in float32."""
        B, H, W, _ = x.shape
        grouped = x.astype(mx.float32).reshape(B, H, W, self.groups, -1)
        centred = grouped - _spatial_mean(grouped)
        scaled = centred * mx.rsqrt(_spatial_mean(mx.square(centred)) + self.eps)
        return scaled.reshape(x.shape).astype(x.dtype)

    def at_once(self, x: mx.array) -> mx.array:
        """The same with one sum over a group."""
        B, H, W, C = x.shape
        rows = (
            x.reshape(B, H * W, self.groups, -1).transpose(0, 2, 1, 3).reshape(B, self.groups, -1)
        )
        rows = mx.fast.layer_norm(rows, None, None, self.eps)
        rows = rows.reshape(B, self.groups, H * W, C // self.groups)
        return rows.transpose(0, 2, 1, 3).reshape(x.shape)


class ResnetBlock(nn.Module):
    """norm, SiLU, conv, twice, around a shortcut; an embedding of time enters between them."""

    def __init__(
        self, before: int, after: int, *, groups: int, eps: float, time_width: int | None = None
    ):
        super().__init__()
        self.norm1 = GroupNorm(groups, before, eps)
        self.conv1 = Conv2d(before, after)
        if time_width:
            self.time_emb_proj = nn.Linear(time_width, after)
        self.norm2 = GroupNorm(groups, after, eps)
        self.conv2 = Conv2d(after, after)
        if before != after:
            self.conv_shortcut = Conv2d(before, after, 1)

    def __call__(self, x: mx.array, time: mx.array | None = None) -> mx.array:
        """x: [B, H, W, C]; time: [B, T]."""
        h = self.conv1(nn.silu(self.norm1(x)))
        if time is not None:
            h = h + self.time_emb_proj(nn.silu(time))[:, None, None]
        h = self.conv2(nn.silu(self.norm2(h)))
        return h + (self.conv_shortcut(x) if "conv_shortcut" in self else x)


class Upsample(nn.Module):
    """Each pixel becomes 2 x 2, then a convolution."""

    def __init__(self, channels: int):
        super().__init__()
        self.conv = Conv2d(channels, channels)

    def __call__(self, x: mx.array) -> mx.array:
        """[B, H, W, C] to [B, 2 H, 2 W, C]."""
        B, H, W, C = x.shape
        doubled = mx.broadcast_to(x[:, :, None, :, None], (B, H, 2, W, 2, C))
        return self.conv(doubled.reshape(B, 2 * H, 2 * W, C))


class Embedder(nn.Module):
    """Two linears with a SiLU between them: of time features, or of a pooled embedding."""

    def __init__(self, before: int, width: int):
        super().__init__()
        self.linear_1 = nn.Linear(before, width)
        self.linear_2 = nn.Linear(width, width)

    def __call__(self, x: mx.array) -> mx.array:
        """[B, D] to [B, D']."""
        return self.linear_2(nn.silu(self.linear_1(x)))


class FeedForward(nn.Module):
    """The MLP of a transformer block: tanh GELU, or `gated` by an erf GELU (GEGLU)."""

    def __init__(self, width: int, *, gated: bool = False):
        super().__init__()
        self.gated = gated
        first = Group()
        first.proj = nn.Linear(width, 8 * width if gated else 4 * width)
        self.net = [first, nn.Identity(), nn.Linear(4 * width, width)]

    def __call__(self, x: mx.array) -> mx.array:
        """[B, L, D] to [B, L, D]."""
        h = self.net[0].proj(x)
        if not self.gated:
            return self.net[2](gelu(h))
        value, gate = mx.split(h, 2, axis=-1)
        return self.net[2](value * nn.gelu(gate))


class Modulation(nn.Module):
    """Modulation of a block's norms, from an embedding: `count` arrays [B, 1, D]."""

    def __init__(self, width: int, count: int):
        super().__init__()
        self.count = count
        self.linear = nn.Linear(width, count * width)

    def __call__(self, e: mx.array) -> list[mx.array]:
        """e: [B, D]."""
        return list(mx.split(self.linear(nn.silu(e))[:, None], self.count, axis=-1))


class Attention(nn.Module):
    """Multi-head attention of one stream of tokens, or of two together (`context`).

    source: width of the tokens that are attended to, where they are not x itself. normed: queries
    and keys are RMS-normalised. context: width of a second stream, whose linears are `add_*`;
    context_out: whether anything comes out for it. out: whether a last linear follows.
    """

    def __init__(
        self,
        width: int,
        count: int,
        head_width: int,
        *,
        source: int | None = None,
        bias: bool = True,
        normed: bool = False,
        context: int | None = None,
        context_out: bool = True,
        out: bool = True,
    ):
        super().__init__()
        inner, source = count * head_width, source or width
        self.count = count
        self.to_q = nn.Linear(width, inner, bias=bias)
        self.to_k = nn.Linear(source, inner, bias=bias)
        self.to_v = nn.Linear(source, inner, bias=bias)
        if out:
            self.to_out = [nn.Linear(inner, width)]
        if normed:
            self.norm_q, self.norm_k = _rms_norms(head_width)
        if context:
            self.add_q_proj = nn.Linear(context, inner)
            self.add_k_proj = nn.Linear(context, inner)
            self.add_v_proj = nn.Linear(context, inner)
            if context_out:
                self.to_add_out = nn.Linear(inner, context)
            if normed:
                self.norm_added_q, self.norm_added_k = _rms_norms(head_width)

    def __call__(
        self,
        x: mx.array,
        source: mx.array | None = None,
        *,
        turn: Callable[[mx.array], mx.array] | None = None,
    ) -> mx.array:
        """x: [B, L, D]; source: [B, L', D']. turn: positions into queries and keys [B, h, L, d]."""
        source = x if source is None else source
        q, k, v = self._split(self.to_q(x), self.to_k(source), self.to_v(source))
        q, k = self._normed("norm_q", q), self._normed("norm_k", k)
        if turn is not None:
            q, k = turn(q), turn(k)
        attended = merged(self.attend(q, k, v))
        return self.to_out[0](attended) if "to_out" in self else attended

    def joint(
        self,
        x: mx.array,
        context: mx.array,
        *,
        turn: Callable[[mx.array], mx.array] | None = None,
    ) -> tuple[mx.array, mx.array | None]:
        """Both streams, [B, L, D] and [B, L', D], attend to both; turn: of context, then x."""
        q, k, v = self._split(self.to_q(x), self.to_k(x), self.to_v(x))
        added = self.add_q_proj(context), self.add_k_proj(context), self.add_v_proj(context)
        context_q, context_k, context_v = self._split(*added)
        context_q = self._normed("norm_added_q", context_q)
        context_k = self._normed("norm_added_k", context_k)
        q = mx.concatenate([context_q, self._normed("norm_q", q)], axis=2)
        k = mx.concatenate([context_k, self._normed("norm_k", k)], axis=2)
        v = mx.concatenate([context_v, v], axis=2)
        if turn is not None:
            q, k = turn(q), turn(k)
        attended, length = merged(self.attend(q, k, v)), context.shape[1]
        of_context = self.to_add_out(attended[:, :length]) if "to_add_out" in self else None
        return self.to_out[0](attended[:, length:]), of_context

    def attend(self, q: mx.array, k: mx.array, v: mx.array) -> mx.array:
        """Scaled dot-product attention of queries, keys and values [B, h, L, d]."""
        return mx.fast.scaled_dot_product_attention(q, k, v, scale=q.shape[-1] ** -0.5)

    def _split(self, *parts: mx.array) -> list[mx.array]:
        return [heads(part, self.count) for part in parts]

    def _normed(self, name: str, x: mx.array) -> mx.array:
        return self[name](x) if name in self else x


def heads(x: mx.array, count: int) -> mx.array:
    """Tokens [B, L, D] by head: [B, count, L, D / count]."""
    B, L, _ = x.shape
    return x.reshape(B, L, count, -1).transpose(0, 2, 1, 3)


def merged(x: mx.array) -> mx.array:
    """The inverse of `heads`."""
    B, count, L, width = x.shape
    return x.transpose(0, 2, 1, 3).reshape(B, L, count * width)


def modulate(x: mx.array, shift: mx.array, scale: mx.array) -> mx.array:
    """LayerNorm without parameters, then x (1 + scale) + shift."""
    return mx.fast.layer_norm(x, None, None, NORM_EPS) * (1 + scale) + shift


def gelu(x: mx.array) -> mx.array:
    """GELU by the tanh formula: x/2 (1 + tanh u), u = sqrt(2/pi) (x + 0.044715 x^3)."""
    # On a CPU MLX computes tanh one number at a time; a formula of products is 3.5 times faster.
    activation: Any = _gelu_cpu if _on_cpu() and x.dtype == mx.float32 else nn.gelu_approx
    return activation(x)


def computed(x: mx.array) -> mx.array:
    """The array, computed now."""
    mx.eval(x)
    return x


def _rms_norms(width: int) -> tuple[nn.RMSNorm, nn.RMSNorm]:
    return nn.RMSNorm(width, NORM_EPS), nn.RMSNorm(width, NORM_EPS)


def _spatial_mean(x: mx.array) -> mx.array:
    """Mean over channels, columns and rows of [B, H, W, G, C/G], one axis at a time."""
    return x.mean(-1, keepdims=True).mean(2, keepdims=True).mean(1, keepdims=True)


def _on_cpu() -> bool:
    return mx.default_device().type == mx.DeviceType.cpu


@mx.custom_function
def _gelu_cpu(x: mx.array) -> mx.array:
    return _gelu_value(x)


@_gelu_cpu.vjp
def _gelu_cpu_vjp(x: mx.array, cotangent: mx.array, _: mx.array) -> mx.array:
    return cotangent * _gelu_slope(x)


@partial(mx.compile, shapeless=True)
def _gelu_value(x: mx.array) -> mx.array:
    a, b = _tanh_parts(ROOT * (x + CUBIC * x * x * x))
    return 0.5 * x * (1 + 2 * a * b / (a * a + b * b))


@partial(mx.compile, shapeless=True)
def _gelu_slope(x: mx.array) -> mx.array:
    u = ROOT * (x + CUBIC * x * x * x)
    a, b = _tanh_parts(u)
    t = 2 * a * b / (a * a + b * b)
    # 1 - t^2 by subtraction would leave a rounding error that x^3 blows up.
    sech = mx.where(mx.abs(u) < LIMIT, (b * b - a * a) / (a * a + b * b), 0.0)
    return 0.5 * (1 + t) + 0.5 * x * sech * sech * ROOT * (1 + 3 * CUBIC * x * x)


def _tanh_parts(u: mx.array) -> tuple[mx.array, mx.array]:
    """A and b with tanh u = 2 a b / (a^2 + b^2) and sech u = (b^2 - a^2) / (a^2 + b^2).

    a/b = tanh(u/2): the seventh convergent of Lambert's continued fraction (1761). The error of
    tanh u is below 2e-7 everywhere; beyond LIMIT it is 1.
    """
    y = mx.clip(u, -LIMIT, LIMIT) * 0.5
    s = y * y
    a = y * (((s + 378) * s + 17325) * s + 135135)
    return a, ((28 * s + 3150) * s + 62370) * s + 135135
