"""A run as lines of JSON, for other programs to read."""

import os
import warnings
from typing import TextIO

from common.progress import NullObserver
from common.runs import line_log


class JsonLines(NullObserver):
    """Writes one line for each update: its row of `metrics.jsonl`, the same text.

    A reader that leaves does not end the run.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._read = True

    def updated(self, record: dict[str, float]) -> None:
        """Write the line at once; NaN and infinity become null."""
        if not self._read:
            return
        try:
            self._stream.write(line_log.encode(record).decode())
            self._stream.flush()
        except BrokenPipeError:
            self._read = False
            # What is left in the buffer would fail again at the end of the process.
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self._stream.fileno())
            os.close(nowhere)
            warnings.warn("nobody reads the lines of JSON any more; the run goes on", stacklevel=2)
