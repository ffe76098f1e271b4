"""What policies over diffusers pipelines do with prompts, whatever their tensor library is."""

import warnings
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any

from common.backends import Conditioning

__all__ = ["CACHE_BYTES", "EncodedPrompts", "warn_of_long"]

CACHE_BYTES = 2 << 30
"""Memory for prompts that were encoded: a thousand of SD3's, 50,000 of SD 1.5's."""


class EncodedPrompts:
    """Conditionings of one prompt each; the least recently used go when there are too many."""

    def __init__(self) -> None:
        self._encoded: OrderedDict[str, Conditioning] = OrderedDict()

    def __len__(self) -> int:
        return len(self._encoded)

    def __setitem__(self, prompt: str, conditioning: Conditioning) -> None:
        self._encoded[prompt] = conditioning

    def get_or_encode(
        self, prompts: Sequence[str], encode: Callable[[list[str]], list[Conditioning]]
    ) -> list[Conditioning]:
        """Those of the prompts, in their order; `encode` makes those that are not stored yet."""
        wanted = list(dict.fromkeys(prompts))
        missing = [prompt for prompt in wanted if prompt not in self._encoded]
        if missing:
            self._encoded.update(zip(missing, encode(missing), strict=True))
        for prompt in wanted:
            self._encoded.move_to_end(prompt)
        while len(self._encoded) > len(wanted) and self._bytes() > CACHE_BYTES:
            self._encoded.popitem(last=False)
        return [self._encoded[prompt] for prompt in prompts]

    def _bytes(self) -> int:
        first = next(iter(self._encoded.values()))
        arrays = [first.tokens, *([] if first.pooled is None else [first.pooled])]
        return len(self._encoded) * sum(array.nbytes for array in arrays)


def warn_of_long(prompts: Sequence[str], readers: Sequence[tuple[str, Any, int]]) -> None:
    """Warn, with their number, of prompts longer than what a text encoder reads of them.

    readers: (name, tokenizer, tokens that it reads) of each text encoder.
    """
    for name, tokenizer, limit in readers:
        lengths = [len(ids) for ids in tokenizer(list(prompts)).input_ids]
        if cut := sum(length > limit for length in lengths):
            warnings.warn(
                f"{cut} of {len(prompts)} prompts are longer than the {limit} tokens that "
                f"{name} reads (the longest has {max(lengths)}): it does not see their ends",
                stacklevel=3,
            )
