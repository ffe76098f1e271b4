"""Reads files from others: only regular files, bounded in size, depth and time.

A folder from another place may have a pipe that never ends, a link to a device, a document with a
hundred thousand nested levels, or a name that leads out of the folder. The functions here raise
OSError or ValueError with a short reason instead of a hang.
"""

import errno
import json
import math
import os
import stat
from collections.abc import Collection
from pathlib import Path
from typing import Any

__all__ = [
    "DOCUMENT",
    "LOG",
    "WORD_LISTS",
    "check_folder",
    "content",
    "escaped",
    "finite",
    "inside",
    "json_document",
    "printable",
    "toml_document",
]

DOCUMENT, LOG = 64 << 20, 256 << 20
"""Most bytes of a configuration or an index, and of a log."""

DEPTH = 64
"""Most levels of a document; the toolkit's own have six."""


WORD_LISTS = ("tokenizer.json", "vocab.json")
"""JSON of a tokenizer's words, megabytes of it, which its library reads: see `check_folder`."""


def content(path: Path, most: int = DOCUMENT) -> bytes:
    """All bytes of a regular file, or of the regular file that a link leads to.

    Raises OSError for what is no regular file (a pipe, a device, a folder) and for more than
    `most` bytes; a pipe is not waited for.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    with open(descriptor, "rb") as file:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise OSError(errno.EINVAL, "it is not a regular file", str(path))
        if status.st_size > most:
            raise OSError(errno.EINVAL, _too_large(status.st_size, most), str(path))
        data = file.read(most + 1)
    if len(data) > most:
        raise OSError(errno.EINVAL, _too_large(len(data), most), str(path))
    return data


def finite(value: object) -> float | None:
    """A number of a document as a float; None for what is none, or has no finite one."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        number = float(value)
    except OverflowError:  # a whole number of hundreds of digits
        return None
    return number if math.isfinite(number) else None


def check_folder(folder: Path, *, without: Collection[str] = ()) -> None:
    """Check the files of a folder before a library opens them; its folders are not looked into.

    without: names of JSON files that are not read. Raises ValueError, which begins with the name
    of the file, for what is no regular file and for JSON that is too large, too deep or damaged.
    """
    for file in sorted(folder.iterdir()):
        if file.is_dir():
            continue
        if not file.is_file():
            raise ValueError(f"{file.name} is not a regular file")
        if file.suffix == ".json" and file.name not in without:
            try:
                json_document(content(file))
            except OSError as error:
                raise ValueError(f"{file.name}: {error.strerror}") from None
            except ValueError:
                raise ValueError(f"{file.name} is damaged") from None


def json_document(text: bytes | str) -> Any:
    """The value of a JSON text. Raises ValueError in a few words.

    Beside what JSON forbids: more than DEPTH levels, and text that is no Unicode (half of a
    surrogate pair), which could not be written or printed again.
    """
    try:
        value = json.loads(text)
    except RecursionError:
        raise ValueError(f"nested more than {DEPTH} levels deep") from None
    _check(value)
    return value


def toml_document(text: bytes | str) -> dict[str, Any]:
    """The tables of a TOML text. Raises ValueError in a few words, as `json_document` does."""
    import tomllib  # 10 ms, which `drift --help` does not need

    try:
        # Editors of Windows put a byte order mark at the start.
        value = tomllib.loads(text.decode("utf-8-sig") if isinstance(text, bytes) else text)
    except RecursionError:
        raise ValueError(f"nested more than {DEPTH} levels deep") from None
    _check(value)
    return value


def inside(folder: Path, name: object) -> Path:
    """The file of a plain name in a folder.

    Raises ValueError for a name with a folder in it, and for a link that leads out of the folder.
    """
    if not isinstance(name, str) or not name or name in (".", "..") or Path(name).name != name:
        raise ValueError(f"{name!r} is not a plain file name")
    path = folder / name
    if path.is_symlink() and not path.resolve().is_relative_to(folder.resolve()):
        raise ValueError(f"{name!r} is a link that leads out of {folder}")
    return path


def printable(text: str, most: int = 2000) -> str:
    """The text on one line, safe for a terminal.

    White space becomes one space. A character that is not printable (an escape, half of a surrogate
    pair) becomes its escape sequence in letters. Of more than `most` characters the middle goes.
    """
    line = escaped(" ".join(text.split()))
    if len(line) > most:
        line = f"{line[: most // 2]} ... {line[-most // 2 :]}"
    return line


def escaped(text: str) -> str:
    """The text with each character that is not printable as its escape sequence in letters."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def _check(value: Any) -> None:
    waiting = [(value, 1)]
    while waiting:
        part, level = waiting.pop()
        if isinstance(part, str):
            if not part.isascii():
                _check_unicode(part)
            continue
        if not isinstance(part, dict | list):
            continue
        if level > DEPTH:
            raise ValueError(f"nested more than {DEPTH} levels deep")
        parts = [*part.keys(), *part.values()] if isinstance(part, dict) else part
        waiting += [(item, level + 1) for item in parts]


def _check_unicode(text: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        half = ascii(text[error.start])[1:-1]
        raise ValueError(f"{half} is half of a surrogate pair, which is no text") from None


def _too_large(size: int, most: int) -> str:
    return f"it has {size} bytes, and at most {most} are read"
