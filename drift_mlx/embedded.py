"""The emoji model in MLX: a flow transformer, two image-text scorers, and their weights."""

from collections.abc import Iterator, Mapping

import mlx.core as mx
import numpy as np
from mlx import nn
from mlx.utils import tree_flatten

from common.arrays import check_shapes
from common.backends import Conditioning
from common.config import AdapterConfig, ModelConfig
from common.embedded import model as shared
from common.embedded.model import DenoiserConfig, ScorerConfig
from common.policies import embedded
from drift_mlx.networks.layers import GroupNorm, gelu
from drift_mlx.policy import Tuned

__all__ = ["Block", "Denoiser", "EmbeddedPolicy", "EmbeddedScorer", "ImageText"]


class Block(nn.Module):
    """One transformer block: attention and MLP, each modulated and gated by the embedding e."""

    def __init__(self, config: DenoiserConfig):
        super().__init__()
        width = config.width
        self.heads = config.heads
        self.mod = mx.zeros((6, width))
        self.qkv = nn.Linear(width, 3 * width)
        self.o = nn.Linear(width, width)
        self.m1 = nn.Linear(width, config.hidden)
        self.m2 = nn.Linear(config.hidden, width)

    def __call__(self, h: mx.array, modulation: mx.array) -> mx.array:
        """h: [B, L, D] tokens; modulation: [B, 6, D], what all blocks share."""
        parts = mx.split(modulation + self.mod, 6, axis=1)
        scale1, shift1, gate1, scale2, shift2, gate2 = parts
        h = h + gate1 * self.attention(_modulate(h, scale1, shift1))
        hidden = gelu(self.m1(_modulate(h, scale2, shift2)))
        return h + gate2 * self.m2(hidden)

    def attention(self, h: mx.array) -> mx.array:
        """Self-attention with RMS-normalised queries and keys: [B, L, D] to [B, L, D]."""
        B, L, D = h.shape
        q, k, v = self.qkv(h).reshape(B, L, 3, self.heads, -1).transpose(2, 0, 3, 1, 4)
        scale = q.shape[-1] ** -0.5
        attended = mx.fast.scaled_dot_product_attention(_rms(q), _rms(k), v, scale=scale)
        return self.o(attended.transpose(0, 2, 1, 3).reshape(B, L, D))


class Denoiser(nn.Module):
    """Predicts the velocity v = z - x0 of x_t = (1 - t) x0 + t z."""

    def __init__(self, config: DenoiserConfig):
        super().__init__()
        width, patch = config.width, config.channels * config.patch**2
        self.config = config
        self.emb = nn.Embedding(config.vocabulary, config.token_width)
        self.tpos = mx.zeros((1, config.tokens, config.token_width))
        self.inp = nn.Linear(patch, width)
        self.pos = mx.zeros((1, config.grid**2, width))
        self.ctx = nn.Linear(config.token_width, width)
        self.t1 = nn.Linear(2 * config.frequencies, width)
        self.t2 = nn.Linear(width, width)
        self.pool = nn.Linear(config.token_width, width)
        self.adal = nn.Linear(width, 6 * width)
        self.blocks = [Block(config) for _ in range(config.depth)]
        self.ada = nn.Linear(width, 2 * width)
        self.out = nn.Linear(width, patch)

    def encode(self, tokens: mx.array) -> mx.array:
        """Vocabulary indices [B, L] as conditioning [B, L, D']."""
        return self.emb(tokens) + self.tpos

    def __call__(self, x: mx.array, time: mx.array, conditioning: mx.array) -> mx.array:
        """x: [B, C, H, W]; time: features [B, F]; conditioning: [B, L, D']. Returns v like x."""
        return self.layers(x, time, conditioning)["velocity"]

    def layers(self, x: mx.array, time: mx.array, conditioning: mx.array) -> dict[str, mx.array]:
        """Every intermediate result by name, in order; the last one is `velocity`."""
        results = {"context": self.ctx(conditioning)}
        t = self.t2(nn.silu(self.t1(time)))
        results["time"] = e = nn.silu(t + self.pool(conditioning.mean(1)))
        modulation = self.adal(e).reshape(len(x), 6, -1)
        patches = self.inp(_patches(x, self.config)) + self.pos
        h = mx.concatenate([results["context"], patches], 1)
        for i, block in enumerate(self.blocks):
            results[f"blocks.{i}"] = h = block(h, modulation)
        scale, shift = mx.split(self.ada(e).reshape(len(x), 2, -1), 2, axis=1)
        out = self.out(_modulate(h[:, self.config.tokens :], scale, shift))
        return results | {"velocity": _image(out, self.config)}


class EmbeddedPolicy(Tuned, embedded.EmbeddedPolicy):
    """The emoji flow model being tuned; fulfils `common.backends.Policy`."""

    def __init__(self, model: ModelConfig, adapter: AdapterConfig, *, seed: int):
        config = DenoiserConfig()
        self.latent_shape = config.latent_shape
        module = Denoiser(config)
        weights = shared.denoiser_weights(model.path)
        _load(module, weights, f"weights {model.path or 'denoiser'}")
        self._tune(module, adapter, seed=seed, again=lambda: Denoiser(config), frozen=config.frozen)
        self.compiled = model.compile

    def predict(
        self, x: mx.array, time: mx.array, conditioning: Conditioning, *, constant: bool = False
    ) -> mx.array:
        """Velocity [B, 3, 32, 32] at x, differentiable in the parameters unless `constant`."""
        forward = self._by_compiled if self.compiled else self._forward
        velocity = forward(x, time, conditioning)
        return mx.stop_gradient(velocity) if constant else velocity

    def _forward(self, x: mx.array, time: mx.array, conditioning: Conditioning) -> mx.array:
        return self._active(x, time, conditioning.tokens)

    def _embed(self, tokens: np.ndarray) -> Conditioning:
        return Conditioning(self.module.encode(mx.array(tokens)))

    def _array(self, values: np.ndarray) -> mx.array:
        return mx.array(values.astype(np.float32))

    def _host(self, array: mx.array) -> np.ndarray:
        return np.array(array)


class ImageText(nn.Module):
    """A convolutional image encoder and a word-averaging text encoder with one embedding space."""

    def __init__(self, config: ScorerConfig):
        super().__init__()
        self.net = []
        before = 3
        for stage in range(1, config.stages + 1):
            after = stage * config.width
            self.net.append(list(_convolve(before, after, config)))
            before = after
        self.head = nn.Linear(config.feature_width, config.embedding)
        self.emb = nn.Embedding(config.vocabulary, config.embedding)
        self.tp = mx.zeros((config.tokens, config.embedding))
        self.txt = [
            nn.Linear(config.embedding, config.hidden),
            nn.GELU(),
            nn.Linear(config.hidden, config.embedding),
        ]
        self.ls = mx.zeros(())
        """Log temperature of its contrastive training; a cosine does not need it."""

    def features(self, x: mx.array) -> mx.array:
        """Images [B, 3, H, W] in [-1, 1] as flattened channel-first features [B, F]."""
        x = x.transpose(0, 2, 3, 1)
        for stage in self.net:
            for layer in stage:
                x = layer(x)
        return x.transpose(0, 3, 1, 2).flatten(1)

    def text(self, tokens: mx.array) -> mx.array:
        """Vocabulary indices [B, L], 0 = padding, as embeddings [B, E], not normalised."""
        is_word = (tokens != shared.PAD)[..., None].astype(self.tp.dtype)
        x = ((self.emb(tokens) + self.tp) * is_word).sum(1) / is_word.sum(1)
        for layer in self.txt:
            x = layer(x)
        return x


class EmbeddedScorer(embedded.EmbeddedScorer):
    """An embedded image-text scorer; fulfils `common.backends.Scorer`."""

    def __init__(self, name: str):
        super().__init__(name)
        self.module = ImageText(self.config)
        weights = shared.scorer_weights(name)
        # MLX convolves images whose channels come last: [out, in, ky, kx] to [out, ky, kx, in].
        last = {n: w.transpose(0, 2, 3, 1) if w.ndim == 4 else w for n, w in weights.items()}
        _load(self.module, last, f"weights scorer_{name}")
        self.module.freeze()

    def _convolve(self, images: np.ndarray) -> mx.array:
        features = self.module.features(mx.array(images))
        mx.eval(features)
        return features

    def _embed_features(self, features: mx.array) -> np.ndarray:
        return self._host(self.module.head(features))

    def _embed_text(self, tokens: np.ndarray) -> np.ndarray:
        return self._host(self.module.text(mx.array(tokens)))

    def _host(self, array: mx.array) -> np.ndarray:
        return np.array(array)


def _modulate(h: mx.array, scale: mx.array, shift: mx.array) -> mx.array:
    """LayerNorm without parameters, then h (1 + scale) + shift."""
    return mx.fast.layer_norm(h, None, None, 1e-5) * (1 + scale) + shift


def _rms(x: mx.array) -> mx.array:
    """RMS norm without weight: x / sqrt(mean(x^2) + eps) over the last axis."""
    return mx.fast.rms_norm(x, None, shared.EPS)


def _patches(x: mx.array, config: DenoiserConfig) -> mx.array:
    """Image [B, C, H, W] to patches [B, (H/p)(W/p), C p p], each flattened as (c, py, px)."""
    g, p = config.grid, config.patch
    x = x.reshape(-1, config.channels, g, p, g, p)
    return x.transpose(0, 2, 4, 1, 3, 5).reshape(len(x), g * g, -1)


def _image(patches: mx.array, config: DenoiserConfig) -> mx.array:
    """The inverse of `_patches`."""
    g, p = config.grid, config.patch
    x = patches.reshape(-1, g, g, config.channels, p, p)
    return x.transpose(0, 3, 1, 4, 2, 5).reshape(len(x), *config.latent_shape)


def _convolve(before: int, after: int, config: ScorerConfig) -> Iterator[nn.Module]:
    """(convolution, GroupNorm, GELU) twice, then 2 x 2 average pooling."""
    for channels in (before, after):
        yield nn.Conv2d(channels, after, config.kernel, padding=config.kernel // 2)
        yield GroupNorm(config.groups, after)
        yield nn.GELU()
    yield nn.AvgPool2d(2)


def _load(module: nn.Module, weights: Mapping[str, np.ndarray], what: str) -> None:
    own = dict(tree_flatten(module.parameters()))
    check_shapes(weights, {name: array.shape for name, array in own.items()}, what)
    module.load_weights([(name, mx.array(w)) for name, w in weights.items()])
