"""The maps of AlexNet that LPIPS compares (Zhang et al. 2018), as one vector an image.

LPIPS of two images is the sum over layers of the mean over places of the weighted squared
difference of maps that have unit length over channels. So it is the squared distance of the maps
times sqrt(weight / places), side by side.
"""

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from common.rewards.preprocess import normalised, resized
from common.rewards.registry import RewardNameError
from drift_torch.rewards import LpipsOptions, loading

# channels in, channels out, kernel, stride, padding, pooling before; named as torchvision's.
LAYERS = {
    "features.0": (3, 64, 11, 4, 2, False),
    "features.3": (64, 192, 5, 1, 2, True),
    "features.6": (192, 384, 3, 1, 1, True),
    "features.8": (384, 256, 3, 1, 1, False),
    "features.10": (256, 256, 3, 1, 1, False),
}
SHIFT, SCALE = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)
"""Shift and scale of the pixels in [-1, 1], by channel."""

EPS = 1e-10


class Maps:
    """Uint8 images to float32 vectors whose squared distance is their LPIPS."""

    def __init__(self, options: LpipsOptions) -> None:
        """Raises RewardNameError when a file is missing or holds other weights."""
        for name in ("path", "head"):
            if getattr(options, name) is None:
                raise RewardNameError(f"LPIPS needs the option {name}, a file of weights")
        convolutions = nn.ModuleDict(
            {
                name.replace(".", "_"): nn.Conv2d(a, b, kernel, stride, padding)
                for name, (a, b, kernel, stride, padding, _) in LAYERS.items()
            }
        )
        values = loading.weights(str(options.path))
        renamed = {key.replace("features.", "features_"): value for key, value in values.items()}
        loading.fill(convolutions, renamed, str(options.path))
        self._device = loading.device_of(options)
        self._convolutions = convolutions.requires_grad_(False).to(self._device)
        self._weights = self._read(str(options.head))
        self._size = options.size

    @torch.no_grad()
    def __call__(self, images: np.ndarray) -> np.ndarray:
        """Uint8 [N, H, W, 3] to float32 [N, F]."""
        small = resized(images, (self._size, self._size))
        # (x / 127.5 - 1 - shift) / scale, as a mean and deviation of x / 255
        mean = tuple((1 + shift) / 2 for shift in SHIFT)
        std = tuple(scale / 2 for scale in SCALE)
        x = torch.from_numpy(normalised(small, mean, std)).to(self._device)  # pyright: ignore
        parts = []
        for (name, layer), weight in zip(LAYERS.items(), self._weights, strict=True):
            if layer[-1]:
                x = functional.max_pool2d(x, 3, 2)
            x = functional.relu(self._convolutions[name.replace(".", "_")](x))
            parts.append(self._weighted(x, weight).flatten(1))
        return torch.cat(parts, dim=1).cpu().numpy()

    def _read(self, head: str) -> list[Tensor]:
        values = loading.weights(head)
        heads = []
        for i, (_, channels, *_rest) in enumerate(LAYERS.values()):
            weight = values.get(f"lin{i}.model.1.weight")
            if weight is None or weight.shape != (1, channels, 1, 1) or (weight < 0).any():
                raise RewardNameError(f"'{head}' holds no LPIPS weights for AlexNet")
            heads.append(weight.to(self._device))
        return heads

    @staticmethod
    def _weighted(maps: Tensor, weight: Tensor) -> Tensor:
        """Maps of unit length over channels, times sqrt(weight / places)."""
        length = maps.square().sum(dim=1, keepdim=True).sqrt()
        places = maps.shape[2] * maps.shape[3]
        return maps / (length + EPS) * (weight / places).sqrt()
