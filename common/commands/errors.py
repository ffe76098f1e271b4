"""What an error means to the user of the command: an exit code and one line.

Exit codes: 0 fine; 1 the work failed; 2 the request was wrong (in what it names or asks for);
130 and 143 stopped by Ctrl-C or SIGTERM after saving, as a shell reports those signals.
"""

from collections.abc import Iterator
from contextlib import contextmanager

FAILED = 1
WRONG_REQUEST = 2
INTERRUPTED = 130


class RequestError(ValueError):
    """A request that cannot be fulfilled; one line that says what, where and what is valid."""


@contextmanager
def preparing() -> Iterator[None]:
    """Within it nothing is computed yet, so a ValueError is about what the user asked for."""
    try:
        yield
    except ValueError as error:
        if isinstance(error, _request_errors()):
            raise
        raise RequestError(str(error)) from error


def explain(error: Exception) -> tuple[int, str]:
    """The exit code of an error, and the one line to print after `drift: `."""
    from common.backends import OutOfMemoryError
    from common.machine.bench import FailedError
    from common.rewards import RewardError

    text = " ".join(str(error).split())
    if isinstance(error, _request_errors()):
        return WRONG_REQUEST, text
    if isinstance(error, RewardError | FloatingPointError | OutOfMemoryError | FailedError):
        return FAILED, text
    if isinstance(error, OSError) and error.strerror:
        return FAILED, f"{error.strerror}: {error.filename}" if error.filename else error.strerror
    return FAILED, f"{type(error).__name__}: {text} (--debug shows the traceback)"


def _request_errors() -> tuple[type[Exception], ...]:
    from common.backends import BackendUnavailableError
    from common.config import ConfigError
    from common.evaluation.records import RecordError
    from common.prompts import PromptError
    from common.rewards import RewardNameError
    from common.runs.checkpoint import CheckpointError
    from common.runs.directory import RunError

    return (
        RequestError,
        ConfigError,
        RunError,
        RecordError,
        CheckpointError,
        PromptError,
        RewardNameError,
        BackendUnavailableError,
    )
