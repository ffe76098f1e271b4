"""FLUX.1 as a policy: a flow transformer over packed latents, prompts by a T5 and a pooled CLIP."""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from common import pipelines
from common.backends import Conditioning, Prediction
from common.config import AdapterConfig, ModelConfig
from drift_torch.diffusion import DiffusersPolicy

__all__ = ["FluxPolicy"]

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
        device: torch.device,
        pipeline: Any = None,
    ):
        super().__init__(model, adapter, seed=seed, device=device, pipeline=pipeline)
        self._check_tokenizers()
        self._has_guidance_input = self.module.config.guidance_embeds
        _, height, width = self.latent_shape
        length = (height // 2) * (width // 2)
        self.schedule = pipelines.flux_schedule(self._scheduler, length, str(model.path))
        rows, columns = torch.arange(height // 2), torch.arange(width // 2)
        grid = torch.cartesian_prod(rows, columns).to(device, self.dtype)
        self._image_ids = torch.cat([torch.zeros_like(grid[:, :1]), grid], dim=1)
        self._text_ids = torch.zeros(model.max_tokens, 3, dtype=self.dtype, device=device)

    def embed_time(self, t: np.ndarray) -> Tensor:
        """Sigma itself, float32 [B]: the network multiplies it by 1000."""
        return torch.tensor(t, dtype=torch.float32, device=self.device)

    def _native_resolution(self) -> int:
        return NATIVE * self._pipe.vae_scale_factor

    def _encode(self, prompt: str) -> Conditioning:
        tokens, pooled, _ = self._pipe.encode_prompt(
            prompt, None, device=self.device, max_sequence_length=self._settings.max_tokens
        )
        return Conditioning(tokens.to(self.dtype), pooled.to(self.dtype))

    def _readers(self) -> list[tuple[str, Any, int]]:
        return [
            ("CLIP", self._pipe.tokenizer, self._clip_length),
            ("T5", self._pipe.tokenizer_2, self._settings.max_tokens),
        ]

    def _forward(self, x: Tensor, time: Tensor, conditioning: Conditioning) -> Tensor:
        guidance = None
        if self._has_guidance_input:
            guidance = torch.full_like(time, self._settings.guidance_embedding)
        packed = self._active(
            hidden_states=pack(x),
            timestep=time,
            guidance=guidance,
            pooled_projections=conditioning.pooled,
            encoder_hidden_states=conditioning.tokens,
            txt_ids=self._text_ids,
            img_ids=self._image_ids,
            return_dict=False,
        )[0]
        return unpack(packed, *x.shape[2:])


def pack(x: Tensor) -> Tensor:
    """Latents [B, C, H, W] as tokens of 2 x 2 patches: [B, (H/2)(W/2), 4 C], as (c, py, px)."""
    B, C, H, W = x.shape
    x = x.reshape(B, C, H // 2, 2, W // 2, 2).permute(0, 2, 4, 1, 3, 5)
    return x.reshape(B, (H // 2) * (W // 2), 4 * C)


def unpack(tokens: Tensor, height: int, width: int) -> Tensor:
    """The inverse of `pack`: [B, (H/2)(W/2), 4 C] to [B, C, H, W]."""
    B = len(tokens)
    x = tokens.reshape(B, height // 2, width // 2, -1, 2, 2).permute(0, 3, 1, 4, 2, 5)
    return x.reshape(B, -1, height, width)
