"""Variants of prompts: other wordings, written by a language model before a run.

They give the policy more diverse conditioning: part of each group is sampled for a variant of its
prompt. Rewards always get the prompt itself. The variants are stored by content address in a folder
that the runs beside it share, and in the run's own directory. A resumed run only reads the latter,
so it needs no language model.
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
from common.prompts.prompt import Prompt
from common.random import Key, Purpose
from common.runs import files

CACHE = "prompt-variants"
"""The folder that runs share, beside the run."""
RUN_FILE = "variants.json"
"""The file in the run directory."""

ATTEMPTS = 3
"""Most questions for one variant, until an answer is usable."""
MOST_WORDS = 60
"""Words of a variant: about as many as fit into the 77 tokens of CLIP's text encoder."""

INSTRUCTION = (
    "Here is a prompt for an image generator. Write it in other words, for the same image: keep "
    "each thing, number, colour, action and place, and keep words in quotation marks exactly as "
    "they are. Answer with the new prompt alone, on one line.\n\nPrompt: {prompt}\nNew prompt:"
)

_LABEL = re.compile(r"^(?:(?:new|rewritten|rephrased)\s+)?prompt\s*:\s*", re.IGNORECASE)
_QUOTES = {'"': '"', "'": "'", "`": "`", "“": "”", "‘": "’", "«": "»"}
_QUOTED = re.compile(r'"[^"]+"')

OnProgress = Callable[[int, int], None]
"""(finished prompts, all prompts)"""


@dataclass(frozen=True)
class Variants:
    """Usable variants of each prompt, and the share of a group that is sampled for them.

    by_text: from a prompt's text to its variants, possibly none; share: see RewriterConfig.
    """

    by_text: Mapping[str, Sequence[str]] = field(default_factory=dict)
    share: float = 0.0

    def texts(self, prompt: Prompt, size: int, *, seed: int, update: int) -> list[str]:
        """The text that each of the G samples of a group is sampled for in an update: [G].

        round(share G) samples, drawn from a key, take the variants in a random order; every variant
        is used once before any is used twice.
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
        """All variants, for a policy to check that it can read them."""
        return [text for variants in self.by_text.values() for text in variants]

    def metrics(
        self, texts: Sequence[Sequence[str]], prompts: Sequence[Prompt]
    ) -> dict[str, float]:
        """The share of an update's samples, texts [P][G], that are sampled for a variant.

        {} for a run without variants.
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
    on_progress: OnProgress = lambda done, total: None,
) -> Variants:
    """The variants of a run's prompts: those in its directory, or new ones.

    Args:
        prompts: all prompts of the run.
        settings: without a model there are no variants, and nothing is read or written.
        seed: the run's.
        load: a backend's `language_model`; called only where something must be written.
        run: the run directory; `keep` puts the variants into it.
        on_progress: called after each prompt that the model has rewritten.

    Raises:
        LanguageModelError: the model cannot be loaded.
        files.WriteError: the cache cannot be written.
    """
    if settings.model is None:
        return Variants()
    wanted = {"seed": seed, **settings.model_dump(mode="json", exclude={"share"})}
    by_text = _read(run / RUN_FILE, wanted)
    if by_text is None or any(prompt.text not in by_text for prompt in prompts):
        cache = run.absolute().parent / CACHE
        by_text = _write_all(prompts, settings, seed, load, cache, on_progress)
    return Variants({prompt.text: by_text[prompt.text] for prompt in prompts}, settings.share)


def keep(variants: Variants, settings: RewriterConfig, *, seed: int, run: Path) -> None:
    """Write the variants into the run directory, where a resumed run reads them."""
    if settings.model is None:
        return
    wanted = {"seed": seed, **settings.model_dump(mode="json", exclude={"share"})}
    with files.os_errors_as(f"write {run / RUN_FILE}"):
        _save(
            run / RUN_FILE,
            wanted,
            {text: list(written) for text, written in variants.by_text.items()},
        )


def clean(answer: str, prompt: str) -> str | None:
    """The variant in an answer: its first line without label and quotation marks.

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
    """The line without the quotation marks that enclose it."""
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
    on_progress: OnProgress,
) -> dict[str, list[str]]:
    """Variants from the cache; the missing ones from the model, which is loaded only if needed."""
    name = str(settings.model)
    about = {
        "instruction": INSTRUCTION,
        "model": language.digest(language.find(name)),
        "seed": seed,
        **settings.model_dump(mode="json", exclude={"model", "share"}),
    }
    by_text: dict[str, list[str]] = {}
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
                on_progress(done, len(prompts))
            by_text |= known
    return by_text


def write(prompt: str, model: LanguageModel, settings: RewriterConfig, seed: int) -> list[str]:
    """Different variants of one prompt: `settings.variants` of them, or fewer.

    The random draws of a variant are keyed by the prompt's text, the variant's number and the
    attempt, so they do not depend on the other prompts of the run.
    """
    root = Key(seed, Purpose.REWRITE, prompt=random.address(prompt))
    variants: dict[int, str] = {}
    for attempt in range(ATTEMPTS):
        missing = [number for number in range(settings.variants) if number not in variants]
        if not missing:
            break
        keys = [root.at(sample=number, step=attempt) for number in missing]
        uniforms = np.stack([random.uniform(key, (settings.max_tokens,)) for key in keys])
        question = INSTRUCTION.format(prompt=prompt)
        answers = language.ask(model, question, uniforms, temperature=settings.temperature)
        for number, answer in zip(missing, answers, strict=True):
            variant = None if answer is None else clean(answer, prompt)
            if variant and _letters(variant) not in map(_letters, variants.values()):
                variants[number] = variant
    return [variants[number] for number in sorted(variants)]


def _save(path: Path, made_from: Mapping[str, Any], variants: Mapping[str, list[str]]) -> None:
    content = {"made_from": made_from, "variants": variants}
    text = json.dumps(content, indent=1, ensure_ascii=False)
    files.write_whole(path, text.encode() + b"\n")


def _read(path: Path, made_from: Mapping[str, Any]) -> dict[str, list[str]] | None:
    """The variants in a file; None when it is missing, damaged or made from other settings."""
    try:
        content = reading.json_document(reading.content(path))
        same = content["made_from"] == made_from
        return (
            {str(text): list(written) for text, written in content["variants"].items()}
            if same
            else None
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
