"""Several processes on this machine that train one run: `drift run --processes N`."""

import contextlib
import json
import math
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import FrameType

from common import launched, reading
from common.errors import WRONG_REQUEST, RequestError
from common.sweep import jobs
from common.workflows.interrupts import handled

PAUSE = 0.05
"""Seconds between two looks at the processes."""

GRACE = 30.0
"""Seconds for the others to end, after the first one has failed."""


def check_count(count: int) -> None:
    """Raise RequestError where a launcher has started another number of processes."""
    if launched.size() not in (1, count):
        raise RequestError(
            f"--processes {count}: the launcher has started {launched.size()}; leave it out"
        )


def start(count: int, words: Sequence[str]) -> int:
    """Run the command in `count` processes; returns the exit code of process 0.

    Ctrl-C, SIGTERM, SIGHUP and SIGUSR1 go to all of them once: they finish their update and save.
    When one fails or is killed, the others end by themselves, or are ended after a while.
    """
    sent: list[int] = []

    def forward(number: int, _: FrameType | None) -> None:
        sent.append(number)

    wanted = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1)
    heard = [each for each in wanted if signal.getsignal(each) is not signal.SIG_IGN]
    with tempfile.TemporaryDirectory(prefix="drift-processes-") as folder:
        errors = [Path(folder) / f"{rank}.stderr" for rank in range(count)]
        processes: list[subprocess.Popen[bytes]] = []
        with handled(heard, forward), _ended(processes):
            for rank, own in enumerate(_environments(count, Path(folder))):
                with errors[rank].open("wb") as file:
                    processes.append(
                        subprocess.Popen(
                            [*jobs.DRIFT, *words],
                            env=own,
                            stdout=None if rank == 0 else subprocess.DEVNULL,
                            stderr=None if rank == 0 else file,
                            start_new_session=True,  # a terminal's Ctrl-C comes from here alone
                        )
                    )
            first = _wait(processes, sent)
        return _verdict([process.returncode for process in processes], first, errors)


@contextlib.contextmanager
def _ended(processes: Sequence[subprocess.Popen[bytes]]) -> Iterator[None]:
    """No process outlives the body, however it ends."""
    try:
        yield
    finally:
        for process in processes:
            if process.poll() is None:
                process.kill()
                process.wait()


def _environments(count: int, folder: Path) -> Iterator[dict[str, str]]:
    """What names the others to each process, on PyTorch and on MLX."""
    first, *ports = _free_ports(count + 1)
    hosts = folder / "hosts.json"
    hosts.write_text(json.dumps([[f"127.0.0.1:{port}"] for port in ports]))
    # What the user says counts as it is, since the bytes of a run may depend on it.
    shared = jobs.environment(os.environ.get(jobs.THREADS) or jobs.threads_each(count))
    for rank in range(count):
        yield shared | {
            "RANK": str(rank),
            "LOCAL_RANK": str(rank),
            "WORLD_SIZE": str(count),
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(first),
            "MLX_RANK": str(rank),
            "MLX_HOSTFILE": str(hosts),
        }


def _free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as until_known:
        sockets = [until_known.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


def _wait(processes: Sequence[subprocess.Popen[bytes]], sent: list[int]) -> int | None:
    """Wait for all; hand signals on, and end those that outlive a failure.

    Returns the number of the process that failed first, if one did.
    """
    first, since = None, math.inf
    while True:
        codes = [process.poll() for process in processes]
        if first is None and (failed := {n: code for n, code in enumerate(codes) if code}):
            first = min(failed, key=lambda n: failed[n])  # one that was killed comes first
            since = time.monotonic()
        if None not in codes:
            return first
        while sent:
            number = sent.pop(0)
            for process in processes:
                with contextlib.suppress(ProcessLookupError):
                    process.send_signal(number)
        if time.monotonic() - since > min(GRACE, launched.patience()):
            for process in processes:
                process.kill()
        time.sleep(PAUSE)


def _verdict(codes: Sequence[int], first: int | None, errors: Sequence[Path]) -> int:
    """The exit code; says why process `first` failed, where process 0 could not."""
    if first is None:
        return 0
    if codes[first] < 0:
        name = signal.Signals(-codes[first]).name
        whole = "what was saved is whole, and can be gone on with"
        _say(f"drift: process {first} of {len(codes)} was ended by {name}; {whole}")
    elif first and not codes[0] == codes[first] == WRONG_REQUEST:
        line = jobs.last_line(errors[first])
        if line or codes[0] <= 0:
            _say(line or f"drift: process {first} failed without a word")
    return codes[0] if codes[0] > 0 else max(codes[first], 1)


def _say(line: str) -> None:
    sys.stderr.write(f"{reading.printable(line)}\n")
