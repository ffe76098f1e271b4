"""FLUX.1 as a policy: a flow transformer over packed latents, prompts by a T5 and a pooled CLIP."""

from typing import Any

import mlx.core as mx
import numpy as np

from common import pipelines
from common.algorithm.schedules import TRAIN_STEPS
from common.arrays import sinusoid
from common.backends import Conditioning, Prediction
from common.config import AdapterConfig, ModelConfig
from drift_mlx.diffusion import CLIP, DiffusersPolicy
from drift_mlx.loading import Folder
from drift_mlx.networks.blocks import Trace
from drift_mlx.networks.flux import Flux, FluxConfig
from drift_mlx.networks.mmdit import TIME_WIDTH

__all__ = ["FluxPolicy"]

T5 = "text_encoder_2"

NATIVE = 128
"""Latents of a side that FLUX.1 was made for: 1024 pixels."""


class FluxPolicy(DiffusersPolicy):
    """FLUX.1-dev, whose network has an input for the guidance scale, and FLUX.1-schnell."""

    prediction: Prediction = "velocity"

    def __init__(
        self,
        model: ModelConfig,
        adapter: AdapterConfig,
        *,
        seed: int,
        pipeline: Folder | None = None,
    ):
        super().__init__(model, adapter, seed=seed, pipeline=pipeline)
        self._check_tokenizers()
        _, height, width = self.latent_shape
        self._size = height // 2, width // 2
        scheduler = self._folder.document("scheduler", "scheduler_config.json")
        length = self._size[0] * self._size[1]
        self.schedule = pipelines.flux_schedule(scheduler, length, str(model.path))
        self._guidance = self.embed_time(np.array([model.guidance_embedding]))

    def embed_time(self, t: np.ndarray) -> mx.array:
        """The sinusoid of 1000 sigma, float32 [B, 256].

        Sigma is rounded to `model.dtype`, and so is its multiple, as FLUX.1's own code has it.
        """
        times = TRAIN_STEPS * mx.array(t.astype(np.float32)).astype(self.dtype)
        exact = np.array(times.astype(mx.float32), dtype=np.float64)
        return mx.array(sinusoid(exact, TIME_WIDTH).astype(np.float32))

    def _network(self) -> Flux:
        self._config = self._folder.settings(self.DENOISER, FluxConfig)
        return Flux(self._config)

    def _native_resolution(self) -> int:
        return NATIVE * self._vae_config.scale

    def _encode(self, prompt: str) -> Conditioning:
        tokens = self._read(T5, prompt, self._settings.max_tokens)
        pooled = self._read(CLIP, prompt, self._clip_length).pooled
        return Conditioning(tokens.astype(self.dtype), pooled.astype(self.dtype))

    def shaped(self, batch: int) -> Conditioning:
        """Zeros in place of the outputs of T5 and CLIP."""
        tokens = (batch, self._settings.max_tokens, self._config.joint_attention_dim)
        pooled = (batch, self._config.pooled_projection_dim)
        return Conditioning(mx.zeros(tokens, dtype=self.dtype), mx.zeros(pooled, dtype=self.dtype))

    def _readers(self) -> list[tuple[str, Any, int]]:
        return [
            ("CLIP", self._tokenizers[CLIP], self._clip_length),
            ("T5", self._tokenizers[T5], self._settings.max_tokens),
        ]

    def _forward(
        self, x: mx.array, time: mx.array, conditioning: Conditioning, trace: Trace | None = None
    ) -> mx.array:
        packed = self._active(
            pack(x),
            time,
            conditioning.tokens,
            conditioning.pooled,
            guidance=self._guidance if self._config.guidance_embeds else None,
            size=self._size,
            trace=trace,
        )
        return unpack(packed, *x.shape[2:])


def pack(x: mx.array) -> mx.array:
    """Latents [B, C, H, W] as tokens of 2 x 2 patches: [B, (H/2)(W/2), 4 C], as (c, py, px)."""
    B, C, H, W = x.shape
    x = x.reshape(B, C, H // 2, 2, W // 2, 2).transpose(0, 2, 4, 1, 3, 5)
    return x.reshape(B, (H // 2) * (W // 2), 4 * C)


def unpack(tokens: mx.array, height: int, width: int) -> mx.array:
    """The inverse of `pack`: [B, (H/2)(W/2), 4 C] to [B, C, H, W]."""
    B = len(tokens)
    x = tokens.reshape(B, height // 2, width // 2, -1, 2, 2).transpose(0, 3, 1, 4, 2, 5)
    return x.reshape(B, -1, height, width)
