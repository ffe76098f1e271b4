"""Stable Diffusion 1 and 2 as a policy: a UNet that predicts noise or v, conditioned on a CLIP."""

from typing import Any

import mlx.core as mx
import numpy as np

from common import pipelines
from common.arrays import sinusoid
from common.backends import Conditioning
from common.config import AdapterConfig, ModelConfig
from drift_mlx.diffusion import CLIP, DiffusersPolicy
from drift_mlx.loading import Folder
from drift_mlx.networks.blocks import Trace
from drift_mlx.networks.unet import UNet, UNetConfig

__all__ = ["SD15Policy"]


class SD15Policy(DiffusersPolicy):
    """SD 1.4, 1.5 and 2.x (Rombach et al. 2022, arXiv:2112.10752).

    Which of noise and v the UNet predicts, its scheduler's configuration says.
    """

    DENOISER = "unet"

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
        scheduler = self._folder.document("scheduler", "scheduler_config.json")
        self.schedule = pipelines.diffusion_schedule(scheduler, str(model.path))
        self.prediction = pipelines.prediction(scheduler, str(model.path))

    def embed_time(self, t: np.ndarray) -> mx.array:
        """The sinusoid of the timestep, float32 [B, D]."""
        return mx.array(sinusoid(t, self._config.block_out_channels[0]).astype(np.float32))

    def _network(self) -> UNet:
        self._config = self._sizes()
        return UNet(self._config)

    def _sizes(self) -> UNetConfig:
        return self._folder.settings(self.DENOISER, UNetConfig)

    def _patch(self) -> int:
        return 2 ** (len(self._sizes().block_out_channels) - 1)

    def _native_resolution(self) -> int:
        side = pipelines.native_side(self._sizes().sample_size, self.DENOISER, self._where)
        return side * self._vae_config.scale

    def _encode(self, prompt: str) -> Conditioning:
        return Conditioning(self._read(CLIP, prompt, self._clip_length).last.astype(self.dtype))

    def shaped(self, batch: int) -> Conditioning:
        """Zeros for what CLIP says."""
        shape = batch, self._clip_length, self._config.cross_attention_dim
        return Conditioning(mx.zeros(shape, dtype=self.dtype))

    def _readers(self) -> list[tuple[str, Any, int]]:
        return [("CLIP", self._tokenizers[CLIP], self._clip_length)]

    def _forward(
        self, x: mx.array, time: mx.array, conditioning: Conditioning, trace: Trace | None = None
    ) -> mx.array:
        return self._active(x, time, conditioning.tokens, trace=trace)
