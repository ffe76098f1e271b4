"""How well the words that a prompt asks for can be read in the image: PP-OCR through rapidocr.

The weights are in rapidocr's wheel and run in ONNX Runtime; nothing is downloaded.
"""

import importlib.metadata
import importlib.util
import re
import warnings
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np

from common.backends import Backend
from common.config import key
from common.rewards.registry import RewardFunction, register
from common.rewards.spec import Options

LONGEST_SIDE = 960
"""Larger images are reduced to it before text detection; smaller ones stay unchanged."""


MatchRule = Literal["strict", "flow_grpo"]
"""The comparison of the text in an image with the words of the prompt."""


class OcrOptions(Options):
    """Options of `ocr`."""

    rule: MatchRule = key(
        "strict", "flow_grpo: text that contains the words is perfect, whatever else is written"
    )
    threads: int = key(0, "of ONNX Runtime; 0 = as many as there are cores", ge=0)


@register(
    "ocr",
    needs=("rapidocr", "onnxruntime"),
    range="0 to 1, share of letters",
    description="how well the words in double quotes can be read in the image (PP-OCR)",
    version="1",
    licence="Apache-2.0",
    weights="in the wheel of rapidocr",
    batch_size=16,
    exact=True,
    options=OcrOptions,
)
def ocr(backend: Backend, options: OcrOptions) -> RewardFunction:
    """Score the recognised text of each image against the words that its prompt asks for."""
    return TextScorer(options)


class TextScorer:
    """Recognises text and compares it; the version includes that of rapidocr, for its weights."""

    def __init__(self, options: OcrOptions) -> None:
        from rapidocr import RapidOCR

        threads = options.threads or -1
        self.version = f"1, rapidocr {importlib.metadata.version('rapidocr')}"
        self._rule: MatchRule = options.rule
        self._warned = False
        self._read = RapidOCR(
            params={
                "Global.log_level": "critical",
                "Global.use_cls": False,  # upside-down text is not what the prompt asks for
                "Det.limit_type": "max",
                "Det.limit_side_len": LONGEST_SIDE,
                "EngineConfig.onnxruntime.intra_op_num_threads": threads,
                "EngineConfig.onnxruntime.inter_op_num_threads": 1,
            }
        )

    def __call__(
        self,
        images: np.ndarray,
        prompts: Sequence[str],
        metadata: Sequence[Mapping[str, Any]],
    ) -> np.ndarray:
        """Uint8 [N, H, W, 3], N prompts, N metadata: float64 [N] in [0, 1]."""
        return np.array(
            [
                similarity(self.read(image), self._wanted(prompt, about), rule=self._rule)
                for image, prompt, about in zip(images, prompts, metadata, strict=True)
            ]
        )

    def unfit(self, prompts: Sequence[str], metadata: Sequence[Mapping[str, Any]]) -> str:
        """Why an audit should leave this scorer out for these prompts; "" if it should not."""
        asked = any(wanted(p, about) for p, about in zip(prompts, metadata, strict=True))
        return "" if asked else "no prompt asks for words"

    def read(self, image: np.ndarray) -> str:
        """All text of an image uint8 [H, W, 3], in reading order; "" where there is none."""
        result: Any = self._read(np.ascontiguousarray(image[..., ::-1]))  # it takes BGR
        return " ".join(result.txts or ())

    def _wanted(self, prompt: str, metadata: Mapping[str, Any]) -> str:
        words = wanted(prompt, metadata)
        if words is None and not self._warned:
            self._warned = True
            warnings.warn(
                f"reward 'ocr': the prompt '{prompt}' has no words in double quotes and no 'text' "
                "in its metadata, so the prompt itself is looked for",
                stacklevel=2,
            )
        return prompt if words is None else words


def wanted(prompt: str, metadata: Mapping[str, Any]) -> str | None:
    """The requested words: `text` of the metadata, else those in the first double quotes."""
    if isinstance(text := metadata.get("text"), str) and text.strip():
        return text
    quoted = re.search(r'"([^"]+)"|“([^”]+)”', prompt)
    return (quoted[1] or quoted[2]) if quoted else None


def similarity(read: str, target: str, *, rule: MatchRule) -> float:
    """1 - min(d, n) / n, with d the edit distance and n the length of the target; in [0, 1].

    Letters are compared in lower case and without white space. `flow_grpo` counts a target inside
    the text that was read as d = 0, which pays for writing anything else around it (Flow-GRPO's
    rule); `strict` counts extra letters as errors.

    Raises ValueError for a target without letters.
    """
    read, target = ("".join(text.lower().split()) for text in (read, target))
    if not target:
        raise ValueError("there are no words to look for")
    if rule == "flow_grpo" and target in read:
        return 1.0
    return 1.0 - min(edit_distance(read, target), len(target)) / len(target)


def edit_distance(a: str, b: str) -> int:
    """Levenshtein's: the fewest insertions, deletions and substitutions that make a into b."""
    row = list(range(len(b) + 1))
    for i, left in enumerate(a, start=1):
        above, row[0] = row[0], i
        for j, right in enumerate(b, start=1):
            above, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, above + (left != right))
    return row[-1]
