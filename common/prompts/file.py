"""Reads prompts from a file: plain lines, JSON lines or a CSV table.

A line ends with CR, LF or both, as in every editor. Other characters that `str.splitlines` cuts at
(form feed, U+2028) are part of a prompt. A byte order mark at the start of a line is left out.
"""

import csv
import io
import json
import math
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from common import reading
from common.prompts.prompt import Prompt, PromptError

Row = tuple[int, str, Mapping[str, Any]]
"""The number of a line in the file, the text of its prompt, and its metadata."""

_LINE_END = re.compile(r"\r\n|\n|\r")
_BYTE_ORDER_MARK = "\ufeff"
_NUMBER = re.compile(r"-?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][+-]?[0-9]+)?")


def read(source: Path) -> list[Prompt]:
    """The prompts of a .txt, .jsonl or .csv file, in order; their ids count from 0.

    Raises:
        PromptError: the file cannot be read, is not UTF-8 or malformed, with the number of the
            line; or two lines have the same prompt.
    """
    first: dict[str, int] = {}
    prompts = []
    for number, text, metadata in _FORMATS[source.suffix](source, _content(source)):
        if text in first:
            raise PromptError(
                f"{source}, line {number}: the prompt '{reading.printable(text)}' is there twice, "
                f"first in line {first[text]}"
            )
        first[text] = number
        prompts.append(Prompt(len(prompts), text, metadata))
    return prompts


def _content(source: Path) -> str:
    try:
        data = reading.content(source, reading.LOG)
    except OSError as error:
        raise PromptError(f"cannot read prompts from {source}: {error.strerror}") from None
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        line = len(_LINE_END.findall(data[: error.start].decode(errors="replace"))) + 1
        raise PromptError(f"{source} is not UTF-8 text: {error.reason} in line {line}") from None


def _lines(content: str) -> Iterator[tuple[int, str]]:
    """The number and the text of each line that is no comment and not blank, without margins."""
    for number, line in enumerate(_LINE_END.split(content), start=1):
        text = line.lstrip(_BYTE_ORDER_MARK).strip()
        if text and not text.startswith("#"):
            yield number, text


def _text_rows(_: Path, content: str) -> Iterator[Row]:
    for number, line in _lines(content):
        yield number, line, {}


def _json_rows(source: Path, content: str) -> Iterator[Row]:
    for number, line in _lines(content):
        try:
            values = reading.json_document(line)
        except ValueError as error:
            raise PromptError(f"{source}, line {number}: not valid JSON: {error}") from None
        text = values.pop("prompt", None) if isinstance(values, dict) else None
        if not isinstance(text, str) or not text.strip():
            raise PromptError(f'{source}, line {number}: write an object with a text "prompt"')
        yield number, text.strip(), values


def _csv_rows(source: Path, content: str) -> Iterator[Row]:
    lines = csv.reader(io.StringIO(content.lstrip(_BYTE_ORDER_MARK), newline=""), strict=True)
    header: list[str] = []
    end = 0
    while True:
        number = end + 1
        try:
            cells = next(lines, None)
        except csv.Error as error:
            raise PromptError(f"{source}, line {number}: not valid CSV: {error}") from None
        end = lines.line_num
        if cells is None:
            return
        if not any(cell.strip() for cell in cells):
            continue
        if not header:
            header = _header(f"{source}, line {number}", cells)
            continue
        if len(cells) != len(header):
            raise PromptError(
                f"{source}, line {number}: {len(cells)} values for {len(header)} columns; "
                'a value with a comma is written "in quotes"'
            )
        values = dict(zip(header, cells, strict=True))
        text = values.pop("prompt").strip()
        if not text:
            raise PromptError(f"{source}, line {number}: the column prompt is empty")
        yield number, text, {key: _value(cell) for key, cell in values.items()}


def _header(where: str, cells: list[str]) -> list[str]:
    names = [cell.strip() for cell in cells]
    if "prompt" not in names:
        raise PromptError(
            f"{where}: write a header with a column prompt; it has {', '.join(names)[:200]}"
        )
    for name in names:
        if not name or names.count(name) > 1:
            reason = f"is there twice: '{name}'" if name else "has no name"
            raise PromptError(f"{where}: a column of the header {reason}")
    return names


def _value(cell: str) -> bool | int | float | str:
    """What JSON reads as a finite number, true or false is that; all else is text."""
    word = cell.strip()
    if word in ("true", "false"):
        return word == "true"
    if _NUMBER.fullmatch(word) and len(word) <= 100:
        number = json.loads(word)
        return number if math.isfinite(number) else word
    return word


_FORMATS: dict[str, Callable[[Path, str], Iterator[Row]]] = {
    ".txt": _text_rows,
    ".jsonl": _json_rows,
    ".csv": _csv_rows,
}
