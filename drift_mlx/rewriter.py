"""A language model of mlx-lm, as `common.prompts.language` asks for it.

Importing mlx-lm takes seconds, so it happens where a model is loaded.
"""

from collections.abc import Sequence
from typing import Any

import mlx.core as mx
import numpy as np

from common.prompts import language

__all__ = ["LanguageModel"]


class LanguageModel:
    """A causal language model in the dtype of its weights, with a cache of what it has read."""

    def __init__(self, model: str):
        """model: folder or repository. Raises LanguageModelError in one line."""
        self.folder = language.find(model)
        with language.load_errors_as_one_line(model):
            from mlx_lm.utils import load_model
            from transformers import AutoTokenizer

            self.tokenizer: Any = AutoTokenizer.from_pretrained(self.folder)
            self._model: Any = load_model(self.folder)[0]
        self._read: Any = None

    def start(self, context: Sequence[int], rows: int) -> np.ndarray:
        """Read a context, the same in every row: logits of what follows, float32 [rows, V]."""
        from mlx_lm.models.cache import make_prompt_cache

        self._read = make_prompt_cache(self._model)
        return self._logits(np.tile(np.asarray(context), (rows, 1)))

    def go_on(self, tokens: np.ndarray) -> np.ndarray:
        """Append one token to each row (int [rows]): logits of the one after it [rows, V]."""
        return self._logits(np.asarray(tokens)[:, None])

    def _logits(self, tokens: np.ndarray) -> np.ndarray:
        said = self._model(mx.array(tokens.astype(np.int32)), cache=self._read)
        return np.array(said[:, -1].astype(mx.float32))

    def close(self) -> None:
        """Give back the memory of the device."""
        self._model = self._read = None
        mx.clear_cache()
