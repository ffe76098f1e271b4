"""A lock on a folder for one process at a time."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from common.runs import files

__all__ = ["is_locked", "locked"]

_descriptors: set[int] = set()
"""Of the folders that this process has locked."""


@contextmanager
def locked(
    folder: Path, *, busy: Exception, opening: str, refused: type[Exception] = files.WriteError
) -> Iterator[None]:
    """A context in which this process alone has the lock of the folder.

    The kernel releases the lock when the process ends for any reason; processes that it forked and
    that outlive it do not keep the lock. Where the file system has no locks (some Lustre and NFS
    mounts), the folder is not protected.

    Args:
        folder: an existing folder.
        busy: raised when another process has the lock.
        opening: the action, for the error message when the folder cannot be opened.
        refused: the class of that error.
    """
    with files.os_errors_as(opening, refused):
        descriptor = os.open(folder, os.O_RDONLY)
    _descriptors.add(descriptor)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise busy from None
        except OSError:
            pass  # a file system without locks: go on unprotected
        yield
    finally:
        # In a forked process it is closed already, and the number may belong to another file.
        if descriptor in _descriptors:
            _descriptors.discard(descriptor)
            os.close(descriptor)


def _leave_to_parent() -> None:
    for descriptor in _descriptors:
        os.close(descriptor)
    _descriptors.clear()


os.register_at_fork(after_in_child=_leave_to_parent)


def is_locked(folder: Path) -> bool:
    """Whether a process has the lock of the folder; False where that cannot be known."""
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    finally:
        os.close(descriptor)
    return False
