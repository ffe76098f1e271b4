"""Trackio: a database on this machine (TRACKIO_DIR), or what TRACKIO_SPACE_ID names."""

from importlib import import_module
from pathlib import Path

from common.tracking import names
from common.tracking.opening import Comparison, Opening
from common.tracking.step_log import StepLog


class Trackio(StepLog):
    """One run: its name ends with its identity, by which a resumed run goes on."""

    def __init__(self, how: Opening) -> None:
        library = import_module("trackio")
        run = library.init(
            project=how.project,
            name=f"{how.name}-{how.identity[:4]}",
            config=dict(how.config),
            resume="allow",
            embed=False,
            auto_log_gpu=False,
            auto_log_cpu=False,
        )
        super().__init__(library, run)

    def result(self, rows: Comparison, report: Path) -> None:
        """Log the table and the report."""
        table = self._library.Table(columns=list(names.COLUMNS), data=names.cells(rows))
        page = self._library.Html(report.read_text(encoding="utf-8"), inject=False)
        self._run.log({"result/table": table, "result/report": page})

    def close(self, *, failed: bool) -> None:
        """Write what is left."""
        self._run.finish()
