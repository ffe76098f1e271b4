"""Prompts: prompt sets, and the prompts of each update."""

from common.prompts.prompt import Prompt, PromptError, check_unicode
from common.prompts.sets import (
    NAMED,
    PromptSet,
    batch,
    load,
    of_split,
    split,
)

__all__ = [
    "NAMED",
    "Prompt",
    "PromptError",
    "PromptSet",
    "batch",
    "check_unicode",
    "load",
    "of_split",
    "split",
]
