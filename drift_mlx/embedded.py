"""The emoji model in MLX: a flow transformer, two image-text scorers, and their weights."""

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import mlx.core as mx
import numpy as np
from mlx import nn
from mlx.utils import tree_flatten

from common.backend import Conditioning, DiffusionSchedule, FlowSchedule, Prediction
from common.config import AdapterConfig, ModelConfig
from common.embedded import model as shared
from common.embedded.model import DenoiserConfig, ScorerConfig
from drift_mlx import lora

__all__ = ["Block", "Denoiser", "EmbeddedPolicy", "EmbeddedScorer", "ImageText"]

ROOT, CUBIC = math.sqrt(2 / math.pi), 0.044715
"""Constants of the tanh GELU."""

LIMIT = 9.0
"""Where tanh is 1 in float32."""

CHUNK = 256
"""Images that a scorer looks at in one pass: bounds memory."""


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
        hidden = _gelu(self.m1(_modulate(h, scale2, shift2)))
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


class EmbeddedPolicy:
    """The emoji flow model being tuned; fulfils `common.backend.Policy`."""

    prediction: Prediction = "velocity"
    schedule: FlowSchedule | DiffusionSchedule = FlowSchedule()

    def __init__(self, model: ModelConfig, adapter: AdapterConfig, *, seed: int):
        config = DenoiserConfig()
        self.latent_shape = config.latent_shape
        self.module = Denoiser(config)
        weights = shared.denoiser_weights(model.path)
        _load(self.module, weights, f"weights {model.path or 'denoiser'}")
        self._active = self.module
        if adapter.kind == "lora":
            self._base = None
            lora.attach(self.module, adapter, seed=seed)
        else:
            # Arrays are immutable, so the frozen copy shares them until tuning replaces them.
            self._base = Denoiser(config)
            self._base.update(self.module.parameters())
            self._base.freeze()
            parts = dict(self.module.named_modules())  # "" is the module itself
            for name in config.frozen:
                part, _, last = name.rpartition(".")
                parts[part].freeze(keys=last, recurse=False)

    def check(self, prompts: Sequence[str]) -> None:
        """Read prompts without embedding them. ValueError names a prompt it cannot read."""
        shared.tokenize(prompts, self.module.config)

    def encode(self, prompts: Sequence[str]) -> Conditioning:
        """Embed clean prompts: tokens [B, 6, 64]. ValueError names a prompt it cannot read."""
        return self._embed(shared.tokenize(prompts, self.module.config))

    def null(self, count: int) -> Conditioning:
        """The null prompt's embedding, `count` times."""
        return self._embed(shared.null_tokens(count, self.module.config))

    def embed_time(self, t: np.ndarray) -> mx.array:
        """Times t [B] in [0, 1], 1 = noise, as features [B, 64], computed in float64."""
        return mx.array(shared.time_features(t, self.module.config).astype(np.float32))

    def predict(
        self, x: mx.array, time: mx.array, conditioning: Conditioning, *, constant: bool = False
    ) -> mx.array:
        """Velocity [B, 3, 32, 32] at x, differentiable in the parameters unless `constant`."""
        velocity = self._active(x, time, conditioning.tokens)
        return mx.stop_gradient(velocity) if constant else velocity

    def trace(self, x: mx.array, time: mx.array, conditioning: Conditioning) -> dict[str, mx.array]:
        """Every intermediate result of `predict`, by layer name in order."""
        return self._active.layers(x, time, conditioning.tokens)

    def decode(self, x: mx.array) -> np.ndarray:
        """Latents as pixels: uint8 [B, 32, 32, 3]."""
        return shared.to_images(np.array(x))

    def parameters(self) -> dict[str, mx.array]:
        """The trainable arrays as they are now, sorted by name."""
        return lora.trainable(self.module)

    def load_parameters(self, values: Mapping[str, np.ndarray]) -> None:
        """Replace every trainable array; ValueError names missing, extra or misshapen ones."""
        shapes = {name: array.shape for name, array in lora.trainable(self.module).items()}
        shared.check_shapes(values, shapes, "trainable parameters")
        self.module.load_weights([(n, mx.array(v)) for n, v in values.items()], strict=False)

    @contextmanager
    def reference(self) -> Iterator[None]:
        """Within it, `predict` is the model before tuning."""
        if self._base is None:
            with lora.disabled(self.module):
                yield
            return
        try:
            self._active = self._base
            yield
        finally:
            self._active = self.module

    def _embed(self, tokens: np.ndarray) -> Conditioning:
        return Conditioning(self.module.encode(mx.array(tokens)))


class GroupNorm(nn.Module):
    """(x - mean) / sqrt(var + eps) weight + bias over pixels and neighbouring channels of a group.

    nn.GroupNorm adds up the thousands of numbers of a group one after the other in float32, with
    an error of 3e-6; by channel, by column, then by row it is 1e-7.
    """

    def __init__(self, groups: int, channels: int, eps: float = 1e-5):
        super().__init__()
        self.groups, self.eps = groups, eps
        self.weight, self.bias = mx.ones(channels), mx.zeros(channels)

    def __call__(self, x: mx.array) -> mx.array:
        """x: images [B, H, W, C]. Returns the same shape."""
        B, H, W, _ = x.shape
        grouped = x.reshape(B, H, W, self.groups, -1)
        centred = grouped - _spatial_mean(grouped)
        scaled = centred * mx.rsqrt(_spatial_mean(mx.square(centred)) + self.eps)
        return scaled.reshape(x.shape) * self.weight + self.bias


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


class EmbeddedScorer:
    """An embedded image-text scorer; fulfils `common.backend.Scorer`."""

    def __init__(self, name: str):
        self.config = shared.scorer_config(name)
        self.module = ImageText(self.config)
        weights = shared.scorer_weights(name)
        # MLX convolves images whose channels come last: [out, in, ky, kx] to [out, ky, kx, in].
        last = {n: w.transpose(0, 2, 3, 1) if w.ndim == 4 else w for n, w in weights.items()}
        _load(self.module, last, f"weights scorer_{name}")
        self.module.freeze()
        self._features = shared.Remembered(self._convolved)

    def reads(self, prompts: Sequence[str]) -> bool:
        """Whether every word of the prompts is in the vocabulary."""
        return shared.reads(prompts, self.config)

    def score(self, images: np.ndarray, prompts: Sequence[str]) -> np.ndarray:
        """Cosine of image and text for uint8 [N, H, W, 3] and N prompts: float64 [N]."""
        if len(images) != len(prompts):
            raise ValueError(f"{len(images)} images but {len(prompts)} prompts")
        text = np.array(self.module.text(mx.array(shared.tokenize(prompts, self.config))))
        image = _host([self.module.head(part) for part in self._features(images)])
        return (shared.unit(image) * shared.unit(text)).sum(-1)

    def features(self, images: np.ndarray) -> np.ndarray:
        """Unit-norm image features: float32 [N, F]."""
        return shared.unit(_host(self._features(images))).astype(np.float32)

    def _convolved(self, images: np.ndarray) -> list[mx.array]:
        """Features of the images on the device, chunk by chunk, computed by now."""
        x = shared.from_images(shared.fit(images, self.config))
        chunks = [x[i : i + CHUNK] for i in range(0, len(x), CHUNK)]
        parts = [self.module.features(mx.array(chunk)) for chunk in chunks]
        mx.eval(parts)
        return parts


def _host(parts: list[mx.array]) -> np.ndarray:
    """Parts on the device as one array of its own on the host."""
    return np.concatenate([np.array(part) for part in parts])


def _modulate(h: mx.array, scale: mx.array, shift: mx.array) -> mx.array:
    """LayerNorm without parameters, then h (1 + scale) + shift."""
    return mx.fast.layer_norm(h, None, None, 1e-5) * (1 + scale) + shift


def _rms(x: mx.array) -> mx.array:
    """RMS norm without weight: x / sqrt(mean(x^2) + eps) over the last axis."""
    return mx.fast.rms_norm(x, None, shared.EPS)


def _spatial_mean(x: mx.array) -> mx.array:
    """Mean over channels, columns and rows of [B, H, W, G, C/G], one axis at a time."""
    return x.mean(-1, keepdims=True).mean(2, keepdims=True).mean(1, keepdims=True)


def _gelu(x: mx.array) -> mx.array:
    """GELU by the tanh formula: x/2 (1 + tanh u), u = sqrt(2/pi) (x + 0.044715 x^3)."""
    # On a CPU MLX computes tanh one number at a time; a formula of products is 3.5 times faster.
    on_cpu = mx.default_device().type == mx.DeviceType.cpu
    activation: Any = _gelu_cpu if on_cpu else nn.gelu_approx
    return activation(x)


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
    shared.check_shapes(weights, {name: array.shape for name, array in own.items()}, what)
    module.load_weights([(name, mx.array(w)) for name, w in weights.items()])
