"""Variants of prompts: other wordings that a language model writes ahead of a run.

They widen what the policy is conditioned on: part of each group is drawn for a variant of its
prompt. Rewards keep seeing the prompt itself. What is written is kept, by its content address, in
a folder that sibling runs share, and in the run's own directory, which is all that a resumed run
reads: it needs no language model.
"""

import hashlib
import json
import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from common import random, reading
from common.config import RewriterConfig
from common.prompts import language
from common.prompts.language import LanguageModel
from common.prompts.sets import Prompt
from common.random import Key, Purpose
from common.runs import files

CACHE = "prompt-variants"
"""The folder that runs share, beside the run."""
KEPT = "variants.json"
"""The file in the run directory."""

ATTEMPTS = 3
"""Questions for one variant, until an answer can be used."""
MOST_WORDS = 60
"""Words of a variant: about what the 77 tokens of CLIP's text encoder hold."""

INSTRUCTION = (
    "Here is a prompt for an image generator. Write it in other words, for the same image: keep "
    "each thing, number, colour, action and place, and keep words in quotation marks exactly as "
    "they are. Answer with the new prompt alone, on one line.\n\nPrompt: {prompt}\nNew prompt:"
)

_LABEL = re.compile(r"^(?:(?:new|rewritten|rephrased)\s+)?prompt\s*:\s*", re.IGNORECASE)
_QUOTES = {'"': '"', "'": "'", "`": "`", "“": "”", "‘": "’", "«": "»"}
_QUOTED = re.compile(r'"[^"]+"')

Told = Callable[[int, int], None]
"""(prompts that are done, prompts in all)"""


@dataclass(frozen=True)
class Variants:
    """Usable variants of each prompt, and which samples of a group see one.

    by_text: from a prompt's text to its variants, possibly none; share: see RewriterConfig.
    """

    by_text: Mapping[str, Sequence[str]] = field(default_factory=dict)
    share: float = 0.0

    def texts(self, prompt: Prompt, size: int, *, seed: int, update: int) -> list[str]:
        """What each of the G samples of a group is drawn for in an update: [G].

        round(share G) samples, drawn from a key, take the variants in a drawn order, so that none
        comes twice before all have come once.
        """
        texts = [prompt.text] * size
        if variants := self.by_text.get(prompt.text):
            key = Key(seed, Purpose.VARIANT, update=update, prompt=prompt.id)
            order = random.permutation(key.at(step=1), len(variants))
            varied = random.permutation(key, size)[: round(self.share * size)]
            for position, sample in enumerate(varied):
                texts[sample] = variants[order[position % len(order)]]
        return texts

    def all_texts(self) -> list[str]:
        """Every variant there is, for a policy to check that it can read them."""
        return [text for variants in self.by_text.values() for text in variants]

    def metrics(
        self, texts: Sequence[Sequence[str]], prompts: Sequence[Prompt]
    ) -> dict[str, float]:
        """Of the samples of an update, texts [P][G]: the part that is drawn for a variant.

        Nothing where a run has no variants at all.
        """
        if not self.by_text:
            return {}
        groups = zip(texts, prompts, strict=True)
        return {
            "prompts/varied": float(np.mean([t != p.text for group, p in groups for t in group]))
        }


def prepare(
    prompts: Sequence[Prompt],
    settings: RewriterConfig,
    *,
    seed: int,
    load: Callable[[str], LanguageModel],
    run: Path,
    told: Told = lambda done, total: None,
) -> Variants:
    """The variants of a run's prompts: those kept in its directory, or written now.

    Args:
        prompts: all prompts of the run.
        settings: without a model there are no variants, and nothing is read or written.
        seed: the run's.
        load: a backend's `language_model`; called only where something must be written.
        run: the run directory; `keep` puts the variants into it.
        told: called after each prompt that is written now.

    Raises:
        LanguageModelError: the model cannot be had.
        files.WriteError: the cache cannot be written.
    """
    if settings.model is None:
        return Variants()
    wanted = {"seed": seed, **settings.model_dump(mode="json", exclude={"share"})}
    found = _read(run / KEPT, wanted)
    if found is None or any(prompt.text not in found for prompt in prompts):
        cache = run.absolute().parent / CACHE
        found = _write_all(prompts, settings, seed, load, cache, told)
    return Variants({prompt.text: found[prompt.text] for prompt in prompts}, settings.share)


def keep(variants: Variants, settings: RewriterConfig, *, seed: int, run: Path) -> None:
    """Put the variants into the run directory, from where a resumed run takes them."""
    if settings.model is None:
        return
    wanted = {"seed": seed, **settings.model_dump(mode="json", exclude={"share"})}
    with files.os_errors_as(f"write {run / KEPT}"):
        _save(run / KEPT, wanted, {text: list(found) for text, found in variants.by_text.items()})


def clean(answer: str, prompt: str) -> str | None:
    """The variant that an answer holds: its first line without label and quotation marks.

    None when it cannot be used: empty, longer than MOST_WORDS, the prompt itself but for case and
    punctuation, or without a text that the prompt has in double quotes.
    """
    line = " ".join(next((line for line in answer.splitlines() if line.strip()), "").split())
    line = _unquoted(_LABEL.sub("", line))
    if not _letters(line) or len(line.split()) > MOST_WORDS or _letters(line) == _letters(prompt):
        return None
    if not all(quoted in line for quoted in _QUOTED.findall(prompt)):
        return None
    return line


def _unquoted(line: str) -> str:
    """A line without quotation marks around the whole of it."""
    for opening, closing_mark in _QUOTES.items():
        inner = line[1:-1]
        whole = len(line) > 1 and line.startswith(opening) and line.endswith(closing_mark)
        if whole and opening not in inner and closing_mark not in inner:
            return inner.strip()
    return line


def _letters(text: str) -> str:
    return "".join(letter for letter in text.casefold() if letter.isalnum())


def _write_all(
    prompts: Sequence[Prompt],
    settings: RewriterConfig,
    seed: int,
    load: Callable[[str], LanguageModel],
    cache: Path,
    told: Told,
) -> dict[str, list[str]]:
    """Variants from the cache, the others from the model, which is loaded only then."""
    name = str(settings.model)
    about = {
        "instruction": INSTRUCTION,
        "model": language.digest(language.find(name)),
        "seed": seed,
        **settings.model_dump(mode="json", exclude={"model", "share"}),
    }
    found: dict[str, list[str]] = {}
    with ExitStack() as until_written:
        model: LanguageModel | None = None
        for done, prompt in enumerate(prompts, start=1):
            made_from = {**about, "prompt": prompt.text}
            address = hashlib.sha256(json.dumps(made_from, sort_keys=True).encode()).hexdigest()
            path = cache / address[:2] / f"{address}.json"
            known = _read(path, made_from)
            if known is None:
                if model is None:
                    model = until_written.enter_context(closing(load(name)))
                known = {prompt.text: write(prompt.text, model, settings, seed)}
                with files.os_errors_as(f"write to the cache {cache}"):
                    path.parent.mkdir(parents=True, exist_ok=True)
                    _save(path, made_from, known)
                told(done, len(prompts))
            found |= known
    return found


def write(prompt: str, model: LanguageModel, settings: RewriterConfig, seed: int) -> list[str]:
    """Variants of one prompt, all different: as many as are wanted, or fewer.

    The draws of a variant are addressed by the prompt's text, the variant's number and the
    attempt, so they are the same whichever prompts a run has.
    """
    root = Key(seed, Purpose.REWRITE, prompt=random.address(prompt))
    found: dict[int, str] = {}
    for attempt in range(ATTEMPTS):
        missing = [number for number in range(settings.variants) if number not in found]
        if not missing:
            break
        keys = [root.at(sample=number, step=attempt) for number in missing]
        uniforms = np.stack([random.uniform(key, (settings.max_tokens,)) for key in keys])
        question = INSTRUCTION.format(prompt=prompt)
        answers = language.ask(model, question, uniforms, temperature=settings.temperature)
        for number, answer in zip(missing, answers, strict=True):
            variant = None if answer is None else clean(answer, prompt)
            if variant and _letters(variant) not in map(_letters, found.values()):
                found[number] = variant
    return [found[number] for number in sorted(found)]


def _save(path: Path, made_from: Mapping[str, Any], variants: Mapping[str, list[str]]) -> None:
    content = {"made_from": made_from, "variants": variants}
    text = json.dumps(content, indent=1, ensure_ascii=False)
    files.write_whole(path, text.encode() + b"\n")


def _read(path: Path, made_from: Mapping[str, Any]) -> dict[str, list[str]] | None:
    """The variants of a file made from just that; None when it is not there, or not whole."""
    try:
        content = reading.json_document(reading.content(path))
        same = content["made_from"] == made_from
        return (
            {str(text): list(found) for text, found in content["variants"].items()}
            if same
            else None
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
