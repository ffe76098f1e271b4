"""SwanLab, online or into the run's folder (`track.offline`, or SWANLAB_MODE=offline or local)."""

from importlib import import_module
from pathlib import Path

from common.tracking import names
from common.tracking.opening import Comparison, Opening
from common.tracking.step_log import StepLog


class SwanLab(StepLog):
    """One run; a resumed one goes on under the same id."""

    def __init__(self, how: Opening) -> None:
        library = import_module("swanlab")
        run = library.init(
            project=how.project,
            name=how.name,
            id=how.identity,
            resume="allow",
            log_dir=str(how.folder),
            mode="offline" if how.offline else None,
            config=dict(how.config),
            settings=library.Settings(interactive=False),
        )
        super().__init__(library, run)

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
