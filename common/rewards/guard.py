"""Safe calls of a reward, which may be any code: the result is a number or a clear error.

A failed score that became 0 would be a training signal. So no score is replaced or guessed.
"""

import copy
import inspect
import queue
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from common import imports
from common.config.types import OnError
from common.errors import DriftError
from common.rewards.registry import Reward

OURS = tuple(str(Path(__file__).with_name(f"{name}.py")) for name in ("guard", "suite", "registry"))
"""Files that are above the code of a reward in every traceback."""

_Task = Callable[[], np.ndarray]


class RewardError(DriftError, RuntimeError):
    """A reward failed; the message names the reward, the error and, where known, the image."""


def score(
    reward: Reward,
    images: np.ndarray,
    prompts: Sequence[str],
    metadata: Sequence[Mapping[str, Any]],
    *,
    timeout: float,
    on_error: OnError,
    describe: Callable[[int], str],
) -> np.ndarray:
    """Call a reward on copies of its arguments and check all that it returns.

    Args:
        reward: the callable, with its name.
        images: uint8 [N, H, W, 3].
        prompts: N clean prompts.
        metadata: N mappings, one for each image.
        timeout: seconds that the call may take. A call that takes longer stays in its
            daemon thread, which does not keep the process alive.
        on_error: "fail" raises at a score that is not finite; "drop" returns NaN there.
        describe: index of an image -> "prompt 'x', sample 3".

    Returns:
        float64 [N]; finite, except for NaN under "drop".

    Raises:
        RewardError: the call raised (the cause is chained) or took too long; the result is not
            N real numbers; or one is not finite under "fail". Only the last depends on
            `on_error`: a scorer that does not work is always an error.
    """
    with Calls() as calls:
        call = calls.start(reward, images, prompts, metadata)
        return call.result(timeout=timeout, on_error=on_error, describe=describe)


class Calls:
    """Calls of rewards that run one after another in a thread of their own.

    A context manager. On exit the thread is kept for later calls; if a call timed out, the thread
    ends after that call instead.
    """

    def __init__(self) -> None:
        self._worker = _Worker.idle()
        self._pending = 0

    def __enter__(self) -> "Calls":
        return self

    def __exit__(self, *_: object) -> None:
        self._worker.retire() if self._pending else self._worker.release()

    def start(
        self,
        reward: Reward,
        images: np.ndarray,
        prompts: Sequence[str],
        metadata: Sequence[Mapping[str, Any]],
    ) -> "Call":
        """Queue a call on copies of the arguments; it runs after the calls before it.

        Each image gets metadata of its own: a reward may change what it was given, and the mapping
        of a prompt belongs to all its images and updates.
        """
        own = [copy.deepcopy(dict(about)) for about in metadata]
        arguments = images.copy(), list(prompts), own
        self._pending += 1
        # MLX arrays are lazy: the conversion may do the work, so it happens in the worker.
        reply = self._worker.start(lambda: numbers(reward(*arguments)))
        return Call(self, reward.name, len(images), reply)

    def ended(self) -> None:
        """Count one call as finished."""
        self._pending -= 1


class Call:
    """A call that was started."""

    def __init__(self, calls: Calls, name: str, count: int, reply: "queue.SimpleQueue[Any]"):
        self._calls, self._name, self._count, self._reply = calls, name, count, reply

    def result(
        self,
        *,
        timeout: float,
        on_error: OnError,
        describe: Callable[[int], str],
    ) -> np.ndarray:
        """Wait for the checked values, float64 [N]. Arguments and errors are those of `score`."""
        try:
            outcome = self._reply.get(timeout=timeout)
        except queue.Empty:
            raise RewardError(
                f"reward '{self._name}' took more than {timeout:g} s for {self._count} images "
                "(reward.timeout)"
            ) from None
        self._calls.ended()
        if isinstance(outcome, BaseException):
            raise _error(self._name, outcome) from outcome
        values = _checked(self._name, outcome, self._count)
        return _finite(self._name, values, on_error, describe)


class _Worker:
    """A daemon thread that runs one task after another.

    It is reused because tensor libraries keep state for each thread that ever called them: MLX has
    a stream with a system thread of its own, which is never freed.
    """

    _idle: ClassVar[list["_Worker"]] = []

    @classmethod
    def idle(cls) -> "_Worker":
        try:
            return cls._idle.pop()
        except IndexError:
            return cls()

    def __init__(self) -> None:
        self._tasks: queue.SimpleQueue[tuple[_Task, queue.SimpleQueue[Any]] | None]
        self._tasks = queue.SimpleQueue()
        threading.Thread(target=self._run, name="reward", daemon=True).start()

    def start(self, task: "_Task") -> "queue.SimpleQueue[Any]":
        """Run the task in the thread; the returned queue receives its result or its exception."""
        reply: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._tasks.put((task, reply))
        return reply

    def release(self) -> None:
        self._idle.append(self)

    def retire(self) -> None:
        """End the thread when its task has ended, if it ever does."""
        self._tasks.put(None)

    def _run(self) -> None:
        while (work := self._tasks.get()) is not None:
            task, reply = work
            try:
                reply.put(task())
            except BaseException as error:  # a reward that calls sys.exit() has failed too
                reply.put(error)
            del work, task, reply  # keep no images alive while waiting


def numbers(value: Any) -> np.ndarray:
    """What a reward returned as an array of NumPy; a masked score becomes NaN.

    Raises NotNumbersError for what is no list of numbers: a pair of scores and information, a
    coroutine, or values that NumPy does not have, as bfloat16.
    """
    kind = _with_article(type(value).__name__)
    if inspect.isawaitable(value):
        if inspect.iscoroutine(value):
            value.close()
        raise NotNumbersError(f"{kind}: make it a function that is not async")
    if isinstance(value, Mapping | Iterator | Set):
        raise NotNumbersError(f"{kind}: return the N scores alone, as a list or an array")
    if isinstance(value, tuple | list) and any(_is_several(part) for part in value):
        parts = ", ".join(type(part).__name__ for part in value[:4])
        more = ", ..." if len(value) > 4 else ""
        raise NotNumbersError(f"{kind} of ({parts}{more}): return the N scores alone")
    if "bfloat16" in str(getattr(value, "dtype", "")):
        raise NotNumbersError("bfloat16 values, which NumPy does not have: return float32")
    if isinstance(value, np.ma.MaskedArray):
        if value.dtype.kind in "fiub":
            return np.where(np.ma.getmaskarray(value), np.nan, value.data)
        return np.asarray(value.data)
    try:
        return np.asarray(value)
    except Exception as error:  # each tensor library has its own reason: a device, a gradient
        raise NotNumbersError(f"{kind} that is no array: {imports.error_text(error)}") from error


class NotNumbersError(Exception):
    """A reward returned no numbers; the text says what it returned."""


def _with_article(kind: str) -> str:
    return f"{'an' if kind[0].lower() in 'aeiou' else 'a'} {kind}"


def _is_several(part: Any) -> bool:
    """Whether an element of a list of scores is a whole array, list or dictionary itself."""
    if isinstance(part, str | bytes):
        return False
    dimensions = getattr(part, "ndim", None)
    return hasattr(part, "__len__") if dimensions is None else dimensions > 0


def _error(name: str, raised: BaseException) -> RewardError:
    """The error of a call that raised: its type, its text and the line of the user's code."""
    if isinstance(raised, NotNumbersError):
        return RewardError(f"reward '{name}' returned {raised}")
    if isinstance(raised, RewardError):
        return RewardError(f"reward '{name}' raised {raised}")
    what = imports.error_text(raised)
    return RewardError(f"reward '{name}' raised {what}{imports.place(raised, OURS)}")


def _checked(name: str, values: np.ndarray, count: int) -> np.ndarray:
    if values.dtype.kind not in "fiub":  # numpy would convert the string "1.5" to a number
        raise RewardError(f"reward '{name}' returned values of type {values.dtype}, not numbers")
    if values.shape != (count,):
        shape = list(values.shape)
        raise RewardError(
            f"reward '{name}' returned shape {shape} for {count} images: expected {[count]}"
        )
    return values.astype(np.float64)


def _finite(
    name: str,
    values: np.ndarray,
    on_error: OnError,
    describe: Callable[[int], str],
) -> np.ndarray:
    finite = np.isfinite(values)
    if finite.all():
        return values
    if on_error == "fail":
        bad = np.flatnonzero(~finite)
        more = f" and {len(bad) - 1} more" if len(bad) > 1 else ""
        raise RewardError(f"reward '{name}' is {values[bad[0]]} for {describe(int(bad[0]))}{more}")
    return np.where(finite, values, np.nan)
