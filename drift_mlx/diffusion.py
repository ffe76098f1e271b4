"""What policies over diffusers pipelines share: loading, encoding prompts, decoding latents.

A pipeline is a folder here: of a denoiser, which is tuned, and of frozen text encoders and a VAE.
transformers is imported for the tokenizers, when a policy is made; PyTorch never is.
"""

from abc import abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import cached_property
from typing import Any, ClassVar, Generic, TypeVar

import mlx.core as mx
import numpy as np
from mlx import nn

from common import pipelines
from common.arrays import check_finite
from common.backends import Conditioning, DiffusionSchedule, FlowSchedule, Prediction
from common.config import AdapterConfig, ModelConfig
from common.pipelines import prompt_cache
from drift_mlx import loading
from drift_mlx.estimate import nbytes
from drift_mlx.lora import MixedLoRALinear
from drift_mlx.networks import vae
from drift_mlx.networks.blocks import Blocks, Trace
from drift_mlx.networks.layers import Conv2d
from drift_mlx.networks.text import CLIPTextConfig
from drift_mlx.policy import Tuned

__all__ = ["DiffusersPolicy"]

T = TypeVar("T")

CLIP = "text_encoder"
"""The component that is a CLIP in every family."""


class Part(Generic[T]):
    """A frozen part of a pipeline, in memory all the time or only while it is used."""

    def __init__(self, load: Callable[[], T], module: Callable[[T], nn.Module], *, keep: bool):
        self._load, self._keep = load, keep
        part = load()  # its names and shapes are checked now, its arrays not read
        self.size = nbytes(module(part).parameters())
        self._kept_part: T | None = part if keep else None

    @contextmanager
    def present(self) -> Iterator[T]:
        """The part, in memory within the context."""
        part = self._load() if self._kept_part is None else self._kept_part
        try:
            yield part
        finally:
            if not self._keep:
                del part
                mx.clear_cache()


class DiffusersPolicy(Tuned):
    """A diffusers pipeline being tuned; fulfils `common.backends.Policy`.

    Weights are in `model.dtype`, but the adapter and the VAE in float32. Latents and predictions
    are float32 to the outside, since kernels and log-probs are.

    pipeline: the folder whose pipeline is tuned instead of the one at `model.path`.
    """

    DENOISER: ClassVar[str] = "transformer"
    FROZEN: ClassVar[frozenset[str]] = frozenset()
    """Arrays of the denoiser that no tuning changes."""
    prediction: Prediction
    schedule: FlowSchedule | DiffusionSchedule

    def __init__(
        self,
        model: ModelConfig,
        adapter: AdapterConfig,
        *,
        seed: int,
        pipeline: loading.Folder | None = None,
    ):
        self._settings, self.dtype = model, loading.DTYPES[model.dtype]
        folder = loading.Folder(model, self._without()) if pipeline is None else pipeline
        self._folder = folder
        names = [f"text_encoder{suffix}" for suffix in ("", "_2", "_3")]
        names = [name for name in names if folder.has(name) and name not in self._without()]
        self._tokenizers = {
            name: folder.tokenizer(name.replace("text_encoder", "tokenizer")) for name in names
        }
        self._encoders = {
            name: Part(
                lambda name=name: folder.text_encoder(name, self.dtype, model.quantize),
                lambda encoder: encoder,
                keep=self._kept,
            )
            for name in names
        }
        self._vae = Part(folder.vae, lambda decoder: decoder[0], keep=self._kept)
        self._vae_config = folder.settings("vae", vae.VAEConfig)
        self.latent_shape = self._latent_shape()
        self._tune_denoiser(adapter, seed)
        self.compiled = model.compile
        self._embeddings = prompt_cache.EncodedPrompts()
        self._null: Conditioning | None = None

    # --- what a family says ----------------------------------------------------------------------

    def _without(self) -> tuple[str, ...]:
        """Components of the pipeline that are not loaded."""
        return ()

    @abstractmethod
    def _network(self) -> Blocks:
        """The denoiser with the sizes that its configuration says, its arrays not yet computed."""

    @abstractmethod
    def _native_resolution(self) -> int:
        """Pixels of a side at the model's native resolution."""

    def _patch(self) -> int:
        """Number that divides the latents of a side."""
        return 2

    @abstractmethod
    def _encode(self, prompt: str) -> Conditioning:
        """Embed one prompt: a batch of one."""

    @abstractmethod
    def _readers(self) -> list[tuple[str, Any, int]]:
        """(name, tokenizer, tokens that it reads) of each text encoder."""

    @abstractmethod
    def _forward(
        self, x: mx.array, time: mx.array, conditioning: Conditioning, trace: Trace | None = None
    ) -> mx.array:
        """The denoiser's output for x in `model.dtype`."""

    @abstractmethod
    def shaped(self, batch: int) -> Conditioning:
        """A conditioning of zeros, with the shapes of a real one."""

    @abstractmethod
    def embed_time(self, t: np.ndarray) -> mx.array:
        """Host times t float64 [B] as the denoiser wants them: features [B, D], from float64."""

    # --- the policy ------------------------------------------------------------------------------

    def check(self, prompts: Sequence[str]) -> None:
        """Warn, with their number, of prompts longer than what an encoder reads of them."""
        prompt_cache.warn_of_long(prompts, self._readers())

    def encode(self, prompts: Sequence[str]) -> Conditioning:
        """Embed clean prompts: tokens [B, L, D] and pooled [B, D'] in `model.dtype`.

        Each prompt is embedded by itself and kept: what it becomes must not depend on its
        neighbours in a batch, or a resumed run would differ from an unbroken one.
        """
        return _stacked(self._embeddings.get_or_encode(prompts, self._encoded))

    def null(self, count: int) -> Conditioning:
        """The embedding of an empty prompt, `count` times."""
        if self._null is None:
            (self._null,) = self._encoded([""])
        return self._null.rows(mx.zeros(count, dtype=mx.int32))

    def predict(
        self, x: mx.array, time: mx.array, conditioning: Conditioning, *, constant: bool = False
    ) -> mx.array:
        """The denoiser's output like x, float32, differentiable unless `constant`."""
        self._read_weights()
        forward = self._by_compiled if self.compiled else self._forward
        prediction = forward(x.astype(self.dtype), time, conditioning).astype(x.dtype)
        return mx.stop_gradient(prediction) if constant else prediction

    def trace(self, x: mx.array, time: mx.array, conditioning: Conditioning) -> Trace:
        """Results of the denoiser's parts and blocks, by name in order, then the prediction."""
        self._read_weights()
        results: Trace = {}
        prediction = self._forward(x.astype(self.dtype), time, conditioning, results)
        return results | {"prediction": prediction.astype(x.dtype)}

    def decode(self, x: mx.array) -> np.ndarray:
        """Latents as pixels: uint8 [B, H, W, 3].

        Raises NotFiniteError when a latent, or an image before it is rounded, is not finite.
        """
        check_finite(_finite(x), "latents")
        config = self._vae_config
        latents = mx.stop_gradient(x) / config.scaling_factor + (config.shift_factor or 0.0)
        size = 1 if self._settings.vae_slicing else len(x)
        finite, images = [], []
        with self._vae.present() as (decoder, config):
            for start in range(0, len(x), size):
                part = latents[start : start + size]
                tiling = self._settings.vae_tiling
                decoded = vae.tiled(decoder, part, config) if tiling else decoder(part)
                finite.append(_finite(decoded))
                images.append(_pixels(decoded))
        check_finite(np.concatenate(finite), pipelines.DECODED)
        return np.concatenate(images)

    @property
    def image_size(self) -> tuple[int, int]:
        """Height and width of the images in pixels."""
        _, height, width = self.latent_shape
        return height * self._vae_config.scale, width * self._vae_config.scale

    # --- helpers ---------------------------------------------------------------------------------

    @property
    def _where(self) -> str:
        """The first words of an error about the model's files."""
        return f"model.path = '{self._settings.path}'"

    def _check_tokenizers(self) -> None:
        """Refuse now what the first prompt would bring up."""
        _ = self._clip_length
        for name, tokenizer in self._tokenizers.items():
            component = name.replace("text_encoder", "tokenizer")
            pipelines.check_tokenizer(tokenizer, component, self._where)

    @cached_property
    def _clip_length(self) -> int:
        """Tokens that the first CLIP reads of a prompt. ValueError where no file says it."""
        positions = self._folder.settings(CLIP, CLIPTextConfig).max_position_embeddings
        length = self._tokenizers[CLIP].model_max_length
        return pipelines.check_length(length, positions, "tokenizer", self._where)

    def _encoded(self, prompts: list[str]) -> list[Conditioning]:
        with self._present():
            return [_computed(self._encode(prompt)) for prompt in prompts]

    @property
    def _kept(self) -> bool:
        return not self._settings.offload

    def _tune_denoiser(self, adapter: AdapterConfig, seed: int) -> None:
        model, network = self._settings, self._folder.made(self.DENOISER, self._network)
        weights = self._folder.weights(self.DENOISER)
        loading.fill(network, weights, self._folder.origin(self.DENOISER), self.dtype)
        loading.quantized(network, model.quantize)
        if adapter.kind == "full":
            _as_in_pytorch(network)
        self._unread: Any = network.parameters()
        self._tune(
            network,
            adapter,
            seed=seed,
            again=lambda: _as_in_pytorch(self._network()),
            frozen=self.FROZEN,
            linear=MixedLoRALinear,
        )
        network.checkpointing = model.gradient_checkpointing

    def _read_weights(self) -> None:
        """Read the denoiser's weights from disk, the first time that they are needed."""
        if self._unread is not None:
            mx.eval(self._unread)
            self._unread = None

    def _latent_shape(self) -> tuple[int, int, int]:
        """[C, H, W] of one latent. ValueError for a resolution that it cannot have."""
        scale = self._vae_config.scale
        pixels = self._settings.resolution or self._native_resolution()
        pipelines.check_resolution(pixels, scale * self._patch())
        return self._vae_config.latent_channels, pixels // scale, pixels // scale

    def _tokens(self, encoder: str, prompt: str, length: int) -> np.ndarray:
        """Indices of a prompt, cut or padded to a length: int32 [1, length]."""
        ids = self._tokenizers[encoder](
            [prompt], padding="max_length", max_length=length, truncation=True
        ).input_ids
        return np.array(ids, dtype=np.int32)

    def _read(self, encoder: str, prompt: str, length: int) -> Any:
        """The output of a text encoder for a prompt; called within `_present`."""
        return self._at_hand[encoder](self._tokens(encoder, prompt, length))

    @contextmanager
    def _present(self) -> Iterator[None]:
        """The text encoders are in memory within it."""
        with ExitStack() as stack:
            self._at_hand: dict[str, Any] = {
                name: stack.enter_context(part.present()) for name, part in self._encoders.items()
            }
            try:
                yield
            finally:
                self._at_hand = {}


def _as_in_pytorch(network: Blocks) -> Blocks:
    for part in network.modules():
        if isinstance(part, Conv2d):
            part.as_in_pytorch()
    return network


def _finite(x: mx.array) -> np.ndarray:
    """Whether all values of each of B arrays are finite: bool [B]."""
    return np.array(mx.isfinite(x).reshape(len(x), -1).all(axis=1))


def _pixels(images: mx.array) -> np.ndarray:
    """Images [B, 3, H, W] in [-1, 1] as uint8 [B, H, W, 3], rounded as diffusers does."""
    scaled = mx.clip(images / 2 + 0.5, 0, 1).transpose(0, 2, 3, 1)
    return np.array(mx.round(scaled * 255).astype(mx.uint8))


def _computed(conditioning: Conditioning) -> Conditioning:
    mx.eval([part for part in (conditioning.tokens, conditioning.pooled) if part is not None])
    return conditioning


def _stacked(parts: Sequence[Conditioning]) -> Conditioning:
    pooled = [part.pooled for part in parts if part.pooled is not None]
    tokens = mx.concatenate([part.tokens for part in parts])
    return Conditioning(tokens, mx.concatenate(pooled) if pooled else None, parts[0].blocks)
