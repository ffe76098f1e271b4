"""Answers of a causal language model, sampled token by token.

A backend only computes the logits of the next token (`LanguageModel`). The question and the
sampling are here, so that the same weights give the same answers on every backend.
"""

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from safetensors import SafetensorError

from common import hub, reading
from common.errors import NotFiniteError, RequestError

FILES = ("*.json", "*.safetensors", "*.jinja", "*.model", "*.txt")
"""The files of a repository that define the model: configuration, weights and tokenizer."""


class LanguageModelError(RequestError):
    """A language model that cannot be loaded; one line with the reason."""


class LanguageModel(Protocol):
    """A causal language model that continues several answers to one question at once."""

    folder: Path
    """The folder of its files."""
    tokenizer: Any
    """The tokenizer of that folder, of the transformers library."""

    def start(self, context: Sequence[int], rows: int) -> np.ndarray:
        """Read a context, the same in every row: logits of the token after it, float32 [rows, V].

        The state of an earlier context is dropped.
        """
        ...

    def go_on(self, tokens: np.ndarray) -> np.ndarray:
        """Append one token to each row (int [rows]): logits of the one after it [rows, V]."""
        ...

    def close(self) -> None:
        """Free the memory of the device; the model cannot be used afterwards."""
        ...


def find(model: str) -> Path:
    """The folder of a language model: itself, or a repository's, downloaded if need be.

    Raises LanguageModelError in one line: nothing of that name, no access, no network, or a
    folder without a model.
    """
    folder = Path(model)
    if not folder.is_dir():
        folder = _downloaded(model)
    for pattern, what in (("config.json", "config.json"), ("*.safetensors", "safetensors")):
        if not any(folder.glob(pattern)):
            raise LanguageModelError(f"{model} is no language model: it has no {what}")
    try:
        reading.check_folder(folder, without=reading.WORD_LISTS)
    except ValueError as error:
        raise LanguageModelError(f"language model {model}: {error}") from None
    return folder


def _downloaded(model: str) -> Path:
    try:
        from huggingface_hub import errors, snapshot_download
    except ImportError:
        raise LanguageModelError(
            f"there is no folder {model}, and fetching a repository needs the Python package "
            "huggingface_hub"
        ) from None
    try:
        with hub.asked(model):
            return Path(snapshot_download(model, allow_patterns=list(FILES)))
    except errors.HFValidationError:
        why = "there is no such folder, and a repository is called OWNER/NAME"
    except errors.GatedRepoError:
        why = "its licence must be accepted on its page, and HF_TOKEN must hold your token"
    except errors.RepositoryNotFoundError:
        why = "there is no such folder and no such repository, or HF_TOKEN must hold your token"
    except (errors.LocalEntryNotFoundError, errors.OfflineModeIsEnabled, OSError):
        why = "there is no such folder, and the repository cannot be reached; is there a network?"
    raise LanguageModelError(f"language model {model}: {why}")


@contextmanager
def load_errors_as_one_line(model: str) -> Iterator[None]:
    """A context in which errors of loading a model become a LanguageModelError of one line."""
    try:
        yield
    except ImportError as error:
        raise LanguageModelError(
            f"language model {model} needs the Python package {error.name}"
        ) from error
    except (OSError, ValueError, KeyError, TypeError, RuntimeError, SafetensorError) as error:
        reason = " ".join(str(error).split())[:300]
        raise LanguageModelError(f"cannot load language model {model}: {reason}") from error


def digest(folder: Path) -> str:
    """SHA-256 over the names and the content of the files that make the model."""
    whole = hashlib.sha256()
    for path in sorted({path for pattern in FILES for path in folder.glob(pattern)}):
        with path.open("rb") as file:
            content = hashlib.file_digest(file, "sha256").hexdigest()
        whole.update(f"{path.name}\n{content}\n".encode())
    return whole.hexdigest()


def draw(logits: np.ndarray, uniforms: np.ndarray, *, temperature: float) -> np.ndarray:
    """Tokens of softmax(logits / temperature), by the inverse of their cumulative distribution.

    Args:
        logits: [rows, V]; minus infinity is a token that is never drawn.
        uniforms: draws in [0, 1), float64 [rows].
        temperature: above 0; below 1 sharpens.

    Returns:
        int64 [rows], computed in float64.

    Raises:
        NotFiniteError: logits that are not numbers.
    """
    scaled = np.asarray(logits, dtype=np.float64) / temperature
    top = scaled.max(axis=-1, keepdims=True)
    if not np.isfinite(top).all():
        raise NotFiniteError("the language model's logits are not finite")
    cumulative = np.exp(scaled - top).cumsum(axis=-1)
    below = cumulative <= uniforms[:, None] * cumulative[:, -1:]
    return np.minimum(below.sum(axis=-1), scaled.shape[-1] - 1)


def ask(
    model: LanguageModel, question: str, uniforms: np.ndarray, *, temperature: float
) -> list[str | None]:
    """Answers to a question, up to the end of their first line.

    Args:
        model: the language model; its chat template, if it has one, is put around the question.
        question: plain text.
        uniforms: draws in [0, 1), float64 [rows, most tokens]: one row for each answer.
        temperature: see `draw`.

    Returns:
        The text of each row; None where the tokens ran out before the answer ended.
    """
    rows, most = uniforms.shape
    ends, tokenizer = _ends(model), model.tokenizer
    written: list[list[int]] = [[] for _ in range(rows)]
    answers: list[str | None] = [None] * rows
    logits = model.start(_context(tokenizer, question), rows)
    for position in range(most):
        tokens = draw(logits, uniforms[:, position], temperature=temperature)
        for row, token in enumerate(tokens.tolist()):
            if answers[row] is not None:
                continue
            if token not in ends:
                written[row].append(token)
            said = tokenizer.decode(written[row], skip_special_tokens=True)
            if token in ends or "\n" in said.lstrip():
                answers[row] = said
        if None not in answers:
            break
        if position + 1 < most:
            logits = model.go_on(tokens)
    return answers


def _context(tokenizer: Any, question: str) -> list[int]:
    if not getattr(tokenizer, "chat_template", None):
        return list(tokenizer.encode(question))
    asked = tokenizer.apply_chat_template(
        [{"role": "user", "content": question}],
        add_generation_prompt=True,
        tokenize=False,
        enable_thinking=False,  # for templates that have this switch; the others ignore it
    )
    return list(tokenizer.encode(asked, add_special_tokens=False))


def _ends(model: LanguageModel) -> frozenset[int]:
    """The tokens that end an answer: the tokenizer's, and those of the model's configuration."""
    ends = {model.tokenizer.eos_token_id}
    for name in ("config.json", "generation_config.json"):
        file = model.folder / name
        if file.is_file():
            document = reading.json_document(reading.content(file))
            ids = document.get("eos_token_id") if isinstance(document, dict) else None
            ends |= set(ids if isinstance(ids, list) else [ids])
    return frozenset(ends - {None})
