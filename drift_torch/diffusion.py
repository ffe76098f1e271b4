"""What policies over diffusers pipelines share: loading, encoding prompts, decoding latents.

A pipeline is only a container here: of a denoiser, which is tuned, and of frozen text encoders
and a VAE. Its own sampling loop is never run. diffusers is imported when a policy is made.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from common import pipelines
from common.arrays import check_finite
from common.backends import Conditioning, DiffusionSchedule, FlowSchedule, Prediction
from common.config import AdapterConfig, ModelConfig
from common.pipelines import prompt_cache
from drift_torch import loading
from drift_torch.lora import MixedLoRALinear
from drift_torch.policy import Tuned
from drift_torch.timesteps import use_exact_sinusoids

__all__ = ["DiffusersPolicy"]

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


class DiffusersPolicy(Tuned, ABC):
    """A diffusers pipeline being tuned; fulfils `common.backends.Policy`.

    Weights are in `model.dtype`, but the adapter and the VAE in float32. Latents and predictions
    are float32 to the outside, since kernels and log-probs are.

    pipeline: one of diffusers, its VAE in float32 and all else in `model.dtype`, that is tuned
    instead of the one at `model.path`.
    """

    DENOISER: ClassVar[str] = "transformer"
    prediction: Prediction
    schedule: FlowSchedule | DiffusionSchedule

    def __init__(
        self,
        model: ModelConfig,
        adapter: AdapterConfig,
        *,
        seed: int,
        device: torch.device,
        pipeline: Any = None,
    ):
        self._settings, self.device, self.dtype = model, device, DTYPES[model.dtype]
        loading.check_dtype(model.dtype, device)
        loading.choose_kernels(model)
        if pipeline is None:
            pipeline, self._scheduler = loading.pipeline(model, self.dtype, **self._parts())
        else:
            self._scheduler = pipelines.scheduler_settings(pipeline.scheduler.config)
        self._pipe = pipeline
        self._vae = self._pipe.vae.requires_grad_(False)
        self._encoders = [
            part.requires_grad_(False)
            for name, part in self._pipe.components.items()
            if name.startswith("text_encoder") and part is not None
        ]
        if model.vae_tiling:
            self._vae.enable_tiling()
        if not model.offload:
            for part in (self._vae, *self._encoders):
                part.to(device)
        denoiser = getattr(self._pipe, self.DENOISER)
        if model.shard == "none":  # else what loads the policy puts the slices there
            denoiser.to(device)
        use_exact_sinusoids(denoiser)
        self._tune(denoiser, adapter, seed=seed, linear=MixedLoRALinear)
        self._checkpoint_gradients(model.gradient_checkpointing)
        if model.compile:
            self._compile()
        self.latent_shape = self._latent_shape()
        self._embeddings = prompt_cache.EncodedPrompts()
        self._null: Conditioning | None = None
        self._every_prompt: Conditioning | None = None

    # --- what a family says ----------------------------------------------------------------------

    def _parts(self) -> dict[str, Any]:
        """Components that replace the pipeline's own; None leaves one out."""
        return {}

    @abstractmethod
    def _native_resolution(self) -> int:
        """Pixels of a side at the model's native resolution."""

    def _patch(self) -> int:
        """Number that divides the latents of a side."""
        return 2

    @abstractmethod
    def _encode(self, prompt: str) -> Conditioning:
        """Embed one prompt: a batch of one, on the device."""

    @abstractmethod
    def _readers(self) -> list[tuple[str, Any, int]]:
        """(name, tokenizer, tokens that it reads) of each text encoder."""

    @abstractmethod
    def _forward(self, x: Tensor, time: Tensor, conditioning: Conditioning) -> Tensor:
        """The denoiser's output for x in `model.dtype`."""

    @abstractmethod
    def embed_time(self, t: np.ndarray) -> Tensor:
        """Host times t float64 [B] as the denoiser wants them: [B]."""

    # --- the policy ------------------------------------------------------------------------------

    def check(self, prompts: Sequence[str]) -> None:
        """Warn, with their number, of prompts longer than what an encoder reads of them."""
        prompt_cache.warn_of_long(prompts, self._readers())

    def encode(self, prompts: Sequence[str]) -> Conditioning:
        """Embed clean prompts: tokens [B, L, D] and pooled [B, D'] in `model.dtype`.

        Each prompt is embedded by itself and kept on the host: what it becomes must not depend
        on its neighbours in a batch, or a resumed run would differ from an unbroken one.
        """
        return _to(_stacked(self._embeddings.get_or_encode(prompts, self._on_host)), self.device)

    def null(self, count: int) -> Conditioning:
        """The embedding of an empty prompt, `count` times."""
        if self._null is None:
            with torch.no_grad(), self._present(*self._encoders):
                self._null = self._encode("")
        return self._null.rows(torch.zeros(count, dtype=torch.int64, device=self.device))

    def predict(
        self, x: Tensor, time: Tensor, conditioning: Conditioning, *, constant: bool = False
    ) -> Tensor:
        """The denoiser's output like x, float32, differentiable unless `constant`."""
        with torch.no_grad() if constant else nullcontext():
            return self._forward(x.to(self.dtype), time, conditioning).to(x.dtype)

    def trace(self, x: Tensor, time: Tensor, conditioning: Conditioning) -> dict[str, Tensor]:
        """Results of the denoiser's parts and blocks, by name in order, then the prediction."""
        results: dict[str, Tensor] = {}

        def keep(name: str) -> Any:
            def hook(_: nn.Module, __: Any, output: Any) -> None:
                first = output[0] if isinstance(output, tuple) else output
                if isinstance(first, Tensor):
                    results[name] = first

            return hook

        parts = [(name, part) for name, part in self._active.named_modules() if name.count(".") < 2]
        hooks = [part.register_forward_hook(keep(name)) for name, part in parts if name]
        try:
            prediction = self.predict(x, time, conditioning)
        finally:
            for hook in hooks:
                hook.remove()
        return results | {"prediction": prediction}

    @torch.no_grad()
    def decode(self, x: Tensor) -> np.ndarray:
        """Latents as pixels: uint8 [B, H, W, 3].

        Raises NotFiniteError when a latent, or an image before it is rounded, is not finite.
        """
        check_finite(_finite(x), "latents")
        config = self._vae.config
        latents = x.detach() / config.scaling_factor + (config.get("shift_factor") or 0.0)
        size = 1 if self._settings.vae_slicing else len(x)
        finite, images = [], []
        rounded = self._settings.tf32 == "auto" and self.dtype != torch.float32
        with self._present(self._vae), loading.tf32(rounded):
            for part in latents.split(size):
                decoded = self._vae.decode(part).sample
                finite.append(_finite(decoded))
                images.append(_pixels(decoded))
        check_finite(np.concatenate(finite), pipelines.DECODED)
        return np.concatenate(images)

    def resident(self) -> list[nn.Module]:
        """The denoiser, and what else stays on the device."""
        others = [] if self._settings.offload else [self._vae, *self._encoders]
        return [*super().resident(), *others]

    def transient_parts(self, batch: int) -> dict[str, tuple[nn.Module, Callable[[], Any]]]:
        """Encoding a prompt, and decoding latents into images."""
        size = 1 if self._settings.vae_slicing else batch

        def decode() -> Any:
            latents = torch.zeros(size, *self.latent_shape, device=self.device)
            return self._vae.decode(latents).sample

        encoders = nn.ModuleList(self._encoders)
        return {"encoding": (encoders, lambda: self._encode("")), "decoding": (self._vae, decode)}

    @contextmanager
    def with_memory_settings(self, model: ModelConfig) -> Iterator[None]:
        """Within it, memory is used as these settings of the same model say; for estimates."""
        own = self._settings
        try:
            self._settings = model
            self._checkpoint_gradients(model.gradient_checkpointing)
            yield
        finally:
            self._settings = own
            self._checkpoint_gradients(own.gradient_checkpointing)

    def _checkpoint_gradients(self, on: bool) -> None:
        if on:
            self.module.enable_gradient_checkpointing()
        else:
            self.module.disable_gradient_checkpointing()

    @property
    def image_size(self) -> tuple[int, int]:
        """Height and width of the images in pixels."""
        _, height, width = self.latent_shape
        return height * self._vae_scale(), width * self._vae_scale()

    def layers(self) -> Iterator[nn.Module]:
        """The parts of the denoiser that run one after the other, for `model.shard`.

        FSDP2 adds up the gradients of a layer's inputs by themselves. So that their order stays, an
        input that is also used outside of the layer is used only once inside of it.
        """
        return _outermost_listed(self.module)

    def use_conditioning(self, conditioning: Conditioning) -> None:
        """From now on every prompt, and the empty one, has this embedding of one row."""
        self._null = self._every_prompt = conditioning

    def move_buffers(self, device: torch.device) -> None:
        """Act as on `device`: arrays of the policy itself become zeros there. For estimates."""
        self.device = device
        for name, value in vars(self).items():
            if isinstance(value, Tensor):
                setattr(self, name, torch.zeros_like(value, device=device))

    # --- helpers ---------------------------------------------------------------------------------

    @property
    def _where(self) -> str:
        """The first words of an error about the model's files."""
        return f"model.path = '{self._settings.path}'"

    def _check_tokenizers(self) -> None:
        """Refuse now what the first prompt would bring up."""
        _ = self._clip_length
        for name, part in self._pipe.components.items():
            if name.startswith("tokenizer") and part is not None:
                pipelines.check_tokenizer(part, name, self._where)

    @cached_property
    def _clip_length(self) -> int:
        """Tokens that the first CLIP reads of a prompt. ValueError where no file says it."""
        positions = self._pipe.text_encoder.config.max_position_embeddings
        length = self._pipe.tokenizer.model_max_length
        return pipelines.check_length(length, positions, "tokenizer", self._where)

    def _on_host(self, prompts: list[str]) -> list[Conditioning]:
        if self._every_prompt is not None:
            return [self._every_prompt] * len(prompts)
        with torch.no_grad(), self._present(*self._encoders):
            return [_to(self._encode(prompt), torch.device("cpu")) for prompt in prompts]

    def _vae_scale(self) -> int:
        """Pixels for each number of the latents, along one side."""
        return 2 ** (len(self._vae.config.block_out_channels) - 1)

    def _latent_shape(self) -> tuple[int, int, int]:
        """[C, H, W] of one latent. ValueError for a resolution that it cannot have."""
        channels, scale = self._vae.config.latent_channels, self._vae_scale()
        pixels = self._settings.resolution or self._native_resolution()
        pipelines.check_resolution(pixels, scale * self._patch())
        return channels, pixels // scale, pixels // scale

    @contextmanager
    def _present(self, *parts: nn.Module) -> Iterator[None]:
        """Within it the parts are on the device; with `model.offload` only within it."""
        if not self._settings.offload:
            yield
            return
        try:
            for part in parts:
                part.to(self.device)
            yield
        finally:
            for part in parts:
                part.to("cpu")


def _outermost_listed(module: nn.Module) -> Iterator[nn.Module]:
    """The elements of the outermost module lists."""
    listed = isinstance(module, nn.ModuleList)
    for child in module.children():
        if listed and not isinstance(child, nn.ModuleList):
            yield child
        else:
            yield from _outermost_listed(child)


def _finite(x: Tensor) -> np.ndarray:
    """Whether all values of each of B arrays are finite: bool [B]."""
    return torch.isfinite(x).flatten(1).all(1).cpu().numpy()


def _pixels(images: Tensor) -> np.ndarray:
    """Images [B, 3, H, W] in [-1, 1] as uint8 [B, H, W, 3], rounded as diffusers does."""
    scaled = (images / 2 + 0.5).clamp(0, 1).permute(0, 2, 3, 1).float()
    return (scaled * 255).round().to(torch.uint8).cpu().numpy()


def _to(conditioning: Conditioning, device: torch.device) -> Conditioning:
    pooled = conditioning.pooled
    pooled = None if pooled is None else pooled.to(device)
    return Conditioning(conditioning.tokens.to(device), pooled, conditioning.blocks)


def _stacked(parts: Sequence[Conditioning]) -> Conditioning:
    pooled = [part.pooled for part in parts if part.pooled is not None]
    tokens = torch.cat([part.tokens for part in parts])
    return Conditioning(tokens, torch.cat(pooled) if pooled else None, parts[0].blocks)
