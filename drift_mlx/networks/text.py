"""Frozen text encoders: CLIP's, and the encoder half of T5, as transformers has them."""

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import mlx.core as mx
import numpy as np
from mlx import nn

from drift_mlx.networks.layers import Group, gelu, heads, merged

__all__ = ["CLIPText", "CLIPTextConfig", "Encoded", "T5Config", "T5Encoder"]


@dataclass(frozen=True)
class CLIPTextConfig:
    """Sizes of a CLIP text encoder, under transformers' names; the defaults are CLIP-L's."""

    vocab_size: int = 49408
    hidden_size: int = 768
    intermediate_size: int = 3072
    projection_dim: int = 768
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    max_position_embeddings: int = 77
    hidden_act: str = "quick_gelu"
    layer_norm_eps: float = 1e-5
    eos_token_id: int = 2

    HIDDEN_ACT = ("quick_gelu", "gelu")


class Encoded(NamedTuple):
    """last: [B, L, D], normalised. penultimate: [B, L, D]. pooled: [B, D], projected if it is."""

    last: mx.array
    penultimate: mx.array
    pooled: mx.array


class CLIPText(nn.Module):
    """A causal transformer over the tokens of a prompt (Radford et al. 2021, arXiv:2103.00020)."""

    def __init__(self, config: CLIPTextConfig, *, projected: bool):
        super().__init__()
        self._eos = config.eos_token_id
        self.embeddings = Group()
        self.embeddings.token_embedding = nn.Embedding(config.vocab_size, config.hidden_size)
        self.embeddings.position_embedding = nn.Embedding(
            config.max_position_embeddings, config.hidden_size
        )
        self.encoder = Group()
        self.encoder.layers = [_CLIPLayer(config) for _ in range(config.num_hidden_layers)]
        self.final_layer_norm = nn.LayerNorm(config.hidden_size, config.layer_norm_eps)
        if projected:
            self.text_projection = nn.Linear(config.hidden_size, config.projection_dim, bias=False)

    def __call__(self, tokens: np.ndarray) -> Encoded:
        """tokens: indices int [B, L], each row with an end-of-text token."""
        positions = self.embeddings.position_embedding.weight[: tokens.shape[1]]
        h = penultimate = self.embeddings.token_embedding(mx.array(tokens)) + positions
        for layer in self.encoder.layers:
            penultimate, h = h, layer(h)
        last = self.final_layer_norm(h)
        # The first configurations said 2, which is no token's: there, the highest index is the end.
        ends = tokens if self._eos == 2 else tokens == self._eos
        pooled = last[mx.arange(len(tokens)), mx.array(ends.argmax(axis=1))]
        if "text_projection" in self:
            pooled = self.text_projection(pooled)
        return Encoded(last, penultimate, pooled)


class _CLIPLayer(nn.Module):
    def __init__(self, config: CLIPTextConfig):
        super().__init__()
        width, eps = config.hidden_size, config.layer_norm_eps
        self._count, self._quick = config.num_attention_heads, config.hidden_act == "quick_gelu"
        self.self_attn = Group()
        for name in ("q_proj", "k_proj", "v_proj", "out_proj"):
            self.self_attn[name] = nn.Linear(width, width)
        self.layer_norm1, self.layer_norm2 = nn.LayerNorm(width, eps), nn.LayerNorm(width, eps)
        self.mlp = Group()
        self.mlp.fc1 = nn.Linear(width, config.intermediate_size)
        self.mlp.fc2 = nn.Linear(config.intermediate_size, width)

    def __call__(self, x: mx.array) -> mx.array:
        normed, attn = self.layer_norm1(x), self.self_attn
        q, k, v = (
            heads(part(normed), self._count) for part in (attn.q_proj, attn.k_proj, attn.v_proj)
        )
        attended = mx.fast.scaled_dot_product_attention(
            q, k, v, scale=q.shape[-1] ** -0.5, mask="causal"
        )
        x = x + attn.out_proj(merged(attended))
        h = self.mlp.fc1(self.layer_norm2(x))
        h = h * mx.sigmoid(1.702 * h) if self._quick else nn.gelu(h)
        return x + self.mlp.fc2(h)


@dataclass(frozen=True)
class T5Config:
    """Sizes of a T5, under transformers' names; the defaults are its own."""

    vocab_size: int = 32128
    d_model: int = 512
    d_kv: int = 64
    d_ff: int = 2048
    num_layers: int = 6
    num_heads: int = 8
    relative_attention_num_buckets: int = 32
    relative_attention_max_distance: int = 128
    layer_norm_epsilon: float = 1e-6
    feed_forward_proj: str = "relu"

    FEED_FORWARD_PROJ = ("gated-gelu",)


class T5Encoder(nn.Module):
    """T5's encoder with a gated MLP (Raffel et al. 2019, arXiv:1910.10683; version 1.1).

    It attends to padding too: that is how the diffusion models were trained.
    """

    def __init__(self, config: T5Config):
        super().__init__()
        self._config = config
        self.shared = nn.Embedding(config.vocab_size, config.d_model)
        self.encoder = Group()
        self.encoder.block = [_T5Block(config, first=i == 0) for i in range(config.num_layers)]
        self.encoder.final_layer_norm = nn.RMSNorm(config.d_model, config.layer_norm_epsilon)

    def __call__(self, tokens: np.ndarray) -> mx.array:
        """Indices int [B, L] to embeddings [B, L, D]."""
        h = self.shared(mx.array(tokens))
        table = self.encoder.block[0].layer[0].SelfAttention.relative_attention_bias
        buckets = mx.array(relative_buckets(tokens.shape[1], self._config))
        bias = table(buckets).transpose(2, 0, 1)[None]
        for block in self.encoder.block:
            h = block(h, bias)
        return self.encoder.final_layer_norm(h).astype(self.shared.weight.dtype)


class _T5Block(nn.Module):
    def __init__(self, config: T5Config, *, first: bool):
        super().__init__()
        inner, width = config.num_heads * config.d_kv, config.d_model
        self._count = config.num_heads
        attention = Group()
        for name in ("q", "k", "v"):
            attention[name] = nn.Linear(width, inner, bias=False)
        attention.o = nn.Linear(inner, width, bias=False)
        if first:
            attention.relative_attention_bias = nn.Embedding(
                config.relative_attention_num_buckets, config.num_heads
            )
        mlp = Group()
        mlp.wi_0 = nn.Linear(width, config.d_ff, bias=False)
        mlp.wi_1 = nn.Linear(width, config.d_ff, bias=False)
        mlp.wo = nn.Linear(config.d_ff, width, bias=False)
        self.layer = [Group(), Group()]
        self.layer[0].SelfAttention, self.layer[1].DenseReluDense = attention, mlp
        for part in self.layer:
            part.layer_norm = nn.RMSNorm(width, config.layer_norm_epsilon)

    def __call__(self, x: mx.array, bias: mx.array) -> mx.array:
        attention, mlp = self.layer[0].SelfAttention, self.layer[1].DenseReluDense
        normed = _normed(self.layer[0].layer_norm, x)
        q, k, v = (
            heads(part(normed), self._count) for part in (attention.q, attention.k, attention.v)
        )
        # T5 does not divide by the root of the width: its initialisation does.
        attended = mx.fast.scaled_dot_product_attention(q, k, v, scale=1.0, mask=bias)
        x = x + attention.o(merged(attended))
        normed = _normed(self.layer[1].layer_norm, x)
        h = gelu(mlp.wi_0(normed)) * mlp.wi_1(normed)
        kind = mlp.wo.scales.dtype if "scales" in mlp.wo else mlp.wo.weight.dtype
        return x + mlp.wo(h.astype(kind))


def _normed(norm: Any, x: mx.array) -> mx.array:
    """RMS norm in the type of its weight, whatever that of x is."""
    return norm(x).astype(norm.weight.dtype)


def relative_buckets(length: int, config: T5Config) -> np.ndarray:
    """Which bias each pair of positions gets: int32 [L, L], of (query, key).

    Half of the buckets are for keys after the query. Of each half, one half is for single
    distances, the other for logarithmically longer ranges, up to a largest distance.
    """
    positions = np.arange(length)
    offset = positions[None] - positions[:, None]
    half = config.relative_attention_num_buckets // 2
    exact = half // 2
    distance = np.abs(offset)
    # float32 as in transformers: a logarithm that is a whole number may be cut either way.
    ratio = np.log(np.maximum(distance, 1).astype(np.float32) / np.float32(exact))
    ratio = ratio / np.float32(math.log(config.relative_attention_max_distance / exact))
    far = exact + (ratio * np.float32(half - exact)).astype(np.int32)
    near = np.where(distance < exact, distance, np.minimum(far, half - 1))
    return (near + half * (offset > 0)).astype(np.int32)
