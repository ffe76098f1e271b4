"""One prompt, and the error of prompts that cannot be used."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from common.errors import RequestError


class PromptError(RequestError):
    """Prompts that cannot be used; one line with the file and the line or the prompt."""


@dataclass(frozen=True)
class Prompt:
    """The prompt of one group. id: position in the source, part of the key of its noise."""

    id: int
    text: str
    metadata: Mapping[str, Any] = field(default_factory=dict, compare=False)


def check_unicode(texts: Iterable[str], source: str) -> None:
    """Raise PromptError for a text with half of a surrogate pair, which is no Unicode text.

    It comes from escapes in JSON and from bytes of the command line that are not UTF-8; it could
    neither be tokenized nor written into a log. source: where the texts are from.
    """
    for text in texts:
        try:
            text.encode()
        except UnicodeEncodeError:
            raise PromptError(
                f"{source}: the prompt {text!a} is no Unicode text: it has half of a surrogate pair"
            ) from None
