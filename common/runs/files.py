"""Files that are complete or absent: written under another name, synced, then renamed."""

import errno
import hashlib
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from itertools import count
from pathlib import Path
from typing import BinaryIO

from common import reading, temporary
from common.errors import DriftError

_REASONS = {
    errno.ENOSPC: "no space left on the device",
    errno.EDQUOT: "the disk quota is used up",
    errno.EFBIG: "the file would be larger than this process may write",
    errno.EACCES: "permission denied",
    errno.EPERM: "permission denied",
    errno.EROFS: "the file system is read-only",
    errno.ENOTDIR: "a folder on the way is a file",
    errno.EEXIST: "something else of that name is in the way",
    errno.ENOENT: "it is not there",
}

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


def reason(error: OSError) -> str:
    """The reason of a system error in plain words, without its number."""
    known = _REASONS.get(error.errno) if error.errno is not None else None
    return known or (error.strerror or str(error) or type(error).__name__).lower()


class WriteError(DriftError, OSError):
    """A write that the system refused; the message is one line with the path and the reason."""

    def __str__(self) -> str:
        return str(self.strerror)


@contextmanager
def os_errors_as(action: str, raises: type[Exception] = WriteError) -> Iterator[None]:
    """A context in which an OSError becomes `raises`, with the line "cannot ACTION: REASON".

    A full disk is always a WriteError: the place that the user named is right.
    """
    try:
        yield
    except OSError as error:
        if error.errno in _FULL:
            raises = WriteError
        line = f"cannot {action}: {reason(error)}"
        # An OSError keeps the number, so that a caller still sees that the disk is full.
        one_line = raises(error.errno, line) if issubclass(raises, OSError) else raises(line)
        raise one_line from error


def write_new(path: Path, chunks: Iterable[bytes]) -> tuple[int, str]:
    """Write a file that does not exist yet and sync it to the disk.

    Returns its size in bytes and the SHA-256 of its content, in hexadecimal. Raises OSError.
    """
    size, digest = 0, hashlib.sha256()
    with path.open("xb") as file:
        for chunk in chunks:
            file.write(chunk)
            digest.update(chunk)
            size += len(chunk)
        _sync(file)
    return size, digest.hexdigest()


def write_whole(path: Path, content: bytes) -> None:
    """Write or replace the file at `path`; other processes never see a part of the content.

    Temporary files that killed writers of the same path have left are removed. Raises OSError;
    the old content is then still there, and no temporary file is left.
    """
    with temporary.new_file(path) as (unfinished, file):
        file.write(content)
        _sync(file)
        unfinished.replace(path)
    sync_folder(path.parent)


def numbered(path: Path, suffix: str = "") -> Iterator[Path]:
    """The path itself, then with -2, -3, ... at the end of its name, before the suffix."""
    yield path
    stem = path.name.removesuffix(suffix)
    for number in count(2):
        yield path.with_name(f"{stem}-{number}{suffix}")


def write_beside_others(path: Path, content: bytes) -> Path:
    """Write a file under the first free name of `numbered`, and return its path.

    A file of these names that has this content already is returned instead. Nothing is replaced,
    also where several processes write at once. Raises OSError.
    """
    with temporary.new_file(path) as (unfinished, file):
        file.write(content)
        _sync(file)
        written = next(
            name
            for name in numbered(path, path.suffix)
            if _linked(unfinished, name) or _has_content(name, content)
        )
        unfinished.unlink(missing_ok=True)
    sync_folder(path.parent)
    return written


def _linked(file: Path, name: Path) -> bool:
    """Give a file a second name; False where that is taken."""
    try:
        os.link(file, name)
    except FileExistsError:
        return False
    except OSError:  # a file system without hard links
        if os.path.lexists(name):
            return False
        file.rename(name)
    return True


def _has_content(path: Path, content: bytes) -> bool:
    try:
        return reading.content(path, len(content)) == content
    except OSError:  # larger, no regular file, or not readable: another one
        return False


def append(path: Path, content: bytes) -> None:
    """Add `content` to the end of a file, made when it is not there, and sync it to the disk.

    Raises OSError; the file then has its old content again.
    """
    # Unbuffered: closing a buffered file after a failure would write the rest of its buffer.
    with path.open("ab", buffering=0) as file:
        size = file.tell()
        try:
            rest = memoryview(content)
            while rest:
                rest = rest[file.write(rest) :]
            os.fsync(file.fileno())
        except BaseException:
            with suppress(OSError):
                file.truncate(size)
            raise
    if size == 0:
        sync_folder(path.parent)


def _sync(file: BinaryIO) -> None:
    file.flush()
    os.fsync(file.fileno())


def sync_folder(folder: Path) -> None:
    """Make the names in a folder durable, where the system can; Windows cannot."""
    if os.name == "nt":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        # Network and FUSE file systems refuse to sync a folder: the rename itself is still valid.
        if error.errno not in (errno.EINVAL, errno.ENOTSUP, errno.EBADF):
            raise
    finally:
        os.close(descriptor)
