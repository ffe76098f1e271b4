"""What the toolkit raises on purpose: the text of each error is one line for people to read.

The command prints that line; in Python `except drift.Error as error: print(error)` does the same.
"""

from collections.abc import Iterator
from contextlib import contextmanager


class DriftError(Exception):
    """Base of every error that the toolkit raises on purpose; `str` is one line."""


class RequestError(DriftError, ValueError):
    """A request that cannot be fulfilled; one line that says what, where and what is valid."""


class NotFiniteError(DriftError, FloatingPointError):
    """A computation gave a value that is not finite; one line that says which."""


@contextmanager
def preparing() -> Iterator[None]:
    """Within it nothing is computed yet, so a ValueError is about what the user asked for."""
    try:
        yield
    except RequestError:
        raise
    except ValueError as error:
        raise RequestError(str(error)) from error
