"""SwanLab, online or into the run's folder (`track.offline`, or SWANLAB_MODE=offline or local)."""

from collections.abc import Mapping
from importlib import import_module
from pathlib import Path

from common.tracking import names
from common.tracking.opening import Comparison, Opening


class SwanLab:
    """One run; a resumed one goes on under the same id."""

    def __init__(self, how: Opening) -> None:
        self._library = import_module("swanlab")
        self._run = self._library.init(
            project=how.project,
            name=how.name,
            id=how.identity,
            resume="allow",
            log_dir=str(how.folder),
            mode="offline" if how.offline else None,
            config=dict(how.config),
            settings=self._library.Settings(interactive=False),
        )

    def numbers(self, values: Mapping[str, float], update: int) -> None:
        """Log them."""
        self._run.log(dict(values), step=update)

    def picture(self, name: str, file: Path, update: int) -> None:
        """Log an image."""
        image = self._library.Image(str(file), caption=f"update {update}")
        self._run.log({name: image}, step=update)

    def result(self, rows: Comparison, report: Path) -> None:
        """Log the table as text, and the report."""
        self._run.log(
            {
                "result/table": self._library.Text(names.markdown(rows)),
                "result/report": self._library.Html(report.read_text(encoding="utf-8")),
            }
        )

    def close(self, *, failed: bool) -> None:
        """Send what is left."""
        if failed:
            self._run.finish(state="crashed", error="the run failed")
        else:
            self._run.finish()
