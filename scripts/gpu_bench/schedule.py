"""Running rows within the time there is, each in a process of its own, with all of it on disk.

A row's process may crash, hang or be killed: the others are not touched. The document is
written whole after every row, so that a run which is killed leaves every row that had ended.
"""

import importlib.util
import multiprocessing
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from common.runs import files
from scripts.gpu_bench.context import Context, Mode, SkippedError, to_json
from scripts.gpu_bench.rows import NEEDED, Row

__all__ = ["Document", "Plan", "lacking", "run"]

PATIENCE = {"full": 2.0, "smoke": 3.0, "tiny": 10.0}
"""A row may take so many times what is expected of it; a CPU may be busy with other work."""

GRACE = 3.0
"""Seconds that are kept back to end the rows that run and to write the document."""


@dataclass
class Plan:
    """The work: rows in their order, seconds in all, and how many rows at a time.

    memory: bytes on the device; None on a CPU, where no row is skipped for it. preload: modules
    that a tiny run imports once, for the processes of all its rows.
    """

    rows: Sequence[Row]
    mode: Mode
    backend: str
    seconds: float
    at_once: int
    memory: int | None
    folder: Path
    preload: Sequence[str] = ()


@dataclass
class Document:
    """The measurements: written whole at every change, so that it can be read at any time."""

    path: Path
    content: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.content.setdefault("rows", {})

    def put(self, row: Row, outcome: dict[str, Any]) -> None:
        """Store the outcome of a row."""
        about = {"number": row.number, "title": row.title}
        self.content["rows"][row.name] = about | outcome
        self.write()

    def write(self) -> None:
        """Put the document on disk."""
        files.write_whole(self.path, to_json(self.content))


@dataclass
class _Running:
    row: Row
    context: Context
    process: BaseProcess
    start: float
    limit: float


def run(plan: Plan, document: Document, say: Callable[[str], None]) -> None:
    """Run every row that can be run and fits; the others are in the document with the reason."""
    end = time.monotonic() + plan.seconds - GRACE
    method = multiprocessing.get_context("forkserver" if plan.mode == "tiny" else "spawn")
    if plan.mode == "tiny":
        method.set_forkserver_preload(list(plan.preload))
    waiting, running = list(plan.rows), list[_Running]()
    try:
        while waiting or running:
            while waiting and _room(waiting[0], running, plan):
                row = waiting.pop(0)
                if reason := _unfit(row, plan, end - time.monotonic()):
                    _put(document, row, {"status": "skipped", "reason": reason}, say)
                else:
                    running.append(_start(row, plan, method, end))
            for one in running:
                if outcome := _outcome(one):
                    running.remove(one)
                    _put(document, one.row, outcome, say)
                    break
            else:
                time.sleep(0.05)
    finally:
        for one in running:
            _kill(one.process)


def lacking(rows: Sequence[Row]) -> dict[str, list[str]]:
    """Modules that are not installed -> names of the rows that cannot run without them."""
    missing: dict[str, list[str]] = {}
    for row in rows:
        for module in (*NEEDED, *row.modules):
            if importlib.util.find_spec(module) is None:
                missing.setdefault(module, []).append(row.name)
    return missing


def _room(row: Row, running: Sequence[_Running], plan: Plan) -> bool:
    """Whether a row may run beside those that do."""
    if plan.mode == "full" and (row.alone or any(one.row.alone for one in running)):
        return not running
    return len(running) < plan.at_once


def _unfit(row: Row, plan: Plan, left: float) -> str | None:
    """The reason not to start a row, or None."""
    missing = [module for module, rows in lacking([row]).items() if rows]
    if missing:
        return f"needs {', '.join(missing)}, not installed here"
    if plan.memory is not None and plan.mode == "full" and plan.memory < row.gigabytes * 1e9:
        return f"needs about {row.gigabytes:.0f} GB; the card has {plan.memory / 1e9:.0f}"
    expected = row.expected(plan.mode)
    if expected > left:
        return f"takes about {expected:.0f} s; {max(left, 0):.0f} s were left"
    return None


def _start(row: Row, plan: Plan, method: Any, end: float) -> _Running:
    context = Context(row.name, plan.mode, plan.backend, plan.folder)
    process = method.Process(target=_work, args=(row, context), name=row.name)
    process.start()
    now = time.monotonic()
    limit = min(PATIENCE[plan.mode] * row.expected(plan.mode) + 10.0, end - now)
    return _Running(row, context, process, now, limit)


def _outcome(one: _Running) -> dict[str, Any] | None:
    """The outcome of a row, or None while it runs."""
    seconds = time.monotonic() - one.start
    if one.process.is_alive():
        if seconds < one.limit:
            return None
        _kill(one.process)
        reason = f"ended after {seconds:.0f} s, its limit"
        return {"status": "failed", "reason": reason, "seconds": seconds, **_kept(one.context)}
    _kill(one.process)  # what it left running
    outcome = one.context.finished()
    if outcome is None:
        reason = f"its process ended with {one.process.exitcode}; {_last_line(one.context.log)}"
        outcome = {"status": "failed", "reason": reason, **_kept(one.context)}
    return {"seconds": seconds, **outcome}


def _kept(context: Context) -> dict[str, Any]:
    figures = context.kept()
    return {"figures": figures} if figures else {}


def _put(document: Document, row: Row, outcome: dict[str, Any], say: Callable[[str], None]) -> None:
    document.put(row, outcome)
    seconds = f"{outcome['seconds']:5.1f} s" if "seconds" in outcome else "       "
    say(f"{seconds}  {outcome['status']:7s}  {row.name}  {outcome.get('reason', '')}".rstrip())


def _work(row: Row, context: Context) -> None:
    """The process of a row: a group of its own, which ends when the process that began it does."""
    os.setsid()
    threading.Thread(target=_end_with_parent, daemon=True).start()
    log = os.open(context.log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
    os.dup2(log, 1)
    os.dup2(log, 2)
    sys.stdout = open(1, "w", buffering=1, closefd=False)  # noqa: SIM115
    sys.stderr = open(2, "w", buffering=1, closefd=False)  # noqa: SIM115
    try:
        figures = row.function(context)
    except SkippedError as reason:
        context.finish({"status": "skipped", "reason": str(reason)})
    except BaseException as error:
        traceback.print_exc()
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:300]
        context.finish({"status": "failed", "reason": reason, **_kept(context)})
    else:
        context.finish({"status": "done", "figures": figures})


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os.killpg(0, signal.SIGKILL)


def _kill(process: BaseProcess) -> None:
    """End a process and all that it began."""
    with suppress(ProcessLookupError, PermissionError):
        if process.pid is not None:
            os.killpg(process.pid, signal.SIGKILL)
    if process.is_alive():
        process.kill()
    process.join()


def _last_line(log: Path) -> str:
    lines = log.read_text(errors="replace").strip().splitlines() if log.exists() else []
    return lines[-1][:300] if lines else "it printed nothing"
