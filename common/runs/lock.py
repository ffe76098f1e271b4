"""One process at a time in a folder."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from common.runs import files

__all__ = ["locked"]


@contextmanager
def locked(
    folder: Path, *, busy: Exception, opening: str, refused: type[Exception] = files.WriteError
) -> Iterator[None]:
    """Within it no other process has the lock of this folder.

    The lock is the kernel's and ends with the process, however that ends. Where the file system
    has none (some of Lustre and NFS), nothing guards the folder.

    Args:
        folder: one that exists.
        busy: raised when another process has the lock.
        opening: what is done when the folder is opened, for the error when it cannot be.
        refused: the class of that error.
    """
    with files.os_errors_as(opening, refused):
        descriptor = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise busy from None
        except OSError:
            pass  # no locks here: better unguarded than not at all
        yield
    finally:
        os.close(descriptor)
