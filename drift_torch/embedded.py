"""The emoji model in PyTorch: a flow transformer, two image-text scorers, and their weights."""

from collections.abc import Iterator, Mapping
from contextlib import nullcontext

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from common.arrays import check_shapes
from common.backends import Conditioning
from common.config import AdapterConfig, ModelConfig
from common.embedded import model as shared
from common.embedded.model import DenoiserConfig, ScorerConfig
from common.policies import embedded
from drift_torch.policy import Tuned

__all__ = ["Block", "Denoiser", "EmbeddedPolicy", "EmbeddedScorer", "ImageText"]


class Block(nn.Module):
    """One transformer block: attention and MLP, each modulated and gated by the embedding e."""

    def __init__(self, config: DenoiserConfig):
        super().__init__()
        width = config.width
        self.heads = config.heads
        self.mod = nn.Parameter(torch.zeros(6, width))
        self.qkv = nn.Linear(width, 3 * width)
        self.o = nn.Linear(width, width)
        self.m1 = nn.Linear(width, config.hidden)
        self.m2 = nn.Linear(config.hidden, width)

    def forward(self, h: Tensor, modulation: Tensor) -> Tensor:
        """h: [B, L, D] tokens; modulation: [B, 6, D], what all blocks share."""
        parts = (modulation + self.mod).unsqueeze(2).unbind(1)
        scale1, shift1, gate1, scale2, shift2, gate2 = parts
        h = h + gate1 * self.attention(_modulate(h, scale1, shift1))
        hidden = functional.gelu(self.m1(_modulate(h, scale2, shift2)), approximate="tanh")
        return h + gate2 * self.m2(hidden)

    def attention(self, h: Tensor) -> Tensor:
        """Self-attention with RMS-normalised queries and keys: [B, L, D] to [B, L, D]."""
        B, L, D = h.shape
        q, k, v = self.qkv(h).view(B, L, 3, self.heads, -1).permute(2, 0, 3, 1, 4).unbind(0)
        attended = functional.scaled_dot_product_attention(_rms(q), _rms(k), v)
        return self.o(attended.transpose(1, 2).reshape(B, L, D))


class Denoiser(nn.Module):
    """Predicts the velocity v = z - x0 of x_t = (1 - t) x0 + t z."""

    def __init__(self, config: DenoiserConfig):
        super().__init__()
        width, patch = config.width, config.channels * config.patch**2
        self.config = config
        self.emb = nn.Embedding(config.vocabulary, config.token_width)
        self.tpos = nn.Parameter(torch.zeros(1, config.tokens, config.token_width))
        self.inp = nn.Linear(patch, width)
        self.pos = nn.Parameter(torch.zeros(1, config.grid**2, width))
        self.ctx = nn.Linear(config.token_width, width)
        self.t1 = nn.Linear(2 * config.frequencies, width)
        self.t2 = nn.Linear(width, width)
        self.pool = nn.Linear(config.token_width, width)
        self.adal = nn.Linear(width, 6 * width)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.depth))
        self.ada = nn.Linear(width, 2 * width)
        self.out = nn.Linear(width, patch)

    def encode(self, tokens: Tensor) -> Tensor:
        """Vocabulary indices [B, L] as conditioning [B, L, D']."""
        return self.emb(tokens) + self.tpos

    def forward(self, x: Tensor, time: Tensor, conditioning: Tensor) -> Tensor:
        """x: [B, C, H, W]; time: features [B, F]; conditioning: [B, L, D']. Returns v like x."""
        return self.layers(x, time, conditioning)["velocity"]

    def layers(self, x: Tensor, time: Tensor, conditioning: Tensor) -> dict[str, Tensor]:
        """Every intermediate result by name, in order; the last one is `velocity`."""
        results = {"context": self.ctx(conditioning)}
        t = self.t2(functional.silu(self.t1(time)))
        results["time"] = e = functional.silu(t + self.pool(conditioning.mean(1)))
        modulation = self.adal(e).view(len(x), 6, -1)
        patches = self.inp(_patches(x, self.config)) + self.pos
        h = torch.cat([results["context"], patches], 1)
        for i, block in enumerate(self.blocks):
            results[f"blocks.{i}"] = h = block(h, modulation)
        scale, shift = self.ada(e).view(len(x), 2, 1, -1).unbind(1)
        out = self.out(_modulate(h[:, self.config.tokens :], scale, shift))
        return results | {"velocity": _image(out, self.config)}


class EmbeddedPolicy(Tuned, embedded.EmbeddedPolicy):
    """The emoji flow model being tuned; fulfils `common.backends.Policy`."""

    def __init__(
        self,
        model: ModelConfig,
        adapter: AdapterConfig,
        *,
        seed: int,
        device: torch.device,
        dtype: torch.dtype,
    ):
        config = DenoiserConfig()
        self.latent_shape = config.latent_shape
        self.device, self.dtype = device, dtype
        module = Denoiser(config)
        weights = shared.denoiser_weights(model.path)
        _load(module, weights, f"weights {model.path or 'denoiser'}")
        self._tune(module.to(device, dtype), adapter, seed=seed, frozen=config.frozen)
        if model.compile:
            self._compile()

    def predict(
        self, x: Tensor, time: Tensor, conditioning: Conditioning, *, constant: bool = False
    ) -> Tensor:
        """Velocity [B, 3, 32, 32] at x, differentiable in the parameters unless `constant`."""
        with torch.no_grad() if constant else nullcontext():
            return self._active(x, time, conditioning.tokens)

    @torch.no_grad()
    def _embed(self, tokens: np.ndarray) -> Conditioning:
        return Conditioning(self.module.encode(torch.from_numpy(tokens).to(self.device)))

    def _array(self, values: np.ndarray) -> Tensor:
        return _own(values, self.device, self.dtype)

    def _host(self, array: Tensor) -> np.ndarray:
        return array.detach().cpu().numpy()


class ImageText(nn.Module):
    """A convolutional image encoder and a word-averaging text encoder with one embedding space."""

    def __init__(self, config: ScorerConfig):
        super().__init__()
        self.net = nn.ModuleList()
        before = 3
        for stage in range(1, config.stages + 1):
            after = stage * config.width
            self.net.append(nn.Sequential(*_convolve(before, after, config)))
            before = after
        self.head = nn.Linear(config.feature_width, config.embedding)
        self.emb = nn.Embedding(config.vocabulary, config.embedding)
        self.tp = nn.Parameter(torch.zeros(config.tokens, config.embedding))
        self.txt = nn.Sequential(
            nn.Linear(config.embedding, config.hidden),
            nn.GELU(),
            nn.Linear(config.hidden, config.embedding),
        )
        self.ls = nn.Parameter(torch.zeros(()))
        """Log temperature of its contrastive training; a cosine does not need it."""

    def features(self, x: Tensor) -> Tensor:
        """Images [B, 3, H, W] in [-1, 1] as flattened channel-first features [B, F]."""
        for stage in self.net:
            x = stage(x)
        return x.flatten(1)

    def text(self, tokens: Tensor) -> Tensor:
        """Vocabulary indices [B, L], 0 = padding, as embeddings [B, E], not normalised."""
        is_word = (tokens != shared.PAD).unsqueeze(-1).to(self.tp.dtype)
        words = ((self.emb(tokens) + self.tp) * is_word).sum(1) / is_word.sum(1)
        return self.txt(words)


class EmbeddedScorer(embedded.EmbeddedScorer):
    """An embedded image-text scorer; fulfils `common.backends.Scorer`."""

    def __init__(self, name: str, *, device: torch.device, dtype: torch.dtype):
        super().__init__(name)
        self.device, self.dtype = device, dtype
        self.module = ImageText(self.config)
        _load(self.module, shared.scorer_weights(name), f"weights scorer_{name}")
        self.module.requires_grad_(False).to(device, dtype)

    @torch.no_grad()
    def _convolve(self, images: np.ndarray) -> Tensor:
        return self.module.features(_own(images, self.device, self.dtype))

    @torch.no_grad()
    def _embed_features(self, features: Tensor) -> np.ndarray:
        return self._host(self.module.head(features))

    @torch.no_grad()
    def _embed_text(self, tokens: np.ndarray) -> np.ndarray:
        return self._host(self.module.text(torch.from_numpy(tokens).to(self.device)))

    def _host(self, array: Tensor) -> np.ndarray:
        return array.cpu().numpy()


def _own(values: np.ndarray, device: torch.device, dtype: torch.dtype) -> Tensor:
    """Host values in memory that PyTorch allocated, aligned to 64 bytes.

    MKL promises the same bits from run to run on such arrays only, and numpy aligns to 16.
    """
    return torch.tensor(values, dtype=dtype, device=device)


def _modulate(h: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    """LayerNorm without parameters, then h (1 + scale) + shift."""
    return functional.layer_norm(h, h.shape[-1:], eps=1e-5) * (1 + scale) + shift


def _rms(x: Tensor) -> Tensor:
    """RMS norm without weight: x / sqrt(mean(x^2) + eps) over the last axis."""
    return functional.rms_norm(x, x.shape[-1:], eps=shared.EPS)


def _patches(x: Tensor, config: DenoiserConfig) -> Tensor:
    """Image [B, C, H, W] to patches [B, (H/p)(W/p), C p p], each flattened as (c, py, px)."""
    g, p = config.grid, config.patch
    x = x.reshape(-1, config.channels, g, p, g, p)
    return x.permute(0, 2, 4, 1, 3, 5).reshape(len(x), g * g, -1)


def _image(patches: Tensor, config: DenoiserConfig) -> Tensor:
    """The inverse of `_patches`."""
    g, p = config.grid, config.patch
    x = patches.reshape(-1, g, g, config.channels, p, p)
    return x.permute(0, 3, 1, 4, 2, 5).reshape(len(x), *config.latent_shape)


def _convolve(before: int, after: int, config: ScorerConfig) -> Iterator[nn.Module]:
    """(convolution, GroupNorm, GELU) twice, then 2 x 2 average pooling."""
    for channels in (before, after):
        yield nn.Conv2d(channels, after, config.kernel, padding=config.kernel // 2)
        yield nn.GroupNorm(config.groups, after)
        yield nn.GELU()
    yield nn.AvgPool2d(2)


def _load(module: nn.Module, weights: Mapping[str, np.ndarray], what: str) -> None:
    own = module.state_dict()
    check_shapes(weights, {name: tuple(p.shape) for name, p in own.items()}, what)
    module.load_state_dict({name: torch.from_numpy(w) for name, w in weights.items()})
