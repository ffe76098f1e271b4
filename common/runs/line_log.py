"""Logs of JSON lines, one record per line; a line counts only if it is complete.

A process that is killed while it writes leaves a last line without its newline. That line counts
if it is a complete record; otherwise readers skip it and the next writer removes it.
"""

import json
import math
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from common import reading
from common.runs import files

__all__ = ["Parse", "append", "encode", "newest", "nulls_as_nan", "read"]

T = TypeVar("T")

Parse = Callable[[bytes, int], T]
"""(line, its number from 1) -> its record. Raises ValueError for a line that is no record."""

TAIL = 65_536
"""Bytes at the end of a log that contain its last complete line."""


def read(file: Path, parse: Parse[T], refused: type[Exception]) -> list[tuple[bytes, T]]:
    """Each line and its record; [] where there is no file.

    Raises what `parse` raises for a line that is no record, unless it is the last one and has no
    newline, and `refused`, in one line, when the file cannot be read.
    """
    if not os.path.lexists(file):
        return []
    with files.os_errors_as(f"read {file}", refused):
        *whole, last = reading.content(file, reading.LOG).split(b"\n")
    records = [(line, parse(line, number)) for number, line in enumerate(whole, start=1)]
    if _is_record(last, parse):
        records.append((last, parse(last, len(records) + 1)))
    return records


def append(file: Path, line: bytes, parse: Parse[Any]) -> None:
    """Add one line with its newline and sync it; an incomplete line before it is removed.

    parse: as in `read`; it separates an incomplete line from one that only lacks its newline.
    Raises files.WriteError (an OSError); the old content of the file is then still there.
    """
    with files.os_errors_as(f"write {file}"):
        if last := _without_newline(file):
            if _is_record(last, parse):
                line = b"\n" + line
            else:
                os.truncate(file, file.stat().st_size - len(last))
        files.append(file, line)


def newest(file: Path) -> dict[str, Any]:
    """The record of the last complete line, {} before the first one; cheap enough to poll."""
    try:
        if not file.is_file():  # not there yet, or a pipe, which would be waited for
            return {}
        with file.open("rb") as stream:
            size = stream.seek(0, os.SEEK_END)
            stream.seek(max(size - TAIL, 0))
            lines = stream.read(TAIL).split(b"\n")[:-1]
        record = reading.json_document(lines[-1]) if lines else {}
    except (OSError, ValueError):  # replaced while it was read
        return {}
    return record if isinstance(record, dict) else {}


def encode(value: Mapping[str, Any], indent: int | None = None) -> bytes:
    """A record as JSON with a newline: numpy values as Python's, NaN and infinity as null."""
    text = json.dumps(_plain(value), indent=indent, allow_nan=False, ensure_ascii=False)
    return text.encode() + b"\n"


def nulls_as_nan(value: Any) -> Any:
    """A decoded value with NaN for every null, which stood for a number that JSON lacks."""
    if isinstance(value, dict):
        return {key: nulls_as_nan(part) for key, part in value.items()}
    if isinstance(value, list):
        return [nulls_as_nan(part) for part in value]
    return math.nan if value is None else value


def _plain(value: Any) -> Any:
    """Numpy values as Python's, and numbers that JSON does not have (NaN, infinity) as None."""
    if isinstance(value, np.generic | np.ndarray):
        value = value.tolist()
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): _plain(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(part) for part in value]
    return value


def _is_record(line: bytes, parse: Parse[Any]) -> bool:
    try:
        parse(line, 0)
    except ValueError:
        return False
    return True


def _without_newline(file: Path) -> bytes:
    """The bytes after the last newline of a file; empty unless a write was interrupted."""
    if not file.exists():
        return b""
    with file.open("rb") as stream:
        if stream.seek(0, os.SEEK_END) == 0:
            return b""
        stream.seek(-1, os.SEEK_END)
        if stream.read() == b"\n":
            return b""
        stream.seek(0)
        return stream.read().rpartition(b"\n")[2]
