"""Temporary files and folders: hidden names, locked while their writer lives, swept when it died.

A process that is killed while it writes leaves its temporary file behind. The kernel releases the
lock of a dead process, so the next writer knows which files no process will finish.
"""

import errno
import fcntl
import glob
import os
import re
import secrets
import shutil
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

__all__ = ["beside", "claimed", "is_leftover", "new_file", "sweep"]

_NAME = re.compile(r"\..+\.(?:tmp|gone)-[0-9a-f]{8}")

UNLOCKED_SECONDS = 24 * 3600.0
"""Age at which a leftover is swept where the file system has no locks (some Lustre mounts)."""


def beside(path: Path, label: str = "tmp") -> Path:
    """A new hidden name in the same folder: ".NAME.LABEL-xxxxxxxx"."""
    return path.with_name(f".{path.name}.{label}-{secrets.token_hex(4)}")


def is_leftover(name: str) -> bool:
    """Whether a name is one that `beside` gives for what is being written or removed."""
    return _NAME.fullmatch(name) is not None


@contextmanager
def new_file(path: Path) -> Iterator[tuple[Path, BinaryIO]]:
    """A new file beside `path`: its name, and the file, open for writing and locked.

    It is removed when the body raises; else the body renames it. Leftovers of dead writers of the
    same `path` are removed first. Raises OSError.
    """
    sweep(path.parent, f".{glob.escape(path.name)}.tmp-*")
    temporary, file = _locked_file(path)
    try:
        with file:
            yield temporary, file
    except BaseException:
        with suppress(OSError):
            temporary.unlink()
        raise


@contextmanager
def claimed(folder: Path) -> Iterator[None]:
    """A context in which `sweep` leaves a temporary folder alone."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        _try_lock(descriptor)
        yield
    finally:
        os.close(descriptor)


def sweep(folder: Path, pattern: str = ".*") -> None:
    """Remove temporary files and folders of dead writers; those of living ones stay.

    pattern: a glob pattern of the names; only those that `beside` gives are looked at. What cannot
    be removed stays without an error: the next sweep tries again.
    """
    for path in folder.glob(pattern):
        if is_leftover(path.name):
            with suppress(OSError):
                _remove_if_abandoned(path)


def _locked_file(path: Path) -> tuple[Path, BinaryIO]:
    while True:
        temporary = beside(path)
        file = temporary.open("xb")
        try:
            fcntl.flock(file.fileno(), fcntl.LOCK_EX)
        except OSError:  # a file system without locks
            return temporary, file
        if os.fstat(file.fileno()).st_nlink:
            return temporary, file
        file.close()  # swept between its creation and its lock


def _remove_if_abandoned(path: Path) -> None:
    is_folder = stat.S_ISDIR(path.lstat().st_mode)
    # A network file system gives the lock of a file to those only that may write it.
    how = os.O_RDONLY if is_folder else os.O_RDWR | os.O_NONBLOCK
    descriptor = os.open(path, how | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        status = os.fstat(descriptor)
        free = _try_lock(descriptor)
        if free is None:
            free = time.time() - status.st_mtime > UNLOCKED_SECONDS
        if free and is_folder:
            shutil.rmtree(path)
        elif free and stat.S_ISREG(status.st_mode):
            path.unlink()
    finally:
        os.close(descriptor)


def _try_lock(descriptor: int) -> bool | None:
    """Whether this process has the lock now; None where the file system has no locks."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        return False if error.errno in (errno.EWOULDBLOCK, errno.EAGAIN) else None
    return True
