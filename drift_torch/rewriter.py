"""A language model of the transformers library, as `common.prompts.language` asks for it.

Importing transformers takes seconds, so it happens where a model is loaded.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from common.prompts import language
from drift_torch.loading import check_report

__all__ = ["LanguageModel"]


class LanguageModel:
    """A causal language model in the dtype of its weights, with a cache of what it has read."""

    def __init__(self, model: str, device: torch.device | None = None):
        """model: folder or repository. Raises LanguageModelError in one line."""
        self.folder = language.find(model)
        with language.load_errors_as_one_line(model):
            from transformers import AutoModelForCausalLM, AutoTokenizer
            from transformers.utils import logging

            logging.disable_progress_bar()
            self.tokenizer: Any = AutoTokenizer.from_pretrained(self.folder)
            how: dict[str, Any] = {"output_loading_info": True, "ignore_mismatched_sizes": True}
            kind: Any = AutoModelForCausalLM
            loaded, report = kind.from_pretrained(self.folder, dtype="auto", **how)
            check_report(loaded, report, "its weights", surplus=False)
        self._device = device or torch.device("cpu")
        self._model: Any = loaded.to(self._device).eval()
        self._read: Any = None

    def start(self, context: Sequence[int], rows: int) -> np.ndarray:
        """Read a context, the same in every row: logits of what follows, float32 [rows, V]."""
        self._read = None
        return self._logits(np.tile(np.asarray(context), (rows, 1)))

    def go_on(self, tokens: np.ndarray) -> np.ndarray:
        """Append one token to each row (int [rows]): logits of the one after it [rows, V]."""
        return self._logits(np.asarray(tokens)[:, None])

    def _logits(self, tokens: np.ndarray) -> np.ndarray:
        ids = torch.tensor(tokens, dtype=torch.int64, device=self._device)
        with torch.no_grad():
            said = self._model(input_ids=ids, past_key_values=self._read, use_cache=True)
        self._read = said.past_key_values
        return said.logits[:, -1].float().cpu().numpy()

    def close(self) -> None:
        """Give back the memory of the device."""
        self._model = self._read = None
        if self._device.type == "cuda":
            torch.cuda.empty_cache()
