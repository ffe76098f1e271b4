"""TensorBoard: event files in the run's folder, written without PyTorch or TensorFlow."""

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from common import pictures
from common.tracking import names
from common.tracking.opening import Comparison, Opening


class TensorBoard:
    """The event files of a run: `tensorboard --logdir RUN`, or a folder of runs, shows them."""

    def __init__(self, how: Opening) -> None:
        from tensorboard.compat.proto import event_pb2, summary_pb2
        from tensorboard.summary.writer.event_file_writer import EventFileWriter

        self._event, self._summary = event_pb2, summary_pb2
        self._writer = EventFileWriter(str(how.folder))
        if how.update:  # TensorBoard then drops what an earlier start wrote after that update
            start = self._event.SessionLog(status=self._event.SessionLog.START)
            self._add(step=how.update + 1, session_log=start)
        self._text("run/configuration", f"```toml\n{how.text}```", how.update)

    def numbers(self, values: Mapping[str, float], update: int) -> None:
        """Add a scalar for each."""
        self._values(
            [{"tag": name, "simple_value": value} for name, value in values.items()], update
        )

    def picture(self, name: str, file: Path, update: int) -> None:
        """Add an image."""
        content = file.read_bytes()
        height, width = pictures.load(file).shape[:2]
        image = {"height": height, "width": width, "colorspace": 3, "encoded_image_string": content}
        self._values([{"tag": name, "image": image}], update)

    def result(self, rows: Comparison, report: Path) -> None:
        """Add the table as text, and where the report is."""
        self._text("run/result", f"{names.markdown(rows)}\n\nReport: {report}", 0)

    def close(self, *, failed: bool) -> None:
        """Write what is left."""
        self._writer.close()

    def _text(self, name: str, text: str, update: int) -> None:
        tensor = {"dtype": 7, "string_val": [text.encode()], "tensor_shape": {"dim": [{"size": 1}]}}
        metadata = {"plugin_data": {"plugin_name": "text"}}
        self._values([{"tag": name, "tensor": tensor, "metadata": metadata}], update)

    def _values(self, values: list[dict[str, Any]], update: int) -> None:
        self._add(step=update, summary=self._summary.Summary(value=values))

    def _add(self, **fields: Any) -> None:
        self._writer.add_event(self._event.Event(wall_time=time.time(), **fields))
        self._writer.flush()
