"""Prompts: prompt sets, and the prompts of each update."""

from common.prompts.sets import (
    NAMED,
    Prompt,
    PromptError,
    PromptSet,
    batch,
    load,
    of_split,
    split,
)

__all__ = ["NAMED", "Prompt", "PromptError", "PromptSet", "batch", "load", "of_split", "split"]
