"""Stable Diffusion 3 and 3.5 as a policy: a flow transformer conditioned on two CLIPs and a T5."""

from typing import Any

import mlx.core as mx
import numpy as np

from common import pipelines
from common.algorithm.schedules import TRAIN_STEPS
from common.arrays import sinusoid
from common.backends import Block, Conditioning, Prediction
from common.config import AdapterConfig, ModelConfig
from drift_mlx.diffusion import DiffusersPolicy
from drift_mlx.loading import Folder
from drift_mlx.networks.blocks import Trace
from drift_mlx.networks.mmdit import TIME_WIDTH, MMDiT, MMDiTConfig
from drift_mlx.networks.text import CLIPTextConfig

__all__ = ["SD3Policy"]

CLIPS = ("text_encoder", "text_encoder_2")
T5 = "text_encoder_3"


class SD3Policy(DiffusersPolicy):
    """SD3-medium, SD3.5-medium and SD3.5-large (Esser et al. 2024, arXiv:2403.03206).

    Tokens: those of the CLIPs, whose channels are side by side and padded with zeros to T5's
    width, then T5's. Pooled: both CLIPs'. Without T5 its tokens are zeros.
    """

    FROZEN = frozenset({"pos_embed.pos_embed"})
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
        scheduler = self._folder.document("scheduler", "scheduler_config.json")
        length = (self.latent_shape[1] // self._config.patch_size) ** 2
        self.schedule = pipelines.sd3_schedule(scheduler, length, str(model.path))
        self._blocks = (
            Block(self._clip_length, self._clip_channels()),
            Block(model.max_tokens, self._config.joint_attention_dim if self._has_t5() else 0),
        )
        most = self._config.pos_embed_max_size * self._config.patch_size
        if self.latent_shape[1] > most:
            pixels = most * self._vae_config.scale
            raise ValueError(
                f"model.resolution = {model.resolution} is beyond the {pixels} pixels that this "
                "model has positions for"
            )

    def embed_time(self, t: np.ndarray) -> mx.array:
        """The sinusoid of 1000 sigma, float32 [B, 256]."""
        return mx.array(sinusoid(TRAIN_STEPS * t, TIME_WIDTH).astype(np.float32))

    def _without(self) -> tuple[str, ...]:
        return () if self._settings.text_encoder_3 else (T5, "tokenizer_3")

    def _network(self) -> MMDiT:
        self._config = self._folder.settings(self.DENOISER, MMDiTConfig)
        return MMDiT(self._config)

    def _native_resolution(self) -> int:
        size = self._folder.settings(self.DENOISER, MMDiTConfig).sample_size
        return size * self._vae_config.scale

    def _encode(self, prompt: str) -> Conditioning:
        config, length = self._config, self._settings.max_tokens
        clips = [self._read(name, prompt, self._clip_length) for name in CLIPS]
        tokens = mx.concatenate([clip.penultimate for clip in clips], axis=-1)
        padding = config.joint_attention_dim - tokens.shape[-1]
        tokens = mx.pad(tokens, [(0, 0), (0, 0), (0, padding)])
        if self._has_t5():
            rest = self._read(T5, prompt, length)
        else:
            rest = mx.zeros((1, length, config.joint_attention_dim), dtype=self.dtype)
        tokens = mx.concatenate([tokens, rest], axis=1).astype(self.dtype)
        pooled = mx.concatenate([clip.pooled for clip in clips], axis=-1).astype(self.dtype)
        return Conditioning(tokens, pooled, self._blocks)

    def shaped(self, batch: int) -> Conditioning:
        """Zeros for what the CLIPs and T5 say."""
        length = sum(block.length for block in self._blocks)
        tokens = mx.zeros((batch, length, self._config.joint_attention_dim), dtype=self.dtype)
        pooled = mx.zeros((batch, self._config.pooled_projection_dim), dtype=self.dtype)
        return Conditioning(tokens, pooled, self._blocks)

    def _readers(self) -> list[tuple[str, Any, int]]:
        readers = [("CLIP", self._tokenizers[CLIPS[0]], self._clip_length)]
        if self._has_t5():
            readers.append(("T5", self._tokenizers[T5], self._settings.max_tokens))
        return readers

    def _forward(
        self, x: mx.array, time: mx.array, conditioning: Conditioning, trace: Trace | None = None
    ) -> mx.array:
        return self._active(x, time, conditioning.tokens, conditioning.pooled, trace=trace)

    def _has_t5(self) -> bool:
        return T5 in self._encoders

    def _clip_channels(self) -> int:
        return sum(self._folder.settings(name, CLIPTextConfig).hidden_size for name in CLIPS)
