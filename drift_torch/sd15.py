"""Stable Diffusion 1 and 2 as a policy: a UNet that predicts noise or v, conditioned on a CLIP."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from common import pipelines
from common.backends import Conditioning
from common.config import AdapterConfig, ModelConfig
from drift_torch.diffusion import DiffusersPolicy

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
        device: torch.device,
        pipeline: Any = None,
    ):
        super().__init__(model, adapter, seed=seed, device=device, pipeline=pipeline)
        self._check_tokenizers()
        self.schedule = pipelines.diffusion_schedule(self._scheduler, str(model.path))
        self.prediction = pipelines.prediction(self._scheduler, str(model.path))

    def layers(self) -> Iterator[nn.Module]:
        """Convolutions and transformer blocks: inputs of resnets are skip connections, too."""
        for name, part in self.module.named_modules():
            parent = name.rpartition(".")[0]
            if isinstance(part, nn.Conv2d) or parent.endswith("transformer_blocks"):
                yield part

    def embed_time(self, t: np.ndarray) -> Tensor:
        """The timestep, a whole number as float32 [B]."""
        return torch.tensor(t, dtype=torch.float32, device=self.device)

    def _parts(self) -> dict[str, Any]:
        # Rewards judge the images; a safety checker would only make some of them black.
        return {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False}

    def _patch(self) -> int:
        return 2 ** (len(self._pipe.unet.config.block_out_channels) - 1)

    def _native_resolution(self) -> int:
        side = pipelines.native_side(self._pipe.unet.config.sample_size, self.DENOISER, self._where)
        return side * self._pipe.vae_scale_factor

    def _encode(self, prompt: str) -> Conditioning:
        tokens, _ = self._pipe.encode_prompt(prompt, self.device, 1, False)
        return Conditioning(tokens.to(self.dtype))

    def _readers(self) -> list[tuple[str, Any, int]]:
        return [("CLIP", self._pipe.tokenizer, self._clip_length)]

    def _forward(self, x: Tensor, time: Tensor, conditioning: Conditioning) -> Tensor:
        return self._active(x, time, encoder_hidden_states=conditioning.tokens, return_dict=False)[
            0
        ]
