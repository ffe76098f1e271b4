"""GenEval's questions, asked of OWLv2: boxes for each thing, and for each box the likeliest colour.

GenEval itself uses a closed-vocabulary detector and CLIP on crops; an open-vocabulary detector
answers both in one pass. Its confidences are not that detector's: thresholds are options.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from common.rewards import detection
from common.rewards.detection import COLORS, Box, Question
from common.rewards.preprocess import CLIP_MEAN, CLIP_STD, normalised, resized
from drift_torch.rewards import DetectorOptions, loading


class Detector:
    """The share of what its metadata asks for that is found in an image."""

    def __init__(self, options: DetectorOptions, default: str) -> None:
        from transformers import AutoTokenizer, Owlv2ForObjectDetection

        name = options.path or default
        model = loading.pretrained(Owlv2ForObjectDetection, name)
        self._model: Any = loading.ready(model, options)
        self._tokenizer: Any = loading.pretrained(AutoTokenizer, name)
        self._device, self._dtype = loading.device_of(options), loading.DTYPES[options.dtype]
        self._options = options

    def __call__(
        self,
        images: np.ndarray,
        prompts: Sequence[str],
        metadata: Sequence[Mapping[str, Any]],
    ) -> np.ndarray:
        """Float64 [N] in [0, 1]; ValueError for a prompt whose metadata asks for nothing."""
        asked = [detection.question(p, about) for p, about in zip(prompts, metadata, strict=True)]
        return np.array(
            [
                detection.score(wanted, self.detections(image, wanted))
                for image, wanted in zip(images, asked, strict=True)
            ]
        )

    @torch.no_grad()
    def detections(self, image: np.ndarray, wanted: Question) -> dict[str, list[Box]]:
        """Boxes by name in an image uint8 [H, W, 3], the surest first."""
        names = wanted.names
        queries = [f"a photo of a {name}" for name in names]
        queries += [f"a photo of a {color} {name}" for name in names for color in COLORS]
        logits, corners = self._look(image, queries)
        threshold = self._options.counting_threshold if wanted.counts else self._options.threshold
        boxes_by_name = {}
        for i, name in enumerate(names):
            start = len(names) + i * len(COLORS)
            colors = logits[:, start : start + len(COLORS)].argmax(axis=1)
            sure = 1.0 / (1.0 + np.exp(-logits[:, i]))
            boxes = [
                Box((float(c[0]), float(c[1]), float(c[2]), float(c[3])), float(p), COLORS[k])
                for c, p, k in zip(corners, sure, colors, strict=True)
            ]
            boxes_by_name[name] = detection.without_overlaps(
                boxes, threshold=threshold, overlap=self._options.overlap
            )
        return boxes_by_name

    def _look(self, image: np.ndarray, queries: list[str]) -> tuple[np.ndarray, np.ndarray]:
        """Logits [boxes, queries], and corners in pixels [boxes, 4]."""
        tokens = self._tokenizer(
            queries, padding="max_length", truncation=True, max_length=16, return_tensors="pt"
        ).to(self._device)
        side = int(self._model.config.vision_config.image_size)
        pixels = torch.from_numpy(padded_square(image, side))[None]
        seen = self._model(
            input_ids=tokens["input_ids"],
            attention_mask=tokens["attention_mask"],
            pixel_values=pixels.to(self._device, self._dtype),
        )
        logits = seen.logits[0].double().cpu().numpy()
        cx, cy, w, h = seen.pred_boxes[0].double().cpu().numpy().T
        corners = np.stack([cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2], axis=1)
        return logits, corners * max(image.shape[:2])


def padded_square(image: np.ndarray, side: int) -> np.ndarray:
    """Uint8 [H, W, 3], grey at the right or the bottom to make it square: float32 [3, s, s]."""
    height, width = image.shape[:2]
    whole = np.full((max(height, width),) * 2 + (3,), 128, dtype=np.uint8)
    whole[:height, :width] = image
    return normalised(resized(whole[None], (side, side), resample="bilinear"), CLIP_MEAN, CLIP_STD)[
        0
    ]
