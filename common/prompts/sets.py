"""Prompt sets: their sources, the prompts of each update, and the held-out splits."""

import hashlib
from collections.abc import Mapping, Sequence
from typing import Literal, overload

from common import random
from common.choices import Split
from common.config import PromptsConfig, closest
from common.prompts import emoji, file
from common.prompts.generated import GENERATED
from common.prompts.prompt import Prompt, PromptError, check_unicode
from common.random import Key, Purpose

NAMED = ("emoji", "emoji-animals", *GENERATED)
"""The sets that ship, as `prompts.source` calls them."""

Shares = tuple[float, float]

HELD_OUT: Shares = PromptsConfig().held_out
"""Default shares of validation and test."""


class PromptSet(Sequence[Prompt]):
    """Prompts in the order of their source, with distinct ids and texts."""

    def __init__(self, prompts: Sequence[Prompt], source: str):
        """Source: its name in error messages. Raises PromptError for a duplicate or no Unicode."""
        self._prompts, self.source = tuple(prompts), source
        if not self._prompts:
            raise PromptError(f"{source} has no prompts")
        check_unicode((prompt.text for prompt in self._prompts), source)
        seen: set[str] = set()
        for prompt in self._prompts:
            if prompt.text in seen:
                raise PromptError(f"{source}: the prompt '{prompt.text}' is there twice")
            seen.add(prompt.text)

    @overload
    def __getitem__(self, index: int) -> Prompt: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[Prompt, ...]: ...
    def __getitem__(self, index: int | slice) -> Prompt | tuple[Prompt, ...]:
        return self._prompts[index]

    def __len__(self) -> int:
        return len(self._prompts)

    def only(self, texts: Sequence[str]) -> "PromptSet":
        """The prompts with these texts, in the order given; each keeps its id.

        Raises PromptError with the nearest prompt for a text that is not in the set.
        """
        by_text = {prompt.text: prompt for prompt in self._prompts}
        for text in texts:
            if text not in by_text:
                raise PromptError(f"no prompt '{text}' in {self.source}{_nearest(text, by_text)}")
        return PromptSet([by_text[text] for text in texts], "prompts.names")


def load(config: PromptsConfig) -> PromptSet:
    """The prompts of a configuration.

    Sources: "emoji", the 849 names that the embedded model was trained on; "emoji-animals", those
    of animals among them; a set of `common.prompts.generated`; a .txt file with one prompt a line;
    a .jsonl file with an object a line, whose "prompt" is the text and whose other keys are
    metadata for rewards; a .csv file with a header, whose column "prompt" is the text and whose
    other columns are metadata. In .txt and .jsonl files blank lines and lines that start with # are
    skipped.

    Raises:
        PromptError: unknown source, unreadable or malformed file, no prompts, a duplicate, or a
            name that is not in the source.
    """
    if config.source in ("emoji", "emoji-animals"):
        prompts = [Prompt(index, text) for text, index in emoji.drawn().items()]
        if config.source == "emoji-animals":
            prompts = [prompt for prompt in prompts if prompt.text in emoji.ANIMALS]
    elif config.source in GENERATED:
        worded = GENERATED[config.source].prompts()
        prompts = [Prompt(index, text, about) for index, (text, about) in enumerate(worded)]
    elif config.file is not None:
        prompts = file.read(config.file)
    else:
        raise PromptError(
            f"prompts.source = '{config.source}': no set of prompts, and no .txt, .jsonl or .csv "
            "file"
            f"{closest(config.source, NAMED)}"
        )
    everything = PromptSet(prompts, config.source)
    chosen = everything.only(config.names) if config.names else everything
    if config.names:  # a name of another split is an error, never silently left out
        _check_names(chosen, config.split, config.held_out)
    return of_split(chosen, config.split, config.limit, config.held_out)


def of_split(
    prompts: PromptSet,
    split: Split | Literal["all"],
    limit: int = 0,
    held_out: Shares = HELD_OUT,
) -> PromptSet:
    """The prompts of a split, each with its id.

    Args:
        prompts: what to choose from.
        split: "all" of them, or those that `split` says belong to it.
        limit: 0 keeps all in their order; N > 0 keeps the first N (or as many as there are) in
            the order of the SHA-256 of their text. That order is independent of the
            prompts' meaning and position, and a larger limit begins with the prompts of a smaller.
        held_out: shares of validation and test, as `split` takes them.

    Raises:
        PromptError: no prompt belongs to the split, or limit is below 0.
    """
    if limit < 0:
        raise PromptError(f"prompts.limit = {limit} must be at least 0")
    chosen = [prompt for prompt in prompts if split in ("all", _split_of(prompt.text, held_out))]
    if not chosen:
        raise PromptError(
            f"none of the {len(prompts)} prompts of {prompts.source} is a {split} prompt"
        )
    if limit:
        chosen = sorted(chosen, key=lambda prompt: _digest(prompt.text))[:limit]
    return PromptSet(chosen, prompts.source)


def batch(prompts: Sequence[Prompt], *, count: int, seed: int, update: int) -> list[Prompt]:
    """The prompts of one update: a slice of its epoch's random order.

    An epoch is the N // count updates in which no prompt comes twice; where count does not
    divide N, each epoch leaves out N mod count prompts, others each time. The order is drawn
    from a key, so a resumed run gets the same prompts.

    Args:
        prompts: N prompts.
        count: P, prompts of an update.
        seed: the run's seed.
        update: 0-based.

    Raises:
        PromptError: when count is not in 1 .. N.
    """
    if not 1 <= count <= len(prompts):
        raise PromptError(
            f"rollout.prompts = {count}, but there {_are(len(prompts), 'prompt')}: write "
            f"{'1' if len(prompts) == 1 else f'1 to {len(prompts)}'}"
        )
    epoch, position = divmod(update, len(prompts) // count)
    key = Key(seed=seed, purpose=Purpose.PROMPT_ORDER, update=epoch)
    order = random.permutation(key, len(prompts))
    return [prompts[int(i)] for i in order[position * count : (position + 1) * count]]


def split(prompt_text: str, held_out: Shares = HELD_OUT) -> Split:
    """The split of a prompt, from its text alone: it never changes.

    held_out: shares of validation and test. Test prompts stay test prompts when the
    share of the test grows.
    """
    validation, test = held_out
    share = int.from_bytes(_digest(prompt_text)[:8], "big") / 2**64
    return (
        "train" if share < 1 - validation - test else "validation" if share < 1 - test else "test"
    )


_split_of = split  # for functions with an argument called split


def _are(count: int, noun: str) -> str:
    return f"is {count} {noun}" if count == 1 else f"are {count} {noun}s"


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()


def _check_names(named: PromptSet, wanted: str, held_out: Shares) -> None:
    for prompt in named:
        if wanted not in ("all", own := split(prompt.text, held_out)):
            raise PromptError(
                f"prompts.names: '{prompt.text}' is a {own} prompt, but prompts.split = "
                f"'{wanted}'; leave it out, or set prompts.names=[] to take the whole split"
            )


def _nearest(text: str, texts: Mapping[str, Prompt]) -> str:
    """A hint at the nearest prompt; never the whole list, which may have thousands."""
    hint = closest(text, texts)
    return hint if "did you mean" in hint else ""
