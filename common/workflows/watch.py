"""The live page of runs: what it shows, read from their folders only when that has changed."""

import json
import threading
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from common import reading
from common.report import page, words
from common.runs import lock
from common.runs.directory import (
    AUDITS,
    CONFIG,
    ENVIRONMENT,
    EVALUATIONS,
    METRICS,
    RunDirectory,
)
from common.workflows.listing import Row, row

__all__ = ["Watched"]

FILES = (CONFIG, ENVIRONMENT, METRICS, EVALUATIONS, AUDITS)
"""Files of a run that its report is made from."""

SHARE = 0.1
"""Of the time, what the reports of a run that goes on may take to make."""

Signature = tuple[Any, ...]


@dataclass(frozen=True)
class _Page:
    """A report, what it was made from, and when the next one is due."""

    signature: Signature
    content: bytes
    due: float

    def is_due(self, signature: Signature) -> bool:
        """Whether another one is due for a run that has this signature; at its end, at once."""
        started_or_ended = signature[0] != self.signature[0]
        return started_or_ended or (signature != self.signature and time.monotonic() >= self.due)


class Watched:
    """Some runs, for a page that asks again and again; any thread may ask.

    Nothing is written. A report is made when somebody looks at a run that has changed, one at a
    time, and for each run only so often that it takes SHARE of the time: the run that is watched
    may need the same processor.
    """

    def __init__(self, runs: Sequence[Path]) -> None:
        self.runs = tuple(runs)
        self._rows: dict[Path, tuple[Signature, Row]] = {}
        self._pages: dict[Path, _Page] = {}
        self._turn = threading.Lock()

    def index(self, nonce: str) -> bytes:
        """The page; nonce: what its script and style are known by."""
        return words.template("watch.html.j2").render(nonce=nonce).encode(errors="replace")

    def state(self) -> bytes:
        """A row for each run as JSON, with a version that changes when another report is due."""
        rows = []
        for run in self.runs:
            signature = _signature(run)
            known = self._pages.get(run)
            shown = known.signature if known and not known.is_due(signature) else signature
            version = f"{hash(shown) & 0xFFFF_FFFF:08x}"
            rows.append({**asdict(self._row(run, signature)), "version": version})
        return json.dumps({"runs": rows}).encode()

    def report(self, number: int) -> bytes:
        """The report of a run; a page that says why, where it cannot be made."""
        run = self.runs[number]
        with self._turn:
            signature = _signature(run)
            known = self._pages.get(run)
            began = time.monotonic()
            if known is None or known.is_due(signature):
                content = _rendered(run)
                now = time.monotonic()
                known = self._pages[run] = _Page(signature, content, now + (now - began) / SHARE)
        return known.content

    def _row(self, run: Path, signature: Signature) -> Row:
        known = self._rows.get(run)
        if known is None or known[0] != signature:
            known = self._rows[run] = (signature, row(run))
        return known[1]


def _rendered(run: Path) -> bytes:
    try:
        text = page.render(RunDirectory.open(run))
    except Exception as error:  # the next change may mend it; the other runs are watched on
        why = reading.printable(str(error)) or type(error).__name__
        text = words.template("unreadable.html.j2").render(
            style=words.style("report.css"), run=reading.printable(str(run)), why=why
        )
    return text.encode(errors="replace")


def _signature(run: Path) -> Signature:
    """What changes whenever the report of a run does."""
    parts: list[Any] = [lock.is_locked(run)]
    for name in FILES:
        try:
            status = (run / name).stat()
            parts.append((status.st_size, status.st_mtime_ns, status.st_ino))
        except OSError:
            parts.append(None)
    return tuple(parts)
