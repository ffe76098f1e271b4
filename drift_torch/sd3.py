"""Stable Diffusion 3 and 3.5 as a policy: a flow transformer conditioned on two CLIPs and a T5."""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from common import pipelines
from common.algorithm.schedules import TRAIN_STEPS
from common.backends import Block, Conditioning, Prediction
from common.config import AdapterConfig, ModelConfig
from drift_torch.diffusion import DiffusersPolicy

__all__ = ["SD3Policy"]


class SD3Policy(DiffusersPolicy):
    """SD3-medium, SD3.5-medium and SD3.5-large (Esser et al. 2024, arXiv:2403.03206).

    Tokens: those of the CLIPs, whose channels are side by side and padded with zeros to T5's
    width, then T5's. Pooled: both CLIPs'. Without T5 its tokens are zeros.
    """

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
        config = self.module.config
        length = (self.latent_shape[1] // config.patch_size) ** 2
        self.schedule = pipelines.sd3_schedule(self._scheduler, length, str(model.path))
        self._blocks = (
            Block(self._clip_length, self._clip_channels()),
            Block(model.max_tokens, config.joint_attention_dim if self._has_t5() else 0),
        )
        most = config.pos_embed_max_size * config.patch_size
        if self.latent_shape[1] > most:
            pixels = most * self._pipe.vae_scale_factor
            raise ValueError(
                f"model.resolution = {model.resolution} is beyond the {pixels} pixels that this "
                "model has positions for"
            )

    def embed_time(self, t: np.ndarray) -> Tensor:
        """1000 sigma, float64 [B]."""
        return torch.tensor(TRAIN_STEPS * t, dtype=torch.float64, device=self.device)

    def _parts(self) -> dict[str, Any]:
        if self._settings.text_encoder_3:
            return {}
        return {"text_encoder_3": None, "tokenizer_3": None}

    def _native_resolution(self) -> int:
        return self._pipe.default_sample_size * self._pipe.vae_scale_factor

    def _encode(self, prompt: str) -> Conditioning:
        tokens, _, pooled, _ = self._pipe.encode_prompt(
            prompt,
            None,
            None,
            device=self.device,
            do_classifier_free_guidance=False,
            max_sequence_length=self._settings.max_tokens,
        )
        return Conditioning(tokens.to(self.dtype), pooled.to(self.dtype), self._blocks)

    def _readers(self) -> list[tuple[str, Any, int]]:
        readers = [("CLIP", self._pipe.tokenizer, self._clip_length)]
        if self._has_t5():
            readers.append(("T5", self._pipe.tokenizer_3, self._settings.max_tokens))
        return readers

    def _forward(self, x: Tensor, time: Tensor, conditioning: Conditioning) -> Tensor:
        return self._active(
            hidden_states=x,
            timestep=time,
            encoder_hidden_states=conditioning.tokens,
            pooled_projections=conditioning.pooled,
            return_dict=False,
        )[0]

    def _has_t5(self) -> bool:
        return self._pipe.text_encoder_3 is not None

    def _clip_channels(self) -> int:
        clips = (self._pipe.text_encoder, self._pipe.text_encoder_2)
        return sum(clip.config.hidden_size for clip in clips)
