"""Maps an error to the exit code and the one line that the command prints.

Exit codes: 0 success; 1 the work failed; 2 the request was wrong; 130 and 143 stopped by Ctrl-C or
SIGTERM after saving, as a shell reports those signals.
"""

import click

from common import reading
from common.errors import WRONG_REQUEST, DriftError, RequestError

FAILED = 1
INTERRUPTED = 130


def warn(text: str) -> None:
    """Print a warning as one line on standard error."""
    click.echo(f"drift: warning: {reading.printable(text)}", err=True)


def explain(error: Exception) -> tuple[int, str]:
    """The exit code of an error, and the one line to print after `drift: `."""
    text = reading.printable(str(error))
    if isinstance(error, RequestError):
        return WRONG_REQUEST, text
    if isinstance(error, DriftError | FloatingPointError):
        return FAILED, text
    if isinstance(error, OSError) and error.strerror:
        named = f"{error.strerror}: {error.filename}" if error.filename else error.strerror
        return FAILED, reading.printable(named)
    if isinstance(error, MemoryError):
        asked = text or "more was asked for than there is"
        return FAILED, f"out of memory: {asked}; smaller groups, batches or images need less"
    return FAILED, f"{type(error).__name__}: {text} (--debug shows the traceback)"
