"""Ctrl-C while a run trains: the first one asks for a stop, the second one ends it at once.

The handlers are those of the process that works. Processes that a reward forks, such as the workers
of a pool, would inherit them, and then outlive the SIGTERM with which a pool ends its workers.
"""

import os
import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

SHOW_CURSOR = b"\x1b[?25h"

Handler = Callable[[int, FrameType | None], Any] | signal.Handlers


class Interrupts:
    """The signals that ask a run to stop, and what a second signal does.

    stop: is set by the first signal; the trainer then finishes the update and saves. received:
    the numbers of the signals, in order.
    """

    def __init__(self, signals: tuple[int, ...], second: Handler) -> None:
        """second: the handler of the signals after the first one."""
        self.stop = threading.Event()
        self.received: list[int] = []
        self._signals, self._second = signals, second

    @contextmanager
    def caught(self, message: str, on_board: Callable[[], bool]) -> Iterator[None]:
        """Within it the first signal sets `stop`; afterwards the handlers are those of before.

        Python only lets the main thread handle signals; in any other this does nothing.

        Args:
            message: one line that says what happens now; "" says nothing.
            on_board: whether a board on the terminal shows that message already.
        """
        if threading.current_thread() is not threading.main_thread():
            yield
            return

        def ask(number: int, _: FrameType | None) -> None:
            self.received.append(number)
            self.stop.set()
            for each in self._signals:
                signal.signal(each, self._second)
            # Only os.write may interrupt a print that is under way.
            if on_board():
                os.write(1, SHOW_CURSOR)
            elif message:
                os.write(2, f"drift: {message}\n".encode())

        with handled(self._signals, ask):
            yield


_handled: list[int] = []
"""The signals that `handled` handles now."""


@contextmanager
def handled(signals: Iterable[int], handler: Handler) -> Iterator[None]:
    """A context in which the handler receives the signals; afterwards those of before do.

    Only the main thread may enter it. A process that is forked within it ends at SIGTERM. Of each
    of the other signals it ignores the first: Ctrl-C reaches every process of a terminal, and the
    work that still needs the forked ones goes on.
    """
    previous = {each: signal.signal(each, handler) for each in signals}
    _handled.extend(previous)
    try:
        yield
    finally:
        for each, before in previous.items():
            _handled.remove(each)
            signal.signal(each, before)


def _leave_to_parent() -> None:
    for each in _handled:
        signal.signal(each, signal.SIG_DFL if each == signal.SIGTERM else _ignore_first)


def _ignore_first(number: int, _: FrameType | None) -> None:
    signal.signal(number, signal.SIG_DFL)


os.register_at_fork(after_in_child=_leave_to_parent)


def of_the_command() -> Interrupts:
    """Ctrl-C, SIGTERM, a lost terminal (SIGHUP) and SLURM's warning before its limit (SIGUSR1).

    The second one kills, which loses nothing: files are always whole. A signal that is ignored,
    as SIGHUP under nohup, stays ignored.
    """
    wanted = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1)
    heard = tuple(each for each in wanted if signal.getsignal(each) is not signal.SIG_IGN)
    return Interrupts(heard, signal.SIG_DFL)


def of_python() -> Interrupts:
    """Ctrl-C, as a notebook's stop button sends it; the second one raises KeyboardInterrupt."""
    return Interrupts((signal.SIGINT,), signal.default_int_handler)
