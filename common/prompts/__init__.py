"""Prompts: sets of them, and the ones that an update asks for."""

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
