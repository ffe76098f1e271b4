"""Scorers over CLIP: CLIPScore, PickScore, HPSv2.1 and the aesthetic predictor v2."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from common.rewards.preprocess import (
    CLIP_MEAN,
    CLIP_STD,
    Filter,
    clip_pixels,
    letterboxed,
    normalised,
)
from common.rewards.spec import Affine, TorchOptions
from drift_torch.rewards import AestheticOptions, ClipOptions, loading, open_clip

TOKENS = 77
"""Tokens that every CLIP's text tower takes."""

AESTHETIC_HEAD = "trl-lib/ddpo-aesthetic-predictor:aesthetic-model.pth"
WIDTHS = (1024, 128, 64, 16, 1)
"""Widths of the aesthetic predictor's and ImageReward's layers; no activations in between."""


class Clip:
    """A CLIP with its tokenizer: unit embeddings of images and texts."""

    def __init__(self, model: nn.Module, processor: str | None, options: TorchOptions) -> None:
        """processor: folder or hub name of the tokenizer; None where no text is read."""
        from transformers import AutoTokenizer

        self._model: Any = loading.ready(model, options)
        self._device, self._dtype = loading.device_of(options), loading.DTYPES[options.dtype]
        self.size = int(self._model.config.vision_config.image_size)
        self._tokenizer: Any = None
        if processor is not None:
            self._tokenizer = loading.pretrained(AutoTokenizer, processor)

    @property
    def scale(self) -> float:
        """exp(logit scale): what CLIP multiplies a cosine with."""
        return math.exp(float(self._model.logit_scale))

    @torch.no_grad()
    def images(self, pixels: np.ndarray) -> Tensor:
        """Float32 [N, 3, s, s] to unit embeddings, float32 [N, D] on the device."""
        x = torch.from_numpy(pixels).to(self._device, self._dtype)
        return normalize(_embedding(self._model.get_image_features(pixel_values=x)), dim=-1)

    @torch.no_grad()
    def texts(self, prompts: Sequence[str]) -> Tensor:
        """Unit embeddings, float32 [N, D] on the device; what is beyond 77 tokens is not read."""
        unique = list(dict.fromkeys(prompts))
        tokens = self._tokenizer(
            unique, padding="max_length", truncation=True, max_length=TOKENS, return_tensors="pt"
        ).to(self._device)
        features = self._model.get_text_features(
            input_ids=tokens["input_ids"], attention_mask=tokens["attention_mask"]
        )
        rows = [unique.index(prompt) for prompt in prompts]
        return normalize(_embedding(features), dim=-1)[rows]


class ClipScore:
    """The cosine of image and prompt."""

    def __init__(self, options: ClipOptions, default: str) -> None:
        from transformers import CLIPModel

        name = options.path or default
        model = loading.pretrained(CLIPModel, name)
        self._clip = Clip(model, options.processor or name, options)
        self._resample: Filter = options.interpolation

    def __call__(
        self,
        images: np.ndarray,
        prompts: Sequence[str],
        metadata: Sequence[Mapping[str, Any]],
    ) -> np.ndarray:
        """Float64 [N] in [-1, 1]."""
        return self._cosine(images, prompts)

    def _pixels(self, images: np.ndarray) -> np.ndarray:
        return clip_pixels(images, self._clip.size, resample=self._resample)

    def _cosine(self, images: np.ndarray, prompts: Sequence[str]) -> np.ndarray:
        products = self._clip.images(self._pixels(images)) * self._clip.texts(prompts)
        return products.sum(-1).double().cpu().numpy()


class PickScore(ClipScore):
    """exp(logit scale) times the cosine (Kirstain et al. 2023)."""

    def __init__(self, options: ClipOptions, default: str, processor: str) -> None:
        # A folder has its tokenizer beside the weights; the published repository has none.
        beside = options.path if options.path else processor
        chosen = options.model_copy(update={"processor": options.processor or beside})
        super().__init__(chosen, default)
        self.scalings = {"cos": Affine(divisor=self._clip.scale)}

    def __call__(
        self,
        images: np.ndarray,
        prompts: Sequence[str],
        metadata: Sequence[Mapping[str, Any]],
    ) -> np.ndarray:
        """Float64 [N]."""
        return self._clip.scale * self._cosine(images, prompts)


class HpsV2(ClipScore):
    """The cosine in a CLIP that was tuned on preferences (Wu et al. 2023)."""

    def __init__(self, options: ClipOptions, default: str, processor: str) -> None:
        model = open_clip.load(options.path or default)
        self._clip = Clip(model, options.processor or processor, options)
        self._resample: Filter = options.interpolation

    def _pixels(self, images: np.ndarray) -> np.ndarray:
        box = letterboxed(images, self._clip.size, resample=self._resample)
        return normalised(box, CLIP_MEAN, CLIP_STD)


class Aesthetic:
    """Five linear layers on CLIP's unit image embedding (LAION, 2022)."""

    def __init__(self, options: AestheticOptions, default: str) -> None:
        from transformers import CLIPModel

        self._clip = Clip(loading.pretrained(CLIPModel, options.path or default), None, options)
        head = options.head or AESTHETIC_HEAD
        self._layers = regression(loading.weights(head), head, options)

    @torch.no_grad()
    def __call__(
        self,
        images: np.ndarray,
        prompts: Sequence[str],
        metadata: Sequence[Mapping[str, Any]],
    ) -> np.ndarray:
        """Float64 [N]; prompts do not matter."""
        embedding = self._clip.images(clip_pixels(images, self._clip.size))
        return self._layers(embedding)[:, 0].double().cpu().numpy()


def regression(values: dict[str, Tensor], name: str, options: TorchOptions) -> nn.Sequential:
    """Linear layers without activations, numbered as the published files number them.

    Dropout stands at 1, 3 and 5 there, and is left out.
    """
    numbers = (0, 2, 4, 6, 7)
    first = values.get("layers.0.weight")
    before = first.shape[1] if first is not None and first.ndim == 2 else 0
    sizes = zip((before, *WIDTHS), WIDTHS, strict=False)
    layers = nn.Sequential(*(nn.Linear(a, b) for a, b in sizes))
    renamed = {
        f"{i}.{kind}": values[key]
        for i, number in enumerate(numbers)
        for kind in ("weight", "bias")
        if (key := f"layers.{number}.{kind}") in values
    }
    loading.fill(layers, renamed, name)
    return layers.requires_grad_(False).to(loading.device_of(options))


def _embedding(features: Any) -> Tensor:
    """Float32 of what `get_*_features` gives: a tensor, or since transformers 5 an object."""
    return (features if isinstance(features, Tensor) else features.pooler_output).float()
