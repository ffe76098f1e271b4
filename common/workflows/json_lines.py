"""A run as lines of JSON, for other programs to read."""

from typing import TextIO

from common.progress import NullObserver
from common.runs import line_log


class JsonLines(NullObserver):
    """Writes one line for each update: its row of `metrics.jsonl`, the same text."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def updated(self, record: dict[str, float]) -> None:
        """Write the line at once; NaN and infinity become null."""
        self._stream.write(line_log.encode(record).decode())
        self._stream.flush()
