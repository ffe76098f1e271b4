"""What the toolkit raises on purpose: the text of each error is one line for people to read.

The command prints that line; in Python `except drift.Error as error: print(error)` does the same.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

WRONG_REQUEST = 2
"""The exit code of a request that cannot be fulfilled."""


class DriftError(Exception):
    """Base of every error that the toolkit raises on purpose; `str` is one line."""


class RequestError(DriftError, ValueError):
    """A request that cannot be fulfilled; one line that says what, where and what is valid."""


class NotFiniteError(DriftError, FloatingPointError):
    """A computation gave a value that is not finite; one line that says which."""


class PeerError(DriftError, RuntimeError):
    """Another process of the run failed or is gone; one line that says which, and why."""


@contextmanager
def preparing() -> Iterator[None]:
    """Within it nothing is computed yet, so a ValueError is about what the user asked for."""
    try:
        yield
    except RequestError:
        raise
    except ValueError as error:
        raise RequestError(str(error)) from error


def listed(names: Iterable[object]) -> str:
    """Names with commas between them; each in quotes where one of them has a comma itself."""
    several = [str(name) for name in names]
    quoted = any("," in name for name in several)
    return ", ".join(f"'{name}'" if quoted else name for name in several)


def existing(names: Iterable[object]) -> str:
    """The end of an error about something that is not there: "; there are 2, 4", or ""."""
    several = list(names)
    if len(several) == 1:
        return f"; the only one is {several[0]}"
    return f"; there are {listed(several)}" if several else ""
